//! A waker that counts its calls and does something.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;

type Action = Box<dyn Fn() + Send + Sync>;

pub struct Woken {
    calls: AtomicUsize,
    action: Action,
}

impl Woken {
    /// Returns a waker that only counts.
    pub fn counting() -> (Arc<Self>, Waker) {
        Self::with(|| {})
    }

    /// Returns a waker that runs `action` on each call.
    pub fn with(action: impl Fn() + Send + Sync + 'static) -> (Arc<Self>, Waker) {
        let woken = Arc::new(Self { calls: AtomicUsize::new(0), action: Box::new(action) });
        (woken.clone(), Waker::from(woken))
    }

    /// Returns a waker that counts the calls on this thread alone: those of a task that wakes
    /// itself. A driver's come from another thread.
    pub fn counting_here() -> (Arc<AtomicUsize>, Waker) {
        let (here, calls) = (thread::current().id(), Arc::new(AtomicUsize::new(0)));
        let counted = calls.clone();
        let (_, waker) = Self::with(move || {
            if thread::current().id() == here {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        (calls, waker)
    }

    /// Returns how often it was called.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.action)();
    }
}
