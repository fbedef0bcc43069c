//! compio.

use std::io;

use compio::runtime::Runtime;
use compio::runtime::fd::PollFd;
use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    Runtime::new()?.block_on(async {
        let driver = PollFd::new(Driver::builder().polled()?)?;
        let work = work(&driver);
        Ok(driver.drive(|| driver.read_ready(), work).await?)
    })
}
