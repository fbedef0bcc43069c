//! What is reported about an end, and when: `close_reason`, `closed` and `finished`.

use std::sync::Arc;

use futures::{FutureExt, SinkExt, StreamExt};
use wakering::{CloseReason, Driver, Receiver, Sender, TrySendError};

use super::{ENDS, assert_closed, assert_receives_end, assert_sends_fail, finish};
use crate::common::{
    self, SMALL, both_roles, fill, join, number, on_both_backends, packet, poll_once, wait,
};

on_both_backends!(
    dropping_a_half_of_our_own_gives_no_reason,
    an_orderly_end_of_one_direction_hides_no_lossy_end_of_the_other,
    each_half_has_a_reason_of_its_own,
    finished_is_known_once_a_receive_has_returned_the_end,
    closed_does_not_wait_until_all_is_read,
    finished_reports_a_cut_that_came_after_the_reason,
    closed_returns_with_the_reason,
    closed_returns_when_both_directions_are_over,
    closed_of_a_half_returns_with_its_direction,
);

fn dropping_a_half_of_our_own_gives_no_reason(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, rx) = here.into_split();
        drop(rx);
        assert_eq!(tx.close_reason(), None);
        assert!(!tx.is_closed());
        tx.try_send(packet(0, 8)).unwrap();
        assert_eq!(there.try_recv(), Ok(packet(0, 8)));
        assert_sends_fail(&there, CloseReason::Peer);
    });
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, mut rx) = here.into_split();
        drop(tx);
        assert_eq!(rx.close_reason(), None);
        assert!(!rx.is_closed());
        there.try_send(packet(0, 8)).unwrap();
        assert_eq!(rx.try_recv(), Ok(packet(0, 8)));
        assert_eq!(wait("recv", there.recv()), None);
    });
}

type Cut = (&'static str, fn(Sender));

/// What a peer's sender does in the middle of its stream.
const CUTS: [Cut; 4] = [
    ("cancel", |tx| tx.cancel()),
    ("canceller", |tx| tx.canceller().cancel()),
    ("a drop that cancels", |tx| tx.cancel_on_drop(true)),
    ("a panic", |tx| {
        let panic = std::thread::spawn(move || {
            let _tx = tx;
            std::panic::resume_unwind(Box::new("in the middle of the stream"));
        });
        assert!(panic.join().is_err());
    }),
];

fn an_orderly_end_of_one_direction_hides_no_lossy_end_of_the_other(driver: &Driver) {
    for (how, cut) in CUTS {
        both_roles(driver, SMALL, None, |here, there| {
            let (mut tx, rx) = there.into_split();
            // The peer stops receiving and goes on sending. This side learns of that before the
            // cut.
            drop(rx);
            assert_sends_fail(&here, CloseReason::Peer);
            tx.try_send(packet(0, 8)).unwrap();
            cut(tx);
            assert_eq!(here.recv_blocking(), None, "{how}");
            assert_receives_end(&here, CloseReason::Cancelled);
            assert_eq!(here.close_reason(), Some(CloseReason::Cancelled), "{how}");
            assert_eq!(wait("closed", here.closed()), CloseReason::Cancelled, "{how}");
            // The cut does not change the reason of the other direction.
            assert_sends_fail(&here, CloseReason::Peer);
        });
    }
    // The other way round: the peer's stream was complete, and ours is cut off.
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, rx) = there.into_split();
        drop(tx);
        assert_receives_end(&here, CloseReason::Peer);
        rx.cancel();
        assert_sends_fail(&here, CloseReason::Cancelled);
        assert_eq!(here.close_reason(), Some(CloseReason::Cancelled));
        assert_receives_end(&here, CloseReason::Peer);
    });
    // The same after this side's own half-close.
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx) = here.into_split();
        wait("close", tx.close()).unwrap();
        there.cancel();
        assert_eq!(wait("recv", rx.recv()), None);
        assert_eq!(tx.close_reason(), Some(CloseReason::Local));
        assert_eq!(rx.close_reason(), Some(CloseReason::Cancelled));
        assert_eq!(rx.finished(), Some(Err(CloseReason::Cancelled)));
    });
}

fn each_half_has_a_reason_of_its_own(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx) = here.into_split();
        let (mut there_tx, there_rx) = there.into_split();
        assert_eq!((tx.close_reason(), rx.close_reason()), (None, None));
        drop(there_rx);
        let sent = tx.try_send(packet(0, 8));
        assert!(matches!(sent, Err(TrySendError::Closed(_, CloseReason::Peer))), "{sent:?}");
        assert_eq!((tx.close_reason(), rx.close_reason()), (Some(CloseReason::Peer), None));
        there_tx.try_send(packet(0, 8)).unwrap();
        assert_eq!(rx.try_recv(), Ok(packet(0, 8)));
        there_tx.cancel();
        assert_eq!(wait("recv", rx.recv()), None);
        let reasons = (tx.close_reason(), rx.close_reason());
        assert_eq!(reasons, (Some(CloseReason::Peer), Some(CloseReason::Cancelled)));
        tx.cancel();
        assert_eq!((tx.close_reason(), rx.close_reason()), reasons);
    });
}

