//! pollster, and whatever else only has wakers, with a driver on a thread of its own.

use std::io;

use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    let driver = Driver::builder().background()?;
    Ok(pollster::block_on(work(&driver)))
}
