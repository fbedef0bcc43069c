//! A driver that this thread parks in, instead of pollster.

use std::io;

use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    let driver = Driver::new()?;
    Ok(driver.block_on(work(&driver)))
}
