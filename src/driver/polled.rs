//! A driver for a reactor.

use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::{fmt, io};

use super::epoll::EpollPoller;
use super::event_loop::Poller;
use super::notify_flag::NotifyFlag;
use super::parker::Parker;
use super::registration::Binding;
use super::shared::Shared;
use super::uring::PolledRing;
use super::{Backend, Driver, Run};
use crate::error::ShmError;

/// A [`Driver`] whose descriptor others wait for; made by
/// [`DriverBuilder::polled`](super::DriverBuilder::polled).
///
/// The descriptor is readable whenever [`turn`](Self::turn) has anything to do: a bell has rung, a
/// deadline has passed, another thread has registered something or unparked. That fits into every
/// reactor: `async_io::Async` for smol and async-std, `AsyncFd` for tokio, `poll(2)`. After a turn
/// it is readable no more until there is something new, and what is new is an edge, for those who
/// wait for edges.
///
/// Turn it once after it was made, and after each time that the descriptor was readable. Any thread
/// may do so, one at a time. As long as nobody does, tasks that wait on its endpoints sleep.
///
/// With io_uring, what a thread has submitted in a turn is completed by that thread, whatever it is
/// doing then: the kernel interrupts it, and its blocking system calls may return `EINTR`. (Those
/// of the standard library are repeated.) Threads that turn it should stay: when one exits, the
/// waits that it has submitted end, the descriptor becomes readable, and the next turn submits them
/// anew.
///
/// When it is dropped, endpoints that are still bound to it end with
/// [`DriverGone`](crate::CloseReason::DriverGone), whoever still has handles to it.
///
/// A child that was forked without an exec must not drop what a reactor holds of it, such as an
/// `async_io::Async<PolledDriver>`. The reactor's epoll set is shared by parent and child, and the
/// drop takes the descriptor out of it: the parent's reactor then never reports it again. This is
/// so for every descriptor in a reactor. A child that ends by `_exit` or that execs drops nothing.
///
/// # Examples
///
/// A task that does nothing but turn it, for tasks that run anywhere:
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
/// Where the tasks are polled by the thread that turns it, [`drive`](Self::drive) is faster.
pub struct PolledDriver {
    driver: Driver,
    parker: Parker,
}

impl PolledDriver {
    pub(super) fn open(backend: Backend) -> Result<Self, ShmError> {
        let shared = Shared::polled(backend)?;
        let waits: Box<dyn Poller> = match backend {
            Backend::Epoll => Box::new(EpollPoller::new(shared.clone())),
            Backend::Auto | Backend::IoUring => Box::new(PolledRing::open(&shared)?),
        };
        let parker = Parker::with(shared.clone(), waits);
        let driver = Driver { binding: Binding::new(shared, false), run: Run::Polled };
        Ok(Self { driver, parker })
    }

    /// Does everything that is due, without blocking, and tells for how many endpoints and the like
    /// that was. Wakers run inside, on this thread; a panic in one of them ends there.
    ///
    /// # Errors
    ///
    /// - [`Io`](ShmError::Io) of the kind `ResourceBusy`: another thread is about it, or this is
    ///   called by a waker inside of a turn. Nothing is lost by that, but for who waits for edges:
    ///   the one that has just come may be for the next turn.
    /// - [`Closed`](ShmError::Closed): the kernel failed this driver for good, and its endpoints
    ///   have ended; or this is a forked child.
    /// - [`Io`](ShmError::Io): the kernel failed. The descriptor stays readable, and the next try
    ///   may go well.
    pub fn turn(&self) -> Result<usize, ShmError> {
        self.parker.turn()
    }

    /// Runs `future` and this driver in one task, and ends with `future`: turns it whenever the
    /// future that `readable` makes says that its descriptor is readable, and polls `future` when
    /// it was woken. `future` may well be an executor that runs: `executor.run(...)`.
    ///
    /// What `readable` makes has to be ready as long as the descriptor is readable, as async-io's
    /// future is. A reactor that waits for edges and remembers them (tokio's `AsyncFd`) has its
    /// memory cleared in it, at its end; and one task alone turns or drives the driver then.
    ///
    /// A packet that comes for a task of `future` then costs the reactor one round. With a task of
    /// its own that turns the driver it is two, because that task wakes the other one. Tasks
    /// outside of `future` may use endpoints of the driver as well, and are woken as usual.
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
    /// - [`Closed`](ShmError::Closed): as from [`turn`](Self::turn). (What passes is tried again.)
    ///
    /// # Cancel safety
    ///
    /// Dropped, it drops `future`. The driver can be driven again.
    pub async fn drive<F, R>(
        &self,
        readable: impl FnMut() -> R,
        future: F,
    ) -> Result<F::Output, ShmError>
    where
        F: Future,
        R: Future<Output = io::Result<()>>,
    {
        drive(self, readable, future).await
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
        self.driver.shared().epoll().as_fd()
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

/// [`PolledDriver::drive`] turns a driver that is readable again at once this often, before it lets
/// other tasks in.
const ROUNDS: usize = 8;

/// See [`PolledDriver::drive`].
async fn drive<F, R>(
    driver: &PolledDriver,
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
                // For the first time.
                None => true,
            };
            if is_due {
                turn(driver)?;
                edge.set(Some(readable()));
            }
            if flag.take() {
                let mut cx = Context::from_waker(&waker);
                if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                    return Poll::Ready(Ok(output));
                }
                if flag.is_woken() {
                    // By itself, as one does that lets others in.
                    break;
                }
            } else if !is_due && flag.rest(cx.waker()) {
                return Poll::Pending;
            }
        }
        // There is more to do: no wake will come for it.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// One turn, or none.
fn turn(driver: &PolledDriver) -> Result<(), ShmError> {
    match driver.turn() {
        // Another thread turns it. Or the kernel failed, and then the descriptor stays readable
        // until that is over, or the driver is given up.
        Err(ShmError::Io { .. }) => Ok(()),
        turned => turned.map(drop),
    }
}
