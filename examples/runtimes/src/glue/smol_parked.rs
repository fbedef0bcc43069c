//! smol, on a thread that parks in a driver.

use std::io;

use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    let driver = Driver::new()?;
    let executor = smol::LocalExecutor::new();
    Ok(driver.block_on(executor.run(work(&driver))))
}
