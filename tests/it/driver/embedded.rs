//! Drivers whose waits are in the ring of their executor.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join;
use wakering::{Backend, CloseReason, Driver, EmbeddedDriver, Endpoint, Operation, ShmError};
use wakering::{SpscFace, SpscHandle, Submission, Violation};

use super::{ask, echo, ends};
use crate::common::own_ring::Executor;
use crate::common::woken::Woken;
use crate::common::{
    PATIENCE, SMALL, eventually, number, on_both_backends, packet, poll_once, poll_with,
    unnamed_pair,
};

on_both_backends!(
    both_ends_work_in_the_ring_of_an_executor,
    what_another_thread_does_ends_the_sleep,
    a_deadline_is_told,
    a_round_trip_costs_one_enter_and_one_wake,
    an_end_that_is_dropped_takes_its_wait_along,
    completions_of_others_are_not_taken,
    made_up_completions_do_no_harm,
    a_late_submission_loses_no_wake,
);

pub(super) fn embedded(like: &Driver) -> EmbeddedDriver {
    let driver = Driver::builder().backend(like.backend()).embedded().unwrap();
    assert_eq!(driver.backend(), like.backend());
    driver
}

/// Returns an executor with its driver, and the handle for its tasks.
pub(super) fn executor(like: &Driver) -> (Executor, Driver) {
    let driver = embedded(like);
    let handle = Driver::clone(&driver);
    (Executor::new(driver), handle)
}

/// How many submissions the driver has in the ring for itself.
pub(super) fn own(driver: &Driver) -> usize {
    if driver.backend() == Backend::IoUring { 2 } else { 1 }
}

/// Goes through the executor's steps until nothing happens any more.
pub(super) fn settle(executor: &mut Executor) {
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "it never rests");
        executor.driver.turn().unwrap();
        let before = executor.ring.in_flight;
        executor.enter(Some(Duration::from_millis(20)));
        let is_quiet = executor.driver.deadline().is_none_or(|due| due > Instant::now());
        if is_quiet && executor.ring.in_flight == before {
            return;
        }
    }
}

/// Makes round trips between two new ends in the ring.
pub(super) fn round_trips(executor: &mut Executor, trips: u64) {
    let driver = Driver::clone(&executor.driver);
    talk(executor, ends(&driver, &driver), trips);
}

/// Makes round trips between two ends in the ring, and drops both.
pub(super) fn talk(executor: &mut Executor, (face, handle): (SpscFace, SpscHandle), trips: u64) {
    let asking = async {
        ask(&face, trips).await;
        assert_eq!(face.close_reason(), None);
        drop(face);
    };
    let ((), answers) = executor.block_on(join(asking, echo(handle)));
    assert_eq!(answers, trips);
}

fn both_ends_work_in_the_ring_of_an_executor(like: &Driver) {
    round_trips(&mut executor(like).0, 1_000);
}

/// Sleeps in the ring until `what` holds.
fn enter_until(executor: &mut Executor, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        executor.driver.turn().unwrap();
        if holds() {
            return;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        let begun = Instant::now();
        executor.enter(executor.timeout().or(Some(2 * PATIENCE)));
        assert!(begun.elapsed() < PATIENCE, "not woken: {what}");
    }
}

