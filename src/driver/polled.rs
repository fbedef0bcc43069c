//! A driver for a reactor.

use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::{fmt, io};

use super::epoll::EpollPoller;
use super::notify_flag::NotifyFlag;
use super::parker::Parker;
use super::poller::Poller;
use super::registration::Binding;
use super::shared::Shared;
use super::uring::PolledRing;
use super::{Backend, Driver, Run};
use crate::error::ShmError;

/// A [`Driver`] with a descriptor for a reactor to wait on; made by
/// [`DriverBuilder::polled`](super::DriverBuilder::polled).
///
/// The descriptor is readable whenever [`turn`](Self::turn) has anything to do: a peer has woken a
/// bell, a deadline has passed, or another thread has registered something or unparked. This fits
/// every reactor: `async_io::Async` for smol and async-std, `AsyncFd` for tokio, `poll(2)`. After a
/// turn the descriptor is not readable until there is something new. Everything new causes an edge,
/// so edge-triggered reactors work too. The descriptor stays open and the same until the driver is
/// dropped. The page [`runtimes`](crate::runtimes) has the glue for each runtime.
///
/// Turn it once after it is made, and each time the descriptor has become readable. Any thread may
/// do so, one at a time. As long as no thread turns it, tasks that wait on its endpoints sleep.
///
/// With io_uring, the thread that submits a request in a turn also completes it, whatever that
/// thread is doing then: the kernel interrupts it, and its blocking system calls may return
/// `EINTR`. (The standard library repeats its own.) The thread that makes the driver submits a
/// request too. Threads that make or turn the driver should keep running. When one exits, the
/// waits that it has submitted end, the descriptor becomes readable, and the next turn submits them
/// again.
///
/// When it is dropped, endpoints that are still bound to it end with
/// [`DriverGone`](crate::CloseReason::DriverGone), even if other handles to the driver remain.
///
/// A child that was forked without an exec must not drop what a reactor holds of it, such as an
/// `async_io::Async<PolledDriver>`. Parent and child share the reactor's epoll set, and the drop
/// removes the descriptor from it: the parent's reactor then never reports it again. This is true
/// of every descriptor in a reactor. A child that ends by `_exit` or that execs drops nothing.
///
/// # Examples
///
/// A task that only turns the driver, for tasks that run anywhere:
///
/// ```
/// use async_io::Async;
/// use wakering::{Driver, SpscFace, SpscHandle};
///
/// let driver = Driver::builder().polled()?;
/// let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
/// let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
///
/// let driver = Async::new(driver)?;
/// let _turning = smol::spawn(async move {
///     loop {
///         driver.get_ref().turn()?;
///         driver.readable().await?;
///     }
///     # #[allow(unreachable_code)]
///     # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// });
/// smol::block_on(async {
///     handle.send("hello".into()).await?;
///     assert_eq!(face.recv().await.unwrap(), "hello");
///     Ok::<_, wakering::ShmError>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// If the thread that turns the driver also polls the tasks, [`drive`](Self::drive) is faster.
pub struct PolledDriver {
    driver: Driver,
    parker: Parker,
    /// What a reactor waits on; without it, the epoll set.
    ring: Option<OwnedFd>,
}

impl PolledDriver {
    pub(super) fn open(backend: Backend) -> Result<Self, ShmError> {
        let shared = Shared::polled(backend)?;
        let (poller, ring): (Box<dyn Poller>, _) = match backend {
            Backend::Epoll => (Box::new(EpollPoller::new(shared.clone())), None),
            Backend::Auto | Backend::IoUring => {
                let (poller, ring) = PolledRing::open(&shared)?;
                (Box::new(poller), Some(ring))
            }
        };
        let parker = Parker::with(shared.clone(), poller);
        let driver = Driver { binding: Binding::new(shared, false), run: Run::ByTurns };
        Ok(Self { driver, parker, ring })
    }

    /// Does everything that is due, without blocking, and returns the number of calls that it made
    /// to endpoints, listeners and handshakes. Wakers run inside this call, on this thread; a panic
    /// in a waker is caught.
    ///
    /// # Errors
    ///
    /// - [`Io`](ShmError::Io) of the kind `ResourceBusy`: another thread is turning the driver, or
    ///   a waker called this inside of a turn. Nothing is lost, except with an edge-triggered
    ///   reactor: the edge just reported may need another turn.
    /// - [`Closed`](ShmError::Closed): the kernel failed this driver for good and its endpoints
    ///   have ended, or this is a forked child.
    /// - [`Io`](ShmError::Io): the kernel failed. Either the descriptor stays readable and a later
    ///   call may succeed, or the driver has ended. The next call tells, so make one before you
    ///   wait. Where the kernel takes no submissions of the driver's ring, because it lacks memory
    ///   or a sandbox forbids it, this blocks for up to a third of a second, trying again, and
    ///   then the driver ends.
    pub fn turn(&self) -> Result<usize, ShmError> {
        self.parker.turn().map(|turned| turned.calls)
    }

