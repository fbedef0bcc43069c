//! The shipped halves: feed, `poll_ready`, flush and close of the `Sink`, also when it is full, and
//! how a half ends.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::BufMut;
use futures::{Sink, SinkExt, StreamExt};
use loom::thread;

use super::{FULL, channel, explore, packet};
use crate::api::receiver::Receiver;
use crate::api::sender::Sender;
use crate::driver::model::Driver;
use crate::error::{CloseReason, ShmError};

/// Returns both halves of both ends, and the driver of each end.
fn halves() -> [(Sender, Receiver, Driver); 2] {
    channel(64).map(|(end, driver)| {
        let (tx, rx) = end.into_split();
        (tx, rx, driver)
    })
}

/// Feeds `count` packets. The sink holds the last one back if it does not fit.
fn feed(tx: &mut Sender, count: u8) {
    for n in 0..count {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(tx.poll_ready_unpin(&mut cx).is_ready());
        tx.start_send_unpin(packet(n)).unwrap();
    }
}

/// Asserts that the next packets of the stream are these.
async fn receive(rx: &mut Receiver, packets: std::ops::Range<u8>) {
    for n in packets {
        assert_eq!(rx.next().await.unwrap().unwrap(), packet(n));
    }
}

/// What `forward` does: ready and send again and again, one flush and a close, into a ring that
/// becomes full. All packets arrive in order, then the end. At most 2 preemptions.
#[test]
fn all_that_is_fed_arrives_and_then_the_end() {
    explore(Some(2), || {
        let [(mut tx, _face_rx, driver), (_handle_tx, mut rx, other)] = halves();
        let sender = thread::spawn(move || {
            driver.block_on(async {
                for n in 0..=FULL {
                    tx.feed(packet(n)).await.unwrap();
                }
                tx.flush().await.unwrap();
                tx.close().await.unwrap();
            });
            tx
        });
        other.block_on(async {
            receive(&mut rx, 0..FULL + 1).await;
            assert!(rx.next().await.is_none());
        });
        sender.join().unwrap();
    });
}

/// The receiver is woken for what was fed, even without a flush: for a packet that fits, and for
/// those before a packet that is held back, after which `poll_ready` is pending. At most 2
/// preemptions.
#[test]
fn nobody_sleeps_over_what_was_fed_and_not_flushed() {
    for fed in [1, FULL + 2] {
        explore(Some(2), move || {
            let [(mut tx, _face_rx, _), (_handle_tx, mut rx, other)] = halves();
            let sender = thread::spawn(move || {
                let mut cx = Context::from_waker(Waker::noop());
                for n in 0..fed {
                    if tx.poll_ready_unpin(&mut cx).is_pending() {
                        break;
                    }
                    tx.start_send_unpin(packet(n)).unwrap();
                }
                // The sender never touches the sink again.
                tx
            });
            other.block_on(receive(&mut rx, 0..fed.min(FULL)));
            let _tx = sender.join().unwrap();
        });
    }
}

/// A full sink waits for room in `poll_ready`, `poll_flush` and `poll_close` alike. Then the packet
/// that it held back is sent. At most 2 preemptions.
#[test]
fn a_full_sink_is_woken_for_room() {
    for step in [Sink::poll_ready, Sink::poll_flush, Sink::poll_close] {
        explore(Some(2), move || {
            let [(mut tx, _face_rx, driver), (_handle_tx, mut rx, other)] = halves();
            feed(&mut tx, FULL + 1);
            let sender = thread::spawn(move || {
                driver.block_on(poll_fn(|cx| step(Pin::new(&mut tx), cx))).unwrap();
                tx
            });
            other.block_on(receive(&mut rx, 0..FULL + 1));
            sender.join().unwrap();
        });
    }
}

