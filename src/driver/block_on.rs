//! Running one future on a thread that sleeps in a driver.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::seat;
use super::unparker::Unparker;
use super::{Driver, Run};

/// How long a thread that cannot park in its driver sleeps before it tries again.
const PAUSE: Duration = Duration::from_millis(5);

/// See [`Driver::block_on`].
pub(super) fn block_on<F: Future>(driver: &Driver, future: F) -> F::Output {
    assert!(!matches!(driver.run, Run::Polled), "block_on on a polled driver, which turn() runs");
    let _inside = Inside::enter();
    let alarm = Arc::new(Alarm {
        rang: AtomicBool::new(false),
        unparker: (!driver.is_background()).then(|| driver.unparker()),
        thread: thread::current(),
    });
    let waker = Waker::from(alarm.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        // At least once, also if the future woke itself: others wait for what comes from outside. But
        // a background driver serves them, and the future may have used up an unpark of this thread.
        if !driver.is_background() {
            sleep(driver);
        }
        // ORDERING: Acquire pairs with the Release in `wake_by_ref`.
        while !alarm.rang.swap(false, Ordering::Acquire) {
            sleep(driver);
        }
    }
}

fn sleep(driver: &Driver) {
    if driver.is_background() {
        return thread::park();
    }
    if driver.park(None).is_err() {
        // Somebody else runs it, or it is over. The waker ends this sleep too.
        thread::park_timeout(PAUSE);
    }
}

/// The waker of the future.
struct Alarm {
    rang: AtomicBool,
    /// A background driver need not be told.
    unparker: Option<Unparker>,
    /// For the times when it does not sleep in the driver.
    thread: Thread,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDERING: Release pairs with the Acquire in `block_on`.
        self.rang.store(true, Ordering::Release);
        if let Some(unparker) = &self.unparker {
            unparker.unpark();
        }
        self.thread.unpark();
    }
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// This thread is inside of `block_on`.
struct Inside;

impl Inside {
    fn enter() -> Self {
        assert!(
            !seat::is_seated() && !INSIDE.replace(true),
            "block_on inside of block_on or of a driver's callback, which could not go on meanwhile"
        );
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}
