//! The waker of whoever is to be woken.

use std::task::Waker;

use crate::sys::fork::ProcessLock;

/// Room for one waker. Foreign code is not called with the lock held: cloning one is, and dropping
/// one. In a forked child it is empty, and stays so.
#[derive(Debug, Default)]
pub(crate) struct WakerSlot(ProcessLock<Option<Waker>>);

impl WakerSlot {
    /// From now on it is `waker`, or one that wakes the same.
    pub(crate) fn set(&self, waker: &Waker) {
        let is_known = |known: &Waker| known.will_wake(waker);
        if self.0.lock().is_none_or(|slot| slot.as_ref().is_some_and(is_known)) {
            return;
        }
        let new = waker.clone();
        let former = self.0.lock().map(|mut slot| slot.replace(new));
        drop(former);
    }

    /// Moved out, not cloned.
    pub(crate) fn take(&self) -> Option<Waker> {
        self.0.lock()?.take()
    }
}
