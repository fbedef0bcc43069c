//! What an embedded driver that is gone leaves in the ring of its executor.
#![allow(unsafe_code, reason = "a word at an address that was freed")]

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wakering::{Backend, CloseReason, Driver, Endpoint, Operation, SpscFace, Submission};

use super::embedded::{embedded, executor, own, round_trips, settle};
use super::ends;
use crate::common::own_ring::{Executor, Ring};
use crate::common::woken::Woken;
use crate::common::{PATIENCE, on_both_backends, packet, poll_with};

on_both_backends!(
    closing_cancels_everything_in_the_ring,
    closing_a_failed_driver_cancels_everything,
    dropping_leaves_the_ring_usable,
    what_dropped_drivers_left_does_not_reach_the_next,
    what_a_closed_driver_left_does_not_reach_the_next,
    what_a_dropped_driver_submits_late_does_not_end_the_next,
    late_completions_are_known_as_a_drivers,
    a_wait_that_was_left_swallows_no_wake,
);

fn drain(ring: &mut Ring) {
    let end = Instant::now() + PATIENCE;
    while ring.in_flight > 0 {
        assert!(Instant::now() < end, "{} are left", ring.in_flight);
        ring.enter(Some(Duration::from_millis(10)));
    }
}

fn closing_cancels_everything_in_the_ring(like: &Driver) {
    let (mut executor, driver) = executor(like);
    let (face, handle) = ends(&driver, like);
    let (woken, waker) = Woken::counting();
    let mut recv = pin!(face.recv());
    assert!(poll_with(recv.as_mut(), &waker).is_pending());
    settle(&mut executor);
    let Executor { driver: embedded, mut ring, .. } = executor;
    embedded.close().for_each(|submission| ring.submit(submission));
    assert!(woken.calls() > 0);
    assert!(poll_with(recv.as_mut(), &waker).is_ready());
    assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    assert_eq!(pollster::block_on(handle.closed()), CloseReason::Cancelled);
    drain(&mut ring);
    assert!(SpscFace::builder().driver(&driver).pair().is_err(), "nobody can run the driver");
}

fn closing_a_failed_driver_cancels_everything(like: &Driver) {
    const EINVAL: i32 = -22;
    let (mut executor, driver) = executor(like);
    let kept: Vec<_> = (0..3).map(|_| ends(&driver, like)).collect();
    let mut poll = None;
    executor.driver.turn().unwrap();
    while let Some(submission) = executor.driver.next_submission() {
        if matches!(submission.operation(), Operation::PollAdd { .. }) {
            poll = Some(submission.user_data());
        }
        executor.ring.submit(submission);
    }
    settle(&mut executor);
    // The poll fails for good.
    executor.driver.complete(poll.unwrap(), EINVAL);
    assert!(executor.driver.turn().is_err());
    let Executor { driver: embedded, mut ring, .. } = executor;
    embedded.close().for_each(|submission| ring.submit(submission));
    // The ends are kept; the peers do not ring.
    drain(&mut ring);
    drop(kept);
}

fn dropping_leaves_the_ring_usable(like: &Driver) {
    let (mut executor, driver) = executor(like);
    let (face, handle) = ends(&driver, &driver);
    settle(&mut executor);
    let mut executor = executor.replace(embedded(like));
    assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    drop((face, handle));
    // What the first driver left in the ring does not disturb the second.
    round_trips(&mut executor, 100);
}

fn what_dropped_drivers_left_does_not_reach_the_next(like: &Driver) {
    let (mut executor, driver) = executor(like);
    let mut old = vec![ends(&driver, like)];
    settle(&mut executor);
    for _ in 0..6 {
        executor = executor.replace(embedded(like));
        let driver = Driver::clone(&executor.driver);
        old.push(ends(&driver, like));
        settle(&mut executor);
    }
    let driver = Driver::clone(&executor.driver);
    // The peers of the dropped drivers' ends leave.
    let (face, handle) = old.pop().unwrap();
    drop(old);
    settle(&mut executor);
    // On io_uring each dropped driver leaves the poll of its set.
    let per_end = if driver.backend() == Backend::IoUring { 1 } else { 0 };
    let most = own(&driver) + per_end + 6 * per_end;
    assert!(executor.ring.in_flight <= most, "{} waits, not {most}", executor.ring.in_flight);
    let handle = Endpoint::from(handle);
    let peer = thread::spawn(move || {
        while let Some(packet) = handle.recv_blocking() {
            thread::sleep(Duration::from_micros(200));
            if handle.send_blocking(packet).is_err() {
                return;
            }
        }
    });
    executor.block_on(async {
        for n in 0..1_000 {
            if face.send(packet(n, 8)).await.is_err() || face.recv().await.is_none() {
                break;
            }
        }
    });
    let (end, stats) = (face.close_reason(), face.stats());
    drop(face);
    executor.driver.turn().unwrap();
    peer.join().unwrap();
    assert_eq!(end, None, "a conforming peer; {stats:?}");
}