    /// Runs `future` and this driver in one task until `future` completes. Turns the driver
    /// whenever the future that `readable` returns says that the descriptor is readable, and polls
    /// `future` when it was woken. `future` may be an executor that runs: `executor.run(...)`.
    ///
    /// The future that `readable` returns must be ready as long as the descriptor is readable, as
    /// async-io's is. With an edge-triggered reactor that caches readiness (tokio's `AsyncFd`),
    /// that future must clear the cached readiness as its last step, and only one task may turn or
    /// drive the driver.
    ///
    /// A packet for a task of `future` then costs the reactor one round. With a separate task that
    /// turns the driver it costs two, because that task wakes the other one. Tasks outside of
    /// `future` may also use endpoints of the driver, and are woken as usual.
    ///
    /// ```
    /// use async_io::Async;
    /// use wakering::{Driver, SpscFace, SpscHandle};
    ///
    /// let driver = Driver::builder().polled()?;
    /// let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
    /// let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
    ///
    /// let driver = Async::new(driver)?;
    /// let echo = async {
    ///     handle.send("hello".into()).await?;
    ///     Ok::<_, wakering::ShmError>(face.recv().await)
    /// };
    /// let echoed = smol::block_on(driver.get_ref().drive(|| driver.readable(), echo))?;
    /// assert_eq!(echoed?.unwrap(), "hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Io`](ShmError::Io): `readable` failed.
    /// - [`Closed`](ShmError::Closed): as from [`turn`](Self::turn). (Its other errors are
    ///   retried.)
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped, it drops `future`. The driver can be driven again.
    pub async fn drive<F, R>(
        &self,
        mut readable: impl FnMut() -> R,
        future: F,
    ) -> Result<F::Output, ShmError>
    where
        F: Future,
        R: Future<Output = io::Result<()>>,
    {
        let flag = NotifyFlag::new();
        let waker = Waker::from(flag.clone());
        let (mut future, mut edge) = (pin!(future), pin!(None::<R>));
        std::future::poll_fn(move |cx| {
            flag.begin();
            for _ in 0..ROUNDS {
                let is_due = match edge.as_mut().as_pin_mut().map(|edge| edge.poll(cx)) {
                    Some(Poll::Pending) => false,
                    Some(Poll::Ready(waited)) => {
                        waited.map_err(ShmError::io("waiting for the driver's descriptor"))?;
                        true
                    }
                    // The first turn needs no edge.
                    None => true,
                };
                if is_due {
                    turn(self)?;
                    edge.set(Some(readable()));
                }
                if flag.take() {
                    let mut cx = Context::from_waker(&waker);
                    if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                        return Poll::Ready(Ok(output));
                    }
                    if flag.is_woken() {
                        // The future has woken itself, as one that yields does.
                        break;
                    }
                } else if !is_due && flag.rest(cx.waker()) {
                    return Poll::Pending;
                }
            }
            // There is more to do, and no other wake comes for it.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }
}

impl Deref for PolledDriver {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.driver
    }
}

impl AsFd for PolledDriver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let set = self.driver.shared().epoll_set.descriptor();
        self.ring.as_ref().unwrap_or(set).as_fd()
    }
}

impl AsRawFd for PolledDriver {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for PolledDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolledDriver")
            .field("backend", &self.backend())
            .field("descriptor", &self.as_raw_fd())
            .finish_non_exhaustive()
    }
}

/// [`PolledDriver::drive`] goes at most this many rounds, as long as the driver or the future is
/// ready, before it yields to other tasks.
const ROUNDS: usize = 8;

/// Turns the driver once, unless another thread does.
fn turn(driver: &PolledDriver) -> Result<(), ShmError> {
    // If the kernel failed, the next call tells whether the driver was given up.
    for _ in 0..2 {
        match driver.turn() {
            Err(ShmError::Io { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
                break;
            }
            Err(ShmError::Io { .. }) => {}
            turned => return turned.map(drop),
        }
    }
    // Another thread turns it. Or the kernel failed twice: then the descriptor stays readable until
    // the failure is over or the driver is given up.
    Ok(())
}
