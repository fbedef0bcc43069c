//! The waker of whoever is to be woken.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Room for one waker. Foreign code is not called with the lock held: cloning one is, and dropping one.
///
/// Std's lock, in the models too: nothing that loom schedules happens inside.
#[derive(Debug, Default)]
pub(crate) struct WakerSlot(Mutex<Option<Waker>>);

impl WakerSlot {
    /// From now on it is `waker`, or one that wakes the same.
    pub(crate) fn set(&self, waker: &Waker) {
        if self.lock().as_ref().is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        let new = waker.clone();
        let former = self.lock().replace(new);
        drop(former);
    }

    /// Moved out, not cloned.
    pub(crate) fn take(&self) -> Option<Waker> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
