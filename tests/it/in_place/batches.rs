//! Batches: grants that are published together.

use std::mem;
use std::ops::Range;

use bytes::BufMut;
use futures::SinkExt;
use wakering::{
    Batch, CloseReason, Driver, Grant, Receiver, Sender, ShmError, TryRecvError, TryReserveError,
};

use super::{commit, halves, lend, small_halves};
use crate::common::{SMALL, both_roles, eventually, join, number, on_both_backends, packet, wait};

on_both_backends!(
    a_batch_is_visible_once_it_is_published,
    a_batch_is_published_before_it_waits_for_room,
    a_leaked_batch_is_published_with_what_comes_next,
    a_batch_ends_with_the_channel,
);

/// Writes numbered packets of 64 bytes in place, as parts of a batch.
fn commit_to(batch: &mut Batch<'_>, numbers: Range<u64>) {
    for n in numbers {
        let mut grant = batch.try_reserve(64).unwrap();
        grant.put(packet(n, 64));
        grant.commit().unwrap();
    }
}

fn assert_come(rx: &mut Receiver, numbers: Range<u64>) {
    for n in numbers {
        assert_eq!(number(&rx.try_recv_ref().unwrap().to_bytes()), n);
    }
    assert!(rx.is_empty());
}

/// A batch is published by `publish`, by a drop, and by itself once an eighth of the ring is
/// withheld. A sleeping peer is woken once for all of its packets.
fn a_batch_is_visible_once_it_is_published(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx, (_unused_rx, unused_tx)) = halves(here, there);
        let mut batch = tx.batch();
        commit_to(&mut batch, 0..3);
        assert!(rx.is_empty());
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        batch.publish().unwrap();
        assert_come(&mut rx, 0..3);
        commit_to(&mut batch, 3..5);
        assert!(rx.is_empty());
        drop(batch);
        assert_come(&mut rx, 3..5);

        // A record has 72 bytes, and an eighth of the ring 512.
        let mut batch = tx.batch();
        commit_to(&mut batch, 5..12);
        assert!(rx.is_empty());
        commit_to(&mut batch, 12..13);
        assert_come(&mut rx, 5..13);
        drop(batch);

        let receiver = std::thread::spawn(move || {
            let first = rx.recv_ref_blocking().unwrap().to_bytes();
            (number(&first), rx)
        });
        eventually("the receiver sleeps", || unused_tx.stats().parks > 0);
        let before = tx.stats().wakes_sent;
        let mut batch = tx.batch();
        commit_to(&mut batch, 13..17);
        drop(batch);
        let (first, mut rx) = join("receiver", receiver);
        assert_eq!((first, tx.stats().wakes_sent - before), (13, 1));
        assert_come(&mut rx, 14..17);
    });
}

/// The future and the blocking call publish it at once, and then wait until there is room.
fn a_batch_is_published_before_it_waits_for_room(driver: &Driver) {
    type Reserve = for<'a> fn(&'a mut Batch<'_>) -> Result<Grant<'a>, ShmError>;
    let ways: [Reserve; 2] =
        [|batch| wait("reserve", batch.reserve(200)), |batch| batch.reserve_blocking(200)];
    for reserve in ways {
        both_roles(driver, SMALL, None, |here, there| {
            let (mut tx, mut rx, _unused) = halves(here, there);
            let mut batch = tx.batch();
            // The last seven packets are withheld. Less than 208 bytes of the ring are left.
            commit_to(&mut batch, 0..55);
            // No room comes back while this packet is lent.
            let first = lend(rx.try_recv_ref().unwrap());
            assert_come(&mut rx, 1..48);
            assert_eq!(batch.try_reserve(200).unwrap_err(), TryReserveError::Full);
            assert_come(&mut rx, 48..55);
            drop((batch, first));

            let sender = std::thread::spawn(move || {
                let mut batch = tx.batch();
                commit_to(&mut batch, 55..109);
                let mut grant = reserve(&mut batch).unwrap();
                grant.put(packet(109, 200));
                grant.commit().unwrap();
                drop(batch);
                tx
            });
            let first = lend(rx.recv_ref_blocking().unwrap());
            for n in 56..109 {
                assert_eq!(number(&rx.recv_blocking().unwrap()), n);
            }
            drop(first);
            assert_eq!(number(&rx.recv_blocking().unwrap()), 109);
            drop(join("sender", sender));
        });
    }
}

/// It is published with the next packet, however that is sent, by a flush, and when the half ends.
fn a_leaked_batch_is_published_with_what_comes_next(driver: &Driver) {
    let leak = |tx: &mut Sender| {
        let mut batch = tx.batch();
        commit_to(&mut batch, 0..2);
        mem::forget(batch);
    };
    type Next = fn(Sender) -> Option<Sender>;
    let ways: [(Next, u64); 8] = [
        (|mut tx| wait("send", tx.send(packet(2, 64))).ok().map(|()| tx), 3),
        (|mut tx| tx.try_send(packet(2, 64)).ok().map(|()| tx), 3),
        (|mut tx| wait("batch", tx.send_batch(&[packet(2, 64)])).ok().map(|()| tx), 3),
        (|mut tx| commit(&mut tx, 2, 64).ok().map(|()| tx), 3),
        (|mut tx| wait("feed", tx.feed(packet(2, 64))).ok().map(|()| tx), 3),
        (|mut tx| wait("flush", tx.flush()).ok().map(|()| tx), 2),
        (|mut tx| wait("close", tx.close()).ok().map(|()| tx), 2),
        (|_| None, 2),
    ];
    for (next, count) in ways {
        let (mut tx, mut rx, _unused) = small_halves(driver);
        leak(&mut tx);
        assert!(rx.is_empty());
        let tx = next(tx);
        assert_come(&mut rx, 0..count);
        drop(tx);
        assert!(wait("recv", rx.recv()).is_none());
        assert_eq!(rx.close_reason(), Some(CloseReason::Peer));
    }
}

fn a_batch_ends_with_the_channel(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let canceller = tx.canceller();
    let mut batch = tx.batch();
    commit_to(&mut batch, 0..1);
    let grant = batch.try_reserve(64).unwrap();
    canceller.cancel();
    let closed = |result: Result<(), ShmError>| {
        matches!(result, Err(ShmError::Closed { reason: CloseReason::Cancelled, sent: 0 }))
    };
    assert!(closed(grant.commit()) && closed(batch.publish()));
    assert!(matches!(batch.try_reserve(1), Err(TryReserveError::Closed(CloseReason::Cancelled))));
    assert!(closed(wait("reserve", batch.reserve(1)).map(drop)));
    assert!(closed(batch.reserve_blocking(1).map(drop)));
    drop(batch);
    assert!(wait("recv", rx.recv()).is_none());

    // The peer no longer receives.
    let (mut tx, rx, _unused) = small_halves(driver);
    let mut batch = tx.batch();
    commit_to(&mut batch, 0..1);
    drop(rx);
    let closed = batch.publish().unwrap_err();
    assert!(matches!(closed, ShmError::Closed { reason: CloseReason::Peer, .. }), "{closed:?}");
    // A packet that is too long is refused. What was withheld is not lost.
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let mut batch = tx.batch();
    commit_to(&mut batch, 0..1);
    assert_eq!(batch.try_reserve(5000).unwrap_err(), TryReserveError::TooLarge(5000, 1016));
    let refused = wait("reserve", batch.reserve(5000)).unwrap_err();
    assert!(matches!(refused, ShmError::PacketTooLarge { len: 5000, max: 1016 }));
    commit_to(&mut batch, 1..2);
    drop(batch);
    assert_come(&mut rx, 0..2);
}
