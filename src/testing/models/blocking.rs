//! Threads that block on an end and tasks that wait on it, in turn: the driver lets go of the bell
//! for the threads, and waits on it again for the tasks.

use std::pin::Pin;
use std::task::{Context, Waker};

use loom::thread;

use super::{ALL, FULL, Flag, channel, explore, packet};
use crate::api::endpoint::Endpoint;
use crate::driver::model::Driver;
use crate::error::CloseReason;
use crate::sync::Arc;

/// Runs the driver on a thread of its own while `f` runs.
fn run_beside(driver: Driver, f: impl FnOnce()) {
    let beside = {
        let driver = driver.clone();
        thread::spawn(move || driver.serve())
    };
    f();
    driver.stop();
    beside.join().unwrap();
}

/// Runs a task on a thread that does not run the end's driver.
fn task<T>(future: impl Future<Output = T>) -> T {
    Driver::new().block_on(future)
}

/// The driver lets the bell go, or is about to, while a task joins. At most 2 preemptions.
#[test]
fn a_task_that_receives_after_a_thread_has_misses_no_packet() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        let sender = thread::spawn(move || {
            (0..2).for_each(|n| face.try_send(packet(n)).unwrap());
            face
        });
        run_beside(driver, || {
            assert_eq!(handle.recv_blocking(), Some(packet(0)));
            assert_eq!(task(handle.recv()), Some(packet(1)));
        });
        sender.join().unwrap();
    });
}

/// As above, and a thread comes again, so that the bell is let go and waited on again. At most 2
/// preemptions.
#[test]
fn threads_and_tasks_that_receive_by_turns_miss_no_packet() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        let sender = thread::spawn(move || {
            (0..3).for_each(|n| face.try_send(packet(n)).unwrap());
            face
        });
        run_beside(driver, || {
            assert_eq!(task(handle.recv()), Some(packet(0)));
            assert_eq!(handle.recv_blocking(), Some(packet(1)));
            assert_eq!(task(handle.recv()), Some(packet(2)));
        });
        sender.join().unwrap();
    });
}

/// An end comes when the bell was let go, or is about to be. At most 2 preemptions.
#[test]
fn a_task_that_waits_after_a_thread_learns_of_the_end() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        handle.channel().leave_as_threads_do();
        let closer = thread::spawn(move || face.close());
        run_beside(driver, || assert_eq!(task(handle.closed()), CloseReason::Peer));
        closer.join().unwrap();
    });
}

/// A thread waits for room, then a task for a packet. At most 1 preemption.
#[test]
fn a_task_that_receives_after_a_thread_has_sent_misses_no_packet() {
    explore(Some(1), || {
        let [(face, _), (handle, driver)] = channel(64);
        (0..FULL).for_each(|n| handle.try_send(packet(n)).unwrap());
        let peer = thread::spawn(move || {
            (0..=FULL).for_each(|n| assert_eq!(receive(&face), packet(n)));
            face.try_send(packet(0)).unwrap();
            face
        });
        run_beside(driver, || {
            handle.send_blocking(packet(FULL)).unwrap();
            assert_eq!(task(handle.recv()), Some(packet(0)));
        });
        peer.join().unwrap();
    });
}

fn receive(end: &Endpoint) -> bytes::Bytes {
    end.recv_blocking().unwrap()
}

/// Two tasks of one end find that the bell was let go; one of them has the driver wait on it again,
/// for both. Every interleaving.
#[test]
fn two_tasks_that_come_after_a_thread_are_both_woken() {
    explore(ALL, || {
        let [(face, _), (handle, driver)] = channel(64);
        handle.channel().leave_as_threads_do();
        // Lets the bell go.
        driver.park();
        let handle = Arc::new(handle);
        let begin = |mut task: Pin<Box<dyn Future<Output = ()> + Send>>| {
            thread::spawn(move || {
                let woken = Flag::new();
                let waker = Waker::from(woken.clone());
                assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                (task, woken)
            })
        };
        let (one, other) = (handle.clone(), handle.clone());
        let receives = begin(Box::pin(async move { assert_eq!(one.recv().await, None) }));
        let waits = begin(Box::pin(async move {
            other.closed().await;
        }));
        let (_receive, received) = receives.join().unwrap();
        let (_wait, told) = waits.join().unwrap();
        face.close();
        while !received.is_set() || !told.is_set() {
            driver.park();
        }
    });
}

/// A task waits, then a thread comes and goes: the driver keeps the bell for the task. At most 2
/// preemptions.
#[test]
fn a_task_that_waits_while_a_thread_comes_and_goes_learns_of_the_end() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        let handle = Arc::new(handle);
        let waits = {
            let (handle, driver) = (handle.clone(), driver.clone());
            thread::spawn(move || {
                assert_eq!(task(handle.closed()), CloseReason::Peer);
                driver.stop();
            })
        };
        handle.channel().leave_as_threads_do();
        // Lets the bell go, or not.
        driver.park();
        face.close();
        driver.serve();
        waits.join().unwrap();
    });
}
