//! Whether anybody needs the driver to be woken by this end's bell.
//!
//! Threads that block sleep on the bell themselves. Were the driver to wait there too, each ring
//! would wake it for nothing: with all on one core, that doubles the price of a round trip. So it
//! lets its wait lapse where threads have slept and no task waits, and the next task that is about
//! to wait has it waited for again: a command, which costs a system call if the driver sleeps, and
//! comes once for each change from blocking to waiting.
//!
//! | state | what it means |
//! |---|---|
//! | `TASKS` | the driver waits on the bell, or has a command that makes it |
//! | `THREADS` | it does still, but threads have slept there since: at the next ring it may let go |
//! | `LAPSED` | it does not |
//!
//! No task is left to a bell that nobody waits on:
//!
//! - The driver says `LAPSED`, fences, and looks for tasks in the queues; a task joins a queue,
//!   fences, and looks for `LAPSED`. So either the driver finds the task, and keeps its wait, or
//!   the task finds the lapse.
//! - A task that finds the lapse reads the bell before it says `TASKS`, and before it arms the bell
//!   and looks for what it waits for. Its command carries that count, and the driver's wait
//!   compares with it. A ring before the read: what was published for it is found by the look. A
//!   ring behind the read: the compare fails, or the wait is woken.
//! - Another task that finds `TASKS`, or the `THREADS` that a thread made of it, has what the first
//!   one read before it: a ring for it that the first one's count includes is found by its look.

use crate::sync::{AtomicU32, Ordering, fence};

const TASKS: u32 = 0;
const THREADS: u32 = 1;
const LAPSED: u32 = 2;

/// Who relies on the driver's wait.
#[derive(Debug)]
pub(super) struct BellWait {
    state: AtomicU32,
}

impl BellWait {
    /// The driver waits on the bell from the start.
    pub(super) fn new() -> Self {
        Self { state: AtomicU32::new(TASKS) }
    }

    /// A thread is about to sleep on the bell.
    pub(super) fn thread_sleeps(&self) {
        // ORDERING: Relaxed for the look: a stale answer means another wake of the driver. AcqRel,
        // so that it hands on what `task_waits` released.
        if self.state.load(Ordering::Relaxed) == TASKS {
            let (was, is) = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = self.state.compare_exchange(TASKS, THREADS, was, is);
        }
    }

    /// A task has joined a queue. `Some` if the driver does not wait on the bell: with the count
    /// that it has to compare with.
    pub(super) fn task_waits(&self, count: impl FnOnce() -> u32) -> Option<u32> {
        // ORDERING: between the queue and the state; partner of the one in `lapse`.
        fence(Ordering::SeqCst);
        // ORDERING: Acquire pairs with the AcqRel below, of the task that came first.
        if self.state.load(Ordering::Acquire) == TASKS {
            return None;
        }
        let seen = count();
        // ORDERING: Release hands the count that was read to who finds `TASKS`; Acquire, if another
        // has been faster.
        (self.state.swap(TASKS, Ordering::AcqRel) == LAPSED).then_some(seen)
    }

    /// The bell has rung, and the driver's wait is over. Whether it may stay so, as far as
    /// `has_tasks` tells.
    pub(super) fn lapse(&self, has_tasks: impl FnOnce() -> bool) -> bool {
        // ORDERING: AcqRel, as in `thread_sleeps`; against the queues it is ordered by the fence.
        let lapsed = |state| (state != TASKS).then_some(LAPSED);
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, lapsed).is_err() {
            return false;
        }
        // ORDERING: between the state and the queues; partner of the one in `task_waits`.
        fence(Ordering::SeqCst);
        if !has_tasks() {
            return true;
        }
        // A task may have said so already, and then its command finds a bell that is waited on.
        // ORDERING: AcqRel, as in `thread_sleeps`.
        self.state.swap(TASKS, Ordering::AcqRel);
        false
    }
}
