//! Those who came while the first place was taken.
//!
//! event-listener queues them. But it calls wakers with its list locked. A waker that drops another
//! waiter would then deadlock, and one that panics would break the list for good; both happen with
//! hand-written executors. So what is registered is a proxy, which only notes down the task's real
//! waker. The notifier calls the noted ones afterwards.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use event_listener::{Event, EventListener};

use super::wake;
use crate::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Queue {
    event: Event,
    noted: Arc<Noted>,
}

impl Queue {
    pub(super) fn join(&self) -> Queued {
        let proxy = Arc::new(Proxy { real: Mutex::new(None), noted: self.noted.clone() });
        Queued { listener: self.event.listen(), registered: Waker::from(proxy.clone()), proxy }
    }

    /// Has so many of them be woken, those included that were and have not looked yet.
    pub(super) fn notify(&self, most: usize) {
        self.event.notify(most);
        self.noted.wake_all();
    }

    /// To be called when one has left: its wake may have gone to the next.
    pub(super) fn wake_noted(&self) {
        self.noted.wake_all();
    }
}

/// A place in the queue. Dropped, it notes the next one if it was woken.
#[derive(Debug)]
pub(super) struct Queued {
    listener: EventListener,
    proxy: Arc<Proxy>,
    /// The proxy as the waker that is registered; always the same.
    registered: Waker,
}

impl Queued {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.proxy.set(cx.waker());
        Pin::new(&mut self.listener).poll(&mut Context::from_waker(&self.registered))
    }
}

/// Real wakers that are to be called as soon as no lock is held.
#[derive(Debug, Default)]
struct Noted(Mutex<Vec<Waker>>);

impl Noted {
    fn wake_all(&self) {
        // Whoever takes the list wakes it; a waker noted meanwhile is found by who noted it.
        let wakers = std::mem::take(&mut *lock(&self.0));
        wakers.into_iter().for_each(wake);
    }
}

/// Stands in for a task's waker in event-listener's list.
#[derive(Debug)]
struct Proxy {
    real: Mutex<Option<Waker>>,
    noted: Arc<Noted>,
}

impl Proxy {
    /// Cloning and dropping a waker is foreign code, so neither is done under the lock.
    fn set(&self, waker: &Waker) {
        if lock(&self.real).as_ref().is_some_and(|real| real.will_wake(waker)) {
            return;
        }
        let real = waker.clone();
        let former = lock(&self.real).replace(real);
        drop(former);
    }
}

impl Wake for Proxy {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Moved out, not cloned: this runs with event-listener's list locked.
        if let Some(real) = lock(&self.real).take() {
            lock(&self.noted.0).push(real);
        }
    }
}

/// Std's locks, in the models too: nothing that loom schedules happens inside.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
