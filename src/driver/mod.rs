//! Waits for the bells and descriptors of many endpoints, and calls them back.
//!
//! From below: [`table`] and [`timers`] are plain data; [`slot`] and [`shared`] are what other
//! threads touch; [`event_loop`] is what the one who runs the driver owns, and its turns; [`uring`]
//! and [`epoll`] are the two ways in which it waits. Who runs it: [`background`] is a thread that
//! does, [`parker`] is taken by a thread that parks or polls, on which [`block_on`] and [`polled`]
//! rest. [`builder`] makes one. [`source`] is what a driver knows of
//! an endpoint, [`registration`] what an endpoint knows of its driver.
//!
//! In the models, `model` takes the place of the ways to wait and of those who make a driver. All
//! else is the code that ships.

mod source;
mod table;
mod timers;
mod slot;
#[cfg_attr(all(test, loom), allow(dead_code, reason = "only its model uses it there"))]
pub(crate) mod notify_flag;
mod last_run;
mod shared;
mod event_loop;
#[cfg(not(all(test, loom)))]
mod epoll;
// The targets are those for which the crate io-uring builds: see Cargo.toml.
#[cfg(all(
    not(all(test, loom)),
    feature = "io-uring",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    )
))]
#[allow(unsafe_code, reason = "submissions tell the kernel addresses to read")]
mod uring;
#[cfg(all(
    not(all(test, loom)),
    not(all(
        feature = "io-uring",
        any(
            target_arch = "x86_64",
            target_arch = "aarch64",
            target_arch = "riscv64",
            target_arch = "loongarch64",
            target_arch = "powerpc64"
        )
    ))
))]
#[path = "without_uring.rs"]
mod uring;
mod registration;
#[cfg(not(all(test, loom)))]
mod background;
mod unparker;
mod parker;
mod block_on;
#[cfg(not(all(test, loom)))]
mod polled;
#[cfg(not(all(test, loom)))]
mod builder;
#[cfg(all(test, loom))]
pub(crate) mod model;

use std::fmt;
use std::time::Duration;

#[cfg(not(all(test, loom)))]
pub use builder::DriverBuilder;
#[cfg(not(all(test, loom)))]
use builder::poller_of_this_thread;
#[cfg(all(test, loom))]
use model::poller_of_this_thread;
use parker::Parker;
#[cfg(not(all(test, loom)))]
pub use polled::PolledDriver;
pub(crate) use registration::{Binding, Registration};
use shared::Shared;
pub(crate) use source::Source;
pub use unparker::Unparker;

use crate::error::ShmError;
use crate::sync::Arc;

/// How a driver waits in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring where it is to be had, else epoll; always epoll under valgrind.
    #[default]
    Auto,
    /// io_uring with futex operations: Linux 6.7, and no sandbox that forbids it. It is there if
    /// the crate's feature `io-uring` is on (it is by default) and the target is one of those
    /// that the [crate's documentation](crate#targets) lists for it; otherwise it is
    /// [`Unsupported`](ShmError::Unsupported).
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
/// driver of the process's own, on a thread that starts with the first of them: it works under
/// every executor, and nothing has to be done for it.
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
/// last handle and all endpoints bound to it are gone, keeps no process from exiting until then,
/// and takes no signals. When the last handle to a driver of the second kind is dropped, or the
/// [`PolledDriver`], nobody can run it any more: endpoints that are still bound to it end with
/// [`DriverGone`](crate::CloseReason::DriverGone).
///
/// The wakers of tasks are called on the thread that runs the driver. One that panics, or that uses
/// or drops its end or others, costs no other channel a wake. One that blocks holds up all of the
/// driver's.
///
/// A driver that is not run wakes nobody. Only the blocking calls of its endpoints go on, with
/// their deadlines, and still learn of the peer's death. Where a task hangs, print its driver's
/// `Debug` form: it tells how many endpoints, listeners and handshakes are `bound` to the driver,
/// and, unless it runs on a thread of its own, when it was `last_run`: `never`, `now` or how long
/// ago. In a forked child (without an exec) a driver does nothing, and its calls answer
/// [`Closed`](ShmError::Closed) for the reason [`Forked`](crate::CloseReason::Forked); new
/// endpoints that name no driver get a fresh one there.
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
    /// Whoever parks. All handles share the parker; with the last of them it goes.
    Parked(Arc<Parker>),
    /// The owner of the [`PolledDriver`].
    Polled,
}

impl Driver {
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
    /// Each call looks once at all channels, also if it finds an unpark. An executor that always
    /// has something to run must call this with a timeout of zero now and then, for example
    /// after every 61 polls, or its channels get nothing.
    ///
    /// On a machine with several cores it may spin for a while before it sleeps, for the channels
    /// whose tasks wait: see [`spin`](crate::FaceBuilder::spin). An unpark ends that too.
    ///
    /// A driver may be made on one thread and parked in on another. It may be parked in on
    /// different threads by turns, but that is not for every time: each change makes a new ring.
    ///
    /// # Errors
    ///
    /// - [`Io`](ShmError::Io) of the kind `ResourceBusy`: another thread is parked in it, or this
    ///   is called by a waker inside of `park`.
    /// - [`Unsupported`](ShmError::Unsupported): it is a background driver or a polled one, which
    ///   is run by others.
    /// - [`Closed`](ShmError::Closed): the kernel failed this driver for good, and its endpoints
    ///   have ended; or this is a forked child.
    /// - [`Io`](ShmError::Io): no ring could be made for this thread, or the kernel failed. The
    ///   next try may go well.
    pub fn park(&self, timeout: Option<Duration>) -> Result<(), ShmError> {
        self.park_unless(timeout, &|| false)
    }

    /// As [`park`](Self::park), for a caller whose waker makes `is_wanted` true before it unparks:
    /// it does not sleep over a wake whose unpark another turn has used up.
    fn park_unless(
        &self,
        timeout: Option<Duration>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), ShmError> {
        match &self.run {
            Run::Parked(parker) => parker.park(timeout, is_wanted),
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
    /// A future that wakes itself is polled again, up to eight times before the driver looks after
    /// its endpoints.
    ///
    /// On a background driver the thread simply sleeps. If another thread is parked in this driver,
    /// it runs it for both, and this one looks now and then whether it still does.
    ///
    /// # Panics
    ///
    /// If this thread is inside of another `block_on` or of `park`, of this or another driver, or
    /// is a background driver's own, on which wakers run: what is outside could not go on. On a
    /// polled driver, which nobody might run meanwhile. And if the future panics.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on::block_on(self, future)
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
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = match self.run {
            Run::Background => "background",
            Run::Parked(_) => "parked",
            Run::Polled => "polled",
        };
        let mut form = f.debug_struct("Driver");
        form.field("backend", &self.backend()).field("run", &run);
        if !self.is_background() {
            form.field("last_run", &self.shared().last_run);
        }
        form.field("bound", &self.shared().bound()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
