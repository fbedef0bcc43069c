//! A waker that counts its calls and does something.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

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
