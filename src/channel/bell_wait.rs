//! Whether the driver has to be woken by this end's bell.
//!
//! Threads that block sleep on the bell themselves. If the driver waited there too, each wake would
//! wake it needlessly: with everything on one core, that doubles the cost of a round trip. So the
//! driver lets its wait lapse where threads have slept and no task waits. The next task that is
//! about to wait has the driver wait again, by a command. The command costs a system call if the
//! driver sleeps, and is needed once for each change from blocking to waiting.
//!
//! | state | what it means |
//! |---|---|
//! | `TASKS` | the driver waits on the bell, or has a command to do so |
//! | `THREADS` | the same, but threads have slept there since: at the next wake it may let go |
//! | `LAPSED` | the driver does not wait on the bell |
//!
//! No task relies on a bell that the driver does not wait on:
//!
//! - The driver stores `LAPSED`, fences, and looks for tasks in the queues; a task joins a queue,
//!   fences, and looks for `LAPSED`. So either the driver finds the task and keeps its wait, or the
//!   task finds the lapse.
//! - A task that finds the lapse reads the bell's count before it stores `TASKS`, and before it
//!   arms the bell and looks for what it waits for. Its command carries that count, and the
//!   driver's wait compares with it. If the peer wakes before the read, the task's look finds what
//!   the peer published. If the peer wakes after the read, the compare fails or the driver's wait
//!   is woken.
//! - Another task that finds `TASKS`, or `THREADS` that a thread made of it, has the first task's
//!   read before its own look. So its look finds what was published for it before any wake that the
//!   first task's count includes.

use crate::sync::{AtomicU32, Ordering, fence};

const TASKS: u32 = 0;
const THREADS: u32 = 1;
const LAPSED: u32 = 2;

/// Whether tasks rely on the driver's wait on the bell.
#[derive(Debug)]
pub(super) struct BellWait {
    state: AtomicU32,
}

impl BellWait {
    /// The driver waits on the bell from the start.
    pub(super) fn new() -> Self {
        Self { state: AtomicU32::new(TASKS) }
    }

    /// Notes that a thread is about to sleep on the bell.
    pub(super) fn thread_sleeps(&self) {
        // ORDERING: Relaxed for the load: a stale value means another wake of the driver. AcqRel
        // for the exchange, so that it passes on what `task_waits` released.
        if self.state.load(Ordering::Relaxed) == TASKS {
            let (was, is) = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = self.state.compare_exchange(TASKS, THREADS, was, is);
        }
    }

    /// Notes that a task has joined a queue. Returns `Some` if the driver does not wait on the
    /// bell: the count that its new wait has to compare with.
    pub(super) fn task_waits(&self, count: impl FnOnce() -> u32) -> Option<u32> {
        // ORDERING: between the queue and the state; partner of the one in `lapse`. Also, for waits
        // that set no bit, between the announcement that this side wants bytes and the look at the
        // peer's ends; partner of the one in the peer's `wake_by_byte`.
        fence(Ordering::SeqCst);
        // ORDERING: Acquire pairs with the AcqRel below, of the task that came first.
        if self.state.load(Ordering::Acquire) == TASKS {
            return None;
        }
        let seen = count();
        // ORDERING: Release passes the count that was read to any task that finds `TASKS`; Acquire,
        // in case another task has been faster.
        (self.state.swap(TASKS, Ordering::AcqRel) == LAPSED).then_some(seen)
    }

    /// Called after a wake of the bell has ended the driver's wait. Returns whether the driver may
    /// leave the bell, given `has_tasks`.
    pub(super) fn lapse(&self, has_tasks: impl FnOnce() -> bool) -> bool {
        // ORDERING: AcqRel, as in `thread_sleeps`; the fence orders it against the queues.
        let lapsed = |state| (state != TASKS).then_some(LAPSED);
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, lapsed).is_err() {
            return false;
        }
        // ORDERING: between the state and the queues; partner of the one in `task_waits`.
        fence(Ordering::SeqCst);
        if !has_tasks() {
            return true;
        }
        // A task may have stored `TASKS` already. Its command then finds that the driver already
        // waits.
        // ORDERING: AcqRel, as in `thread_sleeps`.
        self.state.swap(TASKS, Ordering::AcqRel);
        false
    }
}
