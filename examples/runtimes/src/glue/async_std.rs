//! async-std, on one thread.

use std::io;

use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    let driver = Driver::builder().async_io()?;
    Ok(async_std::task::block_on(driver.run(work(&driver)))?)
}
