//! Waits for the bells and descriptors of many endpoints, and calls the endpoints back.
//!
//! The modules, from the bottom up:
//!
//! - [`table`], [`timers`] and [`clock`] are plain data.
//! - [`slot`], [`inbox`], [`epoll_set`] and [`shared`] hold what other threads touch.
//! - [`poller`] is what the event loop asks of the kernel; [`uring`] and [`epoll`] are the two ways
//!   to wait.
//! - [`event_loop`] is owned by the thread that runs the driver; it executes the turns. It knows
//!   each registration as an [`entry`].
//! - [`background`] is a thread that runs a driver. [`parker`] is used by a thread that parks,
//!   polls or turns; [`block_on`], [`polled`] and [`embedded`] build on it. A [`submission`] is
//!   what an embedded driver asks of its executor. With the feature `async-io`, the module of that
//!   name puts a polled driver into a reactor.
//! - [`builder`] makes drivers.
//! - [`source`] is what a driver knows of an endpoint; [`registration`] is what an endpoint knows
//!   of its driver. [`readiness`] is a source too: a descriptor of the driver's user.
//!
//! In the loom models, `model` replaces the modules that wait and those that make a driver. All
//! other code is the code that ships; an embedded driver, which does not wait itself, is all of it.

mod source;
mod table;
mod timers;
mod clock;
mod slot;
mod poller;
mod entry;
#[cfg_attr(all(test, loom), allow(dead_code, reason = "only its model uses it there"))]
pub(crate) mod notify_flag;
mod last_run;
mod epoll_set;
mod inbox;
mod shared;
mod event_loop;
#[cfg_attr(all(test, loom), allow(dead_code, reason = "no model has a descriptor"))]
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
mod readiness;
#[cfg(not(all(test, loom)))]
mod background;
mod unparker;
mod parker;
mod block_on;
#[cfg(not(all(test, loom)))]
mod polled;
mod submission;
mod embedded;
#[cfg(all(feature = "async-io", not(all(test, loom))))]
mod async_io;
#[cfg(not(all(test, loom)))]
mod builder;
#[cfg(all(test, loom))]
pub(crate) mod model;

use std::fmt;
#[cfg(not(all(test, loom)))]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

#[cfg(all(feature = "async-io", not(all(test, loom))))]
pub use async_io::AsyncIoDriver;
#[cfg(not(all(test, loom)))]
pub use builder::DriverBuilder;
#[cfg(not(all(test, loom)))]
use builder::poller_of_this_thread;
pub use embedded::EmbeddedDriver;
#[cfg(all(test, loom))]
use model::poller_of_this_thread;
use parker::Parker;
#[cfg(not(all(test, loom)))]
pub use polled::PolledDriver;
#[cfg(not(all(test, loom)))]
use readiness::{Interest, Readiness};
pub(crate) use registration::{Binding, Registration};
use shared::Shared;
pub(crate) use source::Source;
pub use submission::{Operation, Submission};
pub use unparker::Unparker;

use crate::error::ShmError;
use crate::sync::Arc;

