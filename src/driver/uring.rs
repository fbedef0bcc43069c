//! Waits with an io_uring: one futex wait for every bell.
//!
//! There are two kinds of rings, and both hold a poll of the epoll set. The thread that made a
//! `Slept` ring sleeps in it; this ring also holds a wait on the control word. A `Polled` ring
//! belongs to a polled driver. A reactor waits on its descriptor; any thread may turn it.
//!
//! Every submission here has exactly one completion. Its user data is the packed identity of its
//! registration, or [`Id::OWN`] with one of the tokens below. A submission that finds the queue
//! full waits in `backlog`, with the value that it compares. So if the bell is counted up
//! meanwhile, the wait ends as soon as it starts.
//!
//! The completion queue has room for 4096. The kernel keeps further completions in a list of its
//! own, and every enter here moves them up (`IORING_FEAT_NODROP`). If the kernel has no memory for
//! the list either, it reports that (EBADR), and the driver ends rather than leave a source asleep
//! for ever.
//!
//! The polled kind has default flags. The thread that has armed a wait also completes it: the
//! kernel interrupts the thread, in a system call (which may then return EINTR) or in user space.
//! When the thread exits, its waits are cancelled. This makes the descriptor readable at once, and
//! the next turn arms them again. With `DEFER_TASKRUN` nothing would complete, and the descriptor
//! would not become readable, before the next enter; with `COOP_TASKRUN` not before the thread
//! enters the kernel by itself.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::thread::{self, ThreadId};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use super::Backend;
use super::epoll;
use super::poller::{ATTEMPTS, Failure, Found, Outcome, PAUSE, Poller, Wake, outcome, pause_after};
use super::shared::Shared;
use super::submission::{Operation, Submission};
use super::table::Id;
use crate::error::ShmError;
use crate::sync::{Arc, AtomicU32, Ordering};
use crate::sys::pause::pause;
use crate::sys::trace;

const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 4096;

/// The longest sleep; the kernel refuses seconds that look negative to it.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// The wait on the bell of a registration.
const BELL: u16 = 0;
/// The wait on the control word.
const CONTROL: u16 = 1;
/// The poll of the epoll set.
const POLL: u16 = 2;
/// A cancellation; its own result is ignored.
const CANCEL: u16 = 3;

/// How a ring's completions are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The thread that made the ring sleeps in it.
    Slept,
    /// A reactor waits on the ring's descriptor.
    Polled,
}

/// Tests whether io_uring works here: the kernel is new enough, and no sandbox forbids it.
pub(super) fn probe() -> io::Result<()> {
    open(Kind::Slept).map(drop)
}

/// Returns the backend to use instead of a ring that could not be made.
///
/// A lack of descriptors is no reason for another backend: it will pass, and epoll needs as many.
pub(super) fn fallback(requested: Backend, error: io::Error) -> Result<Backend, ShmError> {
    let (of_descriptors, of_memory) = shortage(&error);
    if of_descriptors || of_memory && requested == Backend::IoUring {
        return Err(ShmError::Io { step: "io_uring_setup", source: error });
    }
    match requested {
        Backend::IoUring => Err(ShmError::Unsupported { reason: why_not(&error) }),
        Backend::Auto | Backend::Epoll => {
            trace::fallback(why_not(&error));
            Ok(Backend::Epoll)
        }
    }
}

/// Returns why there is no io_uring, from the error of the call that has failed.
fn why_not(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::PERM) => {
            "io_uring is forbidden here (EPERM), by kernel.io_uring_disabled, a seccomp filter or a \
             security module"
        }
        Some(Errno::ACCESS) => {
            "io_uring is forbidden here (EACCES), by a seccomp filter or a security module"
        }
        Some(Errno::NOSYS) => {
            "io_uring is missing here (ENOSYS): the kernel is without it, or a seccomp filter \
             hides it"
        }
        Some(Errno::INVAL) => {
            "the io_uring of this kernel is too old (EINVAL): futex operations came with Linux 6.7"
        }
        None if error.kind() == io::ErrorKind::Unsupported => {
            "the io_uring of this kernel has no futex operations, which came with Linux 6.7"
        }
        _ => "io_uring with futex operations (Linux 6.7) does not work here",
    }
}

/// Returns the failure of a driver with io_uring for whose thread no ring could be made.
pub(super) fn failure(error: io::Error) -> Failure {
    match shortage(&error) {
        (false, false) => Failure::ForGood(error),
        _ => Failure::NoPoller(error),
    }
}

/// Whether descriptors or memory were lacking; these may be available the next time.
fn shortage(error: &io::Error) -> (bool, bool) {
    let errno = Errno::from_io_error(error);
    (
        matches!(errno, Some(Errno::MFILE | Errno::NFILE)),
        matches!(errno, Some(Errno::NOMEM | Errno::AGAIN)),
    )
}

