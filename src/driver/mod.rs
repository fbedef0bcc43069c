//! Waits for the bells and descriptors of many endpoints, and calls them back.
//!
//! From below: [`table`] and [`alarms`] are plain data; [`link`] and [`shared`] are what other threads
//! touch; [`runner`] is what the one who runs the driver owns, and its turns; [`uring`] and [`epoll`]
//! are the two ways in which it waits. Who runs it: [`background`] is a thread that does, [`seat`] is
//! taken by a thread that parks or polls, on which [`block_on`] and [`polled`] rest, and on
//! the latter [`drive`]. [`source`] is what a driver knows of an endpoint, [`registration`] what an
//! endpoint knows of its driver.

mod source;
mod table;
mod alarms;
mod link;
mod shared;
mod runner;
mod epoll;
#[allow(unsafe_code, reason = "submissions tell the kernel addresses to read")]
mod uring;
mod registration;
#[allow(unsafe_code, reason = "the signal mask is set by the libc alone")]
mod signals;
mod background;
mod unparker;
mod seat;
mod block_on;
mod polled;
mod drive;

use std::fmt;
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use crate::error::ShmError;
use crate::fork;
use crate::sync::Arc;
pub use polled::PolledDriver;
pub(crate) use registration::{Binding, Registration};
use seat::Seat;
use shared::Shared;
pub(crate) use signals::blocked as without_signals;
pub(crate) use source::Source;
pub use unparker::Unparker;

/// How a driver waits in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// io_uring where it is to be had, else epoll.
    #[default]
    Auto,
    /// io_uring with futex operations: Linux 6.7, and no sandbox that forbids it.
    IoUring,
    /// epoll, which works everywhere and costs the other side a byte on a socket for each wake.
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::IoUring => "io-uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Waits on behalf of any number of endpoints, and wakes their tasks.
///
/// Endpoints are bound to one by the `driver` method of their builder. Without that they use a
/// driver of the process's own, on a thread that starts with the first of them: it works under every
/// executor, and nothing has to be done for it.
///
/// Others are for those who know more about their threads:
///
/// | made by | run by | for |
/// |---|---|---|
/// | [`builder().background()`](DriverBuilder::background) | a thread of its own | a thread apart from the process's, or a certain [`Backend`] |
/// | [`new`](Self::new), [`builder().build()`](DriverBuilder::build) | [`park`](Self::park) and [`block_on`](Self::block_on) | executors of one's own: the peer's wake returns straight to the executor's thread |
/// | [`builder().polled()`](DriverBuilder::polled) | [`PolledDriver::drive`] or [`turn`](PolledDriver::turn) | the reactor that is there already |
///
/// Clones are handles to the same driver, usable from any thread. A background thread ends when the
/// last handle and all endpoints bound to it are gone, keeps no process from exiting until then, and
/// takes no signals. When the last handle to a driver of the second kind is dropped, or the
/// [`PolledDriver`], nobody can run it any more: endpoints that are still bound to it end with
/// [`DriverGone`](crate::CloseReason::DriverGone).
///
/// The wakers of tasks are called on the thread that runs the driver. One that panics, or that uses
/// or drops its end or others, costs no other channel a wake. One that blocks holds up all of the
/// driver's.
///
/// A driver that is not run wakes nobody. Only the blocking calls of its endpoints go on, with
/// their deadlines, and still learn of the peer's death. In a forked child (without an exec) a
/// driver does nothing, and its calls answer [`Closed`](ShmError::Closed) for the reason
/// [`Forked`](crate::CloseReason::Forked); new endpoints that name no driver get a fresh one there.
///
/// # Examples
///
/// ```
/// use wakering::{Driver, SpscFace, SpscHandle};
///
/// let driver = Driver::new()?;
/// let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
/// let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
///
/// let (sent, received) = driver.block_on(async {
///     futures::join!(handle.send("both ends on one thread".into()), face.recv())
/// });
/// sent?;
/// assert_eq!(received.unwrap(), "both ends on one thread");
/// # Ok::<(), wakering::ShmError>(())
/// ```
#[derive(Clone)]
pub struct Driver {
    binding: Binding,
    run: Run,
}

/// Who runs a driver.
#[derive(Clone)]
enum Run {
    /// A thread of its own.
    Background,
    /// Whoever parks. All handles share the seat; with the last of them it goes.
    Parked(Arc<Seat>),
    /// The owner of the [`PolledDriver`].
    Polled,
}

/// The process's default drivers, once somebody has needed one. In a child that was forked it is
/// another slot's turn: the lock of this one may be held for ever by a thread of the parent's.
static GLOBAL: [StdMutex<Option<Driver>>; 32] = [const { StdMutex::new(None) }; 32];

impl Driver {
    /// Makes a driver to be parked in, with the best backend that is to be had.
    ///
    /// # Errors
    ///
    /// As [`DriverBuilder::build`].
    pub fn new() -> Result<Self, ShmError> {
        Self::builder().build()
    }

    /// Starts to describe a driver.
    pub fn builder() -> DriverBuilder {
        DriverBuilder { backend: Backend::Auto }
    }

    /// How this driver waits: by io_uring or by epoll, never [`Backend::Auto`].
    pub fn backend(&self) -> Backend {
        self.shared().backend()
    }