fn what_another_thread_does_ends_the_sleep(like: &Driver) {
    let (mut executor, driver) = executor(like);
    settle(&mut executor);
    // It binds an end to the driver, waits for a packet, and sets a timeout.
    let (there, done) = (driver.clone(), Arc::new(AtomicBool::new(false)));
    let is_done = done.clone();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        let (face, handle) = ends(&there, &there);
        let (woken, waker) = Woken::counting();
        let mut recv = pin!(face.recv());
        assert!(poll_with(recv.as_mut(), &waker).is_pending());
        handle.try_send(packet(1, 8)).unwrap();
        eventually("the packet wakes it", || woken.calls() > 0);
        assert!(poll_with(recv.as_mut(), &waker).is_ready());
        while handle.try_send(packet(2, 8)).is_ok() {}
        let late = handle.send_timeout(packet(3, 8), Duration::from_millis(1));
        let late = pollster::block_on(late);
        assert!(matches!(late, Err(ShmError::TimedOut { .. })), "{late:?}");
        done.store(true, Ordering::SeqCst);
        there.unparker().unpark();
    });
    enter_until(&mut executor, "the other thread's calls", || is_done.load(Ordering::SeqCst));
    other.join().unwrap();

    // It unparks. There may be completions of its drops before.
    settle(&mut executor);
    let unparker = driver.unparker();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        unparker.unpark();
    });
    let begun = Instant::now();
    executor.enter(Some(2 * PATIENCE));
    assert!(begun.elapsed() < PATIENCE, "an unpark ends the sleep");
    other.join().unwrap();

    // An unpark between a turn and the sleep is not lost.
    settle(&mut executor);
    driver.unparker().unpark();
    executor.enter(Some(2 * PATIENCE));
    assert!(begun.elapsed() < PATIENCE, "an unpark keeps it from sleeping");
}

fn a_deadline_is_told(like: &Driver) {
    let (mut executor, driver) = executor(like);
    settle(&mut executor);
    assert_eq!(executor.driver.deadline(), None);
    let wait = Duration::from_millis(50);
    let builder = SpscFace::builder().driver(&driver).ring_bytes(SMALL).send_timeout(Some(wait));
    let (face, _handle) = unnamed_pair(builder, SpscHandle::builder());
    let face = Endpoint::from(face);
    while face.try_send(packet(0, 8)).is_ok() {}
    settle(&mut executor);
    let begun = Instant::now();
    {
        let mut sent = pin!(face.send(packet(0, 8)));
        assert!(poll_once(sent.as_mut()).is_pending());
        executor.driver.turn().unwrap();
        let deadline = executor.driver.deadline().expect("a send that times out");
        assert!(deadline >= begun && deadline <= begun + PATIENCE, "{:?}", deadline - begun);
    }
    let sent = executor.block_on(face.send(packet(0, 8)));
    assert!(matches!(sent, Err(ShmError::TimedOut { .. })), "{sent:?}");
    assert!(begun.elapsed() >= wait && begun.elapsed() < PATIENCE);
}

fn a_round_trip_costs_one_enter_and_one_wake(like: &Driver) {
    const TRIPS: u64 = 200;
    let (mut executor, driver) = executor(like);
    let (face, handle) = ends(&driver, like);
    // The peer takes its time, so that this side sleeps for each answer.
    let peer = thread::spawn(move || {
        let handle = Endpoint::from(handle);
        while let Some(packet) = handle.recv_blocking() {
            thread::sleep(Duration::from_micros(200));
            handle.send_blocking(packet).unwrap();
        }
    });
    executor.block_on(ask(&face, 10));
    let (enters, wakes) = (executor.enters, face.stats().wakes_sent);
    executor.block_on(ask(&face, TRIPS));
    let wakes = face.stats().wakes_sent - wakes;
    assert!(wakes <= TRIPS, "{wakes} wakes in {TRIPS} trips");
    if driver.backend() == Backend::IoUring {
        let enters = executor.enters - enters;
        // A few more for the end of the first poll, and for what the kernel completes by itself.
        assert!(enters <= TRIPS + TRIPS / 10, "{enters} enters in {TRIPS} trips");
    }
    drop(face);
    executor.driver.turn().unwrap();
    peer.join().unwrap();
}

fn an_end_that_is_dropped_takes_its_wait_along(like: &Driver) {
    let (mut executor, driver) = executor(like);
    settle(&mut executor);
    assert_eq!(executor.ring.in_flight, own(&driver));
    for round in 0..20 {
        let ends: Vec<_> = (0..20).map(|_| ends(&driver, &driver)).collect();
        // Some are dropped before the driver knows them, some before their waits are submitted.
        if round % 3 > 0 {
            executor.driver.turn().unwrap();
        }
        if round % 3 > 1 {
            executor.enter(Some(Duration::ZERO));
        }
        drop(ends);
        settle(&mut executor);
        assert_eq!(executor.ring.in_flight, own(&driver), "round {round}");
    }
    assert!(format!("{driver:?}").contains("bound: 0"), "{driver:?}");
}

