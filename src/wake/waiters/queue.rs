//! The waiters that came while the first place was taken.
//!
//! event-listener queues them. But it calls wakers with its list locked. A waker that drops another
//! waiter would then deadlock, and one that panics would break the list for good; both happen with
//! hand-written executors. So the registered waker is a proxy, which only records the task's real
//! waker. The notifier calls the recorded wakers afterwards.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use event_listener::{Event, EventListener};

use super::wake;
use crate::sync::Arc;
use crate::sys::fork::LeakyLock;
use crate::wake::waker_slot::WakerSlot;

#[derive(Debug, Default)]
pub(super) struct Queue {
    event: Event,
    noted: Arc<Noted>,
}

impl Queue {
    pub(super) fn join(&self) -> Queued {
        let proxy = Arc::new(Proxy { real: WakerSlot::default(), noted: self.noted.clone() });
        Queued { listener: self.event.listen(), registered: Waker::from(proxy.clone()), proxy }
    }

    /// Wakes up to `most` waiters, including those that were woken and have not looked yet.
    pub(super) fn notify(&self, most: usize) {
        self.event.notify(most);
        self.noted.wake_all();
    }

    /// Removes a waiter. If it has not used its wake, the next one gets it.
    pub(super) fn leave(&self, queued: Queued) {
        drop(queued);
        self.noted.wake_all();
    }
}

/// A place in the queue. If it is dropped after it was woken, it records the next waiter's waker.
#[derive(Debug)]
pub(super) struct Queued {
    listener: EventListener,
    proxy: Arc<Proxy>,
    /// The proxy as the waker that is registered; always the same.
    registered: Waker,
}

impl Queued {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.proxy.real.set(cx.waker());
        Pin::new(&mut self.listener).poll(&mut Context::from_waker(&self.registered))
    }
}

/// Real wakers to call as soon as no lock is held.
#[derive(Debug, Default)]
struct Noted(LeakyLock<Mutex<Vec<Waker>>>);

impl Noted {
    fn wake_all(&self) {
        // The thread that takes the list wakes all in it. A waker recorded meanwhile is found by
        // the thread that recorded it.
        let wakers = std::mem::take(&mut *self.lock());
        wakers.into_iter().for_each(wake);
    }

    /// Takes std's lock, in the models too: nothing that loom schedules happens inside.
    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands in for a task's waker in event-listener's list.
#[derive(Debug)]
struct Proxy {
    real: WakerSlot,
    noted: Arc<Noted>,
}

impl Wake for Proxy {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // This runs with event-listener's list locked.
        if let Some(real) = self.real.take() {
            self.noted.lock().push(real);
        }
    }
}