fn what_a_closed_driver_left_does_not_reach_the_next(like: &Driver) {
    let (mut executor, driver) = executor(like);
    let (face, handle) = ends(&driver, like);
    settle(&mut executor);
    let Executor { driver: closed, mut ring, .. } = executor;
    closed.close().for_each(|submission| ring.submit(submission));
    drop((face, handle));
    let mut executor = Executor { driver: embedded(like), ring, enters: 0 };
    let driver = Driver::clone(&executor.driver);
    let (_face, _handle) = ends(&driver, like);
    settle(&mut executor);
    let bells = usize::from(driver.backend() == Backend::IoUring);
    assert_eq!(executor.ring.in_flight, own(&driver) + bells);
}

/// Its submissions were pushed and not yet entered when it was dropped.
fn what_a_dropped_driver_submits_late_does_not_end_the_next(like: &Driver) {
    let (mut executor, driver) = executor(like);
    let old = ends(&driver, like);
    executor.driver.turn().unwrap();
    let late: Vec<_> = std::iter::from_fn(|| executor.driver.next_submission()).collect();
    let mut executor = executor.replace(embedded(like));
    drop((old, driver));
    late.into_iter().for_each(|submission| executor.ring.submit(submission));
    round_trips(&mut executor, 100);
}

fn late_completions_are_known_as_a_drivers(like: &Driver) {
    let (mut executor, driver) = executor(like);
    let _pair = ends(&driver, like);
    settle(&mut executor);
    let Executor { driver: dropped, mut ring, .. } = executor;
    drop(dropped);
    let mut next = embedded(like);
    // The bell and the control word, or the set.
    let late = ring.enter(Some(PATIENCE));
    assert!(!late.is_empty());
    for (user_data, result) in late {
        assert!(Submission::is_user_data(user_data), "{user_data:#x}");
        assert!(!next.complete(user_data, result), "{user_data:#x} is not this driver's");
    }
}

/// The control word is freed with the driver; the wait on its address stays in the ring.
fn a_wait_that_was_left_swallows_no_wake(like: &Driver) {
    if like.backend() == Backend::Epoll {
        return;
    }
    let (mut executor, driver) = executor(like);
    executor.driver.turn().unwrap();
    let mut control = 0;
    while let Some(submission) = executor.driver.next_submission() {
        if let Operation::FutexWait { address, .. } = submission.operation() {
            control = address;
        }
        executor.ring.submit(submission);
    }
    executor.enter(Some(Duration::ZERO));
    // The last handle goes after the driver.
    let Executor { driver: dropped, ring: _ring, .. } = executor;
    drop(dropped);
    drop(driver);
    // Memory for a word of our own, which processes may share.
    let mut kept = Vec::new();
    let found = (64..4096).step_by(16).find_map(|size| {
        for _ in 0..8 {
            // Not zeroed by the allocator, which then takes memory that was freed last.
            let block: Vec<u32> = (0..size / 4).map(|_| 0).collect();
            let range = block.as_ptr_range();
            if range.start.addr() <= control && control < range.end.addr() {
                return Some(block);
            }
            kept.push(block);
        }
        None
    });
    let Some(block) = found else {
        eprintln!("left out: the allocator has not used the address again");
        return;
    };
    let at = (control - block.as_ptr().addr()) / 4;
    let block: &'static mut [u32] = Box::leak(block.into_boxed_slice());
    // SAFETY: leaked, and used as an atomic alone.
    let word: &'static AtomicU32 = unsafe { AtomicU32::from_ptr(&raw mut block[at]) };
    let flags = rustix::thread::futex::Flags::empty();
    let woken = Arc::new(AtomicBool::new(false));
    let (told, is_asleep) = (woken.clone(), Arc::new(AtomicBool::new(false)));
    let begins = is_asleep.clone();
    thread::spawn(move || {
        begins.store(true, Ordering::SeqCst);
        let _ = rustix::thread::futex::wait(word, flags, 0, None);
        told.store(true, Ordering::SeqCst);
    });
    while !is_asleep.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    // It sleeps by now, most probably. If not, it finds the word changed, and does not begin to.
    thread::sleep(Duration::from_millis(100));
    word.store(1, Ordering::SeqCst);
    let count = rustix::thread::futex::wake(word, flags, 1).unwrap();
    let begun = Instant::now();
    while !woken.load(Ordering::SeqCst) && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
    let woke = woken.load(Ordering::SeqCst);
    let _ = rustix::thread::futex::wake(word, flags, 10);
    assert!(woke, "the wake has reached {count}, which was not the thread");
}
