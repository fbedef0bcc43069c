//! monoio, with a driver on a thread of its own. Needs monoio's feature `sync`.

use std::io;

use monoio::{FusionDriver, RuntimeBuilder};
use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    let driver = Driver::builder().background()?;
    let mut runtime = RuntimeBuilder::<FusionDriver>::new().enable_all().build()?;
    Ok(runtime.block_on(work(&driver)))
}