type Receive = (&'static str, fn(&mut Receiver) -> bool);

/// Each returns whether there was a packet.
const RECEIVES: [Receive; 9] = [
    ("try_recv", |rx| rx.try_recv().is_ok()),
    ("recv", |rx| wait("recv", rx.recv()).is_some()),
    ("recv_blocking", |rx| rx.recv_blocking().is_some()),
    ("recv_timeout", |rx| rx.recv_timeout(common::PATIENCE).is_ok()),
    ("recv_batch", |rx| wait("recv_batch", rx.recv_batch(&mut Vec::new(), 1)) > 0),
    ("recv_batch_blocking", |rx| rx.recv_batch_blocking(&mut Vec::new(), 1) > 0),
    ("try_recv_ref", |rx| rx.try_recv_ref().is_ok()),
    ("recv_ref", |rx| wait("recv_ref", rx.recv_ref()).is_some()),
    ("next", |rx| matches!(wait("next", rx.next()), Some(Ok(_)))),
];

fn finished_is_known_once_a_receive_has_returned_the_end(driver: &Driver) {
    for (what, receive) in RECEIVES {
        for (how, end, expected) in ENDS {
            both_roles(driver, SMALL, None, |here, there| {
                let (_tx, mut rx) = here.into_split();
                there.try_send(packet(0, 8)).unwrap();
                let _there = end(there);
                let finished = Some(finish(expected));
                let cut_off = expected != CloseReason::Peer;
                assert_eq!(rx.finished(), None, "{what}, {how}");
                // After an orderly end, the remaining packet comes first.
                assert_eq!(receive(&mut rx), !cut_off, "{what}, {how}");
                assert_eq!(rx.finished(), finished.filter(|_| cut_off), "{what}, {how}");
                assert_eq!(rx.close_reason(), Some(expected).filter(|_| cut_off), "{what}, {how}");
                assert!(!receive(&mut rx), "{what}, {how}");
                assert_eq!(rx.finished(), finished, "{what}, {how}");
                assert_eq!(rx.close_reason(), Some(expected), "{what}, {how}");
            });
        }
    }
    // A receiver that stops by itself has not received the peer's end.
    both_roles(driver, SMALL, None, |here, _there| {
        here.close();
        assert_eq!(here.finished(), None);
        assert_receives_end(&here, CloseReason::Local);
    });
}

fn closed_does_not_wait_until_all_is_read(driver: &Driver) {
    for (how, end, expected) in ENDS {
        both_roles(driver, SMALL, None, |here, there| {
            let filled = fill(&there);
            let _there = end(there);
            assert!(here.is_closed(), "{how}");
            assert_eq!(wait("closed", here.closed()), expected, "{how}");
            let left = if expected == CloseReason::Peer { filled } else { 0 };
            for n in 0..left {
                assert_eq!(here.finished(), None);
                assert_eq!(number(&here.try_recv().unwrap()), n);
            }
            assert_receives_end(&here, expected);
        });
    }
}

fn finished_reports_a_cut_that_came_after_the_reason(driver: &Driver) {
    for is_asked in [false, true] {
        both_roles(driver, SMALL, None, |here, there| {
            fill(&there);
            there.close();
            // This call alone does not settle the reason.
            assert!(here.is_closed());
            let told = if is_asked { here.close_reason() } else { Some(CloseReason::Cancelled) };
            there.cancel();
            assert_receives_end(&here, CloseReason::Cancelled);
            assert_eq!(here.close_reason(), told);
            assert_eq!(here.close_reason().unwrap() == CloseReason::Peer, is_asked);
        });
    }
}

fn closed_returns_with_the_reason(driver: &Driver) {
    for (_, end, expected) in ENDS {
        both_roles(driver, SMALL, None, |here, there| {
            let mut closed = Box::pin(here.closed());
            assert!(poll_once(closed.as_mut()).is_pending());
            let waiter = std::thread::scope(|scope| {
                let waiter = scope.spawn(|| wait("closed", closed));
                let _there = end(there);
                waiter.join().unwrap()
            });
            assert_eq!(waiter, expected);
            assert_eq!(wait("closed", here.closed()), expected);
        });
    }
}

fn closed_returns_when_both_directions_are_over(driver: &Driver) {
    for sender_first in [false, true] {
        both_roles(driver, SMALL, None, |here, there| {
            let (tx, rx) = there.into_split();
            let here = Arc::new(here);
            let (tell, told) = std::sync::mpsc::channel();
            let waiter = here.clone();
            let thread = std::thread::spawn(move || {
                let mut closed = Box::pin(waiter.closed());
                assert!(poll_once(closed.as_mut()).is_pending());
                tell.send(()).unwrap();
                wait("closed", closed)
            });
            told.recv().unwrap();
            let last: Box<dyn Send> = if sender_first {
                drop(tx);
                assert_eq!(wait("recv", here.recv()), None);
                Box::new(rx)
            } else {
                drop(rx);
                assert_closed(wait("send", here.send(packet(0, 8))), CloseReason::Peer);
                Box::new(tx)
            };
            assert!(!here.is_closed());
            drop(last);
            assert_eq!(join("closed", thread), CloseReason::Peer);
            assert!(here.is_closed());
        });
    }
}

fn closed_of_a_half_returns_with_its_direction(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, rx) = here.into_split();
        let (there_tx, there_rx) = there.into_split();
        assert!(tx.closed().now_or_never().is_none() && rx.closed().now_or_never().is_none());
        let thread = std::thread::spawn(move || (wait("closed", tx.closed()), tx));
        drop(there_rx);
        let (reason, tx) = join("closed", thread);
        assert_eq!((reason, tx.is_closed(), rx.is_closed()), (CloseReason::Peer, true, false));
        let thread = std::thread::spawn(move || (wait("closed", rx.closed()), rx));
        drop(there_tx);
        let (reason, rx) = join("closed", thread);
        assert_eq!((reason, rx.is_closed()), (CloseReason::Peer, true));
    });
}
