//! Threads that block on an end and tasks that wait on it, alternately and at the same time. The
//! driver stops waiting on the bell for threads alone, and no task is left on a bell that nothing
//! waits on.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use wakering::{
    Backend, CloseReason, Driver, Endpoint, RecvTimeoutError, ShmError, SpscFace, SpscHandle,
};

use crate::common::woken::Woken;
use crate::common::{
    self, SMALL, eventually, fill, number, on_both_backends, packet, pair_of, poll_with, wait,
};

on_both_backends!(
    threads_and_tasks_receive_by_turns,
    threads_and_tasks_send_by_turns,
    threads_and_tasks_receive_at_once,
    a_task_learns_of_the_end_after_threads_have_slept,
    a_task_that_waits_for_the_end_alone_keeps_its_wait_while_threads_sleep,
    a_task_in_the_queue_learns_of_the_end_after_threads_have_slept,
    a_driver_that_is_parked_in_wakes_tasks_after_threads_have_slept,
    threads_that_block_do_not_wake_the_driver,
);

/// Returns both ends, bound to `driver`, in both orders. Nothing spins, so each wait is a sleep.
fn sleepers(driver: &Driver) -> [(Endpoint, Endpoint); 2] {
    [false, true].map(|swapped| {
        let face = SpscFace::builder().ring_bytes(SMALL).spin(Duration::ZERO);
        let handle = SpscHandle::builder().spin(Duration::ZERO);
        let (face, handle) = pair_of(driver, face, handle);
        if swapped { (handle.into(), face.into()) } else { (face.into(), handle.into()) }
    })
}

/// Sends every packet back until the end, as a thread.
fn echo(end: &Endpoint) {
    while let Some(packet) = end.recv_blocking() {
        end.send_blocking(packet).unwrap();
    }
}

/// Makes one round trip as a thread.
fn there_and_back(end: &Endpoint, n: u64) {
    end.send_blocking(packet(n, 8)).unwrap();
    let received = end.recv_timeout(common::PATIENCE);
    assert_eq!(received.map(|packet| number(&packet)), Ok(n));
}

fn threads_and_tasks_receive_by_turns(driver: &Driver) {
    for (here, there) in sleepers(driver) {
        thread::scope(|scope| {
            scope.spawn(|| echo(&there));
            for n in 0..2000 {
                // The lengths vary: the driver has stopped waiting on the bell, is about to, or has
                // not yet.
                if n % 7 < 4 {
                    there_and_back(&here, n);
                } else {
                    here.send_blocking(packet(n, 8)).unwrap();
                    assert_eq!(wait("recv", here.recv()).map(|packet| number(&packet)), Some(n));
                }
            }
            here.close();
        });
    }
}

fn threads_and_tasks_send_by_turns(driver: &Driver) {
    for (here, there) in sleepers(driver) {
        thread::scope(|scope| {
            let total = 20_000;
            scope.spawn(move || {
                for n in 0..total {
                    assert_eq!(there.recv_blocking().map(|packet| number(&packet)), Some(n));
                }
            });
            for n in 0..total {
                // The ring holds some fifty of these packets, so each kind has to wait for room.
                if n / 100 % 2 == 0 {
                    here.send_blocking(packet(n, 64)).unwrap();
                } else {
                    wait("send", here.send(packet(n, 64))).unwrap();
                }
            }
        });
    }
}

fn threads_and_tasks_receive_at_once(driver: &Driver) {
    const TOTAL: u64 = 20_000;
    for (here, there) in sleepers(driver) {
        let (received, sum) = (AtomicU64::new(0), AtomicU64::new(0));
        let took = |n: u64| {
            sum.fetch_add(n, Ordering::Relaxed);
            received.fetch_add(1, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(packet) = there.recv_blocking() {
                        took(number(&packet));
                    }
                });
                scope.spawn(|| {
                    while let Some(packet) = wait("recv", there.recv()) {
                        took(number(&packet));
                    }
                });
            }
            for n in 0..TOTAL {
                here.send_blocking(packet(n, 8)).unwrap();
                if n % 64 == 0 {
                    eventually("all is received", || received.load(Ordering::Relaxed) == n + 1);
                }
            }
            eventually("all is received", || received.load(Ordering::Relaxed) == TOTAL);
            here.close();
        });
        assert_eq!(sum.into_inner(), (0..TOTAL).sum());
    }
}

