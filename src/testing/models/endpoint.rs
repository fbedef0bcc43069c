//! Shipped ends, each run on a driver of its own: how they close, and who is told.

use loom::thread;

use super::{FULL, channel, explore, fill, packet, ping_pong, receive};
use crate::api::endpoint::Endpoint;
use crate::error::{CloseReason, ShmError, TryRecvError};
use crate::sync::Arc;

/// Takes what is there, in order, and returns how many packets that were.
fn drain(end: &Endpoint, first: u8) -> u8 {
    let mut next = first;
    while let Ok(received) = end.try_recv() {
        assert_eq!(received, packet(next));
        next += 1;
    }
    next - first
}

fn reason(sent: Result<(), ShmError>) -> CloseReason {
    match sent {
        Err(ShmError::Closed { reason, .. }) => reason,
        other => panic!("expected an end, got {other:?}"),
    }
}

/// Requests and answers: each end sends and receives in turn. At most 2 preemptions.
#[test]
fn ends_that_answer_each_other_never_both_sleep() {
    explore(Some(2), || ping_pong(channel(64)));
}

/// More packets than fit, so that both sleep in turn. No timer fires: the receiver parks at the
/// end, and wakes the sender then. At most 2 preemptions.
#[test]
fn a_stream_longer_than_the_ring_gets_through() {
    explore(Some(2), || {
        let [(face, driver), (handle, other)] = channel(64);
        fill(&face, FULL - 1);
        let sender = thread::spawn(move || {
            driver.block_on(async {
                for n in FULL - 1..=FULL {
                    face.send(packet(n)).await.unwrap();
                }
            });
        });
        other.block_on(async {
            receive(&handle, 0..=FULL).await;
        });
        sender.join().unwrap();
    });
}

/// The receiver takes once and goes away without a fence. It may have missed the sender's bit; then
/// the timer of the sender's second look fires. At most 3 preemptions.
#[test]
fn a_taker_that_goes_away_leaves_no_sender_asleep() {
    explore(Some(3), || {
        let [(face, driver), (handle, _other)] = channel(64);
        fill(&face, FULL);
        let clock = driver.clone();
        let sender = thread::spawn(move || {
            driver.block_on(face.send(packet(FULL))).unwrap();
            face
        });
        assert_eq!(handle.try_recv(), Ok(packet(0)));
        clock.let_time_pass();
        let _face = sender.join().unwrap();
        assert_eq!(drain(&handle, 1), FULL);
    });
}

/// The peer's close comes while the receiver is about to sleep, or sleeps, or not yet: the receiver
/// gets all that was sent, then the end. At most 3 preemptions.
#[test]
fn a_close_ends_a_parking_receiver_after_the_last_packet() {
    explore(Some(3), || {
        let [(face, _), (handle, driver)] = channel(64);
        let closer = thread::spawn(move || {
            face.try_send(packet(0)).unwrap();
            face.close();
        });
        assert_eq!(driver.block_on(handle.recv()), Some(packet(0)));
        assert_eq!(driver.block_on(handle.recv()), None);
        assert_eq!(handle.close_reason(), Some(CloseReason::Peer));
        closer.join().unwrap();
    });
}

/// As above, by dropping the end. At most 2 preemptions.
#[test]
fn a_drop_ends_a_parking_receiver_after_the_last_packet() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        let dropper = thread::spawn(move || {
            face.try_send(packet(0)).unwrap();
            drop(face);
        });
        assert_eq!(driver.block_on(handle.recv()), Some(packet(0)));
        assert_eq!(driver.block_on(handle.recv()), None);
        assert_eq!(handle.close_reason(), Some(CloseReason::Peer));
        dropper.join().unwrap();
    });
}

/// The peer's close meets a send that is about to wait for room, or waits. At most 3 preemptions.
#[test]
fn a_close_ends_a_parking_sender() {
    explore(Some(3), || {
        let [(face, driver), (handle, _)] = channel(64);
        fill(&face, FULL);
        let closer = thread::spawn(move || {
            handle.close();
            handle
        });
        assert_eq!(reason(driver.block_on(face.send(packet(FULL)))), CloseReason::Peer);
        closer.join().unwrap();
    });
}

/// The peer's cancel, as above, and before or after the packet. At most 3 preemptions.
#[test]
fn a_cancel_ends_a_parking_receiver() {
    explore(Some(3), || {
        let [(face, _), (handle, driver)] = channel(64);
        let canceller = thread::spawn(move || {
            face.try_send(packet(0)).unwrap();
            face.cancel();
            face
        });
        if let Some(received) = driver.block_on(handle.recv()) {
            assert_eq!(received, packet(0));
            assert_eq!(driver.block_on(handle.recv()), None);
        }
        assert_eq!(handle.close_reason(), Some(CloseReason::Cancelled));
        canceller.join().unwrap();
    });
}

/// The peer's cancel meets a task in each direction. At most 2 preemptions.
#[test]
fn a_cancel_ends_both_directions_of_a_parking_peer() {
    explore(Some(2), || {
        let [(face, driver), (handle, _)] = channel(64);
        fill(&face, FULL);
        let canceller = thread::spawn(move || {
            handle.cancel();
            handle
        });
        driver.run([
            Box::pin(async {
                assert_eq!(reason(face.send(packet(FULL)).await), CloseReason::Cancelled);
            }) as _,
            Box::pin(async { assert_eq!(face.recv().await, None) }) as _,
        ]);
        canceller.join().unwrap();
    });
}

