//! The place of the first waiter to come.
//!
//! Its holder came before all that are queued: the place is only taken while the queue is empty.

use std::task::{Poll, Waker};

use crate::sync::{Mutex, lock};
use crate::sys::fork::LeakyLock;

#[derive(Debug, Default)]
pub(super) struct First(LeakyLock<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    place: Place,
    /// How many other waiters there are, in the queue or about to join it.
    queued: usize,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Free,
    /// The waker of its last poll.
    Taken(Option<Waker>),
    /// Its holder was woken and has not looked yet.
    Woken,
}

impl First {
    /// Takes the place, with the `waker` of the task if that is known. Otherwise leaves the waker,
    /// and the caller counts as queued from now on.
    pub(super) fn take(&self, waker: &mut Option<Waker>) -> bool {
        let mut state = lock(&self.0);
        let is_free = matches!(state.place, Place::Free) && state.queued == 0;
        if is_free {
            state.place = Place::Taken(waker.take());
        } else {
            state.queued += 1;
        }
        is_free
    }

    /// Gives the place back. Returns whether the queue has to be notified: if the holder was woken,
    /// or if it `passes_on` a wake in any case. A waiter that comes after this looks for itself.
    pub(super) fn leave(&self, passes_on: bool) -> bool {
        let mut state = lock(&self.0);
        let place = std::mem::take(&mut state.place);
        let has_queue = state.queued > 0;
        drop(state);
        has_queue && (passes_on || matches!(place, Place::Woken))
    }

    /// Notes that a waiter has left the queue.
    pub(super) fn forget_queued(&self) {
        lock(&self.0).queued -= 1;
    }

    /// Whether nobody waits, here or in the queue.
    pub(super) fn is_empty(&self) -> bool {
        let state = lock(&self.0);
        matches!(state.place, Place::Free) && state.queued == 0
    }

    /// Wakes the holder of the place through the returned waker. Also returns whether the queue has
    /// to be notified. `most` is how many of all waiters shall be woken after this.
    pub(super) fn notify(&self, most: usize) -> (Option<Waker>, bool) {
        let mut state = lock(&self.0);
        let mut here = 1;
        let waker = match &mut state.place {
            Place::Free => {
                here = 0;
                None
            }
            Place::Woken => None,
            Place::Taken(waker) => {
                let waker = waker.take();
                state.place = Place::Woken;
                waker
            }
        };
        (waker, state.queued > 0 && most > here)
    }

    /// Polls for the holder of the place. If it was woken, frees the place and is ready.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<()> {
        // Declared first, so that it is dropped last: outside the lock, like the clone.
        let mut other;
        let mut state = lock(&self.0);
        if let Place::Taken(known) = &state.place {
            if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
                return Poll::Pending;
            }
            drop(state);
            other = Some(waker.clone());
            state = lock(&self.0);
            if let Place::Taken(known) = &mut state.place {
                std::mem::swap(known, &mut other);
                return Poll::Pending;
            }
        }
        state.place = Place::Free;
        Poll::Ready(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;
    use crate::sys::fork::in_child;

    struct Idle;

    impl Wake for Idle {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_child_leaks_a_waker_that_a_thread_exchanged_at_the_fork() {
        let idle = Arc::new(Idle);
        let first = First::default();
        assert!(first.take(&mut None));
        assert!(first.poll(&Waker::from(idle.clone())).is_pending());
        std::mem::forget(lock(&first.0));
        in_child(move || {
            drop(first);
            assert_eq!(Arc::strong_count(&idle), 2);
        });
    }
}