fn completions_of_others_are_not_taken(like: &Driver) {
    let (mut executor, _) = executor(like);
    settle(&mut executor);
    for user_data in [0, 1, 4096, u64::MAX, 0x7fff_0000_1234_5678, !0 >> 1] {
        assert!(!executor.driver.complete(user_data, 0), "{user_data:#x}");
    }
    assert_eq!(executor.driver.turn().unwrap(), 0);
    assert_eq!(executor.driver.deadline(), None);
    assert_eq!(executor.driver.next_submission(), None);
}

/// At worst they look like wakes without a reason by the peer, of which a channel takes only so
/// many.
fn made_up_completions_do_no_harm(like: &Driver) {
    let (mut executor, driver) = executor(like);
    for seed in 0..8 {
        let (face, handle) = ends(&driver, &driver);
        let (mut seen, mut rest) = (vec![0], 0x9e37_79b9_7f4a_7c15_u64 + seed);
        for round in 0..1_000 {
            executor.driver.turn().unwrap();
            while let Some(submission) = executor.driver.next_submission() {
                seen.push(submission.user_data());
                executor.ring.submit(submission);
            }
            executor.enter(Some(Duration::ZERO));
            // A completion that has not come, has come before, or belongs to nothing.
            rest = rest.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let of = seen[(rest >> 33) as usize % seen.len()];
            let user_data = if round % 4 == 0 { of ^ (rest & 0xffff_ff00) } else { of };
            // Woken, interrupted, changed before it began, cancelled.
            let results = [0, -4, -11, -125];
            executor.driver.complete(user_data, results[(rest >> 40) as usize % results.len()]);
            if handle.try_send(packet(round, 8)).is_err() {
                break;
            }
            match executor.block_on(face.recv()) {
                Some(received) => assert_eq!(number(&received), round),
                None => break,
            }
        }
        for end in [&*face, &*handle] {
            let reason = end.close_reason();
            let is_lawful = matches!(
                reason,
                None | Some(CloseReason::Cancelled | CloseReason::Violation(Violation::WakeFlood))
            );
            assert!(is_lawful, "{reason:?}");
        }
    }
    // What is left over of all that is over soon, and the driver is as good as new.
    settle(&mut executor);
    round_trips(&mut executor, 100);
}

/// What happens between the turn and the submission is found by the submission.
fn a_late_submission_loses_no_wake(like: &Driver) {
    let (mut executor, driver) = executor(like);
    let (face, handle) = ends(&driver, like);
    let (woken, waker) = Woken::counting();
    let mut recv = pin!(face.recv());
    assert!(poll_with(recv.as_mut(), &waker).is_pending());
    executor.driver.turn().unwrap();
    handle.try_send(packet(1, 8)).unwrap();
    enter_until(&mut executor, "the packet", || woken.calls() > 0);
    assert!(poll_with(recv.as_mut(), &waker).is_ready());

    let mut submissions: Vec<Submission> = Vec::new();
    let mut recv = Box::pin(face.recv());
    assert!(poll_with(recv.as_mut(), &waker).is_pending());
    executor.driver.turn().unwrap();
    submissions.extend(std::iter::from_fn(|| executor.driver.next_submission()));
    let is_wait = |submission: &Submission| {
        matches!(submission.operation(), Operation::FutexWait { .. } | Operation::PollAdd { .. })
    };
    assert!(submissions.iter().all(is_wait), "{submissions:?}");
    let before = woken.calls();
    handle.try_send(packet(2, 8)).unwrap();
    drop(handle);
    submissions.into_iter().for_each(|submission| executor.ring.submit(submission));
    enter_until(&mut executor, "the next packet", || woken.calls() > before);
    assert!(poll_with(recv.as_mut(), &waker).is_ready());
}
