//! The waker of a future whose task also runs the driver that wakes it.
//!
//! A wake that comes while the task works costs nothing: the task checks the flag before it rests.
//! Only a wake that finds the task at rest wakes the task itself.

use std::task::{Wake, Waker};

use crate::sync::{Arc, AtomicU32, Ordering};
use crate::wake::waker_slot::WakerSlot;

/// The task rests: a wake must end that.
const RESTS: u32 = 0;
/// The task works, and checks the flag before it rests.
const WORKS: u32 = 1;
/// The future must be polled, and the task knows it or has been woken.
const WOKEN: u32 = 2;

#[derive(Debug)]
pub(crate) struct NotifyFlag {
    state: AtomicU32,
    /// The waker of a task at rest; taken by the thread that wakes it.
    task: WakerSlot,
}

impl NotifyFlag {
    /// Makes a flag for a future that was never polled, so it starts as woken.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: AtomicU32::new(WOKEN), task: WakerSlot::default() })
    }

    /// Marks the task as working.
    pub(crate) fn begin(&self) {
        // ORDERING: Relaxed; `take` sees what a wake brings. Fails if there was a wake.
        let _ = self.state.compare_exchange(RESTS, WORKS, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the future must be polled. Clears all wakes so far, and marks the task as working.
    pub(crate) fn take(&self) -> bool {
        // ORDERING: Acquire pairs with the Release in `wake_by_ref`: the thread that polls the
        // future sees what was written before the wake.
        self.state.swap(WORKS, Ordering::Acquire) == WOKEN
    }

    /// Whether the future was woken again.
    pub(crate) fn is_woken(&self) -> bool {
        // ORDERING: Relaxed; a hint, `rest` decides.
        self.state.load(Ordering::Relaxed) == WOKEN
    }

    /// Marks the task, which `waker` wakes, as resting. Returns `false` if it must not rest because
    /// the future was woken.
    pub(crate) fn rest(&self, waker: &Waker) -> bool {
        self.task.set(waker);
        // ORDERING: Release pairs with the Acquire in `wake_by_ref`: a thread that sees the rest
        // finds the task's waker.
        self.state.compare_exchange(WORKS, RESTS, Ordering::Release, Ordering::Relaxed).is_ok()
    }
}

impl Wake for NotifyFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDERING: Release pairs with the Acquire in `take`, Acquire with the Release in `rest`. A
        // read-modify-write each time, so that one `take` sees all of several wakes in a row.
        if self.state.swap(WOKEN, Ordering::AcqRel) == RESTS
            && let Some(task) = self.task.take()
        {
            task.wake();
        }
    }
}
