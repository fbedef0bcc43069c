//! Grants: room for a packet, which is written in place.

use std::mem;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use futures::SinkExt;
use wakering::{CloseReason, Driver, Grant, ShmError, TryRecvError, TryReserveError};

use super::{commit, halves, small_halves};
use crate::common::{
    PATIENCE, SMALL, both_roles, fill_with, join, number, on_both_backends, packet,
    pair_with_timeout, poll_once, wait,
};

on_both_backends!(
    a_commit_wakes_a_parked_receiver,
    a_grant_that_is_given_up_leaves_no_trace,
    a_grant_holds_all_that_can_be_put,
    a_packet_that_the_sink_held_back_goes_before_a_grant,
    nothing_is_committed_after_an_end,
    reserve_gives_up_in_time,
);

fn a_commit_wakes_a_parked_receiver(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx, _unused) = halves(here, there);
        let (took, taken) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || {
            for n in 0..40 {
                let packet = match n % 4 {
                    0 => wait("recv_ref", rx.recv_ref()).unwrap().to_bytes(),
                    1 => rx.recv_ref_blocking().unwrap().to_bytes(),
                    2 => wait("recv", rx.recv()).unwrap(),
                    _ => rx.recv_blocking().unwrap(),
                };
                took.send(number(&packet)).unwrap();
            }
        });
        for n in 0..40 {
            if n % 8 < 4 {
                // Until the receiver sleeps, so that the commit has to wake it.
                std::thread::sleep(Duration::from_millis(2));
            }
            commit(&mut tx, n, 64).unwrap();
            assert_eq!(taken.recv_timeout(PATIENCE), Ok(n));
        }
        join("receiver", receiver);
        assert!(tx.stats().wakes_sent > 0);
    });
}

fn a_grant_that_is_given_up_leaves_no_trace(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    // Passes the end of the ring again and again, with and without padding.
    for n in 0..200 {
        let (sent, free) = (tx.stats().packets_sent, tx.free_bytes());
        for (reserved, written) in [(1016, 1016), (1016, 0), (40, 33)] {
            let mut grant = tx.try_reserve(reserved).unwrap();
            grant.put_bytes(0xff, written);
            drop(grant);
            let mut grant = tx.try_reserve(reserved).unwrap();
            grant.put_bytes(0xff, written);
            mem::forget(grant);
            assert_eq!((tx.stats().packets_sent, tx.free_bytes()), (sent, free));
            assert!(rx.is_empty());
        }
        drop(Box::pin(tx.reserve(100)));
        let len = 8 + usize::try_from(n).unwrap() * 5 % 1000;
        commit(&mut tx, n, len).unwrap();
        let packet = rx.try_recv_ref().unwrap();
        assert_eq!((number(&packet.to_bytes()), packet.len()), (n, len));
    }
}

fn a_grant_holds_all_that_can_be_put(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let mut grant = tx.try_reserve(1016).unwrap();
    assert!(grant.is_empty() && grant.capacity() == 1016);
    grant.put_u8(1);
    grant.put_u32_le(0x0504_0302);
    grant.put(Bytes::from_static(b"one ").chain(&b"other"[..]));
    grant.put_bytes(b'!', 2);
    let chunk = grant.chunk_mut();
    assert_eq!(chunk.len(), 1016 - 16);
    chunk[..3].copy_from_slice(b"end");
    // SAFETY: three bytes were written just now.
    unsafe { grant.advance_mut(3) };
    assert_eq!((grant.len(), grant.remaining_mut()), (19, 1016 - 19));
    grant.commit().unwrap();
    assert_eq!(rx.try_recv().unwrap(), &b"\x01\x02\x03\x04\x05one other!!end"[..]);
    // An empty packet is a packet, and so is one of the largest size.
    tx.try_reserve(0).unwrap().commit().unwrap();
    tx.try_reserve(8).unwrap().commit().unwrap();
    let mut grant = tx.try_reserve(1016).unwrap();
    let mut left = grant.limit(1016);
    left.put_bytes(9, 1016);
    grant = left.into_inner();
    assert!(!grant.has_remaining_mut() && grant.chunk_mut().len() == 0);
    grant.commit().unwrap();
    assert!(rx.try_recv_ref().unwrap().is_empty());
    assert_eq!(rx.try_recv().unwrap(), "");
    assert_eq!(rx.try_recv().unwrap(), vec![9; 1016]);
    for overrun in [
        (|grant| grant.put_slice(&[0; 9])) as fn(&mut Grant<'_>),
        |grant| grant.put_bytes(0, 9),
        |grant| grant.put(&[0; 9][..]),
        // SAFETY: no byte counts as written, because this panics.
        |grant| unsafe { grant.advance_mut(9) },
    ] {
        let mut grant = tx.try_reserve(8).unwrap();
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| overrun(&mut grant)));
        assert!(outcome.is_err() && grant.is_empty());
    }
    assert_eq!(tx.try_reserve(1017).unwrap_err(), TryReserveError::TooLarge(1017, 1016));
    let error = wait("reserve", tx.reserve(1017)).unwrap_err();
    assert!(matches!(error, ShmError::PacketTooLarge { len: 1017, max: 1016 }), "{error}");
    let error = tx.reserve_blocking(usize::MAX).unwrap_err();
    assert!(matches!(error, ShmError::PacketTooLarge { len: usize::MAX, .. }), "{error}");
    assert!(rx.is_empty());
}