/// Makes a ring with everything that is needed here, and tests that it works.
fn open(kind: Kind) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_submit_all().setup_cqsize(COMPLETIONS);
    if kind == Kind::Slept {
        // With this flag we see without a system call whether an enter would complete anything.
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    }
    let mut ring = builder.build(SUBMISSIONS)?;
    let features = ring.params().is_feature_ext_arg() && ring.params().is_feature_nodrop();
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let codes = [opcode::FutexWait::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE];
    if !features || !codes.into_iter().all(|code| probe.is_supported(code)) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // A sandbox may allow making a ring but forbid entering it.
    let word = AtomicU32::new(1);
    push(&mut ring, &entry(Operation::wait(&word, 0), Id::OWN.pack(CONTROL)));
    enter(&mut ring, Some(Duration::from_secs(1)))?;
    let answer = ring.completion().next().map(|completion| completion.result());
    match answer {
        Some(result) if errno(result) == Some(Errno::AGAIN) => Ok(ring),
        _ => Err(io::Error::other("a futex wait in an io_uring has failed")),
    }
}

/// A ring and its submissions.
struct Queue {
    ring: IoUring,
    /// Submissions that the queue had no room for, in their order.
    backlog: VecDeque<squeue::Entry>,
    /// Submissions, including the backlog, whose completion has not been seen.
    in_flight: usize,
    /// The kernel had no memory for a submission.
    is_starved: bool,
}

impl Queue {
    fn open(kind: Kind) -> io::Result<Self> {
        let ring = open(kind)?;
        Ok(Self { ring, backlog: VecDeque::new(), in_flight: 0, is_starved: false })
    }

    fn wait_for(&mut self, user_data: u64, word: &AtomicU32, seen: u32) {
        self.submit(Operation::wait(word, seen), user_data);
    }

    /// Waits until there is something in the driver's epoll set.
    fn poll(&mut self, shared: &Shared) {
        let descriptor = shared.epoll_set.descriptor().as_raw_fd();
        self.submit(Operation::PollAdd { descriptor }, Id::OWN.pack(POLL));
    }

    fn cancel(&mut self, user_data: u64) {
        self.submit(Operation::Cancel { user_data }, Id::OWN.pack(CANCEL));
    }

    /// Queues a submission. It reaches the kernel with the next enter, or now if the queue must be
    /// emptied to make room.
    fn submit(&mut self, operation: Operation, user_data: u64) {
        self.in_flight += 1;
        let entry = entry(operation, user_data);
        if self.backlog.is_empty() && push(&mut self.ring, &entry) {
            return;
        }
        self.backlog.push_back(entry);
        if !self.refill() {
            // Any error occurs again at the next wait, which handles it.
            let _ = self.ring.submit();
            self.refill();
        }
    }

    /// Moves the backlog into the queue; returns whether all of it found room.
    fn refill(&mut self) -> bool {
        while let Some(entry) = self.backlog.front() {
            if !push(&mut self.ring, entry) {
                return false;
            }
            self.backlog.pop_front();
        }
        true
    }

    /// Returns how many submissions the kernel does not have yet.
    fn unsubmitted(&mut self) -> usize {
        self.backlog.len() + self.ring.submission().len()
    }

    /// Whether an enter would change nothing: there is nothing to submit, to complete or to move
    /// up.
    fn is_quiet(&mut self) -> bool {
        self.ring.submission().is_empty() && !self.has_completions_to_come()
    }

    /// Whether an enter would bring completions at once.
    fn has_completions_to_come(&mut self) -> bool {
        let submissions = self.ring.submission();
        submissions.taskrun() || submissions.cq_overflow()
    }

    /// Submits and waits for completions, at most for `timeout`.
    fn enter(&mut self, timeout: Option<Duration>) -> Result<(), Failure> {
        // What does not fit goes with the next enter, which must come soon.
        let timeout = if self.refill() { timeout } else { Some(Duration::ZERO) };
        if timeout == Some(Duration::ZERO) && self.is_quiet() {
            return Ok(());
        }
        if std::mem::take(&mut self.is_starved) && timeout != Some(Duration::ZERO) {
            pause(PAUSE);
        }
        let Err(error) = enter(&mut self.ring, timeout) else { return Ok(()) };
        match Errno::from_io_error(&error) {
            Some(Errno::INTR | Errno::TIME) => Ok(()),
            // No memory, or too many completions. If there are any, they are taken next.
            Some(Errno::AGAIN | Errno::BUSY) => {
                if self.ring.completion().is_empty() {
                    pause(PAUSE);
                }
                Ok(())
            }
            Some(Errno::BADR) => Err(Failure::ForGood(error)),
            _ => Err(Failure::Once(error)),
        }
    }

