//! A slot for the waker of a task.

use std::task::Waker;

use crate::sys::fork::ProcessLock;

/// Room for one waker. The lock is not held while a waker is cloned or dropped, because both call
/// foreign code. In a forked child the slot is empty, and stays so.
#[derive(Debug, Default)]
pub(crate) struct WakerSlot(ProcessLock<Option<Waker>>);

impl WakerSlot {
    /// Stores `waker`, unless the slot holds one that wakes the same task.
    pub(crate) fn set(&self, waker: &Waker) {
        let is_known = |known: &Waker| known.will_wake(waker);
        if self.0.lock().is_none_or(|slot| slot.as_ref().is_some_and(is_known)) {
            return;
        }
        let new = waker.clone();
        let former = self.0.lock().map(|mut slot| slot.replace(new));
        drop(former);
    }

    /// Takes the waker out of the slot.
    pub(crate) fn take(&self) -> Option<Waker> {
        self.0.lock()?.take()
    }
}
