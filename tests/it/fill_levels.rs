//! What an end tells of its rings: whether a packet is there, how much is queued and what is free.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wakering::{CloseReason, Driver, Endpoint};

use crate::common::{
    SMALL, both_roles, eventually, fill_with, join, number, on_both_backends, packet, poll_once,
    record_bytes,
};

on_both_backends!(
    each_record_counts_until_it_is_taken,
    a_question_takes_nothing,
    what_is_queued_and_what_is_free_make_up_the_ring,
    a_packet_that_is_read_in_place_is_still_queued,
    a_send_that_waits_is_not_queued_in_the_ring,
    what_a_cancelled_channel_did_not_deliver_is_told,
    an_end_is_empty_once_it_is_cut_off_and_not_after_an_orderly_end,
    questions_may_be_asked_while_others_send_and_receive,
);

fn each_record_counts_until_it_is_taken(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        // Many times round the ring, so that records skip its end.
        let mut next = 0_u64;
        for lengths in [[8, 100, 1016], [1000, 9, 16], [504, 504, 504]].iter().cycle().take(300) {
            let first = next;
            let mut queued = 0;
            for len in lengths {
                here.try_send(packet(next, *len)).unwrap();
                next += 1;
                queued += record_bytes(*len);
                assert_eq!(here.queued_bytes(), queued);
            }
            for (n, len) in (first..).zip(lengths) {
                assert_eq!(number(&there.try_recv().unwrap()), n);
                queued -= record_bytes(*len);
                assert_eq!(here.queued_bytes(), queued);
            }
            assert!(there.is_empty() && here.is_empty());
        }
    });
}

fn a_question_takes_nothing(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        assert!(there.is_empty());
        here.try_send(packet(5, 8)).unwrap();
        for _ in 0..3 {
            assert!(!there.is_empty() && here.is_empty());
            assert_eq!((here.queued_bytes(), there.queued_bytes()), (16, 0));
        }
        assert_eq!(number(&there.try_recv().unwrap()), 5);
        assert!(there.is_empty());
        assert_eq!((there.stats().packets_received, here.queued_bytes()), (1, 0));
    });
}

fn what_is_queued_and_what_is_free_make_up_the_ring(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let all = here.free_bytes();
        assert_eq!(all, SMALL - 16);
        let filled = fill_with(&here, 8);
        assert_eq!(here.queued_bytes(), 16 * usize::try_from(filled).unwrap());
        assert_eq!(here.free_bytes(), all - here.queued_bytes());
        for _ in 0..filled {
            there.try_recv().unwrap();
        }
        assert_eq!((here.queued_bytes(), here.free_bytes()), (0, all));
    });
}

fn a_packet_that_is_read_in_place_is_still_queued(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = here.into_split();
        let (_tx, mut rx) = there.into_split();
        tx.try_send(packet(1, 8)).unwrap();
        let held = rx.try_recv_ref().unwrap();
        assert_eq!(tx.queued_bytes(), 16);
        drop(held);
        assert_eq!(tx.queued_bytes(), 0);
        // Packets of a batch count before they are published.
        let mut batch = tx.batch();
        batch.try_reserve(8).unwrap().commit().unwrap();
        std::mem::forget(batch);
        assert!(rx.is_empty());
        assert_eq!(tx.queued_bytes(), 8);
    });
}

fn a_send_that_waits_is_not_queued_in_the_ring(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill_with(&here, 504);
        let queued = 512 * usize::try_from(filled).unwrap();
        let mut send = Box::pin(here.send(packet(filled, 504)));
        assert!(poll_once(send.as_mut()).is_pending());
        assert_eq!(here.queued_bytes(), queued);
        there.try_recv().unwrap();
        eventually("the send finds room", || poll_once(send.as_mut()).is_ready());
        assert_eq!(here.queued_bytes(), queued);
    });
}

fn what_a_cancelled_channel_did_not_deliver_is_told(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..3 {
            here.try_send(packet(n, 8)).unwrap();
        }
        there.try_recv().unwrap();
        there.cancel();
        assert_eq!(here.close_reason(), Some(CloseReason::Cancelled));
        assert_eq!(here.queued_bytes(), 32);
    });
}

fn an_end_is_empty_once_it_is_cut_off_and_not_after_an_orderly_end(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        here.try_send(packet(0, 8)).unwrap();
        drop(here);
        assert!(!there.is_empty());
        assert_eq!(number(&there.try_recv().unwrap()), 0);
        assert!(there.is_empty());
    });
    both_roles(driver, SMALL, None, |here, there| {
        here.try_send(packet(0, 8)).unwrap();
        here.cancel();
        assert!(there.is_empty() && there.try_recv().is_err());
    });
}

fn questions_may_be_asked_while_others_send_and_receive(driver: &Driver) {
    const PACKETS: u64 = 20_000;
    both_roles(driver, SMALL, None, |here, there| {
        let (here, there) = (Arc::new(here), Arc::new(there));
        let is_over = Arc::new(AtomicBool::new(false));
        let asking = {
            let (here, there, is_over) = (here.clone(), there.clone(), is_over.clone());
            std::thread::spawn(move || {
                let ask = |end: &Endpoint| {
                    let _ = end.is_empty();
                    assert!(end.queued_bytes() <= SMALL && end.free_bytes() <= SMALL - 16);
                };
                while !is_over.load(Ordering::Relaxed) {
                    ask(&here);
                    ask(&there);
                }
            })
        };
        let sender = {
            let here = here.clone();
            std::thread::spawn(move || {
                (0..PACKETS).try_for_each(|n| here.send_blocking(packet(n, 8)))
            })
        };
        for n in 0..PACKETS {
            assert_eq!(number(&there.recv_blocking().unwrap()), n);
        }
        join("the sender", sender).unwrap();
        is_over.store(true, Ordering::Relaxed);
        join("the questions", asking);
        assert!(there.is_empty() && here.queued_bytes() == 0);
    });
}