/// How a driver waits in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring where it is available, otherwise epoll. Always epoll under valgrind.
    #[default]
    Auto,
    /// io_uring with futex operations. Needs Linux 6.7 and a sandbox, if any, that does not forbid
    /// it. Also needs the crate's feature `io-uring` (on by default) and one of the targets that
    /// the [crate's documentation](crate#targets) lists for it. Otherwise it is
    /// [`Unsupported`](ShmError::Unsupported).
    IoUring,
    /// epoll. Works everywhere; each wake costs the other side a byte on a socket.
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
/// The `driver` method of an endpoint's builder binds the endpoint to a driver. Without that call,
/// an endpoint uses the default driver of the process. It runs on its own thread, which starts with
/// the first such endpoint. It works under every executor and needs no setup.
///
/// The other drivers are for programs that control their threads. The page
/// [`runtimes`](crate::runtimes) says which one is best under which runtime.
///
/// | made by | run by | for |
/// |---|---|---|
/// | [`builder().background()`](DriverBuilder::background) | a thread of its own | a thread separate from the default driver's, or a certain [`Backend`] |
/// | [`new`](Self::new), [`builder().build()`](DriverBuilder::build) | [`park`](Self::park) and [`block_on`](Self::block_on) | your own executor: the peer's wake returns straight to the executor's thread |
/// | [`builder().polled()`](DriverBuilder::polled) | [`PolledDriver::drive`] or [`turn`](PolledDriver::turn) | an existing reactor |
/// | [`builder().embedded()`](DriverBuilder::embedded) | [`EmbeddedDriver::turn`] | an executor with an io_uring of its own |
///
/// Clones are handles to the same driver, usable from any thread. A background thread ends when the
/// last handle and all endpoints bound to it are gone. It does not keep the process from exiting,
/// and takes no signals. When the last handle to a driver of the second kind is dropped, or the
/// [`PolledDriver`] or [`EmbeddedDriver`] itself, nobody can run the driver any more: endpoints
/// that are still bound to it end with [`DriverGone`](crate::CloseReason::DriverGone).
///
/// Wakers of tasks are called on the thread that runs the driver. A waker that panics, or that uses
/// or drops its own end or others, costs no other channel a wake. A waker that blocks holds up all
/// channels of the driver.
///
/// A driver that is not run wakes no task. The blocking calls of its endpoints still work, with
/// their deadlines, and still learn of the peer's death. If a task hangs, print its driver's
/// `Debug` form. `bound` is how many endpoints, listeners, handshakes and waits for descriptors are
/// bound to the driver.
/// `last_run` is when the driver was last run (`never`, `now` or how long ago), unless it runs on a
/// thread of its own.
///
/// In a forked child (without an exec) a driver does nothing, and its calls return
/// [`Closed`](ShmError::Closed) with the reason [`Forked`](crate::CloseReason::Forked). New
/// endpoints that name no driver get a new default driver there.
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
    /// Any thread that parks. All handles share the parker; it is dropped with the last handle.
    Parked(Arc<Parker>),
    /// The owner of the [`PolledDriver`] or [`EmbeddedDriver`].
    ByTurns,
}

impl Driver {
    /// Returns how this driver waits: with io_uring or epoll, never [`Backend::Auto`].
    pub fn backend(&self) -> Backend {
        self.shared().backend()
    }

    /// Sleeps until an endpoint has something to do or somebody unparks, at most for `timeout`, and
    /// wakes the tasks concerned.
    ///
    /// An executor calls this when it has nothing to run: a peer's wake returns straight to its
    /// thread. Wakers run inside this call, on this thread; a panic in a waker is caught.
    /// Meanwhile, any thread and the wakers may use, make and drop endpoints. The call may return
    /// early, so the caller checks its queue each time. With a timeout of zero it does what is due
    /// and does not sleep.
    ///
    /// Each call checks all channels once, even if it finds an unpark. An executor that always has
    /// something to run must still call this with a timeout of zero regularly, for example after
    /// every 61 polls. Otherwise its channels make no progress.
    ///
    /// On a machine with several cores it may spin for a while before it sleeps, for channels whose
    /// tasks wait: see [`spin`](crate::FaceBuilder::spin). An unpark also ends the spin.
    ///
    /// A driver may be made on one thread and parked in on another. Different threads may park in
    /// it one after the other, but not frequently: each change makes a new io_uring ring.
    ///
    /// # Errors
    ///
    /// - [`Io`](ShmError::Io) of the kind `ResourceBusy`: another thread is parked in this driver,
    ///   or a waker called this inside of `park`.
    /// - [`Unsupported`](ShmError::Unsupported): this driver is run in another way.
    /// - [`Closed`](ShmError::Closed): the kernel failed this driver for good and its endpoints
    ///   have ended, or this is a forked child.
    /// - [`Io`](ShmError::Io): no ring could be made for this thread, or the kernel failed. The
    ///   next call may succeed.
    pub fn park(&self, timeout: Option<Duration>) -> Result<(), ShmError> {
        self.park_unless(timeout, &|| false)
    }

