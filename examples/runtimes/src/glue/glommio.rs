//! glommio, with a driver on a thread of its own: it has no way to wait for a descriptor.

use std::io;

use glommio::LocalExecutorBuilder;
use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    let driver = Driver::builder().background()?;
    Ok(LocalExecutorBuilder::default().make()?.run(work(&driver)))
}
