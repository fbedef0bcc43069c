//! A task that polls a future, and rests when it was not woken.

use std::task::{Wake, Waker};

use loom::sync::Notify;
use loom::thread;

use super::{ALL, explore};
use crate::driver::notify_flag::NotifyFlag;
use crate::sync::{Arc, AtomicU32, Ordering};

/// The waker of the task.
struct Task(Notify);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Works until the future finds what it waits for. Returns how often it was polled.
fn work(flag: &Arc<NotifyFlag>, mut is_ready: impl FnMut() -> bool) -> usize {
    let task = Arc::new(Task(Notify::new()));
    let waker = Waker::from(task.clone());
    let mut polls = 0;
    loop {
        flag.begin();
        loop {
            if flag.take() {
                polls += 1;
                if is_ready() {
                    return polls;
                }
            } else if flag.rest(&waker) {
                break;
            }
        }
        task.0.wait();
    }
}

/// The future sees what was written before a wake, and no wake is lost. Every interleaving.
#[test]
fn a_wake_from_elsewhere_is_never_lost() {
    explore(ALL, || {
        let flag = NotifyFlag::new();
        let there = Arc::new(AtomicU32::new(0));
        let (waker, their_there) = (Waker::from(flag.clone()), there.clone());
        let other = thread::spawn(move || {
            their_there.store(1, Ordering::Relaxed);
            waker.wake();
        });
        let polls = work(&flag, || there.load(Ordering::Relaxed) == 1);
        assert!(polls <= 2, "for nothing");
        other.join().unwrap();
    });
}

/// Two threads wake it, each for its own event. At most 3 preemptions.
#[test]
fn of_two_wakes_at_once_none_is_lost() {
    explore(Some(3), || {
        let flag = NotifyFlag::new();
        let there = Arc::new(AtomicU32::new(0));
        let others = [1, 2].map(|bit| {
            let (waker, there) = (Waker::from(flag.clone()), there.clone());
            thread::spawn(move || {
                there.fetch_or(bit, Ordering::Relaxed);
                waker.wake();
            })
        });
        work(&flag, || there.load(Ordering::Relaxed) == 3);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}
