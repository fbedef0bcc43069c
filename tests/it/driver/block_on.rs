//! `Driver::block_on`.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use wakering::{CloseReason, Driver};

use super::{ask, echo, ends, parked};
use crate::common::{PATIENCE, number, on_both_backends, packet};

on_both_backends!(
    block_on_needs_no_other_thread,
    block_on_serves_others_while_its_future_wakes_itself,
    block_on_works_on_a_background_driver,
    block_on_allows_a_future_that_uses_up_an_unpark,
    block_on_polls_again_a_future_that_parks_in_its_driver,
    a_task_that_is_always_runnable_starves_no_channel,
    two_threads_block_on_one_driver,
);

fn block_on_needs_no_other_thread(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&driver, &driver);
    let rounds = driver.block_on(async {
        let (rounds, ()) = futures::join!(echo(face), async move {
            ask(&handle, 2000).await;
            handle.close();
        });
        rounds
    });
    assert_eq!(rounds, 2000);
}

fn block_on_serves_others_while_its_future_wakes_itself(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&driver, &Driver::builder().background().unwrap());
    let done = AtomicBool::new(false);
    let sender = thread::spawn(move || {
        pollster::block_on(async move {
            for round in 0..10 {
                handle.send(packet(round, 8)).await.unwrap();
            }
            handle.closed().await
        })
    });
    driver.block_on(async {
        let receive = async {
            // Each packet comes through a waker.
            for _ in 0..10 {
                face.recv().await.unwrap();
            }
            done.store(true, SeqCst);
        };
        let spin = async {
            while !done.load(SeqCst) {
                let mut polled = false;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut polled, true) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
            }
        };
        // These are separate tasks, as in an executor: `receive` is polled only when it is woken.
        let tasks = futures::stream::FuturesUnordered::from_iter([
            futures::future::FutureExt::boxed_local(receive),
            futures::future::FutureExt::boxed_local(spin),
        ]);
        futures::StreamExt::collect::<Vec<()>>(tasks).await;
    });
    drop(face);
    assert_eq!(sender.join().unwrap(), CloseReason::Peer);
}

fn block_on_works_on_a_background_driver(like: &Driver) {
    let driver = Driver::builder().backend(like.backend()).background().unwrap();
    let (face, handle) = ends(&driver, &driver);
    let echo = thread::spawn(move || pollster::block_on(echo(face)));
    driver.block_on(ask(&handle, 500));
    drop(handle);
    assert_eq!(echo.join().unwrap(), 500);
}

/// The future blocks, or is woken while it does.
fn block_on_allows_a_future_that_uses_up_an_unpark(like: &Driver) {
    let builder = || Driver::builder().backend(like.backend());
    for driver in [builder().background().unwrap(), builder().build().unwrap()] {
        let mut polls = 0;
        driver.block_on(poll_fn(|cx| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake()).join().unwrap();
            thread::park();
            Poll::Pending
        }));
        assert_eq!(polls, 2);
    }
}

fn block_on_polls_again_a_future_that_parks_in_its_driver(like: &Driver) {
    for timeout in [Some(Duration::ZERO), None] {
        let driver = parked(like);
        let (done, is_done) = channel();
        thread::spawn(move || {
            let mut polls = 0;
            driver.block_on(poll_fn(|cx| {
                polls += 1;
                if polls == 2 {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                driver.park(timeout).unwrap();
                Poll::Pending
            }));
            done.send(()).unwrap();
        });
        assert!(is_done.recv_timeout(PATIENCE).is_ok(), "it was woken, and sleeps");
    }
}

/// Receives on an end of `driver` next to a task of the same executor that always yields.
fn a_task_that_is_always_runnable_starves_no_channel(like: &Driver) {
    let driver = parked(like);
    let background = Driver::builder().backend(like.backend()).background().unwrap();
    let (face, handle) = ends(&driver, &background);
    let sender = thread::spawn(move || {
        for n in 0..10 {
            // The growing pauses cover each kind of wait in the driver: while it spins, as a spin
            // ends, and after it has stopped spinning.
            thread::sleep(Duration::from_millis(n));
            handle.try_send(packet(n, 8)).unwrap();
        }
        handle
    });
    let (received, begun) = (std::cell::Cell::new(0), Instant::now());
    let executor = smol::LocalExecutor::new();
    let receiver = executor.spawn(async {
        for n in 0..10 {
            assert_eq!(number(&face.recv().await.unwrap()), n);
            received.set(n + 1);
        }
    });
    let busy = executor.spawn(async {
        while received.get() < 10 && begun.elapsed() < PATIENCE {
            smol::future::yield_now().await;
        }
    });
    driver.block_on(executor.run(async { futures::join!(receiver, busy) }));
    assert!(begun.elapsed() < PATIENCE, "it got {} of 10", received.get());
    drop(sender.join().unwrap());
}

fn two_threads_block_on_one_driver(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&driver, &driver);
    let other = driver.clone();
    let echo = thread::spawn(move || other.block_on(echo(face)));
    driver.block_on(ask(&handle, 200));
    drop(handle);
    assert_eq!(echo.join().unwrap(), 200);
}
