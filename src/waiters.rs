//! Tasks and threads of this process that wait for the same thing.
//!
//! event-listener queues them: first come, first served, and one that is dropped passes its turn
//! on. But it calls wakers with its list locked. A waker that drops another waiter would then
//! deadlock, and one that panics would break the list for good; both happen with hand-written
//! executors. So what is registered is a proxy, which only notes down the task's real waker. The
//! notifier calls the noted ones afterwards, outside of every lock, each shielded from the
//! others' panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use event_listener::{Event, EventListener, Listener};

use crate::fork;

/// A queue of waiters.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    event: Event,
    noted: Arc<Noted>,
}

impl Waiters {
    /// Joins the queue. What the caller waits for has to be looked at after this.
    pub(crate) fn join(&self) -> Waiting {
        let proxy = Arc::new(Proxy { real: Mutex::new(None), noted: self.noted.clone() });
        Waiting {
            listener: Some(self.event.listen()),
            registered: Waker::from(proxy.clone()),
            proxy,
            generation: fork::generation(),
        }
    }

    /// Whether nobody waits. One that was woken does until it looks.
    pub(crate) fn is_empty(&self) -> bool {
        self.event.total_listeners() == 0
    }

    /// Wakes the first waiter, unless one was woken already and has not looked yet.
    pub(crate) fn notify_one(&self) {
        self.event.notify(1);
        self.noted.wake_all();
    }

    /// Wakes everyone.
    pub(crate) fn notify_all(&self) {
        self.event.notify(usize::MAX);
        self.noted.wake_all();
    }
}

/// A place in the queue. Dropped after it was woken, it wakes the next one.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Taken only by `drop`.
    listener: Option<EventListener>,
    proxy: Arc<Proxy>,
    /// The proxy as the waker that is registered; always the same.
    registered: Waker,
    /// The process that waits.
    generation: u32,
}

impl Waiting {
    /// Ready once this place was woken; to wait again, join again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.proxy.set(cx.waker());
        let mut cx = Context::from_waker(&self.registered);
        match &mut self.listener {
            Some(listener) => Future::poll(std::pin::Pin::new(listener), &mut cx),
            None => Poll::Ready(()),
        }
    }

    /// Blocks the thread until this place is woken or the time has come. `true` if it was woken.
    pub(crate) fn wait_until(&mut self, deadline: Option<Instant>) -> bool {
        let Some(listener) = self.listener.take() else { return true };
        match deadline {
            Some(deadline) => listener.wait_deadline(deadline).is_some(),
            None => {
                listener.wait();
                true
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if fork::has_left(self.generation) {
            // A thread of the parent's may have held the list's lock.
            std::mem::forget(self.listener.take());
            return;
        }
        // Passes an unused wake on, which may note the next waiter's waker.
        drop(self.listener.take());
        self.proxy.noted.wake_all();
    }
}

/// Real wakers that are to be called as soon as no lock is held.
#[derive(Debug, Default)]
struct Noted(Mutex<Vec<Waker>>);

impl Noted {
    fn wake_all(&self) {
        // Whoever takes the list wakes it; a waker noted meanwhile is found by who noted it.
        let wakers = std::mem::take(&mut *lock(&self.0));
        for waker in wakers {
            // A panic in one executor's waker must not cost another its wake.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
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
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests;
