//! A driver for an executor that owns an io_uring.
//!
//! The driver has no ring. It hands out the submissions that it wants made and takes their
//! completions, and the executor carries both between the driver and its own ring. Everything that
//! ends the executor's sleep is such a completion: of the wait on a bell, on the control word
//! (which other threads count up), or of the poll of the epoll set.
//!
//! Between its turns the driver counts as asleep, like a polled one: what another thread asks for
//! then counts the control word up. It does not matter whether the wait on that word has reached
//! the kernel by then: a submission that comes later finds another value and completes at once.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::clock::{AWAKE, NEVER};
use super::epoll;
use super::parker::Parker;
use super::poller::{Failure, Found, Outcome, PAUSE, Poller, Wake, outcome};
use super::registration::Binding;
use super::shared::Shared;
use super::submission::{Kind, Submission, Submitter};
use super::table::Id;
use super::{Backend, Driver, Run};
use crate::error::ShmError;
use crate::sync::{Arc, AtomicU32, Ordering};
use crate::sys::pause::pause;

/// A [`Driver`] for an executor that owns an io_uring; made by
/// [`DriverBuilder::embedded`](super::DriverBuilder::embedded).
///
/// The executor sleeps in its own ring, and a peer's wake completes a futex wait there: no other
/// thread and no descriptor is between the two. Where the executor has other work in the same ring,
/// one `io_uring_enter` serves all of it.
///
/// The executor's loop has these steps:
///
/// 1. [`turn`](Self::turn), which wakes tasks.
/// 2. Run the tasks that are ready.
/// 3. Submit everything that [`next_submission`](Self::next_submission) returns, in this order.
/// 4. Enter the ring, which submits. If no task is ready, sleep there, at most until
///    [`deadline`](Self::deadline).
/// 5. Pass each completion to [`complete`](Self::complete). If that returns `false`, the completion
///    is the executor's own.
///
/// Tasks use clones of the [`Driver`] that this dereferences to. Anything that any thread asks of
/// the driver after step 1, and an [`unpark`](super::Unparker::unpark), ends the sleep of step 4:
/// for example a new endpoint, or a send with a timeout. A turn uses up the unparks before it, so
/// the executor looks for ready tasks after step 1. A waker on the executor's own thread need not
/// unpark: between two turns that costs a system call and a round without sleep. In an executor
/// that always has tasks to run, channels make progress with each round through all steps.
///
/// # Ring
///
/// The ring may have any flags but `IORING_SETUP_IOPOLL`. Every round enters the kernel with
/// `IORING_ENTER_GETEVENTS`, as `submit_and_wait` and `submit_with_args` of the crate io-uring do:
/// with `IORING_SETUP_DEFER_TASKRUN` nothing completes otherwise.
///
/// All submissions of a driver go to the same ring, as they are. The driver's waits take long, so
/// in this ring an entry of the executor's with `IOSQE_IO_DRAIN` does not complete, and one with
/// `IOSQE_IO_LINK` must not come directly before a driver's. If the kernel loses completions (an
/// enter fails with `EBADR`), drop the driver.
///
/// The ring may move to another thread with the driver if its flags allow that. Several drivers may
/// share a ring.
///
/// An executor that leaves out a step may leave tasks asleep, and one that reports wakes which have
/// not happened may end channels with [`WakeFlood`](crate::Violation::WakeFlood). Neither can do
/// other harm: no submission makes the kernel write to memory, and the driver checks what it is
/// told.
///
/// # Backends
///
/// With [`Backend::IoUring`], the default where Linux is 6.7 or later, there is a futex wait for
/// every endpoint. With [`Backend::Epoll`] there is a poll of the driver's epoll set and nothing
/// else. That needs no more than Linux 5.5, and costs each wake a byte on a socket and two more
/// system calls.
///
/// # End
///
/// When this is dropped, endpoints that are still bound to the driver end with
/// [`DriverGone`](crate::CloseReason::DriverGone), even if other handles to the driver remain.
/// Enter before that what was pushed into the submission queue. Most of what the driver has in the
/// ring completes soon after; the rest does nothing until the ring is dropped.
/// [`close`](Self::close) returns what cancels all of it. [`Submission::is_user_data`] tells these
/// late completions from the executor's own.
///
/// # Examples
///
#[cfg_attr(
    all(feature = "io-uring", any(target_arch = "x86_64", target_arch = "aarch64")),
    doc = "```"
)]
#[cfg_attr(
    not(all(feature = "io-uring", any(target_arch = "x86_64", target_arch = "aarch64"))),
    doc = "```ignore"
)]
/// use std::pin::pin;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::task::{Context, Poll, Wake};
/// use std::time::Instant;
///
/// use io_uring::IoUring;
/// use io_uring::types::{SubmitArgs, Timespec};
/// use wakering::{Driver, SpscFace, SpscHandle};
///
/// /// Says that the task is ready. (The only task of this executor, and it has no other thread.)
/// struct Ready(AtomicBool);
///
/// impl Wake for Ready {
///     fn wake(self: Arc<Self>) {
///         self.0.store(true, Ordering::Release);
///     }
/// }
///
/// # if IoUring::new(64).is_err() {
/// #     return Ok(());
/// # }
/// let mut ring = IoUring::new(64)?;
/// let mut driver = Driver::builder().embedded()?;
/// let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
/// let peer = std::thread::spawn(|| {
///     let handle = SpscHandle::builder().from_fd(descriptor)?;
///     handle.send_blocking("hello".into())
/// });
///
/// let ready = Arc::new(Ready(AtomicBool::new(true)));
/// let waker = ready.clone().into();
/// let mut task = pin!(face.recv());
/// let packet = loop {
///     driver.turn()?;
///     if ready.0.swap(false, Ordering::Acquire)
///         && let Poll::Ready(packet) = task.as_mut().poll(&mut Context::from_waker(&waker))
///     {
///         break packet;
///     }
///     while let Some(submission) = driver.next_submission() {
///         // SAFETY: none of a driver's submissions makes the kernel write to memory.
///         while unsafe { ring.submission().push(&submission.into()) }.is_err() {
///             ring.submit()?;
///         }
///     }
///     let due = driver.deadline().map(|due| due.saturating_duration_since(Instant::now()));
///     let timeout = due.map(Timespec::from);
///     let args = SubmitArgs::new();
///     let args = timeout.as_ref().map_or(args, |timeout| args.timespec(timeout));
///     // It may fail because the time is over, or because of a signal.
///     let _ = ring.submitter().submit_with_args(1, &args);
///     for completion in ring.completion() {
///         assert!(driver.complete(completion.user_data(), completion.result()));
///     }
/// };
/// assert_eq!(packet.unwrap(), "hello");
/// peer.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The example `own_ring` is an executor with many channels and a socket.
pub struct EmbeddedDriver {
    driver: Driver,
    parker: Parker<EmbeddedPoller>,
    submitter: Submitter,
    /// What the turns so far want submitted.
    wanted: VecDeque<Submission>,
    /// Completions for the next turn.
    completed: Vec<Completion>,
    /// When the next turn is due.
    due: u64,
}

