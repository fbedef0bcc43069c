//! The state that a driver shares with the threads that use it.
//!
//! | word | written by | read by | what it says |
//! |---|---|---|---|
//! | `inbox` (locked) | every thread | the driver | what to do, and until when the driver sleeps |
//! | `control` | every thread, after the inbox | the driver | counted up to end a sleep |
//! | `unparked` | every thread, before the inbox; the driver clears it | both | the driver's thread must return to its caller |
//!
//! The inbox's lock orders going to sleep and giving the driver a command: either the driver sees
//! the command, or the thread that pushes it sees `asleep_until`. A thread that sees the driver
//! asleep marks it awake, so each sleep is interrupted once. A driver that no thread runs at
//! present counts as awake, because it checks the inbox before it sleeps. A polled or embedded
//! driver is asleep between its turns, and an interrupt makes its descriptor readable or completes
//! a wait.

use std::sync::atomic::AtomicBool;
use std::task::Wake;
use std::time::Duration;

use super::Backend;
use super::clock::{AWAKE, Clock, NEVER};
use super::epoll_set::EpollSet;
use super::inbox::{Command, Inbox, MAX_REQUESTS, Request, SleepAttempt};
use super::last_run::LastRun;
use super::slot::Slot;
use super::source::Source;
use super::table::Id;
use crate::error::{CloseReason, ShmError};
use crate::sync::{Arc, AtomicU32, Mutex, Ordering, lock};
use crate::sys::fork::{LeakyLock, Origin};
use crate::sys::futex;

/// One driver, as all threads see it.
pub(super) struct Shared {
    backend: Backend,
    pub(super) epoll_set: EpollSet,
    /// The futex word that ends the sleep of a driver with a ring.
    control: AtomicU32,
    unparked: AtomicU32,
    /// Something was put into the inbox: a hint for a driver that spins.
    inbox_changed: AtomicBool,
    /// Threads park in this driver when they have nothing else to do.
    parked_in: bool,
    inbox: LeakyLock<Mutex<Inbox>>,
    /// Kept for a driver that has no thread of its own.
    pub(super) last_run: LastRun,
    pub(super) clock: Clock,
    /// The process that it belongs to.
    origin: Origin,
}

impl Shared {
    /// Makes the state of a driver with a thread of its own.
    pub(super) fn new(backend: Backend) -> Result<Arc<Self>, ShmError> {
        Self::sleeping(backend, false)
    }

    /// Makes the state of a driver that threads park in when they have nothing else to do.
    pub(super) fn parked_in(backend: Backend) -> Result<Arc<Self>, ShmError> {
        Self::sleeping(backend, true)
    }

    fn sleeping(backend: Backend, parked_in: bool) -> Result<Arc<Self>, ShmError> {
        let mut shared = Self::make(backend)?;
        shared.parked_in = parked_in;
        if backend == Backend::Epoll {
            shared.epoll_set.add_interrupt()?;
        }
        Ok(Arc::new(shared))
    }

    /// Makes the state of a driver that a reactor waits for.
    pub(super) fn polled(backend: Backend) -> Result<Arc<Self>, ShmError> {
        let mut shared = Self::make(backend)?;
        shared.epoll_set.add_interrupt()?;
        shared.epoll_set.add_timer()?;
        // The first registration makes the descriptor readable.
        lock(&shared.inbox).asleep_until = NEVER;
        Ok(Arc::new(shared))
    }

    /// Makes the state of a driver whose waits are in the ring of another.
    pub(super) fn embedded(backend: Backend) -> Result<Arc<Self>, ShmError> {
        let mut shared = Self::make(backend)?;
        if backend == Backend::Epoll {
            shared.epoll_set.add_interrupt()?;
        }
        // The first registration counts the control word up.
        lock(&shared.inbox).asleep_until = NEVER;
        Ok(Arc::new(shared))
    }

    fn make(backend: Backend) -> Result<Self, ShmError> {
        Ok(Self {
            backend,
            epoll_set: EpollSet::new()?,
            control: AtomicU32::new(0),
            unparked: AtomicU32::new(0),
            inbox_changed: AtomicBool::new(false),
            parked_in: false,
            inbox: LeakyLock::default(),
            last_run: LastRun::new(),
            clock: Clock::new(),
            origin: Origin::here(),
        })
    }

    /// Whether this process is a forked child of the driver's. Then the descriptors are the
    /// parent's, and a thread that does not exist here may hold a lock.
    pub(super) fn is_forked(&self) -> bool {
        self.origin.has_left()
    }

