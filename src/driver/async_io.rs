//! A driver in the reactor of async-io, which smol and async-std use.

use std::fmt;
use std::future::pending;
use std::ops::Deref;

use ::async_io::Async;

use super::Driver;
use super::builder::DriverBuilder;
use super::parker;
use super::polled::PolledDriver;
use crate::error::{CloseReason, ShmError};

/// A [`Driver`] in the reactor of async-io, for smol and async-std; made by
/// [`DriverBuilder::async_io`].
///
/// It needs no thread of its own: the thread that waits for the sockets and timers of the executor
/// also waits for the channels. It is a [`PolledDriver`], with its glue.
///
/// | your tasks run | how to run the driver |
/// |---|---|
/// | on one thread, by a `smol::LocalExecutor` | [`block_on`](Self::block_on) the executor: the fastest way |
/// | on one thread, in one future | [`block_on`](Self::block_on), or [`run`](Self::run) in a task |
/// | on many threads, by `smol::spawn` or `async_std::task::spawn` | spawn [`into_task`](Self::into_task) |
///
/// As long as nothing runs it, tasks that wait on its endpoints sleep. When it is dropped, also
/// inside of [`into_task`](Self::into_task), endpoints that are still bound to it end with
/// [`DriverGone`](CloseReason::DriverGone).
///
/// # Examples
///
/// smol, on one thread:
///
/// ```
/// use wakering::{Driver, ShmError, SpscFace, SpscHandle};
///
/// let driver = Driver::builder().async_io()?;
/// let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
/// let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
///
/// let executor = smol::LocalExecutor::new();
/// let echo = executor.spawn(async move {
///     while let Some(packet) = face.recv().await {
///         face.send(packet).await?;
///     }
///     Ok::<_, ShmError>(())
/// });
/// driver.block_on(executor.run(async {
///     handle.send("hello".into()).await?;
///     assert_eq!(handle.recv().await.unwrap(), "hello");
///     drop(handle);
///     echo.await
/// }))??;
/// # Ok::<(), ShmError>(())
/// ```
///
/// smol, on all its threads:
///
/// ```
/// use wakering::{Driver, ShmError, SpscFace, SpscHandle};
///
/// let driver = Driver::builder().async_io()?;
/// let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
/// let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
/// let _driving = smol::spawn(driver.into_task());
///
/// let sender = smol::spawn(async move { handle.send("hello".into()).await });
/// smol::block_on(async {
///     assert_eq!(face.recv().await.unwrap(), "hello");
///     sender.await
/// })?;
/// # Ok::<(), ShmError>(())
/// ```
///
/// async-std, whose tasks go on if their handles are dropped:
///
/// ```
/// use async_std::task;
/// use wakering::{Driver, ShmError, SpscFace, SpscHandle};
///
/// let driver = Driver::builder().async_io()?;
/// let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
/// let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
/// task::spawn(driver.into_task());
///
/// let sender = task::spawn(async move { handle.send("hello".into()).await });
/// task::block_on(async {
///     assert_eq!(face.recv().await.unwrap(), "hello");
///     sender.await
/// })?;
/// # Ok::<(), ShmError>(())
/// ```
pub struct AsyncIoDriver(Async<PolledDriver>);

impl DriverBuilder {
    /// Makes a driver for smol and async-std, in the reactor that both use. Needs the feature
    /// `async-io`.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), or [`ShmError::Io`] if the reactor cannot watch the driver.
    pub fn async_io(self) -> Result<AsyncIoDriver, ShmError> {
        let registered = Async::new(self.polled()?);
        Ok(AsyncIoDriver(registered.map_err(ShmError::io("register with async-io"))?))
    }
}

impl AsyncIoDriver {
    /// Runs `future` and this driver in one task until `future` completes, as
    /// [`PolledDriver::drive`]. `future` may be an executor that runs: `executor.run(...)`.
    ///
    /// Any number of tasks may run the driver at once; one of them turns it at a time.
    ///
    /// # Errors
    ///
    /// - [`Closed`](ShmError::Closed): the kernel failed this driver for good and its endpoints
    ///   have ended, or this is a forked child.
    /// - [`Io`](ShmError::Io): the reactor failed.
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped, it drops `future`. The driver can be run again.
    pub async fn run<F: Future>(&self, future: F) -> Result<F::Output, ShmError> {
        self.0.get_ref().drive(|| self.0.readable(), future).await
    }

    /// Runs `future` and this driver on this thread until `future` completes. In the meantime, the
    /// thread also runs the reactor, as `smol::block_on` does.
    ///
    /// This replaces [`Driver::block_on`], which cannot run a polled driver.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// If this thread is inside of a turn or of `park`, of this or another driver, or is the thread
    /// of a background driver, where wakers run: the outer call could not continue.
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, ShmError> {
        assert!(
            !parker::is_inside(),
            "block_on inside of a driver's callback, which could not go on meanwhile"
        );
        ::async_io::block_on(self.run(future))
    }

    /// Turns this driver into a future to spawn, which runs it until the future is dropped. It
    /// completes only if the driver has failed, and returns why.
    ///
    /// Make the endpoints first, or keep a handle to the driver for later:
    /// `Driver::clone(&driver)`.
    pub fn into_task(self) -> impl Future<Output = ShmError> + Send + 'static {
        async move {
            match self.run(pending::<()>()).await {
                Err(error) => error,
                Ok(()) => ShmError::Closed { reason: CloseReason::DriverGone, sent: 0 },
            }
        }
    }
}

impl Deref for AsyncIoDriver {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.0.get_ref()
    }
}

impl fmt::Debug for AsyncIoDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncIoDriver").field(self.0.get_ref()).finish()
    }
}
