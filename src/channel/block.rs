//! Threads of this process that sleep on their side's bell.
//!
//! The bell lies in memory that the peer maps too, so the peer can do to its sleepers in the kernel
//! what any thread can: move them to another word (`FUTEX_REQUEUE`), or queue up before them. A
//! wake then does not reach them, which is the same as if the peer had not woken them. But a
//! cancel, a close and the peer's death must reach them whatever the peer does. So these also use a
//! word in our own memory.

use std::time::Duration;

use crate::shm::layout::MAX_WAITERS;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::futex::{self, Slept};
use crate::wake::bell::Bell;

/// How long a thread first sleeps on the bell alone. That is cheaper than sleeping on two words,
/// and on a busy channel sleeps are shorter than this.
const FIRST_SLEEP: Duration = Duration::from_millis(100);

/// The longest that a thread sleeps where not every wake reaches it: where the kernel cannot sleep
/// on two words, and where too many threads sleep already.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// How many threads may sleep on one bell. The rest of [`MAX_WAITERS`] is for the driver: its one
/// wait, and the waits of its former io_uring rings, which linger for a millisecond.
const MAX_THREADS: u32 = MAX_WAITERS - 64;

/// All threads of this process that sleep on one bell.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    /// Incremented by each end of ours, and by other news that must reach all. The peer does not
    /// map this memory.
    ends: AtomicU32,
    /// How many threads want to sleep on the bell.
    threads: AtomicU32,
}

/// The counts that a thread read before it looked for what it waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    bell: u32,
    ends: u32,
}

impl Blocked {
    /// Reads the counts, for a thread that will sleep if its next looks find nothing.
    pub(super) fn before_looking(&self, bell: &Bell) -> Seen {
        // ORDERING: Acquire pairs with the Release in `wake`: if we see the count, we see the end.
        Seen { bell: bell.count(), ends: self.ends.load(Ordering::Acquire) }
    }

    /// Sleeps until the bell is woken or an end comes, unless either has happened since `seen`.
    pub(super) fn sleep(&self, bell: &Bell, seen: Seen, timeout: Option<Duration>) -> Slept {
        // ORDERING: Relaxed, here and below; a count, which publishes nothing.
        let slept = if self.threads.fetch_add(1, Ordering::Relaxed) < MAX_THREADS {
            self.sleep_on(bell, seen, timeout)
        } else {
            // A wake that wakes that many other threads need not wake this one.
            futex::wait(&self.ends, seen.ends, Some(at_most(timeout, LONGEST_SLEEP)))
        };
        self.threads.fetch_sub(1, Ordering::Relaxed);
        slept
    }

    fn sleep_on(&self, bell: &Bell, seen: Seen, timeout: Option<Duration>) -> Slept {
        let alone = at_most(timeout, FIRST_SLEEP);
        let slept = futex::wait(bell.word(), seen.bell, Some(alone));
        let left = timeout.map(|timeout| timeout.saturating_sub(alone));
        let is_over = bell.count() != seen.bell || left.is_some_and(|left| left.is_zero());
        if is_over || slept == Slept::Interrupted {
            return slept;
        }
        let words = [(bell.word(), seen.bell), (&self.ends, seen.ends)];
        futex::wait_for_any(words, left).unwrap_or_else(|| {
            futex::wait(bell.word(), seen.bell, Some(at_most(left, LONGEST_SLEEP)))
        })
    }

    /// Wakes all threads, also those that the peer has moved: after an end of ours, or other news,
    /// which is already visible.
    pub(super) fn wake(&self, bell: &Bell) {
        // ORDERING: Release pairs with the Acquire in `before_looking`.
        self.ends.fetch_add(1, Ordering::Release);
        futex::wake(&self.ends);
        bell.wake();
    }
}

pub(super) fn at_most(timeout: Option<Duration>, most: Duration) -> Duration {
    timeout.map_or(most, |timeout| timeout.min(most))
}
