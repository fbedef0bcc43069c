//! Runs one future on a thread that sleeps in a driver.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::parker;
use super::unparker::Unparker;
use super::{Driver, Run};
use crate::error::ShmError;
use crate::sync::thread::{self, Thread};
use crate::sync::{Arc, AtomicU32, Ordering, thread_local};

/// How long a thread that cannot park in its driver sleeps before it tries again.
const PAUSE: Duration = Duration::from_millis(5);

/// How many times a future that always wakes itself is polled between two turns of the driver. A
/// turn costs about 300 ns, as much as ten packets do.
const POLLS: u32 = if cfg!(all(test, loom)) { 2 } else { 8 };

/// See [`Driver::block_on`].
#[track_caller]
pub(super) fn block_on<F: Future>(driver: &Driver, future: F) -> F::Output {
    assert!(
        !matches!(driver.run, Run::ByTurns),
        "block_on on a driver that turn() runs: use PolledDriver::drive or AsyncIoDriver::block_on"
    );
    let _inside = Inside::enter();
    let ours = Arc::new(FutureWaker {
        woken: AtomicU32::new(0),
        unparker: (!driver.is_background()).then(|| driver.unparker()),
        thread: thread::current(),
    });
    if cfg!(all(test, loom)) {
        // Loom does not see that the reference count orders the last wake before the drop.
        std::mem::forget(ours.clone());
    }
    let waker = Waker::from(ours.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    let mut polls = 0;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        polls += 1;
        // Runs the driver regularly even if the future wakes itself: other tasks wait for outside
        // events. A background driver serves them on its own thread.
        if polls >= POLLS && !driver.is_background() {
            polls = 0;
            sleep(driver, &ours);
        }
        // ORDERING: Acquire pairs with the Release in `wake_by_ref`.
        while ours.woken.swap(0, Ordering::Acquire) == 0 {
            polls = 0;
            sleep(driver, &ours);
        }
    }
}

/// Runs the driver for one turn, which sleeps unless the waker was called. Sleeps by itself if
/// another thread runs the driver.
///
/// The waker's own flag decides, not only the unpark that follows it: a turn of another thread, or
/// a turn inside of the future, may use up the unpark.
fn sleep(driver: &Driver, ours: &FutureWaker) {
    let is_woken = || ours.is_woken();
    if driver.shared().is_forked() {
        // The future has forked, and this is the child. The fork has ended its endpoints here, so
        // nothing would wake the thread.
        thread::park_timeout(PAUSE);
        ours.woken.swap(1, Ordering::Relaxed);
        return;
    }
    if driver.is_background() {
        return thread::park();
    }
    let Err(error) = driver.park_unless(None, &is_woken) else { return };
    if is_woken() {
        return;
    }
    // Another thread runs the driver, or nobody can. The waker ends this sleep too.
    thread::park_timeout(PAUSE);
    if let ShmError::Io { source, .. } = error
        && source.kind() != io::ErrorKind::ResourceBusy
    {
        // Nobody runs the driver, for want of descriptors or memory. The future looks for itself.
        ours.woken.swap(1, Ordering::Relaxed);
    }
}

/// The waker of the future.
struct FutureWaker {
    /// 1 once it was called, until `block_on` clears it.
    woken: AtomicU32,
    /// `None` for a background driver, in which this thread does not park.
    unparker: Option<Unparker>,
    /// To unpark where this thread does not sleep in the driver.
    thread: Thread,
}

impl FutureWaker {
    fn is_woken(&self) -> bool {
        // ORDERING: Relaxed; it decides about a sleep. `block_on` acquires what was written before.
        self.woken.load(Ordering::Relaxed) != 0
    }
}

impl Wake for FutureWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDERING: Release pairs with the Acquire in `block_on`. A read-modify-write, because
        // loom may order a store before a swap that has read the older value.
        self.woken.swap(1, Ordering::Release);
        // Also on that thread itself: the future may sleep in the driver, or park, before it
        // returns.
        if let Some(unparker) = &self.unparker {
            unparker.unpark();
        }
        self.thread.unpark();
    }
}

thread_local! {
    /// Whether this thread is inside of `block_on`.
    static INSIDE: Cell<bool> = Cell::new(false);
}

/// Marks that this thread is inside of `block_on`, until it is dropped.
struct Inside;

impl Inside {
    #[track_caller]
    fn enter() -> Self {
        assert!(
            !parker::is_inside() && !INSIDE.with(|inside| inside.replace(true)),
            "block_on inside of block_on or of a driver's callback, which could not go on meanwhile"
        );
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(false));
    }
}
