//! The feature `async-io`: a driver in the reactor of smol and async-std, in one call.

mod common;

use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_io::Timer;
use common::child::{self, Child, test_path};
use common::roles::{beside, open};
use common::woken::Woken;
use common::{Dir, SMALL, length, number, on_both_backends, packet, poll_with, watched};
use futures::future::join;
use wakering::{AsyncIoDriver, CloseReason, Driver, Endpoint, SpscFace, SpscHandle};

on_both_backends!(
    packets_arrive_under_smol_on_one_thread,
    packets_arrive_under_smol_on_its_threads,
    packets_arrive_under_async_std,
    two_tasks_may_run_the_driver_at_once,
    block_on_in_a_waker_panics,
    a_driver_without_work_takes_no_turns,
    a_driver_whose_task_is_dropped_ends_its_endpoints,
    a_killed_peer_and_a_cancel_are_noticed,
);

const PACKETS: u64 = 3000;

/// Makes a driver with the backend of another one.
fn like(driver: &Driver) -> AsyncIoDriver {
    let made = Driver::builder().backend(driver.backend()).async_io().unwrap();
    assert_eq!(made.backend(), driver.backend());
    made
}

fn ends(driver: &AsyncIoDriver) -> (SpscFace, SpscHandle) {
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver);
    let handle = SpscHandle::builder().driver(driver);
    let (face, descriptor) = face.pair().unwrap();
    (face, handle.from_fd(descriptor).unwrap())
}

/// Sends numbered packets of all lengths and closes this direction, then receives the other's end.
async fn ask(end: impl Into<Endpoint>) {
    let (mut tx, mut rx) = end.into().into_split();
    let send = async {
        for n in 0..PACKETS {
            tx.send(packet(n, length(n))).await.unwrap();
        }
        // A half-close: the answers still come.
        drop(tx);
    };
    let recv = async {
        for n in 0..PACKETS {
            let answer = rx.recv().await.expect("an answer");
            assert_eq!((number(&answer), answer.len()), (n, length(n)));
        }
        assert_eq!(rx.recv().await, None);
        assert_eq!(rx.finished(), Some(Ok(())));
    };
    join(send, recv).await;
}

/// Sends back what comes, up to the other side's half-close.
async fn echo(end: impl Into<Endpoint>) {
    let end = end.into();
    while let Some(packet) = end.recv().await {
        end.send(packet).await.unwrap();
    }
    assert_eq!(end.finished(), Some(Ok(())));
}

fn packets_arrive_under_smol_on_one_thread(driver: &Driver) {
    let driver = like(driver);
    let (face, handle) = ends(&driver);
    let executor = smol::LocalExecutor::new();
    let echoing = executor.spawn(echo(face));
    driver
        .block_on(executor.run(async {
            ask(handle).await;
            echoing.await;
        }))
        .unwrap();
}

fn packets_arrive_under_smol_on_its_threads(driver: &Driver) {
    let driver = like(driver);
    let (face, handle) = ends(&driver);
    let _driving = smol::spawn(driver.into_task());
    let echoing = smol::spawn(echo(face));
    smol::block_on(smol::spawn(ask(handle)));
    smol::block_on(echoing);
}

fn packets_arrive_under_async_std(driver: &Driver) {
    let driver = like(driver);
    let (face, handle) = ends(&driver);
    let driving = async_std::task::spawn(driver.into_task());
    let echoing = async_std::task::spawn(echo(face));
    async_std::task::block_on(async {
        async_std::task::spawn(ask(handle)).await;
        echoing.await;
        assert!(driving.cancel().await.is_none(), "the driver has failed");
    });
}

fn two_tasks_may_run_the_driver_at_once(driver: &Driver) {
    let driver = like(driver);
    let (face, handle) = ends(&driver);
    std::thread::scope(|scope| {
        scope.spawn(|| driver.block_on(echo(face)).unwrap());
        scope.spawn(|| driver.block_on(ask(handle)).unwrap());
    });
}

