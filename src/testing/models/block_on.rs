//! Futures that run on a driver, in the shipped `block_on`: a wake ends their thread's sleep, even
//! if another thread has used up the unpark that came with it.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use loom::thread;

use super::{ALL, Event, channel_on, explore, packet};
use crate::driver::model::Driver;

/// A wake comes from another thread at any moment.
#[test]
fn a_wake_from_another_thread_is_not_slept_over() {
    explore(ALL, || {
        let driver = Driver::that_spins();
        let event = Event::new();
        let other = event.clone();
        let waker = thread::spawn(move || other.happen());
        driver.as_shipped().block_on(event);
        waker.join().unwrap();
    });
}

/// Two threads are in `block_on` on one driver, and one of them runs it for both. A turn of one
/// thread uses up the unpark that was meant for the other. At most 2 preemptions.
#[test]
fn two_threads_on_one_driver_are_both_woken() {
    explore(Some(2), || {
        let driver = Driver::that_spins();
        let (first, second) = (Event::new(), Event::new());
        let other = {
            let (driver, second) = (driver.clone(), second.clone());
            thread::spawn(move || driver.as_shipped().block_on(second))
        };
        let waker = {
            let (first, second) = (first.clone(), second.clone());
            thread::spawn(move || {
                first.happen();
                second.happen();
            })
        };
        driver.as_shipped().block_on(first);
        other.join().unwrap();
        waker.join().unwrap();
    });
}

/// The future itself parks in the driver, and uses up an unpark that way. At most 3 preemptions.
#[test]
fn a_future_that_parks_in_its_own_driver_is_polled_again() {
    explore(Some(3), || {
        let driver = Driver::that_spins();
        let event = Event::new();
        let other = event.clone();
        let waker = thread::spawn(move || other.happen());
        let mut event = pin!(event);
        driver.as_shipped().block_on(std::future::poll_fn(|cx| {
            let polled = event.as_mut().poll(cx);
            driver.as_shipped().park(Some(Duration::ZERO)).unwrap();
            polled
        }));
        waker.join().unwrap();
    });
}

/// The future wakes itself and then sleeps in its own driver: that wake ends the sleep.
#[test]
fn a_future_that_wakes_itself_and_parks_is_polled_again() {
    explore(ALL, || {
        let driver = Driver::that_spins();
        let mut polls = 0;
        driver.as_shipped().block_on(std::future::poll_fn(|cx| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            driver.as_shipped().park(None).unwrap();
            Poll::Pending
        }));
    });
}

/// A future that has woken itself lets the driver check once, and is polled again.
#[test]
fn a_future_that_wakes_itself_lets_packets_in() {
    explore(Some(3), || {
        let [(face, _), (handle, driver)] = channel_on(64, Driver::that_spins);
        let sender = thread::spawn(move || {
            face.try_send(packet(0)).unwrap();
            face
        });
        let mut polls = 0;
        let mut recv = pin!(handle.recv());
        driver.as_shipped().block_on(std::future::poll_fn(|cx| {
            polls += 1;
            match recv.as_mut().poll(cx) {
                Poll::Ready(received) => Poll::Ready(assert_eq!(received, Some(packet(0)))),
                Poll::Pending => {
                    if polls < 3 {
                        cx.waker().wake_by_ref();
                    }
                    Poll::Pending
                }
            }
        }));
        sender.join().unwrap();
    });
}
