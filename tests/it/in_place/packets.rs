//! Packets that are read in place.

use std::mem;
use std::time::Duration;

use bytes::BufMut;
use futures::StreamExt;
use wakering::{CloseReason, Driver, Receiver, TryRecvError, TryReserveError};

use super::{commit, halves, small_halves};
use crate::common::{
    PATIENCE, SMALL, both_roles, fill_with, join, number, on_both_backends, packet, pair,
    poll_once, wait,
};

on_both_backends!(
    a_packet_that_is_dropped_wakes_a_parked_sender,
    a_forgotten_packet_is_given_back_by_the_next_receive_of_any_kind,
    a_held_packet_keeps_its_room,
    what_was_sent_before_the_end_can_be_read_in_place,
    a_stream_in_place_keeps_order_and_content,
    a_router_hands_packets_from_ring_to_ring,
    stats_count_packets_sent_in_place,
);

/// The sender waits in `send`, in `reserve`, or in one of their blocking forms.
fn a_packet_that_is_dropped_wakes_a_parked_sender(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let len = 504;
        let filled = fill_with(&here, len);
        let (mut tx, mut rx, _unused) = halves(here, there);
        let (stalls, stalled) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            for n in 0..40 {
                stalls.send(tx.stats().full_stalls).unwrap();
                let next = packet(filled + n, len);
                match n % 4 {
                    0 => wait("send", tx.send(next)).unwrap(),
                    1 => tx.send_blocking(next).unwrap(),
                    _ => {
                        let mut grant = if n % 4 == 2 {
                            wait("reserve", tx.reserve(len)).unwrap()
                        } else {
                            tx.reserve_blocking(len).unwrap()
                        };
                        grant.put(next);
                        grant.commit().unwrap();
                    }
                }
            }
            tx
        });
        for n in 0..40 {
            let held = rx.try_recv_ref().unwrap();
            assert_eq!(number(&held.to_bytes()), n);
            stalled.recv_timeout(PATIENCE).expect("the parked sender hangs");
            if n % 3 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            drop(held);
            // This side does nothing more: nothing touches the ring here until the sender is done.
        }
        let tx = join("sender", sender);
        for n in 40..40 + filled {
            assert_eq!(number(&rx.try_recv().unwrap()), n);
        }
        assert!(tx.stats().full_stalls > 0 && rx.is_empty());
    });
}

fn a_forgotten_packet_is_given_back_by_the_next_receive_of_any_kind(driver: &Driver) {
    type Receive = fn(&mut Receiver) -> bool;
    let receives: [Receive; 6] = [
        |rx| rx.try_recv().is_ok(),
        |rx| rx.try_recv_ref().is_ok(),
        |rx| poll_once(Box::pin(rx.recv()).as_mut()).is_ready(),
        |rx| poll_once(Box::pin(rx.recv_ref()).as_mut()).is_ready(),
        |rx| poll_once(Box::pin(rx.next()).as_mut()).is_ready(),
        |rx| poll_once(Box::pin(rx.recv_batch(&mut Vec::new(), 2)).as_mut()).is_ready(),
    ];
    for receive in receives {
        let (mut tx, mut rx, _unused) = small_halves(driver);
        let all = tx.free_bytes();
        tx.try_send(packet(0, 1000)).unwrap();
        mem::forget(rx.try_recv_ref().unwrap());
        assert!(rx.readable().is_none() && rx.is_empty(), "those take nothing");
        assert_eq!(tx.free_bytes(), all - 1008);
        assert!(!receive(&mut rx), "it comes once");
        assert_eq!(tx.free_bytes(), all);
        // The same if there is a next packet.
        tx.try_send(packet(1, 1000)).unwrap();
        tx.try_send(packet(2, 8)).unwrap();
        mem::forget(rx.try_recv_ref().unwrap());
        assert!(receive(&mut rx));
        assert_eq!(tx.free_bytes(), all);
    }
}

