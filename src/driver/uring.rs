//! Waiting with an io_uring: a futex wait for every bell, and a poll of the epoll set.
//!
//! Every submission here has exactly one completion, whose user data is the packed identity of the
//! registration it is for, or [`Id::OWN`] with one of the tokens below. A submission that finds the
//! queue full waits in `backlog`, with the value that it is to compare, so that a bell that rings
//! meanwhile ends the wait as soon as it starts.
//!
//! The completion queue has room for 4096 at once. Beyond that the kernel keeps them in a list of
//! its own and every enter here moves them up (`IORING_FEAT_NODROP`); if it has no memory for the
//! list either, it says so (EBADR), and the driver ends rather than leave a source asleep for ever.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, opcode, squeue};
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::epoll;
use super::runner::{Failure, Found, Waits, Wake};
use super::shared::Shared;
use super::table::Id;
use crate::sync::{Arc, AtomicU32, Ordering};

const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 4096;

/// A 32-bit word, shared between processes: `FUTEX2_SIZE_U32` without `FUTEX2_PRIVATE`.
const FUTEX_FLAGS: u32 = 2;

/// Every wake is for us: `FUTEX_BITSET_MATCH_ANY`.
const FUTEX_MASK: u64 = u32::MAX as u64;

/// The longest sleep; the kernel refuses seconds that look negative to it.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// How long a driver that the kernel has no memory for waits before it tries again.
const PAUSE: Duration = Duration::from_millis(1);

/// The wait on the bell of a registration.
const BELL: u16 = 0;
/// The wait on the control word.
const CONTROL: u16 = 1;
/// The poll of the epoll set.
const POLL: u16 = 2;
/// A cancellation, whose own result says nothing of interest.
const CANCEL: u16 = 3;

