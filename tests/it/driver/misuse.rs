//! Misuse of a driver, for each way to run one. Each misuse has a known outcome and costs no other
//! channel its wake.

use std::io::ErrorKind;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt};
use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, SpscListener};

use crate::common::running::{WAYS, running};
use crate::common::woken::Woken;
use crate::common::{
    Dir, PATIENCE, SMALL, eventually, fill, join, on_both_backends, packet, poll_once,
    poll_to_sleep, poll_with, unnamed_pair, wait,
};

on_both_backends!(
    a_waker_that_panics_costs_no_other_channel_its_wake,
    a_waker_that_drops_its_end_costs_no_other_channel_its_wake,
    an_end_may_be_dropped_elsewhere_while_its_driver_sleeps,
    running_a_driver_twice_is_an_error,
    block_on_inside_of_block_on_panics,
    block_on_in_a_waker_panics,
    a_background_driver_outlives_its_handles,
    every_waiter_learns_that_a_driver_is_gone,
);

fn each_way(like: &Driver, test: impl Fn(&Driver)) {
    for way in WAYS {
        // libtest shows this if the test fails.
        eprintln!("{way:?}");
        running(way, like.backend(), &test);
    }
}

/// Returns both ends of a channel on one driver.
fn pair(driver: &Driver) -> (Endpoint, Endpoint) {
    pair_on(driver, driver)
}

fn pair_on(face: &Driver, handle: &Driver) -> (Endpoint, Endpoint) {
    let face = SpscFace::builder().ring_bytes(SMALL).send_timeout(None).driver(face);
    let (face, handle) = unnamed_pair(face, SpscHandle::builder().driver(handle));
    (face.into(), handle.into())
}

fn is_busy(result: Result<(), ShmError>) -> bool {
    result.is_err_and(|error| std::io::Error::from(error).kind() == ErrorKind::ResourceBusy)
}

fn is_gone<T>(result: Result<T, ShmError>) -> bool {
    matches!(result, Err(ShmError::Closed { reason: CloseReason::DriverGone, .. }))
}

/// A receive that owns its end.
fn owned_recv(end: Endpoint) -> BoxFuture<'static, Option<bytes::Bytes>> {
    async move { end.recv().await }.boxed()
}

fn a_waker_that_panics_costs_no_other_channel_its_wake(like: &Driver) {
    each_way(like, |driver| {
        let ((bad, bad_peer), (good, good_peer)) = (pair(driver), pair(driver));
        let (_, panicking) = Woken::with(|| resume_unwind(Box::new("a bad waker")));
        for n in 0..50 {
            let (woken, waker) = Woken::counting();
            let (mut one, mut other) = (Box::pin(bad.recv()), Box::pin(good.recv()));
            assert!(poll_with(one.as_mut(), &panicking).is_pending());
            assert!(poll_with(other.as_mut(), &waker).is_pending());
            bad_peer.try_send(packet(n, 8)).unwrap();
            good_peer.try_send(packet(n, 8)).unwrap();
            eventually("the good one is woken", || woken.calls() > 0);
            assert_eq!(wait("the good one", other), Some(packet(n, 8)));
            assert_eq!(wait("the bad one", one), Some(packet(n, 8)));
        }
    });
}

fn a_waker_that_drops_its_end_costs_no_other_channel_its_wake(like: &Driver) {
    each_way(like, |driver| {
        let (good, good_peer) = pair(driver);
        for n in 0..50 {
            let (here, there) = pair(driver);
            let place = Arc::new(Mutex::new(None));
            let taken = place.clone();
            let (_, dropping) = Woken::with(move || {
                let end = taken.lock().unwrap().take();
                drop(end);
            });
            let (woken, waker) = Woken::counting();
            let mut other = Box::pin(good.recv());
            let mut recv = owned_recv(there);
            // Spurious wakes may come at any time. The lock makes such a wake wait until the
            // receive is in its place.
            let mut filled = place.lock().unwrap();
            assert!(poll_with(recv.as_mut(), &dropping).is_pending());
            *filled = Some(recv);
            drop(filled);
            assert!(poll_with(other.as_mut(), &waker).is_pending());
            // The channel is closed already if a spurious wake dropped its end.
            let _ = here.try_send(packet(n, 8));
            good_peer.try_send(packet(n, 8)).unwrap();
            eventually("the good one is woken", || woken.calls() > 0);
            assert_eq!(wait("the good one", other), Some(packet(n, 8)));
            assert_eq!(wait("closed", here.closed()), CloseReason::Peer);
        }
    });
}

