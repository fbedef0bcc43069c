//! A registration, as the event loop knows it, and the calls of its source.

use super::poller::Poller;
use super::slot::Slot;
use super::source::Source;
use crate::sync::{Arc, Ordering};
use crate::sys::shield::shielded;

/// A registration, as the driver knows it.
pub(super) struct Entry {
    pub(super) slot: Arc<Slot>,
    /// Kept until the wait on its bell is over, so that the word stays mapped that long.
    pub(super) source: Arc<dyn Source>,
    pub(super) wait: Wait,
    /// What the bell held before the source last looked. The next wait compares with it.
    pub(super) seen: u32,
}

/// The state of the wait on a source's bell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// None is armed: there is no bell, it is poisoned, this backend does not wait for bells, or
    /// the source let it go.
    Idle,
    Armed,
    /// Armed; the entry is removed when the wait is over.
    Leaving,
}

impl Entry {
    /// Whether the bell was counted up since the source last looked. The source is about to look
    /// again.
    pub(super) fn is_counted_up(&mut self) -> bool {
        let Some(bell) = self.source.bell() else { return false };
        // ORDERING: Acquire pairs with the Release of the thread that counts the bell up.
        let seen = bell.load(Ordering::Acquire);
        std::mem::replace(&mut self.seen, seen) != seen
    }

    /// Waits on the bell since it held `seen`, unless a wait is armed or the source is cancelled.
    pub(super) fn arm(&mut self, poller: &mut impl Poller, seen: u32) {
        let Some(bell) = self.source.bell() else { return };
        if self.wait == Wait::Idle
            && !self.slot.is_cancelled()
            && poller.arm(self.slot.id, bell, seen)
        {
            self.wait = Wait::Armed;
            self.seen = seen;
        }
    }

    /// Calls the source, unless it was cancelled; returns the number of calls made.
    pub(super) fn call(&self, f: impl FnOnce(&dyn Source)) -> usize {
        let called = !self.slot.is_cancelled();
        if called {
            shielded(|| f(&*self.source));
        }
        usize::from(called)
    }

    /// Asks the source, unless it was cancelled. A panic counts as a no.
    pub(super) fn ask(&self, f: impl FnOnce(&dyn Source) -> bool) -> bool {
        let mut answer = false;
        self.call(|source| answer = f(source));
        answer
    }
}
