//! The executor of the crate `futures`, with a driver on a thread of its own.

use std::io;

use futures::executor::block_on;
use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    let driver = Driver::builder().background()?;
    Ok(block_on(work(&driver)))
}
