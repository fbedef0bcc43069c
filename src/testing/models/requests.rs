//! Ends whose tasks ask the driver to spin before it sleeps. The driver checks hints, and before it
//! sleeps it wakes the tasks to check for themselves.

use std::pin::pin;
use std::task::{Context, Waker};

use loom::thread;

use super::{
    Ends, both_threads_receive, learns_of_the_end, leaves_no_sender_asleep, misses_no_packet,
};
use super::{FULL, channel_on, explore, fill, fill_elsewhere, packet, ping_pong, receive};
use crate::api::endpoint::Endpoint;
use crate::driver::model::Driver;
use crate::error::CloseReason;
use crate::sync::Arc;

/// Returns both ends of a channel, each with a driver that spins.
fn channel() -> Ends {
    channel_on(64, Driver::that_spins)
}

/// A packet comes before, during or after what the driver does before it sleeps. At most 3
/// preemptions.
#[test]
fn a_receiver_whose_driver_spins_misses_no_packet() {
    explore(Some(3), || misses_no_packet(channel()));
}

/// As above, with an end or a cancel. At most 3 preemptions.
#[test]
fn a_receiver_whose_driver_spins_learns_of_the_end() {
    for cancel in [false, true] {
        explore(Some(3), move || learns_of_the_end(channel(), cancel));
    }
}

/// The peer waits for room meanwhile; what it wants was taken before the task parked. At most 2
/// preemptions.
#[test]
fn a_receiver_whose_driver_spins_leaves_no_sender_asleep() {
    explore(Some(2), || leaves_no_sender_asleep(channel()));
}

/// Each end answers the other, and both drivers spin. At most 2 preemptions.
#[test]
fn ends_whose_drivers_spin_never_both_sleep() {
    explore(Some(2), || ping_pong(channel()));
}

/// A thread that does not run the driver also receives, and may find it asleep. At most 2
/// preemptions.
#[test]
fn a_receiver_on_another_thread_than_its_driver_is_woken() {
    explore(Some(2), || both_threads_receive(channel()));
}

/// A task, whose driver spins, and a thread both wait for packets on one end, and each gets one:
/// neither takes the other's wake. At most 2 preemptions.
#[test]
fn a_task_and_a_thread_that_receive_on_one_end_are_both_woken() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel();
        let handle = Arc::new(handle);
        let sender = fill_elsewhere(face, 2);
        let receiver = {
            let handle = handle.clone();
            thread::spawn(move || assert!(handle.recv_blocking().is_some()))
        };
        driver.block_on(async { assert!(handle.recv().await.is_some()) });
        receiver.join().unwrap();
        sender.join().unwrap();
    });
}

/// A thread blocks on an end whose task has asked the driver to spin; the driver is not run again.
/// At most 2 preemptions.
#[test]
fn a_thread_counts_on_no_driver_that_was_asked_to_spin() {
    for gives_up in [false, true] {
        explore(Some(2), move || {
            let [(face, _), (handle, driver)] = channel();
            let handle = Arc::new(handle);
            let blocked = {
                let handle = handle.clone();
                thread::spawn(move || assert_eq!(handle.recv_blocking(), Some(packet(0))))
            };
            let sender = fill_elsewhere(face, 1);
            // Polled once, while the driver is awake; the driver stays or is dropped.
            let mut recv = pin!(handle.recv());
            let polled = recv.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if gives_up {
                drop(driver);
            }
            if polled.is_pending() {
                blocked.join().unwrap();
            } else {
                // The task was faster; the thread must be sent another packet.
                sender.join().unwrap().try_send(packet(0)).unwrap();
                return blocked.join().unwrap();
            }
            sender.join().unwrap();
        });
    }
}