    /// Fails in a forked child.
    pub(super) fn check_fork(&self) -> Result<(), ShmError> {
        let forked = ShmError::Closed { reason: CloseReason::Forked, sent: 0 };
        if self.is_forked() { Err(forked) } else { Ok(()) }
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// Returns how many sources have an identity. In a forked child none has.
    pub(super) fn bound(&self) -> usize {
        if self.is_forked() { 0 } else { lock(&self.inbox).ids.taken() }
    }

    /// Returns the futex word that ends the sleep of a driver with a ring.
    #[allow(dead_code, reason = "for io_uring alone")]
    pub(super) fn control(&self) -> &AtomicU32 {
        &self.control
    }

    /// Makes the times of all timers come, including timers that are set later.
    #[cfg(all(test, loom))]
    pub(super) fn let_time_pass(&self) {
        self.clock.let_time_pass();
        self.interrupt();
    }

    /// Gives the driver a command; drops it if the driver has ended.
    pub(super) fn push(&self, command: Command) {
        if self.is_forked() {
            return;
        }
        let mut inbox = lock(&self.inbox);
        if inbox.closed {
            // What the command holds is dropped outside of the lock.
            drop(inbox);
            return;
        }
        // Tidies for `Retire` alone: a thread that notifies or asks for a timer may hold locks that
        // the drop of a source takes.
        let retires = matches!(command, Command::Retire(_));
        let interrupt = inbox.push(command);
        self.note_inbox_change();
        let dropped = if retires { inbox.tidy() } else { Vec::new() };
        drop(inbox);
        if interrupt {
            self.interrupt();
        }
        // Outside of the lock: sources are foreign code.
        drop(dropped);
    }

    /// Gives the driver a source.
    pub(super) fn admit(&self, source: Arc<dyn Source>, seen: u32) -> Result<Arc<Slot>, ShmError> {
        self.check_fork()?;
        let mut inbox = lock(&self.inbox);
        if inbox.closed {
            return Err(ShmError::Closed { reason: CloseReason::DriverGone, sent: 0 });
        }
        let Some(id) = inbox.ids.take() else {
            return Err(ShmError::Unsupported { reason: "more than 2^24 endpoints on one driver" });
        };
        let slot = Arc::new(Slot::new(id));
        let interrupt = inbox.push(Command::Admit { slot: slot.clone(), source, seen });
        self.note_inbox_change();
        drop(inbox);
        if interrupt {
            self.interrupt();
        }
        Ok(slot)
    }

    /// Whether threads park in this driver when they have nothing else to do.
    pub(super) fn is_parked_in(&self) -> bool {
        self.parked_in
    }

    /// See [`Registration::ask_to_spin`](super::Registration::ask_to_spin).
    ///
    /// The lock is held: either a driver that is about to sleep finds the request, or the caller
    /// finds that the driver sleeps.
    pub(super) fn ask_to_spin(&self, slot: &Slot, spin: Duration) -> bool {
        let mut inbox = lock(&self.inbox);
        let is_over = inbox.closed || slot.is_cancelled();
        if inbox.asleep_until != AWAKE || inbox.is_falling_asleep || is_over {
            return false;
        }
        let id = slot.id;
        let request = Request { id, spin, turns: 0 };
        if let Some(former) = inbox.requests.iter_mut().find(|request| request.id == id) {
            *former = request;
        } else if inbox.requests.len() < MAX_REQUESTS {
            inbox.requests.push(request);
            self.note_inbox_change();
        } else {
            return false;
        }
        true
    }

    /// Swaps the waiting commands into `batch`, which is empty, and copies the requests into
    /// `requests`, for a turn that checks their hints.
    pub(super) fn read_requests(&self, batch: &mut Vec<Command>, requests: &mut Vec<Request>) {
        let mut inbox = lock(&self.inbox);
        for request in &mut inbox.requests {
            request.turns += 1;
        }
        requests.clear();
        requests.extend_from_slice(&inbox.requests);
        self.hand_over(&mut inbox, batch);
    }

    /// Removes one request. After that the driver wakes its tasks, including those that have asked
    /// again meanwhile.
    pub(super) fn end_request(&self, id: Id) {
        lock(&self.inbox).requests.retain(|request| request.id != id);
    }

    /// As [`read_requests`](Self::read_requests), but removes all of them. The driver is about to
    /// sleep, so a task that asks from now on arms its bell instead.
    pub(super) fn take_requests(&self, batch: &mut Vec<Command>, requests: &mut Vec<Request>) {
        let mut inbox = lock(&self.inbox);
        inbox.is_falling_asleep = true;
        requests.clear();
        requests.append(&mut inbox.requests);
        self.hand_over(&mut inbox, batch);
    }

    fn hand_over(&self, inbox: &mut Inbox, batch: &mut Vec<Command>) {
        // ORDERING: Relaxed, with the lock held, as in `note_inbox_change`; a hint, which publishes
        // nothing.
        self.inbox_changed.store(false, Ordering::Relaxed);
        std::mem::swap(&mut inbox.commands, batch);
    }

    /// Tells a driver that spins that there is something in the inbox.
    fn note_inbox_change(&self) {
        // ORDERING: Relaxed; see `hand_over`.
        self.inbox_changed.store(true, Ordering::Relaxed);
    }

    /// Whether the inbox has something new. A hint; `fall_asleep` decides.
    pub(super) fn has_inbox_changed(&self) -> bool {
        // ORDERING: Relaxed; see `hand_over`.
        self.inbox_changed.load(Ordering::Relaxed)
    }

    /// Whether an unpark asks the driver's thread to return to its caller.
    pub(super) fn is_unparked(&self) -> bool {
        // ORDERING: Relaxed; a hint, `fall_asleep` decides.
        self.unparked.load(Ordering::Relaxed) != 0
    }

    /// Takes back an identity that can no longer appear in an event or a completion.
    pub(super) fn release(&self, id: Id) {
        let mut inbox = lock(&self.inbox);
        inbox.requests.retain(|request| request.id != id);
        inbox.ids.give_back(id);
    }

    /// Swaps the waiting commands into `batch`, which is empty.
    pub(super) fn take(&self, batch: &mut Vec<Command>) {
        self.hand_over(&mut lock(&self.inbox), batch);
    }

    /// As [`take`](Self::take), after a sleep: marks the driver awake.
    pub(super) fn wake_up_and_take(&self, batch: &mut Vec<Command>) {
        let mut inbox = lock(&self.inbox);
        inbox.wake_up();
        self.hand_over(&mut inbox, batch);
    }

    /// Tries to sleep until `until`. If there are commands, swaps them into `batch`, which is
    /// empty, instead.
    ///
    /// `is_wanted` reports a wake that was meant for this thread: a turn of another thread may have
    /// used up the unpark of that wake.
    pub(super) fn fall_asleep(
        &self,
        until: u64,
        batch: &mut Vec<Command>,
        is_wanted: &dyn Fn() -> bool,
    ) -> SleepAttempt {
        let mut inbox = lock(&self.inbox);
        if !inbox.commands.is_empty() {
            self.hand_over(&mut inbox, batch);
            return SleepAttempt::Busy;
        }
        // ORDERING: Relaxed, with the lock held. `unpark` sets this before it takes the lock, so
        // either we see it here, or `unpark` sees the sleep. An `unpark` that finds it set takes
        // no lock. Then the AcqRel in `end_unpark` has made visible here what that thread wrote
        // before, for `is_wanted`.
        if self.unparked.load(Ordering::Relaxed) != 0 || is_wanted() {
            return SleepAttempt::Unparked;
        }
        if !inbox.requests.is_empty() {
            return SleepAttempt::Requested;
        }
        inbox.asleep_until = until;
        SleepAttempt::Asleep
    }

    /// Ends the sleep of the thread that runs the driver, or keeps it from falling asleep the next
    /// time.
    pub(super) fn unpark(&self) {
        // ORDERING: AcqRel, and a read-modify-write each time: the unparked thread sees everything
        // that was written before each unpark, even if several count as one.
        if self.is_forked() || self.unparked.swap(1, Ordering::AcqRel) != 0 {
            return;
        }
        let interrupt = lock(&self.inbox).wake_if_asleep_past(AWAKE + 1);
        if interrupt {
            self.interrupt();
        }
    }

    /// Clears all unparks so far, before the driver's thread returns to its caller.
    pub(super) fn end_unpark(&self) {
        // ORDERING: Relaxed for the check. If it misses an unpark of this moment, that unpark
        // counts for the next park. AcqRel pairs with `unpark`.
        if self.unparked.load(Ordering::Relaxed) != 0 {
            self.unparked.swap(0, Ordering::AcqRel);
        }
    }

    /// Marks the driver awake: it will check the inbox before it sleeps again. `has_news` says that
    /// the kernel had something for it.
    pub(super) fn wake_up(&self, has_news: bool) {
        let mut inbox = lock(&self.inbox);
        inbox.wake_up();
        inbox.is_falling_asleep &= !has_news;
    }

    /// Ends the driver. Returns the commands that are still to be done.
    pub(super) fn close(&self) -> Vec<Command> {
        let mut inbox = lock(&self.inbox);
        inbox.closed = true;
        std::mem::take(&mut inbox.commands)
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.inbox).closed
    }

    /// Ends the driver's sleep. Makes the descriptor of a polled driver readable.
    pub(super) fn interrupt(&self) {
        if self.epoll_set.interrupt() {
            return;
        }
        // ORDERING: Release, as for every bell; the lock orders the commands themselves.
        self.control.fetch_add(1, Ordering::Release);
        futex::wake(&self.control);
    }

    /// Returns when the driver wakes up by itself, or `AWAKE`.
    #[cfg(test)]
    pub(super) fn asleep_until(&self) -> u64 {
        lock(&self.inbox).asleep_until
    }
}

/// As a waker, an [`Unparker`](super::Unparker).
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.unpark();
    }
}