fn a_driver_without_work_takes_no_turns(driver: &Driver) {
    let driver = like(driver);
    let (face, handle) = ends(&driver);
    let polls = AtomicU64::new(0);
    driver.block_on(join(face.send("hello".into()), handle.recv())).unwrap().0.unwrap();

    // Nothing comes. The driver turns only when `run` is polled, and at most eight times then.
    let waiting = driver.run(async {
        futures::select_biased! {
            received = futures::FutureExt::fuse(handle.recv()) => panic!("{received:?}"),
            _ = futures::FutureExt::fuse(Timer::after(Duration::from_millis(500))) => {}
        }
    });
    let mut waiting = pin!(waiting);
    async_io::block_on(poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        waiting.as_mut().poll(cx)
    }))
    .unwrap();
    let polls = polls.into_inner();
    assert!((2..20).contains(&polls), "{polls} polls in half a second without work");
}

fn a_driver_whose_task_is_dropped_ends_its_endpoints(driver: &Driver) {
    let driver = like(driver);
    let (face, handle) = ends(&driver);
    let driving = smol::spawn(driver.into_task());
    smol::block_on(async {
        face.send("hello".into()).await.unwrap();
        assert_eq!(handle.recv().await.unwrap(), "hello");
        assert!(driving.cancel().await.is_none(), "the driver has failed");
        assert_eq!(face.closed().await, CloseReason::DriverGone);
        assert_eq!(handle.closed().await, CloseReason::DriverGone);
    });
}

/// Nobody would turn the driver meanwhile.
fn block_on_in_a_waker_panics(driver: &Driver) {
    let driver = Arc::new(like(driver));
    let (face, handle) = ends(&driver);
    let (inner, message) = (driver.clone(), Arc::new(Mutex::new(None)));
    let said = message.clone();
    let (_, blocking) = Woken::with(move || {
        let panic = catch_unwind(AssertUnwindSafe(|| inner.block_on(pending::<()>())));
        *said.lock().unwrap() = panic.unwrap_err().downcast_ref::<&str>().copied();
    });
    let mut recv = Box::pin(face.recv());
    assert!(poll_with(recv.as_mut(), &blocking).is_pending());
    let received = driver.block_on(async {
        handle.send("one".into()).await.unwrap();
        while message.lock().unwrap().is_none() {
            Timer::after(Duration::from_millis(1)).await;
        }
        recv.await
    });
    assert_eq!(received.unwrap().unwrap(), "one");
    let message = message.lock().unwrap().unwrap();
    assert!(message.contains("inside of a driver's callback"), "{message}");
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_echoes() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, role, name] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = Driver::builder().backend(child::backend(backend)).async_io().unwrap();
    let end = open(&driver, role, name);
    child::say("open");
    let ended = driver.block_on(async {
        while let Some(packet) = end.recv().await {
            end.send(packet).await.unwrap();
        }
        end.closed().await
    });
    child::say(ended.unwrap());
}

fn a_killed_peer_and_a_cancel_are_noticed(driver: &Driver) {
    let driver = like(driver);
    for role in ["engine", "application"] {
        for kills in [false, true] {
            let dir = Dir::new();
            let (end, mut child): (Endpoint, Child) =
                beside(&driver, role, &dir.name("peer"), test_path!(child_that_echoes), &[]);
            let reason = driver.block_on(async {
                end.connected().await.unwrap();
                for n in 0..100 {
                    end.send(packet(n, length(n))).await.unwrap();
                    assert_eq!(number(&end.recv().await.unwrap()), n);
                }
                if kills {
                    child.kill();
                } else {
                    end.cancel();
                }
                assert_eq!(end.recv().await, None);
                end.closed().await
            });
            let expected = if kills { CloseReason::PeerDied } else { CloseReason::Cancelled };
            assert_eq!(reason.unwrap(), expected);
            if !kills {
                while child.hear() != "cancelled" {}
                assert!(child.wait().success());
            }
        }
    }
}

#[test]
fn its_tasks_are_send() {
    fn assert_send<T: Send>(made: T) -> T {
        made
    }
    watched(|| {
        let driver = Driver::builder().async_io().unwrap();
        assert!(format!("{driver:?}").starts_with("AsyncIoDriver(PolledDriver"));
        drop(assert_send(driver.run(async {})));
        drop(assert_send(driver.into_task()));
    });
}