impl EmbeddedDriver {
    pub(super) fn open(backend: Backend) -> Result<Self, ShmError> {
        Ok(Self::of(Binding::new(Shared::embedded(backend)?, false)))
    }

    /// Makes the driver of this binding.
    pub(super) fn of(binding: Binding) -> Self {
        let shared = binding.shared();
        let submitter = Submitter::new();
        let parker = Parker::with(shared.clone(), EmbeddedPoller::new(shared.clone(), submitter));
        let driver = Driver { binding, run: Run::ByTurns };
        let (wanted, completed) = (VecDeque::new(), Vec::new());
        Self { driver, parker, submitter, wanted, completed, due: AWAKE }
    }

    /// Does everything that is due, without blocking, and returns the number of calls that it made
    /// to endpoints, listeners, handshakes and waits for descriptors. Wakers run inside this call,
    /// on this thread; a panic in a waker is caught.
    ///
    /// If the kernel had no memory for a wait, this pauses for a millisecond before it asks for the
    /// wait again.
    ///
    /// # Errors
    ///
    /// - [`Closed`](ShmError::Closed): the driver has failed for good and its endpoints have ended,
    ///   or this is a forked child.
    /// - [`Io`](ShmError::Io): the kernel failed. The next call may succeed, and
    ///   [`deadline`](Self::deadline) says that it is due. If the kernel or the ring does not do
    ///   futex waits, this is returned once, and then [`Closed`](ShmError::Closed).
    pub fn turn(&mut self) -> Result<usize, ShmError> {
        let Self { completed, wanted, .. } = self;
        // The poller has handed over all that it wants, and used up all completions.
        let turned = self.parker.turn_with(|event_loop| {
            std::mem::swap(&mut event_loop.poller().completed, completed);
            let turned = event_loop.sweep();
            wanted.append(&mut event_loop.poller().wanted);
            turned
        });
        self.due = match &turned {
            Ok(turned) => turned.until,
            Err(ShmError::Closed { .. }) => {
                self.completed.clear();
                self.wanted.clear();
                NEVER
            }
            Err(_) => AWAKE,
        };
        turned.map(|turned| turned.calls)
    }

