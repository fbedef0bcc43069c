//! Embedded drivers in rings of all kinds, and in rings that refuse or fail.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join;
use wakering::{Backend, CloseReason, Driver, ShmError, SpscFace, Violation};

use super::embedded::{embedded, executor, own, round_trips, settle, talk};
use super::{ask, echo, ends};
use crate::common::own_ring::{Executor, Setup, has_rings};
use crate::common::raw_peer::{BELL, Raw};
use crate::common::woken::Woken;
use crate::common::{Dir, PATIENCE, on_both_backends, packet, poll_once, poll_with};

on_both_backends!(
    it_works_in_a_ring_with_default_flags,
    it_works_in_a_ring_with_a_polling_thread,
    it_works_with_queues_that_are_full,
    it_moves_to_another_thread,
    a_storm_of_requests_does_not_hold_a_turn,
    a_lack_of_memory_passes,
    a_ring_that_cannot_wait_ends_the_driver,
    a_ring_that_forbids_the_operations_ends_the_driver,
    a_ring_that_cannot_cancel_ends_the_driver,
    a_bell_that_is_counted_down_is_a_flood,
);

/// `IORING_OP_POLL_ADD` and `IORING_OP_FUTEX_WAIT`.
const WAITS: [u8; 2] = [6, 51];

fn it_works_in_a_ring_with_default_flags(like: &Driver) {
    round_trips(&mut Executor::with(embedded(like), Setup::Default), 1_000);
}

fn it_works_in_a_ring_with_a_polling_thread(like: &Driver) {
    round_trips(&mut Executor::with(embedded(like), Setup::Polling), 200);
}

fn it_works_with_queues_that_are_full(like: &Driver) {
    let mut executor = Executor::with(embedded(like), Setup::Tiny);
    let driver = Driver::clone(&executor.driver);
    let all: Vec<_> = (0..300).map(|_| ends(&driver, &driver)).collect();
    executor.block_on(async {
        let (faces, handles): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let echoes = handles.into_iter().map(echo);
        let asking = async {
            futures::future::join_all(faces.iter().map(|face| ask(face, 5))).await;
            drop(faces);
        };
        join(asking, futures::future::join_all(echoes)).await
    });
}

fn it_moves_to_another_thread(like: &Driver) {
    let mut executor = Executor::with(embedded(like), Setup::Default);
    round_trips(&mut executor, 50);
    // A wait that this thread has submitted ends on the other.
    let driver = Driver::clone(&executor.driver);
    let (face, handle) = ends(&driver, like);
    let (woken, waker) = Woken::counting();
    let mut recv = pin!(face.recv());
    assert!(poll_with(recv.as_mut(), &waker).is_pending());
    settle(&mut executor);
    // The other end's introduction may have woken it.
    assert!(poll_with(recv.as_mut(), &waker).is_pending());
    let before = woken.calls();
    let there = woken.clone();
    let other = thread::spawn(move || {
        let end = Instant::now() + PATIENCE;
        while there.calls() == before {
            assert!(Instant::now() < end, "the wake is lost");
            executor.enter(executor.timeout().or(Some(2 * PATIENCE)));
            executor.driver.turn().unwrap();
        }
        round_trips(&mut executor, 50);
    });
    handle.try_send(packet(1, 8)).unwrap();
    other.join().unwrap();
    assert!(poll_with(recv.as_mut(), &waker).is_ready());
}

fn a_storm_of_requests_does_not_hold_a_turn(like: &Driver) {
    let (mut executor, driver) = executor(like);
    let stop = Arc::new(AtomicBool::new(false));
    let storm = {
        let (stop, unparker, driver) = (stop.clone(), driver.unparker(), driver.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                unparker.unpark();
                drop(ends(&driver, &driver));
            }
        })
    };
    let pair = ends(&driver, &driver);
    let mut longest = Duration::ZERO;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        let at = Instant::now();
        executor.driver.turn().unwrap();
        longest = longest.max(at.elapsed());
        executor.enter(executor.timeout().or(Some(PATIENCE)));
    }
    talk(&mut executor, pair, 50);
    stop.store(true, Ordering::Relaxed);
    while !storm.is_finished() {
        executor.driver.turn().unwrap();
        executor.enter(Some(Duration::from_millis(1)));
    }
    storm.join().unwrap();
    settle(&mut executor);
    assert_eq!(executor.ring.in_flight, own(&driver));
    assert!(longest < PATIENCE / 4, "{longest:?}");
}