fn a_packet_that_the_sink_held_back_goes_before_a_grant(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let mut next = 0;
    while tx.try_send(packet(next, 504)).is_ok() {
        next += 1;
    }
    wait("feed", tx.feed(packet(next, 504))).unwrap();
    assert_eq!(tx.try_reserve(8).unwrap_err(), TryReserveError::Full);
    assert!(poll_once(Box::pin(tx.reserve(8)).as_mut()).is_pending());
    for n in 0..3 {
        assert_eq!(number(&rx.try_recv().unwrap()), n);
    }
    commit(&mut tx, next + 1, 8).unwrap();
    for n in 3..next + 2 {
        assert_eq!(number(&rx.try_recv().unwrap()), n);
    }
    // The same with the future and with the blocking call.
    for blocking in [false, true] {
        let first = next + 2;
        next = first;
        while tx.try_send(packet(next, 504)).is_ok() {
            next += 1;
        }
        wait("feed", tx.feed(packet(next, 504))).unwrap();
        (0..3).for_each(|n| assert_eq!(number(&rx.try_recv().unwrap()), first + n));
        let mut grant = if blocking {
            tx.reserve_blocking(8).unwrap()
        } else {
            wait("reserve", tx.reserve(8)).unwrap()
        };
        grant.put(packet(next + 1, 8));
        grant.commit().unwrap();
        (first + 3..next + 2).for_each(|n| assert_eq!(number(&rx.try_recv().unwrap()), n));
    }
}

/// Ends of all kinds come between the reservation and the commit.
fn nothing_is_committed_after_an_end(driver: &Driver) {
    for end in 0..4 {
        let (mut tx, rx, (own_rx, peer_tx)) = small_halves(driver);
        let (canceller, mut rx) = (tx.canceller(), Some(rx));
        let mut grant = tx.try_reserve(64).unwrap();
        grant.put_bytes(1, 64);
        match end {
            0 => rx = None,
            1 => own_rx.cancel(),
            2 => peer_tx.cancel(),
            _ => canceller.cancel(),
        }
        let expected = if end == 0 { CloseReason::Peer } else { CloseReason::Cancelled };
        let closed = |error: &ShmError| match error {
            ShmError::Closed { reason, sent: 0 } => assert_eq!(*reason, expected),
            other => panic!("{other}"),
        };
        closed(&grant.commit().unwrap_err());
        assert_eq!(tx.close_reason(), Some(expected));
        assert_eq!(tx.try_reserve(64).unwrap_err(), TryReserveError::Closed(expected));
        closed(&wait("reserve", tx.reserve(64)).unwrap_err());
        closed(&tx.reserve_blocking(64).unwrap_err());
        assert_eq!(tx.stats().packets_sent, 0);
        if let Some(mut rx) = rx {
            assert_eq!(rx.readable(), None);
            assert_eq!(
                rx.try_recv_ref().unwrap_err(),
                TryRecvError::Closed(CloseReason::Cancelled)
            );
            assert!(wait("recv_ref", rx.recv_ref()).is_none());
            assert!(rx.recv_ref_blocking().is_none());
        }
    }
}

fn reserve_gives_up_in_time(driver: &Driver) {
    let timeout = Duration::from_millis(60);
    let (face, handle) = pair_with_timeout(driver, SMALL, Some(timeout));
    fill_with(&face, 504);
    let (mut tx, mut rx, _unused) = halves(face.into(), handle.into());
    for blocking in [false, true] {
        let begin = Instant::now();
        let error = if blocking {
            tx.reserve_blocking(504).unwrap_err()
        } else {
            wait("reserve", tx.reserve(504)).unwrap_err()
        };
        assert!(matches!(error, ShmError::TimedOut { sent: 0 }), "{error}");
        assert!(begin.elapsed() >= timeout, "{:?}", begin.elapsed());
    }
    drop(rx.try_recv_ref().unwrap());
    drop(wait("reserve", tx.reserve(504)).unwrap());
}