    /// Returns the next submission that the executor is to make, as long as there is one.
    ///
    /// Each has exactly one completion. Until the last one is submitted, channels may miss wakes.
    /// There is none in a forked child.
    pub fn next_submission(&mut self) -> Option<Submission> {
        if self.driver.shared().is_forked() { None } else { self.wanted.pop_front() }
    }

    /// Takes a completion of the executor's ring: its user data and its result. Returns `false`,
    /// and does nothing, if it belongs to no submission of this driver. Whether it belongs to one
    /// of another driver, which may be gone, tells [`Submission::is_user_data`].
    ///
    /// The next [`turn`](Self::turn) does what follows from it, and must come before the executor
    /// sleeps again.
    pub fn complete(&mut self, user_data: u64, result: i32) -> bool {
        let Some((id, kind)) = self.submitter.read(user_data) else { return false };
        let error = (result < 0).then(|| Errno::from_raw_os_error(result.wrapping_neg()));
        self.completed.push(Completion { id, kind, error });
        self.due = AWAKE;
        true
    }

    /// Returns when the next [`turn`](Self::turn) is due even if there is no completion until then.
    /// `None` if it is not. A time that has passed if there is something to do at once: then the
    /// executor submits and takes completions, but does not sleep.
    pub fn deadline(&self) -> Option<Instant> {
        (self.due != NEVER).then(|| self.driver.shared().clock.instant(self.due))
    }

    /// Whether the next turn is due now.
    #[cfg(all(test, loom))]
    pub(super) fn is_due(&self) -> bool {
        self.due == AWAKE
    }

    /// Ends the driver, as a drop does, and returns the submissions that cancel all others that are
    /// still in the ring.
    ///
    /// For an executor that goes on to use its ring without the driver. Enter what was pushed into
    /// the submission queue before this call. [`Submission::is_user_data`] tells the completions
    /// that follow.
    pub fn close(self) -> impl Iterator<Item = Submission> {
        let submitter = self.submitter;
        // None in a forked child. The waits of ends that a failed driver has abandoned are over.
        let armed = self.parker.armed();
        let own = [Kind::Control, Kind::Poll].map(|kind| (Id::OWN, kind));
        let own = if self.driver.shared().is_forked() { None } else { Some(own) };
        drop(self);
        let bells = armed.into_iter().map(|id| (id, Kind::Bell));
        bells.chain(own.into_iter().flatten()).map(move |(id, kind)| submitter.cancel(id, kind))
    }
}

impl Drop for EmbeddedDriver {
    fn drop(&mut self) {
        let shared = self.driver.shared();
        if !shared.is_forked() {
            // Ends the wait on the control word, which would outlive the word.
            shared.interrupt();
        }
    }
}

impl Deref for EmbeddedDriver {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.driver
    }
}

