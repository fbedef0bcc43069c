//! async-std, on all its threads.

use std::io;

use async_std::task;
use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let driver = Driver::builder().async_io()?;
    let work = work(&driver);
    let driving = task::spawn(driver.into_task());
    let output = task::block_on(task::spawn(work));
    task::block_on(driving.cancel());
    Ok(output)
}
