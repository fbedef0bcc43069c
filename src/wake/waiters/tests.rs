//! Tests of order, of passing wakes on, and of wakers that behave as badly as they may.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::task::{RawWaker, RawWakerVTable};
use std::thread;
use std::time::Duration;

use super::*;
use crate::sync::lock;

/// Longer than anything here takes, and short enough to wait for.
const PATIENCE: Duration =
    Duration::from_secs(if option_env!("WAKERING_SLOW").is_some() { 200 } else { 20 });

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs a closure when woken, as hand-written executors do.
struct Call<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn call(what: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Call(what)))
}

fn poll(waiting: &mut Waiting, waker: &Waker) -> Poll<()> {
    waiting.poll(&mut Context::from_waker(waker))
}

/// A waiter that was polled once, and its count.
fn parked(waiters: &Waiters) -> (Waiting, Arc<Count>) {
    let count = Arc::new(Count::default());
    let mut waiting = waiters.join();
    assert!(poll(&mut waiting, &Waker::from(count.clone())).is_pending());
    (waiting, count)
}

/// Fails the test, rather than hanging it, if `what` deadlocks.
fn in_time(what: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        what();
        done.send(()).unwrap();
    });
    match wait.recv_timeout(PATIENCE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("deadlock"),
        _ => thread.join().unwrap(),
    }
}

#[test]
fn the_first_to_come_is_the_first_served() {
    let waiters = Waiters::default();
    let mut queue: Vec<_> = (0..3).map(|_| parked(&waiters)).collect();
    while !queue.is_empty() {
        waiters.notify_one();
        let (mut first, count) = queue.remove(0);
        assert_eq!(count.get(), 1);
        assert!(queue.iter().all(|(_, count)| count.get() == 0));
        assert!(poll(&mut first, Waker::noop()).is_ready());
    }
}

#[test]
fn one_that_was_woken_and_has_not_looked_is_enough() {
    let waiters = Waiters::default();
    let (_first, _) = parked(&waiters);
    let (_second, count) = parked(&waiters);
    waiters.notify_one();
    waiters.notify_one();
    assert_eq!(count.get(), 0);
}

#[test]
fn everyone_is_woken_at_once() {
    let waiters = Waiters::default();
    let queue: Vec<_> = (0..3).map(|_| parked(&waiters)).collect();
    waiters.notify_all();
    for (mut waiting, count) in queue {
        assert_eq!(count.get(), 1);
        assert!(poll(&mut waiting, Waker::noop()).is_ready());
    }
}

#[test]
fn a_dropped_waiter_passes_its_wake_on() {
    let waiters = Waiters::default();
    let (first, _) = parked(&waiters);
    let (mut second, count) = parked(&waiters);
    waiters.notify_one();
    assert_eq!(count.get(), 0);
    drop(first);
    assert_eq!(count.get(), 1);
    assert!(poll(&mut second, Waker::noop()).is_ready());
}

#[test]
fn a_dropped_waiter_that_was_not_woken_passes_nothing_on() {
    let waiters = Waiters::default();
    let (first, _) = parked(&waiters);
    let (mut second, count) = parked(&waiters);
    drop(first);
    assert_eq!(count.get(), 0);
    assert!(poll(&mut second, Waker::noop()).is_pending());
}

#[test]
fn one_that_used_its_wake_passes_nothing_on() {
    let waiters = Waiters::default();
    let (mut first, _) = parked(&waiters);
    let (_second, count) = parked(&waiters);
    waiters.notify_one();
    assert!(poll(&mut first, Waker::noop()).is_ready());
    drop(first);
    assert_eq!(count.get(), 0);
}

#[test]
fn a_task_is_woken_through_its_last_waker() {
    let waiters = Waiters::default();
    let (mut waiting, former) = parked(&waiters);
    let last = Arc::new(Count::default());
    assert!(poll(&mut waiting, &Waker::from(last.clone())).is_pending());
    waiters.notify_one();
    assert_eq!((former.get(), last.get()), (0, 1));
}

#[test]
fn a_waker_that_panics_costs_nobody_else_a_wake() {
    let waiters = Waiters::default();
    let mut panicking = waiters.join();
    let waker = call(|| panic!("an executor's bug"));
    assert!(poll(&mut panicking, &waker).is_pending());
    let (_next, count) = parked(&waiters);
    waiters.notify_all();
    assert_eq!(count.get(), 1);
    // The queue still works, and the waiter whose waker panicked still has its own wake.
    let (_later, later) = parked(&waiters);
    assert!(poll(&mut panicking, &waker).is_ready());
    waiters.notify_all();
    assert_eq!(later.get(), 1);
}

#[test]
fn a_wake_passed_on_survives_a_waker_that_panics() {
    let waiters = Waiters::default();
    let (first, _) = parked(&waiters);
    let mut panicking = waiters.join();
    assert!(poll(&mut panicking, &call(|| panic!("an executor's bug"))).is_pending());
    let (_third, count) = parked(&waiters);
    waiters.notify_one();
    drop(first);
    assert_eq!(count.get(), 0);
    drop(panicking);
    assert_eq!(count.get(), 1);
}

