//! The local tasks that wait: the first in its own slot, the others in event-listener's queue,
//! through our proxy wakers. The queue has a loom form of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use loom::thread;

use super::{ALL, explore};
use crate::sync::{AtomicU32, Ordering};
use crate::wake::waiters::{Waiters, Waiting};

/// Records that it was woken.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Flag {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(false)))
    }

    fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

fn poll(waiting: &mut Waiting, flag: &Arc<Flag>) -> Poll<()> {
    waiting.poll(&mut Context::from_waker(&Waker::from(flag.clone())))
}

/// The task joins the queue first and then checks the condition. Every interleaving.
#[test]
fn a_task_that_joins_and_then_looks_is_woken() {
    explore(ALL, || {
        let waiters = Arc::new(Waiters::default());
        let there = Arc::new(AtomicU32::new(0));
        let (their_waiters, their_there) = (waiters.clone(), there.clone());
        let notifier = thread::spawn(move || {
            their_there.store(1, Ordering::Release);
            crate::sync::fence(Ordering::SeqCst);
            their_waiters.notify_one();
        });
        let flag = Flag::new();
        let mut waiting = waiters.join();
        crate::sync::fence(Ordering::SeqCst);
        let sleeps = there.load(Ordering::Acquire) == 0 && poll(&mut waiting, &flag).is_pending();
        notifier.join().unwrap();
        assert!(!sleeps || flag.is_set(), "asleep, and nobody will wake it");
    });
}

/// A task may be polled with another waker each time. Every interleaving.
#[test]
fn the_waker_of_the_last_poll_is_woken() {
    explore(ALL, || {
        let waiters = Arc::new(Waiters::default());
        let mut waiting = waiters.join();
        let (former, last) = (Flag::new(), Flag::new());
        assert!(poll(&mut waiting, &former).is_pending());
        let notifier = {
            let waiters = waiters.clone();
            thread::spawn(move || waiters.notify_one())
        };
        let sleeps = poll(&mut waiting, &last).is_pending();
        notifier.join().unwrap();
        assert!(!sleeps || last.is_set(), "only a waker of before was called");
    });
}

/// Whether it was woken before it was dropped or not. Every interleaving.
#[test]
fn a_dropped_waiter_passes_its_wake_on() {
    explore(ALL, || {
        let waiters = Arc::new(Waiters::default());
        let (mut first, mut second) = (waiters.join(), waiters.join());
        let (flag, next) = (Flag::new(), Flag::new());
        assert!(poll(&mut first, &flag).is_pending());
        assert!(poll(&mut second, &next).is_pending());
        let notifier = {
            let waiters = waiters.clone();
            thread::spawn(move || waiters.notify_one())
        };
        drop(first);
        notifier.join().unwrap();
        assert!(next.is_set(), "the turn went with the first");
        assert!(poll(&mut second, &next).is_ready());
    });
}

/// A thread that blocks, before or after a task. Every interleaving.
#[test]
fn a_blocked_thread_is_woken() {
    for is_first in [true, false] {
        explore(ALL, move || {
            let waiters = Arc::new(Waiters::default());
            let task = (!is_first).then(|| waiters.join());
            let mut waiting = waiters.join();
            let notifier = {
                let waiters = waiters.clone();
                thread::spawn(move || waiters.notify_all())
            };
            assert!(waiting.wait_until(None));
            notifier.join().unwrap();
            drop(task);
        });
    }
}
