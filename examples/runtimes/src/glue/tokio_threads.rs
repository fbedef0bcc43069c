//! tokio, on all its threads.

use std::future::pending;
use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use wakering::{Driver, PolledDriver, ShmError};

/// Runs the driver in a task, for endpoints of any other task. Make these first, or keep a clone of
/// the driver for later. The task ends only if the driver fails.
pub fn spawn(driver: PolledDriver) -> io::Result<JoinHandle<Result<(), ShmError>>> {
    // SAFETY: the driver's descriptor is the same, and open, as long as the driver lives.
    let driver = unsafe { AsyncFd::register_with_interest(driver, Interest::READABLE)? };
    Ok(tokio::spawn(async move {
        // Without `clear_ready`, tokio takes the descriptor for readable for ever.
        let readable = || async { driver.readable().await.map(|mut guard| guard.clear_ready()) };
        driver.get_ref().drive(readable, pending()).await
    }))
}

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::runtime::Runtime::new()?.block_on(async {
        let driver = Driver::builder().polled()?;
        let work = work(&driver);
        let driving = spawn(driver)?;
        let output = tokio::spawn(work).await?;
        driving.abort();
        Ok(output)
    })
}
