//! Receivers that leave their part of parking to a driver that is parked in: it looks, then arms
//! the bell, looks a last time, and sleeps.

use loom::thread;

use super::{FULL, channel_on, explore, packet};
use crate::driver::{Driver, Task};
use crate::error::CloseReason;
use crate::sync::Arc;

/// A packet comes before or amid what the driver does before it sleeps, or behind it. At most 3
/// preemptions.
#[test]
fn a_receiver_that_its_driver_attends_to_misses_no_packet() {
    explore(Some(3), || {
        let [(face, _), (handle, driver)] = channel_on(64, Driver::that_attends);
        let sender = thread::spawn(move || {
            (0..2).for_each(|n| face.try_send(packet(n)).unwrap());
            face
        });
        driver.block_on(async {
            for n in 0..2 {
                assert_eq!(handle.recv().await, Some(packet(n)));
            }
        });
        sender.join().unwrap();
    });
}

/// An end comes then, or a cancel. At most 3 preemptions.
#[test]
fn a_receiver_that_its_driver_attends_to_learns_of_the_end() {
    for cancel in [false, true] {
        explore(Some(3), move || {
            let [(face, _), (handle, driver)] = channel_on(64, Driver::that_attends);
            let closer = thread::spawn(move || {
                if cancel {
                    face.cancel()
                } else {
                    face.close()
                };
                face
            });
            assert_eq!(driver.block_on(handle.recv()), None);
            let reason = if cancel { CloseReason::Cancelled } else { CloseReason::Peer };
            assert_eq!(handle.close_reason(), Some(reason));
            closer.join().unwrap();
        });
    }
}

/// The peer waits for room meanwhile; what it wants was taken before the task left its waiting to
/// the driver. At most 2 preemptions.
#[test]
fn a_receiver_that_its_driver_attends_to_leaves_no_sender_asleep() {
    explore(Some(2), || {
        let [(face, other), (handle, driver)] = channel_on(64, Driver::that_attends);
        (0..FULL).for_each(|n| face.try_send(packet(n)).unwrap());
        let sender = thread::spawn(move || {
            other.block_on(face.send(packet(FULL))).unwrap();
            face
        });
        driver.block_on(async {
            for n in 0..=FULL {
                assert_eq!(handle.recv().await, Some(packet(n)));
            }
        });
        sender.join().unwrap();
    });
}

/// Each end answers the other, and both drivers attend. At most 2 preemptions.
#[test]
fn ends_whose_drivers_attend_never_both_sleep() {
    explore(Some(2), || {
        let [(face, driver), (handle, other)] = channel_on(64, Driver::that_attends);
        let peer = thread::spawn(move || {
            other.block_on(async {
                for n in 0..2 {
                    assert_eq!(handle.recv().await, Some(packet(n)));
                    handle.send(packet(n)).await.unwrap();
                }
            });
        });
        driver.block_on(async {
            for n in 0..2 {
                face.send(packet(n)).await.unwrap();
                assert_eq!(face.recv().await, Some(packet(n)));
            }
        });
        peer.join().unwrap();
    });
}

/// A thread that does not run the driver receives as well, and may find it asleep. At most 2
/// preemptions.
#[test]
fn a_receiver_on_another_thread_than_its_driver_is_woken() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel_on(64, Driver::that_attends);
        let handle = Arc::new(handle);
        let sender = thread::spawn(move || {
            (0..2).for_each(|n| face.try_send(packet(n)).unwrap());
            face
        });
        let (done, is_done) = futures::channel::oneshot::channel();
        let elsewhere = {
            let handle = handle.clone();
            thread::spawn(move || {
                assert!(Driver::new().block_on(handle.recv()).is_some());
                done.send(()).unwrap();
            })
        };
        driver.run([
            Box::pin(async { assert!(handle.recv().await.is_some()) }) as Task<'_>,
            Box::pin(async { is_done.await.unwrap() }),
        ]);
        elsewhere.join().unwrap();
        sender.join().unwrap();
    });
}