impl fmt::Debug for EmbeddedDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedDriver")
            .field("backend", &self.backend())
            .field("submissions", &self.wanted.len())
            .finish_non_exhaustive()
    }
}

/// The completion of one of the driver's submissions.
struct Completion {
    id: Id,
    kind: Kind,
    error: Option<Errno>,
}

/// Waits with the ring of another.
struct EmbeddedPoller {
    shared: Arc<Shared>,
    submitter: Submitter,
    /// Submissions of this turn, which takes them along at its end.
    wanted: VecDeque<Submission>,
    /// Completions since the turn before.
    completed: Vec<Completion>,
    /// The poll of the epoll set has completed.
    is_set_due: bool,
    /// A wait that the driver cannot do without has failed for good.
    failure: Option<Failure>,
}

impl EmbeddedPoller {
    fn new(shared: Arc<Shared>, submitter: Submitter) -> Self {
        let (wanted, completed) = (VecDeque::new(), Vec::new());
        let mut poller =
            Self { shared, submitter, wanted, completed, is_set_due: false, failure: None };
        poller.wait_for_control();
        poller.poll_set();
        poller
    }

    fn has_futexes(&self) -> bool {
        self.shared.backend() == Backend::IoUring
    }

    /// The driver checks the inbox after this and before it rests.
    fn wait_for_control(&mut self) {
        if self.has_futexes() {
            let control = self.shared.control();
            // ORDERING: Acquire pairs with the Release in `Shared::interrupt`.
            let seen = control.load(Ordering::Acquire);
            self.wanted.push_back(self.submitter.wait(Id::OWN, Kind::Control, control, seen));
        }
    }

    fn poll_set(&mut self) {
        if cfg!(all(test, loom)) {
            return;
        }
        let descriptor = self.shared.epoll_set.descriptor().as_raw_fd();
        self.wanted.push_back(self.submitter.poll(descriptor));
    }

    /// Takes the completion of one of the driver's own submissions.
    fn complete_own(&mut self, kind: Kind, error: Option<Errno>) {
        match kind {
            Kind::Bell => {}
            // What it was to cancel has completed, or soon will.
            Kind::Cancel if matches!(error, None | Some(Errno::NOENT | Errno::ALREADY)) => {}
            _ if outcome(error) == Outcome::Poisoned => {
                let error = io::Error::other("the executor's ring refuses what the driver needs");
                self.failure = Some(Failure::ForGood(error));
            }
            Kind::Cancel => {}
            Kind::Control => self.wait_for_control(),
            Kind::Poll => self.is_set_due = true,
        }
    }
}

impl Poller for EmbeddedPoller {
    fn arm(&mut self, id: Id, bell: &AtomicU32, seen: u32) -> bool {
        if self.has_futexes() {
            self.wanted.push_back(self.submitter.wait(id, Kind::Bell, bell, seen));
        }
        self.has_futexes()
    }

    fn disarm(&mut self, id: Id) {
        self.wanted.push_back(self.submitter.cancel(id, Kind::Bell));
    }

    /// Never sleeps: the executor does that.
    fn wait(&mut self, _timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
        self.reap_ready(found);
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if std::mem::take(&mut self.is_set_due) {
            let taken = epoll::take(&self.shared, Some(Duration::ZERO), found);
            // If something is left in the set, this poll completes at once.
            self.poll_set();
            taken.map_err(|errno| Failure::Once(errno.into()))?;
        }
        Ok(())
    }

    fn reap_ready(&mut self, found: &mut Found) {
        if self.completed.is_empty() {
            return;
        }
        let mut completed = std::mem::take(&mut self.completed);
        if completed.iter().any(|completion| completion.error == Some(Errno::NOMEM)) {
            pause(PAUSE);
        }
        for Completion { id, kind, error } in completed.drain(..) {
            if id == Id::OWN {
                self.complete_own(kind, error);
            } else {
                found.wakes.push(Wake { id, outcome: outcome(error) });
            }
        }
        self.completed = completed;
    }

    fn close(&mut self) {}
}