/// Has threads sleep at `end` until its driver may have stopped waiting on the bell.
fn have_threads_slept(end: &Endpoint, peer: &Endpoint) {
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..20).for_each(|_| peer.send_blocking(peer.recv_blocking().unwrap()).unwrap())
        });
        (0..20).for_each(|n| there_and_back(end, n));
    });
}

fn a_task_learns_of_the_end_after_threads_have_slept(driver: &Driver) {
    for (here, there) in sleepers(driver) {
        have_threads_slept(&here, &there);
        thread::scope(|scope| {
            let closed = scope.spawn(|| wait("closed", here.closed()));
            let received = scope.spawn(|| wait("recv", here.recv()));
            // The waits may or may not have begun.
            there.close();
            assert_eq!(closed.join().unwrap(), CloseReason::Peer);
            assert_eq!(received.join().unwrap(), None);
        });
    }
}

fn a_task_in_the_queue_learns_of_the_end_after_threads_have_slept(driver: &Driver) {
    for (here, there) in sleepers(driver) {
        have_threads_slept(&here, &there);
        fill(&here);
        thread::scope(|scope| {
            let send = || wait("send", here.send(packet(0, 8)));
            let block = || here.send_blocking(packet(0, 8));
            let sends = [scope.spawn(block), scope.spawn(block)];
            let queued = [scope.spawn(send), scope.spawn(send)];
            eventually("a send waits", || here.stats().full_stalls > 0);
            there.cancel();
            for send in sends.into_iter().chain(queued) {
                let ended = send.join().unwrap();
                assert!(matches!(ended, Err(ShmError::Closed { .. })), "{ended:?}");
            }
        });
    }
}

/// The task waits before the threads sleep: each wake of theirs asks the driver whether it may let
/// the bell go.
fn a_task_that_waits_for_the_end_alone_keeps_its_wait_while_threads_sleep(driver: &Driver) {
    for (here, there) in sleepers(driver) {
        let (woken, waker) = Woken::counting();
        let mut closed = pin!(here.closed());
        assert!(poll_with(closed.as_mut(), &waker).is_pending());
        thread::scope(|scope| {
            scope.spawn(|| echo(&there));
            (0..20).for_each(|n| there_and_back(&here, n));
            assert_eq!(woken.calls(), 0);
            there.cancel();
        });
        eventually("the task is woken", || woken.calls() > 0);
        assert!(poll_with(closed.as_mut(), &waker).is_ready());
    }
}

fn a_driver_that_is_parked_in_wakes_tasks_after_threads_have_slept(driver: &Driver) {
    for swapped in [false, true] {
        let parked = Driver::builder().backend(driver.backend()).build().unwrap();
        let face = SpscFace::builder().ring_bytes(SMALL).spin(Duration::ZERO);
        let handle = SpscHandle::builder().spin(Duration::ZERO);
        let (face, descriptor) = face.driver(&parked).pair().unwrap();
        let handle = handle.driver(driver).from_fd(descriptor).unwrap();
        let (face, handle) = (Endpoint::from(face), Endpoint::from(handle));
        thread::scope(|scope| {
            scope.spawn(|| echo(&handle));
            for n in 0..1000 {
                face.send_blocking(packet(n, 8)).unwrap();
                let received = match n % 5 {
                    // Another thread runs the driver meanwhile, or no thread does, or this one.
                    0 | 1 if swapped => face.recv_blocking(),
                    0 => {
                        parked.park(Some(Duration::ZERO)).unwrap();
                        face.recv_blocking()
                    }
                    _ => parked.block_on(face.recv()),
                };
                assert_eq!(received.map(|packet| number(&packet)), Some(n));
            }
            face.close();
        });
    }
}

fn threads_that_block_do_not_wake_the_driver(driver: &Driver) {
    if driver.backend() == Backend::Epoll {
        // The peer wakes this side with bytes, which the driver has to read.
        return;
    }
    for (here, there) in sleepers(driver) {
        thread::scope(|scope| {
            scope.spawn(|| echo(&there));
            (0..1000).for_each(|n| there_and_back(&here, n));
            for end in [&here, &there] {
                let stats = end.stats();
                assert!(stats.parks > 100 && stats.wakes_received < 20, "{stats:?}");
            }
            here.close();
        });
        assert_eq!(
            here.recv_timeout(Duration::ZERO),
            Err(RecvTimeoutError::Closed(CloseReason::Local))
        );
    }
}