/// Makes a ring that does what is needed here, and proves that it does.
///
/// It belongs to the calling thread. An error means that there is no io_uring for us: not in this
/// kernel, not in this sandbox, or too old a one.
pub(super) fn open() -> io::Result<IoUring> {
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)?;
    let features = ring.params().is_feature_ext_arg() && ring.params().is_feature_nodrop();
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let codes = [opcode::FutexWait::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE];
    if !features || !codes.into_iter().all(|code| probe.is_supported(code)) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // A sandbox may let a ring be made and not be entered.
    let word = AtomicU32::new(1);
    push(&mut ring, &futex_wait(Id::OWN.pack(CONTROL), &word, 0));
    enter(&mut ring, Some(Duration::from_secs(1)))?;
    let answer = ring.completion().next().map(|completion| completion.result());
    match answer {
        Some(result) if errno(result) == Some(Errno::AGAIN) => Ok(ring),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// A ring, and what is in it.
pub(super) struct RingWaits {
    ring: IoUring,
    shared: Arc<Shared>,
    /// Submissions that the queue had no room for, in their order.
    backlog: VecDeque<squeue::Entry>,
    /// Submissions, those in the backlog too, whose completion has not been seen.
    in_flight: usize,
    /// The driver's own waits are not to be renewed.
    closing: bool,
}

impl RingWaits {
    pub(super) fn new(ring: IoUring, shared: Arc<Shared>) -> Self {
        let backlog = VecDeque::new();
        let mut waits = Self { ring, shared, backlog, in_flight: 0, closing: false };
        waits.arm_control(0);
        waits.arm_poll();
        waits
    }

    /// `seen` is what the control word held before the inbox was last looked into.
    fn arm_control(&mut self, seen: u32) {
        let entry = futex_wait(Id::OWN.pack(CONTROL), self.shared.control(), seen);
        self.submit(entry);
    }

    fn arm_poll(&mut self) {
        let epoll = Fd(self.shared.epoll().as_raw_fd());
        let entry = opcode::PollAdd::new(epoll, u32::from(PollFlags::IN.bits())).build();
        self.submit(entry.user_data(Id::OWN.pack(POLL)));
    }

    fn cancel(&mut self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build();
        self.submit(entry.user_data(Id::OWN.pack(CANCEL)));
    }

    /// Queues a submission. It reaches the kernel with the next enter, or with one now to make room.
    fn submit(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        self.backlog.push_back(entry);
        if !self.refill() {
            // Whatever goes wrong here goes wrong again at the next wait, which looks at it.
            let _ = self.ring.submit();
            self.refill();
        }
    }

    /// Moves the backlog into the queue; says whether all of it found room.
    fn refill(&mut self) -> bool {
        while let Some(entry) = self.backlog.front() {
            if !push(&mut self.ring, entry) {
                return false;
            }
            self.backlog.pop_front();
        }
        true
    }

    /// Takes what has completed, and renews the driver's own waits.
    fn reap(&mut self, found: &mut Found) -> Result<(), Failure> {
        let (mut control, mut poll) = (None, None);
        for completion in self.ring.completion() {
            self.in_flight = self.in_flight.saturating_sub(1);
            let (id, token) = Id::unpack(completion.user_data());
            let error = errno(completion.result());
            match (id, token) {
                (Id::OWN, CONTROL) => control = Some(error),
                (Id::OWN, POLL) => poll = Some(error),
                (Id::OWN, _) => {}
                (id, _) => found.wakes.push(Wake { id, poisoned: is_poisoned(error) }),
            }
        }
        if self.closing {
            return Ok(());
        }
        if let Some(error) = control {
            if is_poisoned(error) {
                return Err(Failure::ForGood(io::Error::other("no wait on the control word")));
            }
            // ORDERING: Acquire pairs with the Release in `Shared::interrupt`. The inbox is looked
            // into after this, before the driver sleeps.
            self.arm_control(self.shared.control().load(Ordering::Acquire));
        }
        if poll.is_some() {
            let taken = epoll::wait(&self.shared, Some(Duration::ZERO), found);
            // Goes to the kernel when the sources have been called: what is still ready then
            // completes it at once.
            self.arm_poll();
            taken.map_err(|errno| Failure::Once(errno.into()))?;
        }
        Ok(())
    }
}

impl Waits for RingWaits {
    fn arm(&mut self, id: Id, bell: &AtomicU32, seen: u32) -> bool {
        self.submit(futex_wait(id.pack(BELL), bell, seen));
        true
    }

    fn disarm(&mut self, id: Id) {
        self.cancel(id.pack(BELL));
    }

    fn wait(&mut self, timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
        // What does not fit goes with the next turn, which must come soon.
        let timeout = if self.refill() { timeout } else { Some(Duration::ZERO) };
        let entered = enter(&mut self.ring, timeout);
        let nothing = self.ring.completion().is_empty();
        let reaped = self.reap(found);
        let Err(error) = entered else { return reaped };
        match Errno::from_io_error(&error) {
            Some(Errno::INTR | Errno::TIME) => reaped,
            // No memory, or too many completions: those were taken just now, if there were any.
            Some(Errno::AGAIN | Errno::BUSY) => {
                if nothing {
                    std::thread::sleep(PAUSE);
                }
                reaped
            }
            Some(Errno::BADR) => Err(Failure::ForGood(error)),
            _ => Err(Failure::Once(error)),
        }
    }

    fn close(&mut self) {
        self.closing = true;
        self.cancel(Id::OWN.pack(CONTROL));
        self.cancel(Id::OWN.pack(POLL));
        let mut found = Found::default();
        while self.in_flight > 0 && self.wait(None, &mut found).is_ok() {}
    }
}

fn futex_wait(user_data: u64, word: &AtomicU32, seen: u32) -> squeue::Entry {
    let word = word.as_ptr().cast_const();
    opcode::FutexWait::new(word, u64::from(seen), FUTEX_MASK, FUTEX_FLAGS)
        .build()
        .user_data(user_data)
}

/// Puts a submission into the queue, if there is room.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> bool {
    let mut queue = ring.submission();
    // SAFETY: the submissions made in this file hand over no buffer that the kernel would write to.
    // A futex wait names a word, which the kernel only reads, checking the address itself, and only
    // to compare it when the wait starts; the table keeps the word's owner until the completion, so
    // that it is the right word. A poll names a descriptor that `shared` keeps open; a cancellation
    // names user data.
    unsafe { queue.push(entry) }.is_ok()
}

/// Submits what is queued and sleeps until there is a completion, at most for `timeout`.
fn enter(ring: &mut IoUring, timeout: Option<Duration>) -> io::Result<()> {
    let timespec = timeout.map(|timeout| Timespec::from(timeout.min(LONGEST)));
    let args = timespec.as_ref().map_or(SubmitArgs::new(), |at| SubmitArgs::new().timespec(at));
    let want = u32::from(timeout != Some(Duration::ZERO));
    // GETEVENTS also without a wait: it runs what was deferred, and empties an overflow.
    let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
    if ring.params().is_feature_no_iowait() {
        flags |= EnterFlags::NO_IOWAIT;
    }
    // At most SUBMISSIONS, so it fits.
    let queued = u32::try_from(ring.submission().len()).unwrap_or(SUBMISSIONS);
    // SAFETY: `args` is the structure that EXT_ARG announces, and it and the time that it points to
    // live until the call returns.
    let entered = unsafe { ring.submitter().enter(queued, want, flags.bits(), Some(&args)) };
    entered.map(drop)
}

/// The error in a completion's result.
fn errno(result: i32) -> Option<Errno> {
    (result < 0).then(|| Errno::from_raw_os_error(result.wrapping_neg()))
}

/// Whether this answer to a futex wait means that the word cannot be waited on. All others are
/// wakes: a wake proper, a word that has changed (EAGAIN), a wait that was ended by something.
fn is_poisoned(error: Option<Errno>) -> bool {
    matches!(error, Some(Errno::FAULT | Errno::INVAL))
}
