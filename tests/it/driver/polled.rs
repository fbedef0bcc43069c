//! Drivers that others turn whenever their descriptor is readable.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::mpsc::{TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use async_io::Async;
use rustix::event::Timespec;
use wakering::{Driver, PolledDriver, SpscFace, SpscHandle};

use super::{ask, echo, ends, is_readable, kind, polled};
use crate::common::woken::Woken;
use crate::common::{PATIENCE, SMALL, number, on_both_backends, packet, poll_with};

on_both_backends!(
    a_polled_driver_is_readable_when_there_is_something_to_do,
    a_polled_driver_works_under_smol,
    a_polled_driver_works_under_async_std,
    edges_suffice_for_a_polled_driver,
    the_thread_that_turns_may_also_poll,
    the_thread_that_turned_may_be_busy,
    the_thread_that_turned_may_have_exited,
    a_second_turn_at_once_is_an_error,
);

/// Turns until there is nothing to do.
fn settle(driver: &PolledDriver) {
    driver.turn().unwrap();
    while is_readable(driver, Duration::from_millis(10)) {
        driver.turn().unwrap();
    }
}

fn a_polled_driver_is_readable_when_there_is_something_to_do(like: &Driver) {
    let driver = polled(like);
    assert!(!is_readable(&driver, Duration::ZERO));
    let builder = SpscFace::builder().driver(&driver).ring_bytes(SMALL).spin(Duration::ZERO);
    let (face, descriptor) = builder.send_timeout(Some(Duration::from_millis(50))).pair().unwrap();
    assert!(is_readable(&driver, PATIENCE), "a registration");
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    settle(&driver);

    let (woken, waker) = Woken::counting();
    let mut received = pin!(face.recv());
    assert!(poll_with(received.as_mut(), &waker).is_pending());
    assert!(!is_readable(&driver, Duration::ZERO), "a pending receive leaves nothing to do");
    thread::spawn(move || handle.try_send(packet(1, 8)).map(|()| handle)).join().unwrap().unwrap();
    assert!(is_readable(&driver, PATIENCE), "a bell, and then a hang-up");
    while woken.calls() == 0 {
        assert!(is_readable(&driver, PATIENCE));
        driver.turn().unwrap();
    }
    assert!(poll_with(received.as_mut(), &waker).is_ready());
    settle(&driver);

    driver.unparker().unpark();
    assert!(is_readable(&driver, PATIENCE), "an unpark");
    settle(&driver);

    let builder = SpscFace::builder().driver(&driver).ring_bytes(SMALL);
    let (face, _descriptor) = builder.send_timeout(Some(Duration::from_millis(50))).pair().unwrap();
    while face.try_send(packet(0, 8)).is_ok() {}
    let mut sent = pin!(face.send(packet(0, 8)));
    let start = Instant::now();
    while poll_with(sent.as_mut(), &waker).is_pending() {
        assert!(is_readable(&driver, PATIENCE), "a deadline");
        driver.turn().unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < PATIENCE);
}

/// Runs a ping-pong under any executor, with the driver in async-io's reactor.
fn under_a_reactor<S>(like: &Driver, spawn: S) -> impl Future<Output = ()>
where
    S: Fn(Pin<Box<dyn Future<Output = ()> + Send>>),
{
    let driver = polled(like);
    let (face, handle) = ends(&driver, &Driver::builder().background().unwrap());
    let (other_face, other_handle) = ends(&driver, &driver);
    let driver = Arc::new(Async::new(driver).unwrap());
    let reactor = Arc::downgrade(&driver);
    spawn(Box::pin(async move {
        while let Some(driver) = reactor.upgrade() {
            driver.get_ref().turn().unwrap();
            driver.readable().await.unwrap();
        }
    }));
    spawn(Box::pin(async move {
        echo(face).await;
    }));
    spawn(Box::pin(async move {
        echo(other_face).await;
    }));
    async move {
        ask(&handle, 1000).await;
        ask(&other_handle, 1000).await;
        drop((handle, other_handle, driver));
    }
}

fn a_polled_driver_works_under_smol(like: &Driver) {
    smol::block_on(under_a_reactor(like, |task| smol::spawn(task).detach()));
}