fn an_end_may_be_dropped_elsewhere_while_its_driver_sleeps(like: &Driver) {
    each_way(like, |driver| {
        let (good, good_peer) = pair(driver);
        for n in 0..200 {
            let (here, there) = pair(driver);
            let (woken, waker) = Woken::counting();
            let (good_woken, good_waker) = Woken::counting();
            let (mut recv, mut other) = (Box::pin(there.recv()), Box::pin(good.recv()));
            poll_to_sleep(other.as_mut());
            assert!(poll_with(recv.as_mut(), &waker).is_pending());
            assert!(poll_with(other.as_mut(), &good_waker).is_pending());
            if n % 2 == 0 {
                // Gives the driver time to hear of the new ends and, most probably, to sleep.
                std::thread::yield_now();
            }
            drop(here);
            good_peer.try_send(packet(n, 8)).unwrap();
            eventually("the other end learns of it", || woken.calls() > 0);
            eventually("the other channel is woken", || good_woken.calls() > 0);
            assert_eq!(wait("recv", recv), None);
            assert_eq!(wait("the good one", other), Some(packet(n, 8)));
            assert_eq!(there.close_reason(), Some(CloseReason::Peer));
        }
    });
}

/// Runs a driver on two threads at once: the second call is an error, and what came meanwhile is
/// not lost.
fn run_twice(driver: &Driver, run: &(dyn Fn() -> Result<(), ShmError> + Sync)) {
    let ((held, held_peer), (good, good_peer)) = (pair(driver), pair(driver));
    let ((say_inside, inside), (go_on, held_up)) = (channel(), channel::<()>());
    let (say_inside, held_up) = (Mutex::new(Some(say_inside)), Mutex::new(held_up));
    let (_, holding) = Woken::with(move || {
        // Only the first call waits until the other thread has tried.
        if let Some(inside) = say_inside.lock().unwrap().take() {
            inside.send(()).unwrap();
            let _ = held_up.lock().unwrap().recv_timeout(PATIENCE);
        }
    });
    let (woken, waker) = Woken::counting();
    let (mut recv, mut other) = (Box::pin(held.recv()), Box::pin(good.recv()));
    assert!(poll_with(recv.as_mut(), &holding).is_pending());
    assert!(poll_with(other.as_mut(), &waker).is_pending());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let parked = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                run().unwrap();
            }
        });
        held_peer.try_send(packet(1, 8)).unwrap();
        inside.recv_timeout(PATIENCE).unwrap();
        assert!(is_busy(run()));
        good_peer.try_send(packet(2, 8)).unwrap();
        assert_eq!(woken.calls(), 0, "the only thread that runs the driver is held up");
        go_on.send(()).unwrap();
        eventually("the other channel is woken", || woken.calls() > 0);
        is_over.store(true, Ordering::SeqCst);
        driver.unparker().unpark();
        join_scoped(parked);
    });
    assert_eq!(wait("the held one", recv), Some(packet(1, 8)));
    assert_eq!(wait("the good one", other), Some(packet(2, 8)));
    run().unwrap();
}

fn join_scoped(thread: std::thread::ScopedJoinHandle<'_, ()>) {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic));
}

fn running_a_driver_twice_is_an_error(like: &Driver) {
    let builder = Driver::builder().backend(like.backend());
    let driver = builder.clone().build().unwrap();
    run_twice(&driver, &|| driver.park(Some(Duration::from_millis(5))));
    let driver = builder.clone().polled().unwrap();
    run_twice(&driver, &|| driver.turn().map(drop));
    // A driver that runs by itself or by turns cannot be parked in.
    let embedded = builder.embedded().unwrap();
    for not_to_be_parked_in in [like, &*driver, &*embedded] {
        let parked = not_to_be_parked_in.park(Some(Duration::ZERO));
        assert!(matches!(parked, Err(ShmError::Unsupported { .. })), "{parked:?}");
    }
}

/// Returns the message of the panic.
fn panic_of(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("it does not panic");
    panic.downcast_ref::<&str>().map(|&text| text.to_owned()).expect("a message")
}

fn block_on_inside_of_block_on_panics(like: &Driver) {
    let builder = Driver::builder().backend(like.backend());
    let (one, other) = (builder.clone().build().unwrap(), builder.clone().build().unwrap());
    let polled = builder.clone().polled().unwrap();
    let embedded = builder.embedded().unwrap();
    for outer in [like, &one] {
        for inner in [like, &one, &other] {
            let message = panic_of(|| outer.block_on(async { inner.block_on(async {}) }));
            assert!(message.contains("block_on inside of block_on"), "{message}");
        }
        for by_turns in [&*polled, &*embedded] {
            let message = panic_of(|| outer.block_on(async { by_turns.block_on(async {}) }));
            assert!(message.contains("block_on on a driver that turn() runs"), "{message}");
        }
        assert_eq!(outer.block_on(async { 7 }), 7, "usable after that");
    }
}

