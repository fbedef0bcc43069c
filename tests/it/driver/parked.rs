//! Drivers that threads run by parking in them.

use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use wakering::Driver;

use super::{ask, echo, ends, kind, park_until, parked};
use crate::common::woken::Woken;
use crate::common::{PATIENCE, eventually, number, on_both_backends, packet, poll_with};

on_both_backends!(
    a_park_ends_at_its_timeout,
    an_unpark_before_the_park_is_not_lost,
    unparks_are_merged,
    an_unpark_from_another_thread_ends_the_sleep,
    an_unpark_shows_what_was_written_before,
    a_wake_ends_the_park,
    a_park_inside_of_a_park_is_an_error,
    moving_from_thread_to_thread_loses_no_wake,
    threads_that_parked_may_exit,
    an_executor_that_never_sleeps_serves_its_channels,
    an_endpoint_may_be_dropped_while_its_driver_is_parked,
);

fn a_park_ends_at_its_timeout(like: &Driver) {
    let driver = parked(like);
    driver.park(Some(Duration::ZERO)).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(30) {
        driver.park(Some(Duration::from_millis(30))).unwrap();
    }
    assert!(start.elapsed() < PATIENCE);
}

fn an_unpark_before_the_park_is_not_lost(like: &Driver) {
    let driver = parked(like);
    let unparker = driver.unparker();
    for _ in 0..1000 {
        unparker.unpark();
        driver.park(None).unwrap();
        Waker::from(unparker.clone()).wake();
        driver.park(None).unwrap();
    }
}

fn unparks_are_merged(like: &Driver) {
    let driver = parked(like);
    let unparker = driver.unparker();
    driver.park(Some(Duration::ZERO)).unwrap();
    for _ in 0..10 {
        unparker.unpark();
    }
    driver.park(None).unwrap();
    let start = Instant::now();
    let mut parks = 0;
    while start.elapsed() < Duration::from_millis(50) {
        driver.park(Some(Duration::from_millis(50))).unwrap();
        parks += 1;
    }
    assert!(parks < 4, "{parks}: early returns for unparks that were used up");
}

fn an_unpark_from_another_thread_ends_the_sleep(like: &Driver) {
    let driver = parked(like);
    let unparker = driver.unparker();
    let (ask, asked) = channel::<()>();
    let other = thread::spawn(move || asked.iter().for_each(|()| unparker.unpark()));
    for _ in 0..5000 {
        ask.send(()).unwrap();
        driver.park(None).unwrap();
    }
    drop(ask);
    other.join().unwrap();
}

fn an_unpark_shows_what_was_written_before(like: &Driver) {
    const ROUNDS: usize = 20_000;
    let driver = parked(like);
    let unparker = driver.unparker();
    let written = Arc::new(AtomicUsize::new(0));
    let (writer, read) = (written.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = read.clone();
    let other = thread::spawn(move || {
        for round in 1..=ROUNDS {
            writer.store(round, std::sync::atomic::Ordering::Relaxed);
            unparker.unpark();
            if round % 64 == 0 {
                eventually("it was seen", || seen.load(SeqCst) >= round);
            }
        }
    });
    park_until(&driver, "all was seen", || {
        let now = written.load(std::sync::atomic::Ordering::Relaxed);
        read.store(now, SeqCst);
        now == ROUNDS
    });
    other.join().unwrap();
}

fn a_wake_ends_the_park(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&driver, &Driver::builder().background().unwrap());
    let (send, ask) = channel::<u64>();
    let other =
        thread::spawn(move || ask.iter().for_each(|n| handle.try_send(packet(n, 8)).unwrap()));
    let (woken, waker) = Woken::counting();
    for round in 0..1000 {
        let mut received = pin!(face.recv());
        assert!(poll_with(received.as_mut(), &waker).is_pending());
        let mut before = woken.calls();
        send.send(round).unwrap();
        // The future is polled only when it is woken, which may be a spurious wake.
        let packet = loop {
            park_until(&driver, "woken", || woken.calls() > before);
            before = woken.calls();
            if let Poll::Ready(packet) = poll_with(received.as_mut(), &waker) {
                break packet.unwrap();
            }
        };
        assert_eq!(number(&packet), round);
    }
    drop(send);
    other.join().unwrap();
}

fn a_park_inside_of_a_park_is_an_error(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&driver, &driver);
    let (inner, result) = (driver.clone(), Arc::new(Mutex::new(None)));
    let found = result.clone();
    let (_, waker) = Woken::with(move || {
        *found.lock().unwrap() = Some(inner.park(None));
    });
    let mut received = pin!(face.recv());
    assert!(poll_with(received.as_mut(), &waker).is_pending());
    handle.try_send(packet(1, 8)).unwrap();
    park_until(&driver, "woken", || result.lock().unwrap().is_some());
    let error = result.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!(kind(error), ErrorKind::ResourceBusy);
}

