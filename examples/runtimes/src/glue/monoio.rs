//! monoio.

use std::io;
use std::os::fd::AsFd;

use monoio::net::UnixStream;
use monoio::{FusionDriver, RuntimeBuilder};
use wakering::Driver;

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    RuntimeBuilder::<FusionDriver>::new().enable_all().build()?.block_on(async {
        let driver = Driver::builder().polled()?;
        // monoio waits only for sockets. This is none, but `readable` polls whatever it is.
        let descriptor = UnixStream::from_std(driver.as_fd().try_clone_to_owned()?.into())?;
        let work = work(&driver);
        Ok(driver.drive(|| descriptor.readable(false), work).await?)
    })
}