    /// Takes the completions: wakes go to `found`, the driver's own to `own`.
    fn reap(&mut self, found: &mut Found, mut own: impl FnMut(u16, Option<Errno>)) {
        for completion in self.ring.completion() {
            self.in_flight = self.in_flight.saturating_sub(1);
            let (id, token) = Id::unpack(completion.user_data());
            let error = errno(completion.result());
            self.is_starved |= error == Some(Errno::NOMEM);
            if id == Id::OWN {
                own(token, error);
            } else {
                found.wakes.push(Wake { id, outcome: outcome(error) });
            }
        }
    }
}

/// A ring in which its maker sleeps.
pub(super) struct RingPoller {
    queue: Queue,
    shared: Arc<Shared>,
    owner: ThreadId,
    /// The driver's own waits must not be renewed.
    closing: bool,
}

impl RingPoller {
    /// Makes a ring for the calling thread.
    pub(super) fn open(shared: &Arc<Shared>) -> io::Result<Self> {
        let (queue, shared) = (Queue::open(Kind::Slept)?, shared.clone());
        let mut poller = Self { queue, shared, owner: thread::current().id(), closing: false };
        poller.arm_control();
        poller.queue.poll(&poller.shared);
        Ok(poller)
    }

    /// The driver checks the inbox after this and before it sleeps.
    fn arm_control(&mut self) {
        let control = self.shared.control();
        // ORDERING: Acquire pairs with the Release in `Shared::interrupt`.
        let seen = control.load(Ordering::Acquire);
        self.queue.wait_for(Id::OWN.pack(CONTROL), control, seen);
    }

    /// Takes the completions, and renews the driver's own waits.
    fn reap(&mut self, found: &mut Found) -> Result<(), Failure> {
        let (mut control, mut poll) = (None, None);
        self.queue.reap(found, |token, error| match token {
            CONTROL => control = Some(error),
            POLL => poll = Some(error),
            _ => {}
        });
        if self.closing {
            return Ok(());
        }
        if let Some(error) = control {
            if outcome(error) == Outcome::Poisoned {
                return Err(Failure::ForGood(io::Error::other("no wait on the control word")));
            }
            self.arm_control();
        }
        if poll.is_some() {
            let taken = epoll::take(&self.shared, Some(Duration::ZERO), found);
            // Goes to the kernel after the sources have been called. If something is still ready
            // then, it completes at once.
            self.queue.poll(&self.shared);
            taken.map_err(|errno| Failure::Once(errno.into()))?;
        }
        Ok(())
    }
}

impl Poller for RingPoller {
    fn arm(&mut self, id: Id, bell: &AtomicU32, seen: u32) -> bool {
        self.queue.wait_for(id.pack(BELL), bell, seen);
        true
    }

    fn disarm(&mut self, id: Id) {
        self.queue.cancel(id.pack(BELL));
    }

    fn wait(&mut self, timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
        let entered = self.queue.enter(timeout);
        self.reap(found).and(entered)
    }

    fn is_due(&mut self) -> bool {
        self.queue.has_completions_to_come() || !self.queue.ring.completion().is_empty()
    }

    fn close(&mut self) {
        self.closing = true;
        self.queue.cancel(Id::OWN.pack(CONTROL));
        self.queue.cancel(Id::OWN.pack(POLL));
        let mut found = Found::default();
        while self.queue.in_flight > 0 && self.wait(None, &mut found).is_ok() {}
    }

    fn is_ours(&self) -> bool {
        thread::current().id() == self.owner
    }
}

/// A ring whose descriptor a reactor waits on. It is readable as long as a completion is not taken.
pub(super) struct PolledRing {
    queue: Queue,
    shared: Arc<Shared>,
    /// The poll of the epoll set has completed.
    is_set_due: bool,
}

impl PolledRing {
    /// Makes a ring. Returns a descriptor of it too, which stays open if this is dropped.
    pub(super) fn open(shared: &Arc<Shared>) -> Result<(Self, OwnedFd), ShmError> {
        let queue = Queue::open(Kind::Polled).map_err(ShmError::io("io_uring_setup"))?;
        let descriptor =
            queue.ring.as_fd().try_clone_to_owned().map_err(ShmError::io("io_uring_setup"))?;
        let mut ring = Self { queue, shared: shared.clone(), is_set_due: false };
        // Also before the first turn, what other threads ask for makes the ring readable.
        let polled = ring.poll_set().map_err(Failure::into_error);
        polled.map_err(ShmError::io("io_uring_enter"))?;
        Ok((ring, descriptor))
    }

    /// Submits the poll of the epoll set. Its completion stays in the ring, which is readable
    /// because of it.
    fn poll_set(&mut self) -> Result<(), Failure> {
        self.queue.poll(&self.shared);
        self.submit(None)
    }