    /// Sleeps until there is something to do for an endpoint or somebody unparks, at most for
    /// `timeout`, and wakes the tasks that it is for.
    ///
    /// This is where an executor goes to sleep that has nothing to run: a peer's wake returns
    /// straight to it. Wakers run inside, on this thread; a panic in one of them ends there.
    /// Endpoints may be used, made and dropped from any thread meanwhile, and by the wakers. May
    /// return early, so the caller looks at its queue each time. With a timeout of zero it does
    /// what is due and does not sleep.
    ///
    /// On a machine with several cores it may spin for a while before it sleeps, for the channels
    /// whose tasks wait: see [`spin`](crate::FaceBuilder::spin). An unpark ends that too.
    ///
    /// A driver may be made on one thread and parked in on another. It may be parked in on
    /// different threads by turns, but that is not for every time: each change makes a new ring.
    ///
    /// # Errors
    ///
    /// - [`Io`](ShmError::Io) of the kind `ResourceBusy`: another thread is parked in it, or this is
    ///   called by a waker inside of `park`.
    /// - [`Unsupported`](ShmError::Unsupported): it is a background driver or a polled one, which is
    ///   run by others.
    /// - [`Closed`](ShmError::Closed): the kernel failed this driver for good, and its endpoints
    ///   have ended; or this is a forked child.
    /// - [`Io`](ShmError::Io): no ring could be made for this thread, or the kernel failed. The next
    ///   try may go well.
    pub fn park(&self, timeout: Option<Duration>) -> Result<(), ShmError> {
        match &self.run {
            Run::Parked(seat) => seat.park(timeout),
            Run::Background => {
                Err(ShmError::Unsupported { reason: "a background driver runs by itself" })
            }
            Run::Polled => {
                Err(ShmError::Unsupported { reason: "a polled driver is run by its turn()" })
            }
        }
    }

    /// What ends a [`park`](Self::park) from elsewhere.
    pub fn unparker(&self) -> Unparker {
        Unparker::new(self.shared().clone())
    }

    /// Runs `future` to its end on this thread, which sleeps in [`park`](Self::park) meanwhile.
    ///
    /// To run an executor of smol's this way: `driver.block_on(local_executor.run(future))`.
    ///
    /// On a background driver the thread simply sleeps. If another thread is parked in this driver,
    /// it runs it for both, and this one looks now and then whether it still does.
    ///
    /// # Panics
    ///
    /// If this thread is inside of another `block_on` or of `park`, of this or another driver, or is
    /// a background driver's own, on which wakers run: what is outside could not go on. On a polled
    /// driver, which nobody might run meanwhile. And if the future panics.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on::block_on(self, future)
    }

    /// The process's default driver. It is started by the first call, and by the next one if that
    /// has failed or if it has ended since.
    pub(crate) fn global() -> Result<Self, ShmError> {
        // Deeper than that, forks without an exec share a slot.
        let slot = (fork::generation() as usize).min(GLOBAL.len()) - 1;
        let mut global = GLOBAL[slot].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = global.as_ref().filter(|driver| driver.is_alive()) {
            return Ok(driver.clone());
        }
        let driver = Self::builder().background()?;
        *global = Some(driver.clone());
        Ok(driver)
    }

    /// Whether it runs by itself, so that nobody has to.
    fn is_background(&self) -> bool {
        matches!(self.run, Run::Background)
    }

    /// The way to this driver for a source.
    pub(crate) fn binding(&self) -> &Binding {
        &self.binding
    }

    /// See [`Binding::register`].
    #[cfg(test)]
    pub(crate) fn register(&self, source: Arc<dyn Source>) -> Result<Registration, ShmError> {
        self.binding.register(source)
    }

    fn shared(&self) -> &Arc<Shared> {
        self.binding.shared()
    }

    fn is_alive(&self) -> bool {
        // In this order: in a child, the lock that the second takes may be held for ever.
        !self.shared().is_forked() && !self.shared().is_closed()
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = match self.run {
            Run::Background => "background",
            Run::Parked(_) => "parked",
            Run::Polled => "polled",
        };
        f.debug_struct("Driver")
            .field("backend", &self.backend())
            .field("run", &run)
            .finish_non_exhaustive()
    }
}

/// Describes a [`Driver`]; made by [`Driver::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct DriverBuilder {
    backend: Backend,
}

impl DriverBuilder {
    /// How to wait. Without a call, io_uring where it is to be had.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Makes a driver that nobody runs yet: see [`Driver::park`] and [`Driver::block_on`].
    ///
    /// Its ring is made by the first thread that parks in it.
    ///
    /// # Errors
    ///
    /// [`ShmError::Unsupported`] if io_uring was asked for and is not to be had: an old kernel, or a
    /// sandbox. [`ShmError::Io`] if its descriptors could not be made, which is no reason for
    /// [`Backend::Auto`] to do without io_uring.
    pub fn build(self) -> Result<Driver, ShmError> {
        let shared = Shared::parked_in(self.probe()?)?;
        let seat = Seat::new(shared.clone());
        Ok(Driver { binding: Binding::new(shared, false), run: Run::Parked(Arc::new(seat)) })
    }

    /// Makes a driver for a reactor: it has a descriptor that is readable whenever there is
    /// something to do, and [`turn`](PolledDriver::turn) does it.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn polled(self) -> Result<PolledDriver, ShmError> {
        PolledDriver::open(self.probe()?)
    }

    /// Starts a driver on a thread of its own, which works under every executor.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), or [`ShmError::Io`] if the thread could not be started.
    pub fn background(self) -> Result<Driver, ShmError> {
        let shared = background::start(self.backend)?;
        Ok(Driver { binding: Binding::new(shared, true), run: Run::Background })
    }

    /// What the wish comes to here and now.
    fn probe(&self) -> Result<Backend, ShmError> {
        match self.backend {
            Backend::Epoll => Ok(Backend::Epoll),
            wish => uring::probe()
                .map_or_else(|error| uring::instead(wish, error), |()| Ok(Backend::IoUring)),
        }
    }
}

#[cfg(test)]
mod tests;
