//! glommio, on its thread alone.

use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};

use futures::AsyncReadExt;
use glommio::LocalExecutorBuilder;
use glommio::net::UnixStream;
use rustix::io::Errno;
use wakering::{Driver, PolledDriver};

/// Runs `work`, whose endpoints use the driver that it is given.
pub fn run<F: Future>(work: impl FnOnce(&Driver) -> F) -> io::Result<F::Output> {
    LocalExecutorBuilder::default().make()?.run(async {
        let driver = Driver::builder().polled()?;
        let work = work(&driver);
        Ok(driver.drive(|| readable(&driver), work).await?)
    })
}

/// glommio waits only for sockets. A new one waits until its descriptor, of whatever kind, is
/// readable, and then finds that it is no socket.
async fn readable(driver: &PolledDriver) -> io::Result<()> {
    let descriptor = driver.as_fd().try_clone_to_owned()?.into_raw_fd();
    // SAFETY: nothing else owns this descriptor.
    let mut socket = unsafe { UnixStream::from_raw_fd(descriptor) };
    match socket.read(&mut [0]).await {
        Err(error) if error.raw_os_error() == Some(Errno::NOTSOCK.raw_os_error()) => Ok(()),
        other => Err(io::Error::other(format!("expected no socket: {other:?}"))),
    }
}