fn moving_from_thread_to_thread_loses_no_wake(like: &Driver) {
    const ROUNDS: u64 = 10_000;
    const EACH: u64 = 100;
    let driver = parked(like);
    let (face, handle) = ends(&Driver::builder().background().unwrap(), &driver);
    let echo = thread::spawn(move || pollster::block_on(echo(face)));
    // Three threads pass the future round, with its waits armed.
    let future = async move { ask(&handle, ROUNDS).await };
    type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
    let rings: Vec<(Sender<Task>, Receiver<Task>)> = (0..3).map(|_| channel()).collect();
    let senders: Vec<_> = rings.iter().map(|(sender, _)| sender.clone()).collect();
    let (finished, end) = channel();
    senders[0].send(Box::pin(future)).unwrap();
    for (place, (_, tasks)) in rings.into_iter().enumerate() {
        let (driver, next) = (driver.clone(), senders[(place + 1) % 3].clone());
        let finished = finished.clone();
        thread::spawn(move || {
            let waker = Waker::from(driver.unparker());
            for mut task in tasks {
                let mut polls = 0;
                loop {
                    if poll_with(task.as_mut(), &waker).is_ready() {
                        return finished.send(()).unwrap();
                    }
                    polls += 1;
                    if polls == EACH {
                        break;
                    }
                    driver.park(Some(PATIENCE)).unwrap();
                }
                if next.send(task).is_err() {
                    return;
                }
            }
        });
    }
    end.recv_timeout(PATIENCE * 6).expect("a wake was lost");
    drop(senders);
    drop(driver);
    assert_eq!(echo.join().unwrap(), ROUNDS);
}

fn threads_that_parked_may_exit(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&Driver::builder().background().unwrap(), &driver);
    let echo = thread::spawn(move || pollster::block_on(echo(face)));
    let (woken, waker) = Woken::counting();
    {
        let mut asking = pin!(ask(&handle, 200));
        let mut before = woken.calls();
        while poll_with(asking.as_mut(), &waker).is_pending() {
            let end = Instant::now() + PATIENCE;
            while woken.calls() == before {
                assert!(Instant::now() < end, "a wake was lost");
                let park = || driver.park(Some(PATIENCE));
                thread::scope(|scope| scope.spawn(park).join().unwrap()).unwrap();
            }
            before = woken.calls();
        }
    }
    drop(handle);
    assert_eq!(echo.join().unwrap(), 200);
}

/// Like an executor that parks with a timeout of zero, or after an unpark, between two tasks.
fn an_executor_that_never_sleeps_serves_its_channels(like: &Driver) {
    for unparks in [false, true] {
        let driver = parked(like);
        let background = Driver::builder().backend(like.backend()).background().unwrap();
        let (face, handle) = ends(&driver, &background);
        let (woken, waker) = Woken::counting();
        for n in 0..20 {
            let mut recv = pin!(face.recv());
            assert!(poll_with(recv.as_mut(), &waker).is_pending());
            let mut before = woken.calls();
            handle.try_send(packet(n, 8)).unwrap();
            let begun = Instant::now();
            let received = loop {
                assert!(begun.elapsed() < PATIENCE, "packet {n} did not wake the task");
                if unparks {
                    driver.unparker().unpark();
                    driver.park(None).unwrap();
                } else {
                    driver.park(Some(Duration::ZERO)).unwrap();
                }
                if std::mem::replace(&mut before, woken.calls()) != woken.calls()
                    && let Poll::Ready(received) = poll_with(recv.as_mut(), &waker)
                {
                    break received;
                }
            };
            assert_eq!(number(&received.unwrap()), n);
        }
    }
}

fn an_endpoint_may_be_dropped_while_its_driver_is_parked(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&driver, &driver);
    let stop = Arc::new(AtomicBool::new(false));
    let (clone, stopped, unparker) = (driver.clone(), stop.clone(), driver.unparker());
    let parker = thread::spawn(move || park_until(&clone, "stopped", || stopped.load(SeqCst)));
    for _ in 0..500 {
        drop(ends(&driver, &driver));
    }
    let (woken, waker) = Woken::counting();
    let mut received = pin!(handle.recv());
    assert!(poll_with(received.as_mut(), &waker).is_pending());
    drop(face);
    eventually("the other end learns of it", || woken.calls() > 0);
    assert!(poll_with(received.as_mut(), &waker).is_ready());
    stop.store(true, SeqCst);
    unparker.unpark();
    parker.join().unwrap();
}