fn a_held_packet_keeps_its_room(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let mut next = 0;
    while commit(&mut tx, next, 504).is_ok() {
        next += 1;
    }
    let held = rx.try_recv_ref().unwrap();
    assert_eq!(tx.try_reserve(504).unwrap_err(), TryReserveError::Full);
    assert!(tx.try_send(packet(0, 504)).is_err());
    // The held packet does not change, whatever is written meanwhile.
    assert_eq!((number(&held.to_bytes()), held.len()), (0, 504));
    drop(held);
    commit(&mut tx, next, 504).unwrap();
    for n in 1..=next {
        assert_eq!(number(&rx.try_recv_ref().unwrap().to_bytes()), n);
    }
    assert_eq!(rx.try_recv_ref().unwrap_err(), TryRecvError::Empty);
}

fn what_was_sent_before_the_end_can_be_read_in_place(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    for n in 0..3 {
        commit(&mut tx, n, 100).unwrap();
    }
    drop(tx);
    assert_eq!(rx.readable(), Some(100));
    assert_eq!(number(&rx.try_recv_ref().unwrap().to_bytes()), 0);
    assert_eq!(number(&wait("recv_ref", rx.recv_ref()).unwrap().to_bytes()), 1);
    assert_eq!(number(&rx.recv_ref_blocking().unwrap().to_bytes()), 2);
    assert_eq!(rx.finished(), None);
    assert_eq!(rx.try_recv_ref().unwrap_err(), TryRecvError::Closed(CloseReason::Peer));
    assert_eq!(rx.finished(), Some(Ok(())));
    assert!(wait("recv_ref", rx.recv_ref()).is_none());
}

fn a_stream_in_place_keeps_order_and_content(driver: &Driver) {
    const PACKETS: u64 = 30_000;
    let len = |n: u64| 8 + usize::try_from(n * 37 % 700).unwrap();
    for blocking in [false, true] {
        let (mut tx, mut rx, _unused) = small_halves(driver);
        let sender = std::thread::spawn(move || {
            for n in 0..PACKETS {
                let reserved = len(n) + usize::try_from(n % 300).unwrap();
                let mut grant = if blocking {
                    tx.reserve_blocking(reserved).unwrap()
                } else {
                    wait("reserve", tx.reserve(reserved)).unwrap()
                };
                grant.put(packet(n, len(n)));
                grant.commit().unwrap();
            }
        });
        for n in 0..PACKETS {
            let packet = if blocking {
                rx.recv_ref_blocking().unwrap()
            } else {
                wait("recv_ref", rx.recv_ref()).unwrap()
            };
            assert_eq!(packet.len(), len(n));
            // SAFETY: the peer is a part of this test, and writes nowhere but where it may.
            assert_eq!(number(unsafe { packet.as_slice() }), n);
        }
        join("sender", sender);
        assert!(wait("the end", rx.recv_ref()).is_none());
    }
}

fn a_router_hands_packets_from_ring_to_ring(driver: &Driver) {
    const PACKETS: u64 = 5_000;
    let len = |n: u64| 8 + usize::try_from(n * 53 % 1000).unwrap();
    let (mut from, mut routed_in, _unused) = small_halves(driver);
    let (mut routed_out, mut to, _unused_too) = small_halves(driver);
    let source = std::thread::spawn(move || {
        for n in 0..PACKETS {
            wait("send", from.send(packet(n, len(n)))).unwrap();
        }
    });
    let router = std::thread::spawn(move || {
        while let Some(packet) = wait("recv_ref", routed_in.recv_ref()) {
            let mut grant = wait("reserve", routed_out.reserve(packet.len())).unwrap();
            grant.put_packet(&packet);
            assert!(!grant.has_remaining_mut());
            grant.commit().unwrap();
        }
    });
    for n in 0..PACKETS {
        let packet = wait("recv", to.recv()).unwrap();
        assert_eq!((number(&packet), packet.len()), (n, len(n)));
    }
    assert!(wait("the end", to.recv()).is_none());
    join("source", source);
    join("router", router);
}

fn stats_count_packets_sent_in_place(driver: &Driver) {
    let (face, handle) = pair(driver, SMALL);
    let (mut tx, mut rx, _unused) = halves(face.into(), handle.into());
    for n in 0..50 {
        commit(&mut tx, n, 100).unwrap();
        drop(rx.try_recv_ref().unwrap());
        drop(tx.try_reserve(100).unwrap());
    }
    let (sent, received) = (tx.stats(), rx.stats());
    assert_eq!((sent.packets_sent, sent.bytes_sent), (50, 5000));
    assert_eq!((received.packets_received, received.bytes_received), (50, 5000));
}
