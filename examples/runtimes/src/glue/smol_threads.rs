//! smol, on all its threads.

use std::io;

use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let driver = Driver::builder().async_io()?;
    let work = work(&driver);
    let _driving = smol::spawn(driver.into_task());
    Ok(smol::block_on(smol::spawn(work)))
}
