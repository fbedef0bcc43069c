//! Tasks and threads of this process that wait for the same thing.
//!
//! They are served in the order in which they came. A waiter that is dropped after it was woken
//! passes its wake on. Nearly always there is one waiter or none. So the [`first`] to come has a
//! place that needs no allocation, and only those that come while it is taken wait in a [`queue`].
//!
//! Wakers are foreign code: they are cloned, called and dropped outside every lock, and a panic of
//! one does not reach the others.

mod first;
mod queue;

use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use first::First;
use queue::{Queue, Queued};

use crate::sync::{Arc, AtomicU32, Ordering};
use crate::sys::fork::Origin;
use crate::sys::futex;
use crate::sys::shield::shielded;

/// The waiters for one thing.
///
/// They belong to the process that created this. In a forked child nobody joins and nobody is
/// woken: a thread of the parent may have held one of the locks at the fork.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Arc<Places>);

#[derive(Debug)]
struct Places {
    first: First,
    queue: Queue,
    /// Checked before any lock is taken.
    origin: Origin,
}

impl Default for Places {
    fn default() -> Self {
        Self { first: First::default(), queue: Queue::default(), origin: Origin::here() }
    }
}

impl Waiters {
    /// Takes a place. The caller must look for what it waits for after this; in a forked child, for
    /// the fork.
    pub(crate) fn join(&self) -> Waiting {
        self.join_with(&mut None)
    }

    /// Takes a place. Takes the waker too if that place needs no poll.
    fn join_with(&self, waker: &mut Option<Waker>) -> Waiting {
        let place = if self.0.origin.has_left() {
            Place::Nowhere
        } else if self.0.first.take(waker) {
            Place::First
        } else {
            Place::Queued(self.0.queue.join())
        };
        Waiting { places: self.0.clone(), place }
    }

    /// Puts the task into the queue, or back into it if its place was used up.
    pub(crate) fn register(&self, place: &mut Option<Waiting>, cx: &mut Context<'_>) {
        loop {
            if place.is_none() {
                let mut waker = Some(cx.waker().clone());
                *place = Some(self.join_with(&mut waker));
                if waker.is_none() {
                    return;
                }
            }
            if place.as_mut().is_some_and(|waiting| waiting.poll(cx).is_pending()) {
                return;
            }
            *place = None;
        }
    }

    /// Whether nobody waits. A waiter that was woken counts until it looks.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.origin.has_left() || self.0.first.is_empty()
    }

    /// Wakes the first waiter, unless one was woken already and has not looked yet.
    pub(crate) fn notify_one(&self) {
        self.0.notify(1);
    }

    /// Wakes all waiters.
    pub(crate) fn notify_all(&self) {
        self.0.notify(usize::MAX);
    }
}

impl Places {
    fn notify(&self, most: usize) {
        if self.origin.has_left() {
            return;
        }
        let (waker, others) = self.first.notify(most);
        if let Some(waker) = waker {
            wake(waker);
        }
        if others {
            self.queue.notify(most);
        }
    }
}

/// A place among the waiters. If it is dropped after it was woken, it wakes the next one.
#[derive(Debug)]
pub(crate) struct Waiting {
    places: Arc<Places>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    First,
    Queued(Queued),
    /// The first place, after its wake was used.
    Left,
    /// In a forked child.
    Nowhere,
}

impl Waiting {
    /// Ready once this place was woken. To wait again, join again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.place {
            Place::Nowhere => Poll::Pending,
            // There was a fork since: the caller must check for it.
            _ if self.places.origin.has_left() => Poll::Ready(()),
            Place::First => {
                let polled = self.places.first.poll(cx.waker());
                if polled.is_ready() {
                    self.place = Place::Left;
                }
                polled
            }
            Place::Queued(queued) => queued.poll(cx),
            Place::Left => Poll::Ready(()),
        }
    }

    /// Leaves, and wakes the next waiter even if this one was not woken.
    pub(crate) fn pass_on(mut self) {
        self.leave(true);
    }

    /// Leaves. Wakes the next waiter if this one was woken, or in any case if it is to pass one on.
    fn leave(&mut self, passes_on: bool) {
        let places = &self.places;
        match std::mem::replace(&mut self.place, Place::Left) {
            // Leaving the queue would take its lock.
            place if places.origin.has_left() => std::mem::forget(place),
            Place::First if places.first.leave(passes_on) => places.queue.notify(1),
            Place::Left if passes_on => places.notify(1),
            Place::First | Place::Left | Place::Nowhere => {}
            Place::Queued(queued) => {
                places.queue.leave(queued);
                places.first.forget_queued();
                if passes_on {
                    places.notify(1);
                }
            }
        }
    }

    /// Blocks the thread until this place is woken or the deadline passes. Returns `true` if it was
    /// woken.
    pub(crate) fn wait_until(&mut self, deadline: Option<Instant>) -> bool {
        let sleeper = Arc::new(Sleeper(AtomicU32::new(0)));
        let waker = Waker::from(sleeper.clone());
        while self.poll(&mut Context::from_waker(&waker)).is_pending()
            && !self.places.origin.has_left()
        {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            // Sleeps only once: after its waker is called, the place has been woken.
            futex::wait(&sleeper.0, 0, left);
        }
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave(false);
    }
}

/// A thread that blocks. (`std::thread::park` would take wakes that are meant for its executor.)
struct Sleeper(AtomicU32);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        // ORDERING: Relaxed; what the place was woken for is published under its lock.
        self.0.store(1, Ordering::Relaxed);
        futex::wake(&self.0);
    }
}

/// Calls `waker`. A panic in one executor's waker must not cost another its wake.
fn wake(waker: Waker) {
    shielded(|| waker.wake());
}

#[cfg(all(test, not(loom)))]
mod tests;