    /// Submits everything, and takes completions if there is a place for them.
    ///
    /// What the kernel does not have cannot make the descriptor readable, not even for another
    /// thread that interrupts, so nothing may be left for a next turn: nothing would bring one
    /// about. Where the kernel fails, this blocks, for a third of a second in all; then the driver
    /// is given up. (A driver on a thread of its own, which delays nobody, waits for memory as long
    /// as it takes.)
    fn submit(&mut self, mut found: Option<&mut Found>) -> Result<(), Failure> {
        let (mut failures, mut left) = (0, usize::MAX);
        loop {
            let entered = self.queue.enter(Some(Duration::ZERO));
            if let Some(found) = found.as_deref_mut() {
                self.reap_ready(found);
            }
            let before = std::mem::replace(&mut left, self.queue.unsubmitted());
            let error = match entered {
                Err(Failure::Once(error)) if left > 0 => error,
                Ok(()) if left > 0 => Errno::AGAIN.into(),
                entered => return entered,
            };
            if left < before {
                failures = 0;
            } else if failures == ATTEMPTS {
                return Err(Failure::ForGood(error));
            }
            failures += 1;
            pause(pause_after(failures));
        }
    }
}

impl Poller for PolledRing {
    fn arm(&mut self, id: Id, bell: &AtomicU32, seen: u32) -> bool {
        self.queue.wait_for(id.pack(BELL), bell, seen);
        true
    }

    fn disarm(&mut self, id: Id) {
        self.queue.cancel(id.pack(BELL));
    }

    /// Never sleeps: the thread that polls the descriptor does that.
    fn wait(&mut self, _timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
        self.submit(Some(found))?;
        if std::mem::take(&mut self.is_set_due) {
            let taken = epoll::take(&self.shared, Some(Duration::ZERO), found);
            // If something is left in the set, this poll completes at once, and the ring stays
            // readable.
            self.poll_set()?;
            taken.map_err(|errno| Failure::Once(errno.into()))?;
        }
        Ok(())
    }

    fn reap_ready(&mut self, found: &mut Found) {
        let is_set_due = &mut self.is_set_due;
        self.queue.reap(found, |token, _| *is_set_due |= token == POLL);
    }

    fn close(&mut self) {}
}

fn entry(operation: Operation, user_data: u64) -> squeue::Entry {
    let entry = match operation {
        Operation::FutexWait { address, value } => opcode::FutexWait::new(
            ptr::with_exposed_provenance(address),
            u64::from(value),
            Operation::FUTEX_MASK,
            Operation::FUTEX_FLAGS,
        )
        .build(),
        Operation::PollAdd { descriptor } => {
            opcode::PollAdd::new(Fd(descriptor), Operation::POLL_EVENTS).build()
        }
        Operation::Cancel { user_data } => opcode::AsyncCancel::new(user_data).build(),
    };
    entry.user_data(user_data)
}

impl From<Submission> for squeue::Entry {
    fn from(submission: Submission) -> Self {
        entry(submission.operation(), submission.user_data())
    }
}

/// Puts a submission into the queue, if there is room.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> bool {
    let mut queue = ring.submission();
    // SAFETY: the submissions made in this file hand over no buffer that the kernel would write to.
    // A futex wait names a word. The kernel only reads it, checks the address itself, and reads it
    // only to compare it when the wait starts. Until then the table, or `shared` for the control
    // word, keeps the word's owner, so that it is the right word. After that the kernel knows the
    // word only by its place in the file, so a ring may also be dropped with waits in it. A poll
    // names a descriptor that `shared` keeps open; a cancellation names user data.
    unsafe { queue.push(entry) }.is_ok()
}

/// Submits what is queued and sleeps until there is a completion, at most for `timeout`.
fn enter(ring: &mut IoUring, timeout: Option<Duration>) -> io::Result<()> {
    let timespec = timeout.map(|timeout| Timespec::from(timeout.min(LONGEST)));
    let args = timespec.as_ref().map_or(SubmitArgs::new(), |at| SubmitArgs::new().timespec(at));
    let min_complete = u32::from(timeout != Some(Duration::ZERO));
    // GETEVENTS also without a wait: it runs deferred work, and empties an overflow.
    let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
    if ring.params().is_feature_no_iowait() {
        flags |= EnterFlags::NO_IOWAIT;
    }
    // At most SUBMISSIONS, so it fits.
    let queued = u32::try_from(ring.submission().len()).unwrap_or(SUBMISSIONS);
    // SAFETY: `args` is the structure that EXT_ARG announces. It and the time that it points to
    // live until the call returns.
    let entered =
        unsafe { ring.submitter().enter(queued, min_complete, flags.bits(), Some(&args)) };
    entered.map(drop)
}

/// Returns the error in a completion's result.
fn errno(result: i32) -> Option<Errno> {
    (result < 0).then(|| Errno::from_raw_os_error(result.wrapping_neg()))
}
