//! `PolledDriver::drive`: a driver and the future that needs it, in one task.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_io::Async;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, join};
use wakering::{CloseReason, Driver, Endpoint, PolledDriver, ShmError, SpscFace};

use super::{ends, is_readable, polled};
use crate::common::woken::Woken;
use crate::common::{SMALL, eventually, fill, number, on_both_backends, packet, poll_with, wait};

on_both_backends!(
    a_packet_wakes_the_driven_future_and_no_task,
    a_wake_from_another_thread_wakes_the_task,
    a_future_that_wakes_itself_lets_others_in,
    an_error_of_the_reactor_ends_a_drive,
    a_drive_may_be_dropped_and_begun_again,
    a_driven_executor_serves_its_tasks,
    deadlines_pass_while_a_driver_is_driven,
);

/// A reactor that wakes nobody: each poll checks whether the descriptor is readable.
fn look(driver: &PolledDriver) -> LocalBoxFuture<'_, io::Result<()>> {
    poll_fn(
        move |_| {
            if is_readable(driver, Duration::ZERO) { Poll::Ready(Ok(())) } else { Poll::Pending }
        },
    )
    .boxed_local()
}

fn a_packet_wakes_the_driven_future_and_no_task(other: &Driver) {
    let driver = polled(other);
    let (face, handle) = ends(&driver, other);
    let polls = Cell::new(0);
    let echo = async {
        let mut echo = pin!(async {
            while let Some(packet) = face.recv().await {
                face.send(packet).await.unwrap();
            }
        });
        poll_fn(|cx| {
            polls.set(polls.get() + 1);
            echo.as_mut().poll(cx)
        })
        .await;
    };
    let mut driving = pin!(driver.drive(|| look(&driver), echo));
    let (woken, waker) = Woken::counting();
    assert!(!poll_with(driving.as_mut(), &waker).is_ready());
    for n in 0..100 {
        handle.try_send(packet(n, 8)).unwrap();
        let before = polls.get();
        let mut answer = None;
        eventually("it is answered", || {
            assert!(!poll_with(driving.as_mut(), &waker).is_ready());
            answer = handle.try_recv().ok();
            answer.is_some()
        });
        assert_eq!(number(&answer.unwrap()), n);
        assert!((1..=2).contains(&(polls.get() - before)), "{} polls", polls.get() - before);
    }
    assert_eq!(woken.calls(), 0);
    drop(handle);
    eventually("it ends", || poll_with(driving.as_mut(), &waker).is_ready());
}

fn a_wake_from_another_thread_wakes_the_task(like: &Driver) {
    let driver = polled(like);
    let (sender, receiver) = oneshot::channel();
    let mut driving = pin!(driver.drive(|| look(&driver), receiver));
    let (woken, waker) = Woken::counting();
    assert!(!poll_with(driving.as_mut(), &waker).is_ready());
    assert!(!poll_with(driving.as_mut(), &waker).is_ready());
    assert_eq!(woken.calls(), 0);
    std::thread::spawn(move || sender.send(7)).join().unwrap().unwrap();
    assert_eq!(woken.calls(), 1);
    assert_eq!(driving.now_or_never().unwrap().unwrap(), Ok(7));
}

fn a_future_that_wakes_itself_lets_others_in(like: &Driver) {
    let driver = polled(like);
    let yielding = async {
        for _ in 0..10 {
            smol::future::yield_now().await;
        }
    };
    let mut driving = pin!(driver.drive(|| look(&driver), yielding));
    let (woken, waker) = Woken::counting();
    for calls in 1..=10 {
        assert!(!poll_with(driving.as_mut(), &waker).is_ready());
        assert_eq!(woken.calls(), calls);
    }
    assert!(poll_with(driving.as_mut(), &waker).is_ready());
}

fn an_error_of_the_reactor_ends_a_drive(like: &Driver) {
    let driver = polled(like);
    let broken = || std::future::ready(Err::<(), _>(io::ErrorKind::Other.into()));
    let ended = pollster::block_on(driver.drive(broken, std::future::pending::<()>()));
    assert!(
        matches!(ended, Err(ShmError::Io { source, .. }) if source.kind() == io::ErrorKind::Other)
    );
    // With a reactor that is always ready, the driver is turned each time, and the future is polled
    // too.
    let (woken, waker) = Woken::counting();
    let busy = || std::future::ready(Ok(()));
    let mut driving = pin!(driver.drive(busy, smol::future::yield_now()));
    assert!(!poll_with(driving.as_mut(), &waker).is_ready());
    assert_eq!(woken.calls(), 1);
    assert!(poll_with(driving.as_mut(), &waker).is_ready());
    let mut driving = pin!(driver.drive(busy, std::future::pending::<()>()));
    assert!(!poll_with(driving.as_mut(), &waker).is_ready());
    assert_eq!(woken.calls(), 2, "others are let in");
}

fn a_drive_may_be_dropped_and_begun_again(other: &Driver) {
    let driver = Async::new(polled(other)).unwrap();
    let (face, handle) = ends(driver.get_ref(), other);
    for n in 0..200 {
        // Drops the drive after some polls. The next one receives what this one has not.
        {
            let mut driving = pin!(driver.get_ref().drive(|| driver.readable(), face.recv()));
            for _ in 0..n % 3 {
                assert!(!poll_with(driving.as_mut(), Waker::noop()).is_ready());
            }
        }
        let send = || handle.send_blocking(packet(n, 8)).unwrap();
        let sending = async { std::thread::scope(|scope| scope.spawn(send).join().unwrap()) };
        let both = join(face.recv(), sending);
        let driving = driver.get_ref().drive(|| driver.readable(), both);
        let (received, ()) = wait("a packet", driving).unwrap();
        assert_eq!(number(&received.unwrap()), n);
    }
}

fn a_driven_executor_serves_its_tasks(other: &Driver) {
    let driver = Async::new(polled(other)).unwrap();
    let (face, handle) = ends(driver.get_ref(), other);
    let (third, fourth) = ends(driver.get_ref(), driver.get_ref());
    let echo = async |end: Endpoint| {
        while let Some(packet) = end.recv().await {
            end.send(packet).await.unwrap();
        }
        end.close_reason()
    };
    let executor = smol::LocalExecutor::new();
    let echoes = [executor.spawn(echo(face.into())), executor.spawn(echo(fourth.into()))];
    let asking = executor.run(async {
        for n in 0..200 {
            for end in [&*handle, &*third] {
                end.send(packet(n, 64)).await.unwrap();
                assert_eq!(number(&end.recv().await.unwrap()), n);
            }
        }
        drop((handle, third));
        for echo in echoes {
            assert_eq!(echo.await, Some(CloseReason::Peer));
        }
    });
    wait("all round trips", driver.get_ref().drive(|| driver.readable(), asking)).unwrap();
}

fn deadlines_pass_while_a_driver_is_driven(like: &Driver) {
    let driver = Async::new(polled(like)).unwrap();
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(driver.get_ref());
    let (face, _descriptor) = builder.send_timeout(Some(Duration::from_millis(20))).pair().unwrap();
    fill(&face);
    let sending = face.send(packet(0, 8));
    let sent = wait("a deadline", driver.get_ref().drive(|| driver.readable(), sending)).unwrap();
    assert!(matches!(sent, Err(ShmError::TimedOut { sent: 0 })));
}
