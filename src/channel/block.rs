//! Threads of this process that sleep on their side's bell.
//!
//! The bell lies in memory that the peer has too, so the peer can do to its sleepers in the kernel
//! what any thread can: move them to another word (`FUTEX_REQUEUE`), or queue up before them. Then
//! a ring does not reach them, and that is as if it had not rung. But a cancel, a close and a death
//! must reach them whatever the peer does. So these are told by a word of our own as well.

use std::time::Duration;

use crate::shm::layout::MOST_WAITERS;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::futex;
use crate::wake::bell::Bell;

/// How long a thread sleeps on the bell alone at first: that is cheaper than to sleep on two words,
/// and what is in full flight sleeps for less.
const ALONE: Duration = Duration::from_millis(100);

/// How long a thread sleeps at most where not all can wake it: where the kernel knows no sleep on
/// two words, and where there are too many sleepers already.
const LATE: Duration = Duration::from_millis(100);

/// Threads that may sleep on one bell. The rest of [`MOST_WAITERS`] is the driver's: one wait, and
/// those of its former rings, which linger for a millisecond.
const MOST_THREADS: u32 = MOST_WAITERS - 64;

/// Those threads, as a whole.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    /// Counted up by each end of ours. The peer does not have this memory.
    ends: AtomicU32,
    /// How many want to sleep on the bell.
    threads: AtomicU32,
}

/// What a thread read before it looked for what it waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    bell: u32,
    ends: u32,
}

impl Blocked {
    pub(super) fn before_looking(&self, bell: &Bell) -> Seen {
        // ORDERING: Acquire pairs with the Release in `end`: whoever sees the count finds the end.
        Seen { bell: bell.count(), ends: self.ends.load(Ordering::Acquire) }
    }

    /// Sleeps until the bell rings or an end comes, unless either has happened since `seen`.
    pub(super) fn sleep(&self, bell: &Bell, seen: Seen, timeout: Option<Duration>) {
        // ORDERING: Relaxed, here and below; a count, which publishes nothing.
        if self.threads.fetch_add(1, Ordering::Relaxed) < MOST_THREADS {
            self.sleep_on(bell, seen, timeout);
        } else {
            // A ring that wakes so many others need not wake us.
            futex::wait(&self.ends, seen.ends, Some(at_most(timeout, LATE)));
        }
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }

    fn sleep_on(&self, bell: &Bell, seen: Seen, timeout: Option<Duration>) {
        let alone = at_most(timeout, ALONE);
        futex::wait(bell.word(), seen.bell, Some(alone));
        let left = timeout.map(|timeout| timeout.saturating_sub(alone));
        if bell.count() != seen.bell || left.is_some_and(|left| left.is_zero()) {
            return;
        }
        let words = [(bell.word(), seen.bell), (&self.ends, seen.ends)];
        if !futex::wait_for_any(words, left) {
            futex::wait(bell.word(), seen.bell, Some(at_most(left, LATE)));
        }
    }

    /// An end of ours has come, and is to be seen: wakes all.
    pub(super) fn end(&self, bell: &Bell) {
        // ORDERING: Release pairs with the Acquire in `before_looking`.
        self.ends.fetch_add(1, Ordering::Release);
        futex::wake(&self.ends);
        bell.wake();
    }
}

fn at_most(timeout: Option<Duration>, most: Duration) -> Duration {
    timeout.map_or(most, |timeout| timeout.min(most))
}