/// A thread waits for room while a task of the same end, whose driver spins, waits for a packet. At
/// most 1 preemption.
#[test]
fn a_thread_that_sends_beside_a_task_that_receives_is_woken() {
    explore(Some(1), || {
        let [(face, driver), (handle, other)] = channel();
        let face = Arc::new(face);
        fill(&face, FULL);
        let sender = {
            let face = face.clone();
            thread::spawn(move || face.send_blocking(packet(FULL)).unwrap())
        };
        let peer = thread::spawn(move || {
            other.block_on(async {
                receive(&handle, 0..=FULL).await;
                handle.send(packet(9)).await.unwrap();
            });
            handle
        });
        driver.block_on(async { assert_eq!(face.recv().await, Some(packet(9))) });
        sender.join().unwrap();
        peer.join().unwrap();
    });
}

/// A local end comes from another thread at any moment: between the task's check and its
/// registration, or as the driver goes to sleep. At most 3 preemptions.
#[test]
fn an_end_from_another_thread_reaches_a_receiver_whose_driver_spins() {
    fn cancel(end: &Endpoint) {
        end.canceller().cancel();
    }
    fn close(end: &Endpoint) {
        end.close();
    }
    for (end, reason) in [
        (cancel as fn(&Endpoint), CloseReason::Cancelled),
        (close as fn(&Endpoint), CloseReason::Local),
    ] {
        explore(Some(3), move || {
            let [(face, _), (handle, driver)] = channel();
            let handle = Arc::new(handle);
            let ender = {
                let handle = handle.clone();
                thread::spawn(move || end(&handle))
            };
            assert_eq!(driver.block_on(handle.recv()), None);
            assert_eq!(handle.close_reason(), Some(reason));
            ender.join().unwrap();
            drop(face);
        });
    }
}

/// The last handle to the driver is dropped while a task elsewhere polls its receive: before it
/// checks, before it registers, or after. At most 3 preemptions.
#[test]
fn a_receiver_learns_that_its_driver_is_gone() {
    explore(Some(3), || {
        let [(face, _driver), (handle, driver)] = super::unkept(64, Driver::that_spins);
        let dropper = thread::spawn(move || drop(driver));
        // With a driver of its own, to which no end is bound.
        assert_eq!(Driver::new().block_on(handle.recv()), None);
        assert_eq!(handle.close_reason(), Some(CloseReason::DriverGone));
        dropper.join().unwrap();
        drop(face);
    });
}

/// The packet comes while the driver is unparked at any moment. At most 3 preemptions.
#[test]
fn a_receiver_whose_driver_is_unparked_misses_no_packet() {
    explore(Some(3), || {
        let [(face, _), (handle, driver)] = channel();
        let unparker = driver.as_shipped().unparker();
        let other = thread::spawn(move || {
            face.try_send(packet(0)).unwrap();
            unparker.unpark();
            face
        });
        assert_eq!(driver.block_on(handle.recv()), Some(packet(0)));
        other.join().unwrap();
    });
}

/// A driver that is kept awake by unparks still checks the hints.
#[test]
fn a_park_that_finds_an_unpark_looks_at_the_hints() {
    explore(super::ALL, || {
        let [(face, _), (handle, driver)] = channel();
        let mut recv = pin!(handle.recv());
        let woken = super::Flag::new();
        let waker = Waker::from(woken.clone());
        // The driver has made its ring, and knows its end.
        driver.as_shipped().park(Some(std::time::Duration::ZERO)).unwrap();
        assert!(recv.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        fill_elsewhere(face, 1).join().unwrap();
        driver.as_shipped().unparker().unpark();
        driver.as_shipped().park(None).unwrap();
        assert!(woken.is_set());
    });
}

/// The hint is wrong: it looks at the place where the first task found nothing, and a thread has
/// taken the packet that came there since. The next packet is elsewhere, and the task gets it. At
/// most 2 preemptions.
#[test]
fn a_hint_that_went_stale_costs_no_packet() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel();
        let handle = Arc::new(handle);
        let taker = {
            let handle = handle.clone();
            thread::spawn(move || {
                face.try_send(packet(0)).unwrap();
                let taken = handle.try_recv();
                face.try_send(packet(1)).unwrap();
                (face, taken.is_ok())
            })
        };
        let received = driver.block_on(handle.recv());
        let (_face, was_taken) = taker.join().unwrap();
        assert_eq!(received, Some(packet(u8::from(was_taken))));
    });
}
