//! Cancels ends of channels from elsewhere in the program.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::channel::Channel;
use crate::sys::fork::PerProcess;

/// Cancels all ends that it was given to, at once, from any thread.
///
/// Clones cancel the same ends. A canceller keeps no end alive. Once used it stays cancelled: an
/// end that is given to it later is cancelled right away.
///
/// After a fork without an exec, the parent and the child each have a separate canceller. Each
/// cancels the ends that were given to it in its own process, and no others.
///
/// ```
/// use wakering::Canceller;
///
/// let canceller = Canceller::new();
/// let elsewhere = canceller.clone();
/// elsewhere.cancel();
/// assert!(canceller.is_cancelled());
/// ```
#[derive(Clone, Default)]
pub struct Canceller {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    cancelled: AtomicBool,
    ends: PerProcess<Mutex<Vec<Weak<Channel>>>>,
}

impl Canceller {
    /// Creates a canceller without ends; see [`Endpoint::set_cancel`](crate::Endpoint::set_cancel).
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels all its ends: see [`Endpoint::cancel`](crate::Endpoint::cancel).
    pub fn cancel(&self) {
        let ends = {
            let ends = self.lock();
            // ORDERING: Release pairs with the Acquire in `is_cancelled`. Stored while the lock is
            // held, so that an end is either already in the list or sees the flag in `add`.
            self.inner.cancelled.store(true, Ordering::Release);
            // They stay in the list until they are cancelled, so that a call on another thread does
            // not return before that.
            ends.clone()
        };
        ends.iter().filter_map(Weak::upgrade).for_each(|end| end.cancel());
        // From the flag on, `add` puts no other end here.
        *self.lock() = Vec::new();
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        // ORDERING: Acquire pairs with the Release in `cancel`.
        self.inner.cancelled.load(Ordering::Acquire)
    }

    /// Runs `future` to completion, then cancels, and returns the future's output.
    ///
    /// # Cancel safety
    /// If it is dropped before that, it cancels nothing.
    pub fn cancel_on<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        async move {
            let output = future.await;
            self.cancel();
            output
        }
    }

    pub(crate) fn add(&self, end: &Arc<Channel>) {
        let is_too_late = {
            let mut ends = self.lock();
            let is_too_late = self.is_cancelled();
            if !is_too_late {
                // Removes ends that are gone, so that a long-lived canceller does not grow.
                if ends.len() == ends.capacity() {
                    ends.retain(|end| end.strong_count() > 0);
                }
                ends.push(Arc::downgrade(end));
            }
            is_too_late
        };
        if is_too_late {
            end.cancel();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Channel>>> {
        self.inner.ends.get().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("is_cancelled", &self.is_cancelled()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::api::face::SpscFace;

    #[test]
    fn a_canceller_forgets_ends_that_are_gone() {
        let canceller = Canceller::new();
        for _ in 0..200 {
            let (face, _descriptor) = SpscFace::pair().unwrap();
            face.set_cancel(&canceller);
            let end = Arc::downgrade(face.channel());
            drop(face);
            while end.strong_count() > 0 {
                std::thread::yield_now();
            }
        }
        assert!(canceller.lock().len() < 20, "{}", canceller.lock().len());
    }
}
