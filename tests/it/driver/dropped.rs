//! Drivers that are dropped, and what happens to the ends that are bound to them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use wakering::{CloseReason, Driver, RecvTimeoutError, ShmError, SpscFace, SpscHandle};

use super::{ends, parked};
use crate::common::woken::Woken;
use crate::common::{Dir, PATIENCE, eventually, on_both_backends, poll_with};

on_both_backends!(
    dropping_the_driver_ends_a_receive_at_any_moment,
    dropping_the_driver_ends_its_endpoints,
    dropping_the_driver_ends_a_connect,
    a_peer_that_leaves_after_the_driver_is_connected_no_more,
    a_driver_that_was_never_run_leaks_nothing,
);

/// A task on another thread polls its receive while the last handle is dropped.
fn dropping_the_driver_ends_a_receive_at_any_moment(like: &Driver) {
    for round in 0..300 {
        let driver = parked(like);
        let (face, handle) = ends(&driver, &driver);
        let go = Arc::new(AtomicUsize::new(0));
        let (done, is_done) = channel();
        let there = go.clone();
        let receiver = thread::spawn(move || {
            there.fetch_add(1, SeqCst);
            while there.load(SeqCst) < 2 {}
            done.send(pollster::block_on(face.recv())).unwrap();
        });
        while go.load(SeqCst) < 1 {}
        go.fetch_add(1, SeqCst);
        for _ in 0..(round % 100) * 8 {
            std::hint::spin_loop();
        }
        drop(driver);
        assert_eq!(is_done.recv_timeout(PATIENCE), Ok(None), "round {round}");
        receiver.join().unwrap();
        drop(handle);
    }
}

fn dropping_the_driver_ends_its_endpoints(like: &Driver) {
    for run_before in [false, true] {
        let driver = parked(like);
        let background = Driver::builder().background().unwrap();
        let (face, handle) = ends(&driver, &background);
        if run_before {
            driver.park(Some(Duration::ZERO)).unwrap();
        }
        let (woken, waker) = Woken::counting();
        let mut received = pin!(face.recv());
        assert!(poll_with(received.as_mut(), &waker).is_pending());
        let clone = driver.clone();
        drop(driver);
        assert_eq!(woken.calls(), 0, "there is another handle");
        drop(clone);
        assert!(woken.calls() > 0);
        assert!(poll_with(received.as_mut(), &waker).is_ready());
        assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
        assert_eq!(pollster::block_on(handle.closed()), CloseReason::Cancelled);
        assert_eq!(
            handle.recv_timeout(PATIENCE),
            Err(RecvTimeoutError::Closed(CloseReason::Cancelled))
        );
    }
}

fn dropping_the_driver_ends_a_connect(like: &Driver) {
    let dir = Dir::new();
    let (idle, engine) = (parked(like), parked(like));
    let name = dir.name("face");
    let _face = SpscFace::builder().driver(&engine).create(&name).unwrap();
    let mut connecting = pin!(SpscHandle::builder().driver(&idle).connect_async(&name));
    let (woken, waker) = Woken::counting();
    assert!(poll_with(connecting.as_mut(), &waker).is_pending());
    idle.park(Some(Duration::ZERO)).unwrap();
    assert_eq!(woken.calls(), 0);
    drop(idle);
    assert!(woken.calls() > 0);
    let Poll::Ready(Err(error)) = poll_with(connecting.as_mut(), &waker) else {
        panic!("no engine answers");
    };
    assert!(matches!(error, ShmError::Closed { reason: CloseReason::DriverGone, sent: 0 }));
}

/// Nothing watches the peer any more.
fn a_peer_that_leaves_after_the_driver_is_connected_no_more(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&driver, like);
    drop(driver);
    assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    drop(handle);
    eventually("it has left", || !face.is_connected());
}

fn a_driver_that_was_never_run_leaks_nothing(like: &Driver) {
    let driver = parked(like);
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap();
    let regions = || maps().lines().filter(|line| line.contains("memfd:wakering")).count();
    // Other tests make regions meanwhile, but fewer than this.
    for _ in 0..3000 {
        drop(ends(&driver, &driver));
    }
    assert!(regions() < 2000, "{}", regions());
    drop(driver);
}
