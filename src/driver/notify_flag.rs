//! The waker of a future that somebody polls who also does what wakes it.
//!
//! A wake that comes while its task is at work costs nothing: the task looks before it rests. Only
//! one that finds it at rest wakes the task itself.

use std::task::{Wake, Waker};

use crate::sync::{Arc, AtomicU32, Ordering};
use crate::wake::waker_slot::WakerSlot;

/// The task rests: a wake has to end that.
const RESTS: u32 = 0;
/// It is at work, and looks before it rests.
const WORKS: u32 = 1;
/// The future is to be polled, and the task knows or has been woken.
const WOKEN: u32 = 2;

#[derive(Debug)]
pub(crate) struct NotifyFlag {
    state: AtomicU32,
    /// Who rests; taken by whoever wakes it.
    task: WakerSlot,
}

impl NotifyFlag {
    /// For a future that was never polled, so that it is to be.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: AtomicU32::new(WOKEN), task: WakerSlot::default() })
    }

    /// The task is at work from now on.
    pub(crate) fn begin(&self) {
        // ORDERING: Relaxed; what a wake brings is seen by `take`. Fails if there was one.
        let _ = self.state.compare_exchange(RESTS, WORKS, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the future is to be polled; then the wakes so far are done with. The task is at
    /// work.
    pub(crate) fn take(&self) -> bool {
        // ORDERING: Acquire pairs with the Release in `wake_by_ref`: who polls the future sees what
        // was written before it was woken.
        self.state.swap(WORKS, Ordering::Acquire) == WOKEN
    }

    /// Whether the future was woken again.
    pub(crate) fn is_woken(&self) -> bool {
        // ORDERING: Relaxed; a hint, the last word is with `rest`.
        self.state.load(Ordering::Relaxed) == WOKEN
    }

    /// The task that is woken by `waker` rests. `false` if it must not: the future was woken.
    pub(crate) fn rest(&self, waker: &Waker) -> bool {
        self.task.set(waker);
        // ORDERING: Release pairs with the Acquire in `wake_by_ref`: who sees the rest finds the
        // task.
        self.state.compare_exchange(WORKS, RESTS, Ordering::Release, Ordering::Relaxed).is_ok()
    }
}

impl Wake for NotifyFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDERING: Release pairs with the Acquire in `take`, Acquire with the Release in `rest`. A
        // read-modify-write each time, so that several wakes in a row are all seen by one `take`.
        if self.state.swap(WOKEN, Ordering::AcqRel) == RESTS
            && let Some(task) = self.task.take()
        {
            task.wake();
        }
    }
}