fn a_lack_of_memory_passes(like: &Driver) {
    const ENOMEM: i32 = -12;
    let (mut executor, driver) = executor(like);
    let pair = ends(&driver, &driver);
    for _ in 0..100 {
        executor.driver.turn().unwrap();
        let all: Vec<_> = std::iter::from_fn(|| executor.driver.next_submission()).collect();
        assert!(all.len() <= 4, "{all:?}");
        for submission in all {
            executor.driver.complete(submission.user_data(), ENOMEM);
        }
        assert!(executor.driver.deadline().unwrap() <= Instant::now());
    }
    talk(&mut executor, pair, 50);
    settle(&mut executor);
    assert_eq!(executor.ring.in_flight, own(&driver));
}

/// Linux before 6.7, or a ring that is set up for polled I/O, refuses futex waits.
fn a_ring_that_cannot_wait_ends_the_driver(like: &Driver) {
    const EINVAL: i32 = -22;
    let mut driver = embedded(like);
    let (face, handle) = ends(&driver, like);
    let (woken, waker) = Woken::counting();
    let mut recv = pin!(face.recv());
    assert!(poll_with(recv.as_mut(), &waker).is_pending());
    driver.turn().unwrap();
    let submissions: Vec<_> = std::iter::from_fn(|| driver.next_submission()).collect();
    assert!(!submissions.is_empty());
    for submission in submissions {
        assert!(driver.complete(submission.user_data(), EINVAL));
    }
    let failed = driver.turn();
    assert!(matches!(failed, Err(ShmError::Io { .. })), "{failed:?}");
    assert!(woken.calls() > 0);
    assert!(poll_with(recv.as_mut(), &waker).is_ready());
    assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    let failed = driver.turn();
    assert!(matches!(failed, Err(ShmError::Closed { .. })), "{failed:?}");
    assert_eq!(driver.deadline(), None);
    assert_eq!(pollster::block_on(handle.closed()), CloseReason::Cancelled);
}

fn a_ring_that_forbids_the_operations_ends_the_driver(like: &Driver) {
    if !has_rings() {
        return;
    }
    let allowed = if like.backend() == Backend::IoUring { &WAITS[..1] } else { &WAITS[1..] };
    let mut executor = Executor::with(embedded(like), Setup::Restricted(allowed));
    let failed = executor.try_block_on(std::future::pending::<()>());
    assert!(matches!(failed, Err(ShmError::Io { .. })), "{failed:?}");
}

fn a_ring_that_cannot_cancel_ends_the_driver(like: &Driver) {
    if like.backend() == Backend::Epoll {
        return eprintln!("left out: only waits on bells are cancelled");
    }
    let mut executor = Executor::with(embedded(like), Setup::Restricted(&WAITS));
    let driver = Driver::clone(&executor.driver);
    round_trips(&mut executor, 10);
    // Nobody wakes what is to be cancelled: this end was never connected.
    let dir = Dir::new();
    drop(SpscFace::builder().driver(&driver).create(&dir.name("face")).unwrap());
    let failed = executor.try_block_on(std::future::pending::<()>());
    assert!(matches!(failed, Err(ShmError::Io { .. })), "{failed:?}");
}

/// PEER: counts our bell up while the wait is submitted, and down again before we look.
fn a_bell_that_is_counted_down_is_a_flood(like: &Driver) {
    if like.backend() == Backend::Epoll {
        return eprintln!("left out: epoll does not wait on bells");
    }
    let (mut executor, driver) = executor(like);
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().driver(&driver).create(&name).unwrap();
    let peer = thread::spawn(move || Raw::connect(&name, false));
    executor.block_on(face.connected()).unwrap();
    while !peer.is_finished() {
        executor.driver.turn().unwrap();
        executor.enter(Some(Duration::from_millis(1)));
    }
    let raw = peer.join().unwrap();
    let mut recv = pin!(face.recv());
    assert!(poll_once(recv.as_mut()).is_pending());
    settle(&mut executor);
    let bell = raw.memory.word32(raw.theirs + BELL);
    // One wake, so that it waits again.
    bell.fetch_add(1, Ordering::SeqCst);
    rustix::thread::futex::wake(bell, rustix::thread::futex::Flags::empty(), 1).unwrap();
    executor.enter(Some(Duration::from_millis(20)));
    let mut busy = 0;
    for _ in 0..2_000 {
        executor.driver.turn().unwrap();
        if face.close_reason().is_some() {
            break;
        }
        bell.fetch_add(1, Ordering::SeqCst);
        let before = Instant::now();
        executor.enter(Some(Duration::from_millis(20)));
        busy += u32::from(before.elapsed() < Duration::from_millis(10));
        bell.fetch_sub(1, Ordering::SeqCst);
    }
    assert_eq!(
        face.close_reason(),
        Some(CloseReason::Violation(Violation::WakeFlood)),
        "{busy} of 2000 sleeps ended at once; {:?}",
        face.stats()
    );
}