fn a_polled_driver_works_under_async_std(like: &Driver) {
    async_std::task::block_on(under_a_reactor(like, |task| {
        async_std::task::spawn(task);
    }));
}

/// Waits with an edge-triggered epoll, as some reactors do, and turns only after an edge.
fn edges_suffice_for_a_polled_driver(like: &Driver) {
    use rustix::event::epoll;
    let driver = polled(like);
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&set, driver.as_fd(), epoll::EventData::new_u64(0), flags).unwrap();
    let (face, handle) = ends(&driver, &Driver::builder().background().unwrap());
    driver.turn().unwrap();
    let echo = thread::spawn(move || pollster::block_on(echo(handle)));
    let (woken, waker) = Woken::counting();
    let mut asking = Box::pin(async move {
        for round in 0..5000 {
            face.send(packet(round, 8)).await.unwrap();
            assert_eq!(number(&face.recv().await.unwrap()), round);
        }
    });
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    let mut events = Vec::with_capacity(4);
    loop {
        let before = woken.calls();
        if poll_with(asking.as_mut(), &waker).is_ready() {
            break;
        }
        if woken.calls() != before {
            // The task woke itself, to let others run, or the background driver woke it.
            continue;
        }
        events.clear();
        match epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(0) => panic!("no edge came"),
            Ok(_) => driver.turn().map(drop).unwrap(),
            Err(errno) => assert_eq!(errno, rustix::io::Errno::INTR),
        }
    }
    drop(asking);
    assert_eq!(echo.join().unwrap(), 5000);
}

/// Plays ping-pong over an end of `driver`, which `turn` turns each time that it is readable.
fn ask_by(driver: &PolledDriver, rounds: u64, mut turn: impl FnMut()) {
    let (face, handle) = ends(&Driver::builder().background().unwrap(), driver);
    let echo = thread::spawn(move || pollster::block_on(echo(face)));
    turn();
    let (woken, waker) = Woken::counting();
    {
        let mut asking = pin!(ask(&handle, rounds));
        let mut before = woken.calls();
        while poll_with(asking.as_mut(), &waker).is_pending() {
            while woken.calls() == before {
                assert!(is_readable(driver, PATIENCE), "a wake was lost");
                turn();
            }
            before = woken.calls();
        }
    }
    drop(handle);
    assert_eq!(echo.join().unwrap(), rounds);
}

fn the_thread_that_turns_may_also_poll(like: &Driver) {
    let driver = polled(like);
    ask_by(&driver, 5000, || assert!(driver.turn().is_ok()));
}

fn the_thread_that_turned_may_be_busy(like: &Driver) {
    let driver = Arc::new(polled(like));
    let (turn, turns) = channel::<()>();
    let (turned, waiting) = channel();
    let busy = driver.clone();
    let busy = thread::spawn(move || {
        loop {
            // This thread makes no system call between two turns. Other threads still see what it
            // has armed.
            match turns.try_recv() {
                Ok(()) => turned.send(busy.turn().map(drop)).unwrap(),
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    });
    ask_by(&driver, 200, || {
        turn.send(()).unwrap();
        waiting.recv_timeout(PATIENCE).unwrap().unwrap();
    });
    drop(turn);
    busy.join().unwrap();
}

fn the_thread_that_turned_may_have_exited(like: &Driver) {
    let driver = polled(like);
    ask_by(&driver, 300, || {
        thread::scope(|scope| scope.spawn(|| driver.turn().map(drop)).join().unwrap()).unwrap();
    });
}

fn a_second_turn_at_once_is_an_error(like: &Driver) {
    let driver = Arc::new(polled(like));
    let (face, handle) = ends(&driver, &driver);
    let result = Arc::new(Mutex::new(None));
    let (inner, found) = (Arc::downgrade(&driver), result.clone());
    let (_, waker) = Woken::with(move || {
        *found.lock().unwrap() = inner.upgrade().map(|driver| driver.turn());
    });
    let mut received = pin!(face.recv());
    assert!(poll_with(received.as_mut(), &waker).is_pending());
    handle.try_send(packet(1, 8)).unwrap();
    while result.lock().unwrap().is_none() {
        driver.turn().unwrap();
    }
    let error = result.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!(kind(error), ErrorKind::ResourceBusy);
}