    /// As [`park`](Self::park), for a caller whose waker makes `is_wanted` true before it unparks.
    /// Does not sleep through such a wake, even if another turn has used up its unpark.
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
            Run::ByTurns => Err(ShmError::Unsupported {
                reason: "a polled or embedded driver is run by its turn()",
            }),
        }
    }

    /// Returns a handle that ends a [`park`](Self::park) from elsewhere.
    pub fn unparker(&self) -> Unparker {
        Unparker::new(self.shared().clone())
    }

    /// Runs `future` to completion on this thread, which sleeps in [`park`](Self::park) meanwhile.
    ///
    /// To run an executor of smol's this way: `driver.block_on(local_executor.run(future))`.
    ///
    /// A future that wakes itself is polled up to eight times before the driver checks its
    /// endpoints.
    ///
    /// If [`park`](Self::park) fails because descriptors or memory are lacking, this tries again
    /// every 5 ms, and polls the future each time. Tasks inside of the future are not woken until
    /// it succeeds.
    ///
    /// On a background driver the thread only sleeps. If another thread is parked in this driver,
    /// that thread runs it for both. This thread checks from time to time whether it still does.
    ///
    /// # Panics
    ///
    /// - If this thread is inside of another `block_on` or of `park`, of this or another driver, or
    ///   is the thread of a background driver, where wakers run: the outer call could not continue.
    /// - On a polled or embedded driver, which nobody might run meanwhile.
    /// - If the future panics.
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on::block_on(self, future)
    }

    /// Waits until `descriptor` can be read from without blocking, has hung up, or has an error.
    ///
    /// With this and [`writable`](Self::writable) an executor that has sockets of its own sleeps in
    /// this driver alone: one [`park`](Self::park) waits for its sockets and for its channels. The
    /// driver must be run, as for an endpoint.
    ///
    /// Works for whatever epoll works for: sockets, pipes, eventfds, timerfds, terminals, pidfds,
    /// inotify, other epoll sets. Regular files and directories are never waited for; they are an
    /// error.
    ///
    /// Try the operation first, on a nonblocking descriptor, and wait if it is `WouldBlock`. Then
    /// try again, and so on: readiness is a hint, as another task may have read meanwhile. Each
    /// wait costs two system calls, and a second one on the same descriptor at the same time (one
    /// task reads, another writes) costs two more. Any number of tasks may wait on one descriptor.
    ///
    /// # Errors
    ///
    /// - [`Io`](ShmError::Io) of the kind `PermissionDenied`: `descriptor` is of a kind that cannot
    ///   be waited for. Another [`Io`](ShmError::Io): there is no memory or no descriptor for the
    ///   wait, or the user has more than `/proc/sys/fs/epoll/max_user_watches` waits.
    /// - [`Closed`](ShmError::Closed): nobody can run this driver any more
    ///   ([`DriverGone`](crate::CloseReason::DriverGone)), or this is a forked child
    ///   ([`Forked`](crate::CloseReason::Forked)).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait and has no other effect. The wait never holds
    /// the file open: the future borrows `descriptor`, has left the driver when it is dropped or
    /// done, and a close after that takes effect at once.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{ErrorKind, Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// use wakering::Driver;
    ///
    /// async fn read(
    ///     driver: &Driver,
    ///     mut socket: &UnixStream,
    ///     buffer: &mut [u8],
    /// ) -> Result<usize, Box<dyn std::error::Error>> {
    ///     loop {
    ///         match socket.read(buffer) {
    ///             Err(error) if error.kind() == ErrorKind::WouldBlock => {
    ///                 driver.readable(socket).await?;
    ///             }
    ///             read => return Ok(read?),
    ///         }
    ///     }
    /// }
    ///
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// ours.set_nonblocking(true)?;
    /// let writer = std::thread::spawn(move || theirs.write_all(b"hello"));
    /// let driver = Driver::new()?;
    /// let mut buffer = [0; 5];
    /// assert_eq!(driver.block_on(read(&driver, &ours, &mut buffer))?, 5);
    /// writer.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(not(all(test, loom)))]
    pub fn readable<'a>(
        &self,
        descriptor: &'a (impl AsFd + ?Sized),
    ) -> impl Future<Output = Result<(), ShmError>> + Send + 'a {
        self.readiness(descriptor.as_fd(), Interest::Read)
    }

    /// Waits until `descriptor` can be written to without blocking, has hung up, or has an error.
    ///
    /// Everything that [`readable`](Self::readable) says applies.
    ///
    /// # Errors
    ///
    /// As [`readable`](Self::readable).
    ///
    /// # Cancel safety
    ///
    /// As [`readable`](Self::readable).
    #[cfg(not(all(test, loom)))]
    pub fn writable<'a>(
        &self,
        descriptor: &'a (impl AsFd + ?Sized),
    ) -> impl Future<Output = Result<(), ShmError>> + Send + 'a {
        self.readiness(descriptor.as_fd(), Interest::Write)
    }

    #[cfg(not(all(test, loom)))]
    fn readiness<'a>(&self, descriptor: BorrowedFd<'a>, interest: Interest) -> Readiness<'a> {
        Readiness::new(self.binding.clone(), descriptor, interest)
    }

    /// Whether the driver runs on its own thread, so that no caller has to run it.
    fn is_background(&self) -> bool {
        matches!(self.run, Run::Background)
    }

    /// Returns the binding through which a source reaches this driver.
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
            Run::ByTurns => "by turns",
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
