//! tokio, on one thread.

use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Builder;
use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let driver = Driver::builder().polled()?;
        // SAFETY: the driver's descriptor is the same, and open, as long as the driver lives.
        let driver = unsafe { AsyncFd::register_with_interest(driver, Interest::READABLE)? };
        // Without `clear_ready`, tokio takes the descriptor for readable for ever.
        let readable = || async { driver.readable().await.map(|mut guard| guard.clear_ready()) };
        let work = work(driver.get_ref());
        Ok(driver.get_ref().drive(readable, work).await?)
    })
}