fn block_on_in_a_waker_panics(like: &Driver) {
    each_way(like, |driver| {
        for inner in [like.clone(), Driver::builder().backend(like.backend()).build().unwrap()] {
            let ((bad, bad_peer), (good, good_peer)) = (pair(driver), pair(driver));
            let message = Arc::new(Mutex::new(None));
            let said = message.clone();
            let (_, blocking) = Woken::with(move || {
                let panic = panic_of(|| inner.block_on(std::future::pending()));
                *said.lock().unwrap() = Some(panic);
            });
            let (woken, waker) = Woken::counting();
            let (mut one, mut other) = (Box::pin(bad.recv()), Box::pin(good.recv()));
            assert!(poll_with(one.as_mut(), &blocking).is_pending());
            assert!(poll_with(other.as_mut(), &waker).is_pending());
            bad_peer.try_send(packet(1, 8)).unwrap();
            eventually("it panicked", || message.lock().unwrap().is_some());
            let message = message.lock().unwrap().take().unwrap();
            assert!(message.contains("or of a driver's callback"), "{message}");
            good_peer.try_send(packet(2, 8)).unwrap();
            eventually("the other is woken", || woken.calls() > 0);
            assert_eq!(wait("the good one", other), Some(packet(2, 8)));
        }
    });
}

fn a_background_driver_outlives_its_handles(like: &Driver) {
    let driver = Driver::builder().backend(like.backend()).background().unwrap();
    let (here, there) = pair(&driver);
    let (woken, waker) = Woken::counting();
    let mut recv = Box::pin(there.recv());
    assert!(poll_with(recv.as_mut(), &waker).is_pending());
    drop(driver);
    here.try_send(packet(1, 8)).unwrap();
    eventually("it is woken", || woken.calls() > 0);
    assert_eq!(wait("recv", recv), Some(packet(1, 8)));
    drop(here);
    assert_eq!(wait("closed", there.closed()), CloseReason::Peer);
}

/// Has one waiter of every kind on a driver, and then drops the driver's last handle.
fn check_every_waiter(driver: impl Deref<Target = Driver>, elsewhere: &Driver) {
    let dir = Dir::new();
    let name = |name| dir.name(name);
    let (face, peer) = pair_on(&driver, elsewhere);
    let (full, full_peer) = pair_on(&driver, elsewhere);
    fill(&full);
    let lonely = SpscFace::builder().driver(&driver).create(&name("lonely")).unwrap();
    let listener = SpscListener::builder().driver(&driver).bind(&name("listener")).unwrap();
    let mut stream = SpscListener::builder().driver(&driver).bind(&name("stream")).unwrap();
    let (blocked, blocked_peer) = pair_on(&driver, elsewhere);
    let thread = std::thread::spawn(move || (blocked.recv_blocking(), blocked.close_reason()));
    let (other, other_peer) = pair(elsewhere);

    let mut waiting: Vec<BoxFuture<'_, bool>> = vec![
        async { face.recv().await.is_none() }.boxed(),
        async { face.closed().await == CloseReason::DriverGone }.boxed(),
        async { is_gone(full.send(packet(0, 8)).await) }.boxed(),
        async { is_gone(lonely.connected().await) }.boxed(),
        async { is_gone(listener.accept().await) }.boxed(),
        async { is_gone(stream.next().await.unwrap()) && stream.next().await.is_none() }.boxed(),
    ];
    let mut woken = Vec::new();
    for future in &mut waiting {
        let (counting, waker) = Woken::counting();
        assert!(poll_with(future.as_mut(), &waker).is_pending());
        woken.push(counting);
    }
    let mut recv = Box::pin(other.recv());
    assert!(poll_once(recv.as_mut()).is_pending());
    drop(driver);
    eventually("all are woken", || woken.iter().all(|woken| woken.calls() > 0));
    assert_eq!(wait("all of them", join_all(waiting)), [true; 6]);
    assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    assert_eq!(join("the blocked thread", thread), (None, Some(CloseReason::DriverGone)));
    // The peers learn of it, and so does a client that connects.
    for peer in [peer, full_peer, blocked_peer] {
        assert_eq!(wait("closed", peer.closed()), CloseReason::Cancelled);
    }
    for name in ["lonely", "listener", "stream"].map(name) {
        let connected = SpscHandle::builder().driver(elsewhere).connect(&name);
        assert!(matches!(connected, Err(ShmError::NotFound { .. })), "{connected:?}");
    }
    other_peer.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("another driver's", recv), Some(packet(1, 8)));
}

fn every_waiter_learns_that_a_driver_is_gone(like: &Driver) {
    let builder = Driver::builder().backend(like.backend());
    for was_run in [false, true] {
        let driver = Box::new(builder.clone().build().unwrap());
        if was_run {
            driver.park(Some(Duration::ZERO)).unwrap();
        }
        check_every_waiter(driver, like);
        let driver = builder.clone().polled().unwrap();
        if was_run {
            driver.turn().unwrap();
        }
        let handle = Driver::clone(&driver);
        check_every_waiter(driver, like);
        let mut embedded = builder.clone().embedded().unwrap();
        if was_run {
            embedded.turn().unwrap();
        }
        check_every_waiter(embedded, like);
        // No thread could run this driver for another end.
        assert!(SpscFace::builder().driver(&handle).pair().is_err());
    }
}