/// As with a whole end: the check of the sender's bit is not fenced, so a taker that goes away may
/// miss it. Then the sink's own second look finds the room. At most 3 preemptions.
#[test]
fn a_taker_that_goes_away_leaves_no_sink_asleep() {
    explore(Some(3), || {
        let [(mut tx, _face_rx, driver), (_handle_tx, mut rx, _other)] = halves();
        feed(&mut tx, FULL + 1);
        let clock = driver.clone();
        let sender = thread::spawn(move || {
            driver.block_on(tx.flush()).unwrap();
            tx
        });
        assert_eq!(rx.try_recv(), Ok(packet(0)));
        clock.let_time_pass();
        let _tx = sender.join().unwrap();
        assert!((1..=FULL).all(|n| rx.try_recv() == Ok(packet(n))));
    });
}

/// A close of a sink that holds a packet back: the packet, then the end. At most 2 preemptions.
#[test]
fn a_close_sends_the_held_packet_first() {
    explore(Some(2), || {
        let [(mut tx, _face_rx, driver), (_handle_tx, mut rx, other)] = halves();
        feed(&mut tx, FULL + 1);
        let sender = thread::spawn(move || {
            driver.block_on(tx.close()).unwrap();
            tx
        });
        other.block_on(async {
            receive(&mut rx, 0..FULL + 1).await;
            assert!(rx.next().await.is_none());
        });
        sender.join().unwrap();
    });
}

/// The peer drops its receiver while the sink is full. At most 3 preemptions.
#[test]
fn the_end_of_a_receiver_ends_a_full_sink() {
    explore(Some(3), || {
        let [(mut tx, _face_rx, driver), (_handle_tx, rx, _)] = halves();
        feed(&mut tx, FULL + 1);
        let dropper = thread::spawn(move || drop(rx));
        let ended = driver.block_on(poll_fn(|cx| tx.poll_flush_unpin(cx)));
        assert!(matches!(ended, Err(ShmError::Closed { reason: CloseReason::Peer, .. })));
        dropper.join().unwrap();
    });
}

/// One direction ends while the peer parks in it; the other continues. At most 2 preemptions.
#[test]
fn a_half_close_leaves_the_other_direction_open() {
    explore(Some(2), || {
        let [(mut tx, mut face_rx, driver), (mut handle_tx, mut rx, other)] = halves();
        let face = thread::spawn(move || {
            driver.block_on(async {
                tx.feed(packet(0)).await.unwrap();
                drop(tx);
                receive(&mut face_rx, 1..2).await;
                assert!(face_rx.next().await.is_none());
            });
        });
        other.block_on(async {
            receive(&mut rx, 0..1).await;
            assert!(rx.next().await.is_none());
            handle_tx.feed(packet(1)).await.unwrap();
            handle_tx.close().await.unwrap();
        });
        face.join().unwrap();
    });
}

/// A stream that is cut off reports it, once, before its end. At most 3 preemptions.
#[test]
fn a_cancelled_stream_yields_an_error_first() {
    explore(Some(3), || {
        let [(mut tx, _face_rx, _), (_handle_tx, mut rx, other)] = halves();
        let canceller = thread::spawn(move || {
            tx.start_send_unpin(packet(0)).unwrap();
            tx.cancel();
            tx
        });
        other.block_on(async {
            let mut next = rx.next().await;
            if let Some(Ok(received)) = &next {
                assert_eq!(*received, packet(0));
                next = rx.next().await;
            }
            let reason = CloseReason::Cancelled;
            assert!(matches!(next, Some(Err(ShmError::Closed { reason: r, .. })) if r == reason));
            assert!(rx.next().await.is_none());
        });
        canceller.join().unwrap();
    });
}

/// Packets that are written and read in place, with a full ring: packets that are given back wake a
/// sender that waits for room. At most 2 preemptions.
#[test]
fn what_is_written_in_place_is_read_in_place() {
    explore(Some(2), || {
        let [(mut tx, _face_rx, driver), (_handle_tx, mut rx, other)] = halves();
        feed(&mut tx, FULL);
        let sender = thread::spawn(move || {
            driver.block_on(async {
                let mut grant = tx.reserve(8).await.unwrap();
                grant.put_slice(&packet(FULL));
                grant.commit().unwrap();
            });
            tx
        });
        other.block_on(async {
            for n in 0..=FULL {
                let received = rx.recv_ref().await.unwrap();
                assert_eq!(received.to_bytes(), packet(n));
            }
        });
        sender.join().unwrap();
    });
}