#[test]
fn a_waker_may_drop_another_waiter() {
    in_time(|| {
        let waiters = Waiters::default();
        let (other, _) = parked(&waiters);
        let other = Mutex::new(Some(other));
        let mut dropping = waiters.join();
        assert!(poll(&mut dropping, &call(move || drop(lock(&other).take()))).is_pending());
        let (_last, count) = parked(&waiters);
        waiters.notify_all();
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn a_waker_may_drop_a_waiter_whose_wake_passes_on() {
    in_time(|| {
        let waiters = Arc::new(Waiters::default());
        let (first, _) = parked(&waiters);
        let slot = Arc::new(Mutex::new(None));
        let dropped = slot.clone();
        let mut second = waiters.join();
        assert!(poll(&mut second, &call(move || drop(lock(&dropped).take()))).is_pending());
        let (third, _) = parked(&waiters);
        *lock(&slot) = Some(third);
        let (_fourth, count) = parked(&waiters);
        waiters.notify_one();
        drop(first);
        assert!(lock(&slot).is_none(), "the second was not woken");
        drop(second);
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn a_waker_may_join_poll_and_notify() {
    in_time(|| {
        let waiters = Arc::new(Waiters::default());
        let mut waiting = waiters.join();
        let inner = waiters.clone();
        let waker = call(move || {
            let (_joined, _) = parked(&inner);
            inner.notify_all();
        });
        assert!(poll(&mut waiting, &waker).is_pending());
        let (_next, count) = parked(&waiters);
        waiters.notify_one();
        assert_eq!(count.get(), 1, "by the first one's waker");
    });
}

#[test]
fn a_deadline_ends_a_blocking_wait() {
    let waiters = Waiters::default();
    let mut waiting = waiters.join();
    assert!(!waiting.wait_until(Some(Instant::now())));
    let (_next, count) = parked(&waiters);
    drop(waiting);
    waiters.notify_one();
    assert_eq!(count.get(), 1, "the one that gave up is out of the queue");
}

#[test]
fn threads_and_tasks_share_the_queue() {
    let waiters = Arc::new(Waiters::default());
    let (mut task, count) = parked(&waiters);
    let mut blocking = waiters.join();
    let thread = thread::spawn(move || blocking.wait_until(Some(Instant::now() + PATIENCE)));
    waiters.notify_one();
    assert_eq!(count.get(), 1);
    assert!(poll(&mut task, Waker::noop()).is_ready());
    waiters.notify_one();
    assert!(thread.join().unwrap(), "the thread was not woken");
}

/// Each thread takes a wake and gives one: a lost wake stops them all.
#[test]
fn no_wake_gets_lost_among_threads() {
    const WAKES: usize = 20_000;
    in_time(|| {
        let waiters = Arc::new(Waiters::default());
        let wakes = Arc::new(AtomicUsize::new(0));
        let free = Arc::new(Mutex::new(true));
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (waiters, wakes, free) = (waiters.clone(), wakes.clone(), free.clone());
                thread::spawn(move || {
                    let take = || std::mem::take(&mut *lock(&free));
                    while wakes.load(Ordering::SeqCst) < WAKES {
                        if !take() {
                            let mut waiting = waiters.join();
                            if !take() {
                                // Some give up now and then.
                                let soon = Duration::from_micros(50);
                                let deadline = (n == 0).then(|| Instant::now() + soon);
                                waiting.wait_until(deadline);
                                continue;
                            }
                        }
                        wakes.fetch_add(1, Ordering::SeqCst);
                        *lock(&free) = true;
                        waiters.notify_one();
                    }
                    waiters.notify_all();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// A waker whose clone notifies, and whose drop drops another waiter's place.
struct Foreign {
    waiters: Waiters,
    other: Mutex<Option<Waiting>>,
}

#[allow(unsafe_code, reason = "only a raw waker sees that it is cloned")]
impl Foreign {
    const CALLS: RawWakerVTable =
        RawWakerVTable::new(Self::clone, |_| {}, |_| {}, |data| Self::of(data).drop_another());

    fn waker(&'static self) -> Waker {
        // SAFETY: the calls do with the data only what is allowed: it is shared, and lives forever.
        unsafe { Waker::new(std::ptr::from_ref(self).cast(), &Self::CALLS) }
    }

    fn of(data: *const ()) -> &'static Self {
        // SAFETY: the pointer is what `waker` made of a `&'static Self`.
        unsafe { &*data.cast() }
    }

    fn clone(data: *const ()) -> RawWaker {
        Self::of(data).waiters.notify_one();
        RawWaker::new(data, &Self::CALLS)
    }

    fn drop_another(&self) {
        let other = lock(&self.other).take();
        drop(other);
    }
}

#[test]
fn a_waker_is_cloned_and_dropped_without_a_lock() {
    in_time(|| {
        let foreign = Foreign { waiters: Waiters::default(), other: Mutex::new(None) };
        let foreign: &'static Foreign = Box::leak(Box::new(foreign));
        let mut first = foreign.waiters.join();
        *lock(&foreign.other) = Some(foreign.waiters.join());
        // Woken while its waker is cloned, so that the clone is of no use.
        assert!(poll(&mut first, &foreign.waker()).is_ready());
        assert!(lock(&foreign.other).is_none());
    });
}