/// A canceller of our own, used on another thread than the one that waits, in both directions. At
/// most 2 preemptions.
#[test]
fn a_canceller_ends_what_waits_on_another_thread() {
    explore(Some(2), || {
        let [(face, driver), (_handle, _)] = channel(64);
        fill(&face, FULL);
        let canceller = face.canceller();
        let elsewhere = thread::spawn(move || canceller.cancel());
        driver.run([
            Box::pin(async {
                assert_eq!(reason(face.send(packet(FULL)).await), CloseReason::Cancelled);
            }) as _,
            Box::pin(async { assert_eq!(face.recv().await, None) }) as _,
            Box::pin(async { assert_eq!(face.closed().await, CloseReason::Cancelled) }) as _,
        ]);
        elsewhere.join().unwrap();
    });
}

/// `close` on one thread, `try_send` on another: a packet whose send returned `Ok` is received,
/// even by a peer that looks as soon as `close` has returned. Every interleaving.
#[test]
fn no_packet_is_taken_after_a_close() {
    explore(super::ALL, || {
        let [(face, _), (handle, _)] = channel(64);
        let face = Arc::new(face);
        let sender = {
            let face = face.clone();
            thread::spawn(move || face.try_send(packet(0)).is_ok())
        };
        face.close();
        let received = drain(&handle, 0);
        assert!(handle.is_closed());
        assert_eq!(u8::from(sender.join().unwrap()), received);
    });
}

/// As above, with a send that waits for room; the peer makes room just before the close. At most 2
/// preemptions.
#[test]
fn no_waiting_send_is_ok_after_a_close() {
    explore(Some(2), || {
        let [(face, driver), (handle, _)] = channel(64);
        fill(&face, FULL);
        let face = Arc::new(face);
        let sender = {
            let face = face.clone();
            thread::spawn(move || driver.block_on(face.send(packet(FULL))).is_ok())
        };
        assert_eq!(handle.try_recv(), Ok(packet(0)));
        face.close();
        let received = drain(&handle, 1);
        assert_eq!(u8::from(sender.join().unwrap()), received - (FULL - 1));
    });
}

/// A local close ends the tasks of this end that wait on another thread. At most 2 preemptions.
#[test]
fn a_close_ends_what_waits_on_another_thread() {
    explore(Some(2), || {
        let [(face, driver), (_handle, _)] = channel(64);
        let face = Arc::new(face);
        let closer = {
            let face = face.clone();
            thread::spawn(move || face.close())
        };
        driver.run([
            Box::pin(async { assert_eq!(face.recv().await, None) }) as _,
            Box::pin(async { assert_eq!(face.closed().await, CloseReason::Local) }) as _,
        ]);
        closer.join().unwrap();
    });
}

/// The peer's receiver ends in order, then its sender is cut off in the middle of its stream.
/// However much of that is seen at a time, the orderly end hides no cancel. At most 2 preemptions.
#[test]
fn a_half_close_hides_no_cancel() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        let peer = thread::spawn(move || {
            let (mut tx, rx) = face.into_split();
            drop(rx);
            tx.try_send(packet(0)).unwrap();
            tx.cancel();
        });
        driver.run([
            Box::pin(async {
                while let Some(received) = handle.recv().await {
                    assert_eq!(received, packet(0));
                }
                assert_eq!(handle.finished(), Some(Err(CloseReason::Cancelled)));
                assert_eq!(handle.close_reason(), Some(CloseReason::Cancelled));
            }) as _,
            Box::pin(async { assert_eq!(handle.closed().await, CloseReason::Cancelled) }) as _,
        ]);
        peer.join().unwrap();
    });
}

/// The peer's halves are dropped on two threads. A task that waits for the end of the channel is
/// woken by the second drop, and not sent to sleep by the first. At most 2 preemptions.
#[test]
fn closed_is_woken_by_the_second_of_two_half_closes() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        let (tx, rx) = face.into_split();
        let first = thread::spawn(move || drop(rx));
        let second = thread::spawn(move || drop(tx));
        assert_eq!(driver.block_on(handle.closed()), CloseReason::Peer);
        assert_eq!(handle.try_recv(), Err(TryRecvError::Closed(CloseReason::Peer)));
        assert_eq!(reason(handle.try_send(packet(0)).map_err(ShmError::from)), CloseReason::Peer);
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// Two threads ask why the channel has ended. Meanwhile the peer, after an orderly close, cuts off
/// what was not read. Both threads get one answer, and get it again; a receiver that was cut off
/// says so. At most 2 preemptions.
#[test]
fn a_reason_that_was_told_does_not_change() {
    explore(Some(2), || {
        let [(face, _), (handle, _)] = channel(64);
        face.try_send(packet(0)).unwrap();
        face.close();
        let handle = Arc::new(handle);
        let peer = thread::spawn(move || face.cancel());
        let asks = {
            let handle = handle.clone();
            thread::spawn(move || handle.close_reason())
        };
        let told = handle.close_reason();
        let received = handle.try_recv();
        assert!(told.is_some() && asks.join().unwrap() == told && handle.close_reason() == told);
        assert!(handle.try_recv().is_err());
        match handle.finished() {
            Some(Ok(())) => assert_eq!(received, Ok(packet(0))),
            Some(Err(reason)) => assert_eq!(reason, CloseReason::Cancelled),
            None => panic!("the end was told"),
        }
        peer.join().unwrap();
    });
}
