//! How a channel ends: every row of the table of ends, in both directions, from both sides, for
//! every way of waiting.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt};
use wakering::{
    CloseReason, Driver, Endpoint, Receiver, RecvTimeoutError, Sender, ShmError, SpscFace,
    SpscHandle, TryRecvError, TrySendError,
};

use crate::common::{
    self, SMALL, both_roles, eventually, fill, join, number, on_both_backends, packet,
    pair_with_timeout, poll_once, wait,
};

on_both_backends!(
    a_closed_peer_ends_recv_after_all_that_was_sent,
    a_closed_peer_fails_sends,
    a_dropped_end_is_a_closed_end,
    a_dropped_sender_ends_recv_and_leaves_send_alone,
    a_dropped_receiver_fails_sends_and_leaves_recv_alone,
    a_closed_sink_is_a_dropped_sender,
    closing_ends_our_own_calls_at_once,
    cancelling_ends_everything_at_once,
    every_parked_call_learns_of_every_end,
    the_reason_never_changes,
    dropping_a_half_of_our_own_gives_no_reason,
    the_peers_half_close_ends_nothing_but_that_half,
    an_orderly_end_of_one_direction_hides_no_lossy_end_of_the_other,
    each_half_has_a_reason_of_its_own,
    finished_is_known_once_a_receive_has_returned_the_end,
    closed_does_not_wait_until_all_is_read,
    what_is_cut_off_after_the_reason_was_told_is_told_by_finished,
    closed_returns_with_the_reason,
    closed_returns_when_both_directions_are_over,
    closed_of_a_half_returns_with_its_direction,
    cancel_after_close_cuts_off_what_was_not_received,
    truncation_never_looks_like_success,
    an_orderly_end_is_a_bare_end,
    no_send_returns_ok_after_close_has_returned,
    no_send_that_is_about_to_park_returns_ok_behind_close,
    a_sender_is_woken_for_room_after_its_own_receiver_was_dropped,
    a_sender_is_woken_for_room_together_with_the_peers_half_close,
    everything_sent_before_the_end_arrives_however_they_race,
    an_end_that_nobody_connected_to_can_be_ended,
    an_end_is_an_error_of_connected,
    a_driver_that_goes_undoes_no_orderly_end,
    a_packet_that_a_dropped_sink_lost_is_no_orderly_end,
);

fn assert_closed(result: Result<(), ShmError>, expected: CloseReason) {
    match result {
        Err(ShmError::Closed { reason, sent: 0 }) => assert_eq!(reason, expected),
        other => panic!("expected Closed {{ {expected:?} }}, got {other:?}"),
    }
}

/// All ways of sending say that it is over.
fn assert_sends_fail(end: &Endpoint, expected: CloseReason) {
    match end.try_send(packet(1, 8)) {
        Err(TrySendError::Closed(back, reason)) => {
            assert_eq!((back, reason), (packet(1, 8), expected));
        }
        other => panic!("{other:?}"),
    }
    assert_closed(wait("send", end.send(packet(1, 8))), expected);
    assert_closed(wait("send_batch", end.send_batch(&[packet(1, 8)])), expected);
    assert_closed(end.send_blocking(packet(1, 8)), expected);
    assert_closed(end.send_batch_blocking(&[packet(1, 8), packet(2, 8)]), expected);
}

/// All ways of receiving say that it is over, and why.
fn assert_receives_end(end: &Endpoint, expected: CloseReason) {
    assert_eq!(end.try_recv(), Err(TryRecvError::Closed(expected)));
    assert_eq!(end.finished(), Some(finish(expected)));
    assert_eq!(wait("recv", end.recv()), None);
    assert_eq!(end.recv_blocking(), None);
    assert_eq!(end.recv_timeout(common::PATIENCE), Err(RecvTimeoutError::Closed(expected)));
    let mut packets = Vec::new();
    assert_eq!(wait("recv_batch", end.recv_batch(&mut packets, 9)), 0);
    assert_eq!(end.recv_batch_blocking(&mut packets, 9), 0);
    assert!(packets.is_empty());
    assert_eq!(end.finished(), Some(finish(expected)));
}

/// What `finished` gives for a direction that ended for `reason`.
fn finish(reason: CloseReason) -> Result<(), CloseReason> {
    if reason == CloseReason::Peer { Ok(()) } else { Err(reason) }
}

fn a_closed_peer_ends_recv_after_all_that_was_sent(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&there);
        there.close();
        for n in 0..filled {
            assert_eq!(number(&wait("recv", here.recv()).unwrap()), n);
        }
        assert_receives_end(&here, CloseReason::Peer);
        assert_eq!(here.close_reason(), Some(CloseReason::Peer));
        assert_eq!(there.close_reason(), Some(CloseReason::Local));
        assert!(here.is_closed() && there.is_closed());
    });
}

fn a_closed_peer_fails_sends(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        there.close();
        assert_sends_fail(&here, CloseReason::Peer);
        assert_eq!(here.close_reason(), Some(CloseReason::Peer));
        assert_eq!(here.stats().packets_sent, 0);
    });
}

fn a_dropped_end_is_a_closed_end(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        there.try_send(packet(0, 8)).unwrap();
        drop(there);
        assert_sends_fail(&here, CloseReason::Peer);
        assert_eq!(number(&wait("recv", here.recv()).unwrap()), 0);
        assert_receives_end(&here, CloseReason::Peer);
        assert_eq!(here.close_reason(), Some(CloseReason::Peer));
        eventually("the hang-up is noticed", || !here.is_connected());
        assert_eq!(here.close_reason(), Some(CloseReason::Peer));
    });
}

fn a_dropped_sender_ends_recv_and_leaves_send_alone(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx) = there.into_split();
        tx.try_send(packet(0, 8)).unwrap();
        drop(tx);
        assert_eq!(number(&wait("recv", here.recv()).unwrap()), 0);
        assert_receives_end(&here, CloseReason::Peer);
        for n in 0..1000 {
            wait("send", here.send(packet(n, 8))).unwrap();
            assert_eq!(number(&wait("recv", rx.recv()).unwrap()), n);
        }
        assert_eq!(rx.close_reason(), None);
    });
}

fn a_dropped_receiver_fails_sends_and_leaves_recv_alone(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, rx) = there.into_split();
        drop(rx);
        assert_sends_fail(&here, CloseReason::Peer);
        for n in 0..1000 {
            wait("send", tx.send(packet(n, 8))).unwrap();
            assert_eq!(number(&wait("recv", here.recv()).unwrap()), n);
        }
    });
}

fn a_closed_sink_is_a_dropped_sender(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx) = there.into_split();
        tx.try_send(packet(0, 8)).unwrap();
        wait("close", tx.close()).unwrap();
        wait("close again", tx.close()).unwrap();
        assert_eq!(number(&wait("recv", here.recv()).unwrap()), 0);
        assert_receives_end(&here, CloseReason::Peer);
        here.try_send(packet(1, 8)).unwrap();
        assert_eq!(rx.try_recv(), Ok(packet(1, 8)));
        assert!(matches!(tx.try_send(packet(1, 8)), Err(TrySendError::Closed(..))));
        assert_closed(wait("feed", tx.feed(packet(1, 8))), CloseReason::Local);
        assert_closed(wait("send", SinkExt::send(&mut tx, packet(1, 8))), CloseReason::Local);
    });
}

fn closing_ends_our_own_calls_at_once(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        fill(&there);
        here.close();
        here.close();
        assert_receives_end(&here, CloseReason::Local);
        assert_sends_fail(&here, CloseReason::Local);
        assert_eq!(here.close_reason(), Some(CloseReason::Local));
    });
}

fn cancelling_ends_everything_at_once(driver: &Driver) {
    for by_canceller in [false, true] {
        both_roles(driver, SMALL, None, |here, there| {
            fill(&here);
            fill(&there);
            if by_canceller {
                there.canceller().cancel()
            } else {
                there.cancel()
            }
            // The very next calls see it, on both sides.
            for end in [&here, &there] {
                assert_sends_fail(end, CloseReason::Cancelled);
                assert_receives_end(end, CloseReason::Cancelled);
                assert_eq!(end.close_reason(), Some(CloseReason::Cancelled));
            }
        });
    }
}

type End = (&'static str, fn(Endpoint) -> Option<Endpoint>, CloseReason);

/// What the other side may do, and the reason that this side then has. What is returned stays open
/// until the call under test is back.
const ENDS: [End; 4] = [
    (
        "close",
        |end| {
            end.close();
            Some(end)
        },
        CloseReason::Peer,
    ),
    ("drop", |_| None, CloseReason::Peer),
    (
        "cancel",
        |end| {
            end.cancel();
            Some(end)
        },
        CloseReason::Cancelled,
    ),
    (
        "canceller",
        |end| {
            end.canceller().cancel();
            Some(end)
        },
        CloseReason::Cancelled,
    ),
];

type Parked = (&'static str, fn(&Endpoint) -> CloseReason);

fn ended(end: &Endpoint, received: Option<impl Sized>) -> CloseReason {
    assert!(received.is_none());
    end.close_reason().expect("a reason behind the end")
}

fn refused(end: &Endpoint, result: Result<(), ShmError>) -> CloseReason {
    let Err(ShmError::Closed { reason, sent: 0 }) = result else { panic!("{result:?}") };
    assert_eq!(end.close_reason(), Some(reason));
    reason
}

const PARKED_RECEIVES: [Parked; 5] = [
    ("recv", |end| ended(end, wait("recv", end.recv()))),
    ("recv_blocking", |end| ended(end, end.recv_blocking())),
    ("recv_timeout", |end| ended(end, end.recv_timeout(common::PATIENCE).ok())),
    ("recv_batch", |end| {
        let taken = wait("recv_batch", end.recv_batch(&mut Vec::new(), 9));
        ended(end, (taken > 0).then_some(()))
    }),
    ("recv_batch_blocking", |end| {
        let taken = end.recv_batch_blocking(&mut Vec::new(), 9);
        ended(end, (taken > 0).then_some(()))
    }),
];

const PARKED_SENDS: [Parked; 4] = [
    ("send", |end| refused(end, wait("send", end.send(packet(0, 8))))),
    ("send_blocking", |end| refused(end, end.send_blocking(packet(0, 8)))),
    ("send_batch", |end| refused(end, wait("send_batch", end.send_batch(&[packet(0, 8)])))),
    ("send_batch_blocking", |end| refused(end, end.send_batch_blocking(&[packet(0, 8)]))),
];

fn every_parked_call_learns_of_every_end(driver: &Driver) {
    let park = |here: &Arc<Endpoint>, call: fn(&Endpoint) -> CloseReason, what: &str| {
        let end = here.clone();
        let before = here.stats().parks;
        let thread = std::thread::spawn(move || call(&end));
        eventually(what, || here.stats().parks > before);
        thread
    };
    for (what, call) in PARKED_RECEIVES {
        for (how, end, expected) in ENDS {
            both_roles(driver, SMALL, None, |here, there| {
                let here = Arc::new(here);
                let thread = park(&here, call, what);
                let _there = end(there);
                assert_eq!(join(what, thread), expected, "{what}, {how} by the peer");
            });
        }
    }
    for (what, call) in PARKED_SENDS {
        for (how, end, expected) in ENDS {
            both_roles(driver, SMALL, None, |here, there| {
                let here = Arc::new(here);
                fill(&here);
                let thread = park(&here, call, what);
                // One that queues behind the parked one.
                let queued = here.clone();
                let queued = std::thread::spawn(move || call(&queued));
                let _there = end(there);
                assert_eq!(join(what, thread), expected, "{what}, {how} by the peer");
                assert_eq!(join(what, queued), expected, "queued {what}, {how} by the peer");
            });
        }
    }
    // And of our own.
    for (what, call) in PARKED_RECEIVES.into_iter().chain(PARKED_SENDS) {
        for (end, expected) in [
            (Endpoint::close as fn(&Endpoint), CloseReason::Local),
            (Endpoint::cancel, CloseReason::Cancelled),
            (|end| end.canceller().cancel(), CloseReason::Cancelled),
        ] {
            both_roles(driver, SMALL, None, |here, _there| {
                let here = Arc::new(here);
                fill(&here);
                let thread = park(&here, call, what);
                end(&here);
                assert_eq!(join(what, thread), expected, "{what}, by ourselves");
            });
        }
    }
}

fn the_reason_never_changes(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        here.close();
        there.cancel();
        drop(there);
        eventually("the hang-up is noticed", || !here.is_connected());
        assert_eq!(here.close_reason(), Some(CloseReason::Local));
        here.cancel();
        assert_eq!(here.close_reason(), Some(CloseReason::Local));
    });
    both_roles(driver, SMALL, None, |here, there| {
        there.close();
        assert_eq!(wait("recv", here.recv()), None);
        here.cancel();
        here.close();
        there.cancel();
        assert_eq!(here.close_reason(), Some(CloseReason::Peer));
        assert_eq!(there.close_reason(), Some(CloseReason::Local));
    });
    both_roles(driver, SMALL, None, |here, there| {
        here.cancel();
        here.close();
        assert!(there.is_closed());
        there.close();
        for end in [here, there] {
            assert_eq!(end.close_reason(), Some(CloseReason::Cancelled));
        }
    });
}

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

fn the_peers_half_close_ends_nothing_but_that_half(driver: &Driver) {
    // Its sender: all that was sent comes, then the end of this direction alone.
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx) = there.into_split();
        tx.try_send(packet(0, 8)).unwrap();
        drop(tx);
        assert!(wait("recv", here.recv()).is_some());
        assert_eq!(here.finished(), None);
        assert_receives_end(&here, CloseReason::Peer);
        let mut closed = Box::pin(here.closed());
        for n in 0..100 {
            here.try_send(packet(n, 8)).unwrap();
            assert_eq!(rx.try_recv(), Ok(packet(n, 8)));
            assert_eq!((here.is_closed(), here.close_reason()), (false, None));
            assert!(poll_once(closed.as_mut()).is_pending());
        }
        drop(rx);
        assert_eq!(wait("closed", closed), CloseReason::Peer);
        assert_eq!(here.close_reason(), Some(CloseReason::Peer));
    });
    // Its receiver: packets come as before.
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, rx) = there.into_split();
        drop(rx);
        assert_sends_fail(&here, CloseReason::Peer);
        let mut closed = Box::pin(here.closed());
        for n in 0..100 {
            tx.try_send(packet(n, 8)).unwrap();
            assert_eq!(here.try_recv(), Ok(packet(n, 8)));
            assert_eq!((here.is_closed(), here.close_reason()), (false, None));
            assert!(poll_once(closed.as_mut()).is_pending());
        }
        drop(tx);
        assert_eq!(wait("closed", closed), CloseReason::Peer);
        assert_receives_end(&here, CloseReason::Peer);
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
            // It receives no more, and goes on sending. We learn of that before the cut.
            drop(rx);
            assert_sends_fail(&here, CloseReason::Peer);
            tx.try_send(packet(0, 8)).unwrap();
            cut(tx);
            assert_eq!(here.recv_blocking(), None, "{how}");
            assert_receives_end(&here, CloseReason::Cancelled);
            assert_eq!(here.close_reason(), Some(CloseReason::Cancelled), "{how}");
            assert_eq!(wait("closed", here.closed()), CloseReason::Cancelled, "{how}");
            // Nor does it lend its reason to the other.
            assert_sends_fail(&here, CloseReason::Peer);
        });
    }
    // The other way round: its stream to us was whole, ours to it is cut off.
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, rx) = there.into_split();
        drop(tx);
        assert_receives_end(&here, CloseReason::Peer);
        rx.cancel();
        assert_sends_fail(&here, CloseReason::Cancelled);
        assert_eq!(here.close_reason(), Some(CloseReason::Cancelled));
        assert_receives_end(&here, CloseReason::Peer);
    });
    // And our own half-close.
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

/// Whether there was a packet.
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
                // What an orderly end leaves comes first.
                assert_eq!(receive(&mut rx), !cut_off, "{what}, {how}");
                assert_eq!(rx.finished(), finished.filter(|_| cut_off), "{what}, {how}");
                assert_eq!(rx.close_reason(), Some(expected).filter(|_| cut_off), "{what}, {how}");
                assert!(!receive(&mut rx), "{what}, {how}");
                assert_eq!(rx.finished(), finished, "{what}, {how}");
                assert_eq!(rx.close_reason(), Some(expected), "{what}, {how}");
            });
        }
    }
    // A receiver that stops by itself has not heard the end.
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

fn what_is_cut_off_after_the_reason_was_told_is_told_by_finished(driver: &Driver) {
    for is_asked in [false, true] {
        both_roles(driver, SMALL, None, |here, there| {
            fill(&there);
            there.close();
            // This alone does not settle the answer.
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

fn cancel_after_close_cuts_off_what_was_not_received(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        fill(&here);
        here.close();
        assert!(there.try_recv().is_ok());
        here.cancel();
        assert_receives_end(&there, CloseReason::Cancelled);
        assert_eq!(here.close_reason(), Some(CloseReason::Local));
        assert_sends_fail(&here, CloseReason::Local);
    });
}

/// What a stream gives until its end.
fn items(rx: Receiver) -> Vec<Result<bytes::Bytes, ShmError>> {
    let mut rx = rx;
    let mut items = Vec::new();
    while let Some(item) = wait("the stream", rx.next()) {
        items.push(item);
    }
    assert!(futures::stream::FusedStream::is_terminated(&rx));
    assert!(wait("the fused end", rx.next()).is_none());
    items
}

fn truncation_never_looks_like_success(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        fill(&there);
        let (_tx, mut rx) = here.into_split();
        assert!(wait("the first", rx.next()).unwrap().is_ok());
        there.cancel();
        let items = items(rx);
        assert_eq!(items.len(), 1);
        assert!(matches!(
            items[0],
            Err(ShmError::Closed { reason: CloseReason::Cancelled, sent: 0 })
        ));
    });
    // By ourselves as well, and also behind an orderly close.
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, rx) = here.into_split();
        tx.cancel();
        assert_eq!(items(rx).len(), 1);
        drop(there);
    });
    both_roles(driver, SMALL, None, |here, there| {
        fill(&there);
        there.close();
        let (_tx, rx) = here.into_split();
        assert_eq!(rx.close_reason(), None);
        there.cancel();
        let items = items(rx);
        assert!(matches!(
            items[..],
            [Err(ShmError::Closed { reason: CloseReason::Cancelled, .. })]
        ));
    });
}

fn an_orderly_end_is_a_bare_end(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&there);
        drop(there);
        let (_tx, rx) = here.into_split();
        let items = items(rx);
        assert_eq!(items.len() as u64, filled);
        assert!(items.iter().all(Result::is_ok));
    });
    both_roles(driver, SMALL, None, |here, _there| {
        here.close();
        let (_tx, rx) = here.into_split();
        assert!(items(rx).is_empty());
    });
}

fn no_send_returns_ok_after_close_has_returned(driver: &Driver) {
    for round in 0..150 {
        both_roles(driver, SMALL, None, |here, there| {
            let here = Arc::new(here);
            let is_closed = Arc::new(AtomicBool::new(false));
            let sent = Arc::new(AtomicU64::new(0));
            let senders: Vec<JoinHandle<()>> = (0..3)
                .map(|kind| {
                    let (here, is_closed) = (here.clone(), is_closed.clone());
                    let sent = sent.clone();
                    std::thread::spawn(move || {
                        loop {
                            let was_closed = is_closed.load(Ordering::SeqCst);
                            let result = match kind {
                                0 => here.try_send(packet(0, 8)).map_err(|_| ()),
                                1 => pollster::block_on(here.send(packet(0, 8))).map_err(|_| ()),
                                _ => here.send_blocking(packet(0, 8)).map_err(|_| ()),
                            };
                            assert!(!was_closed || result.is_err(), "Ok behind close");
                            if result.is_ok() {
                                sent.fetch_add(1, Ordering::SeqCst);
                            } else if was_closed {
                                return;
                            }
                        }
                    })
                })
                .collect();
            let receiver = std::thread::spawn(move || {
                let mut received = 0;
                while there.recv_blocking().is_some() {
                    received += 1;
                }
                received
            });
            eventually("some were sent", || sent.load(Ordering::SeqCst) > round * 3);
            here.close();
            is_closed.store(true, Ordering::SeqCst);
            for sender in senders {
                join("sender", sender);
            }
            // What was Ok is what arrived.
            assert_eq!(join("receiver", receiver), sent.load(Ordering::SeqCst));
        });
    }
}

/// A waker that does something when this thread drops it: foreign code in the middle of a poll.
/// What a driver drops, because it called the waker, does nothing.
struct OnDrop {
    thread: ThreadId,
    action: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Wake for OnDrop {
    fn wake(self: Arc<Self>) {}
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        let action = self.action.lock().unwrap().take();
        if std::thread::current().id() == self.thread
            && let Some(action) = action
        {
            action();
        }
    }
}

fn no_send_that_is_about_to_park_returns_ok_behind_close(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (here, there) = (Arc::new(here), Arc::new(there));
        let mut send = std::pin::pin!(here.send(packet(filled, 8)));
        let is_closed = Arc::new(AtomicBool::new(false));
        // The sender's second look, or the driver, may take the waker before the poll replaces it.
        eventually("a poll replaces the waker", || {
            let (end, peer, is_closed_now) = (here.clone(), there.clone(), is_closed.clone());
            let action = move || {
                peer.try_recv().unwrap();
                end.close();
                is_closed_now.store(true, Ordering::SeqCst);
            };
            let on_drop = Arc::new(OnDrop {
                thread: std::thread::current().id(),
                action: Mutex::new(Some(Box::new(action))),
            });
            let waker = Waker::from(on_drop.clone());
            assert!(send.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            drop(waker);
            if let Some(mut taken) = Arc::into_inner(on_drop) {
                taken.action.get_mut().unwrap().take();
                return false;
            }
            // Replaces the waker, between the failed attempt and the last look.
            match poll_once(send.as_mut()) {
                Poll::Ready(result) => assert_closed(result, CloseReason::Local),
                Poll::Pending => {
                    assert!(!is_closed.load(Ordering::SeqCst), "pending behind close");
                }
            }
            is_closed.load(Ordering::SeqCst)
        });
    });
}

fn a_sender_is_woken_for_room_after_its_own_receiver_was_dropped(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (mut tx, rx) = here.into_split();
        drop(rx);
        let before = tx.stats().parks;
        let thread = std::thread::spawn(move || {
            wait("send", tx.send(packet(filled, 8))).unwrap();
            tx
        });
        // Parked, and for longer than until its second look.
        eventually("the sender parks", || there.stats().packets_received == 0 && before == 0);
        std::thread::sleep(Duration::from_millis(20));
        for n in 0..filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        join("the sender", thread);
        assert_eq!(number(&there.try_recv().unwrap()), filled);
    });
}

fn a_sender_is_woken_for_room_together_with_the_peers_half_close(driver: &Driver) {
    for _ in 0..200 {
        both_roles(driver, SMALL, None, |here, there| {
            let filled = fill(&here);
            let here = Arc::new(here);
            let sender = here.clone();
            let thread =
                std::thread::spawn(move || wait("send", sender.send(packet(filled, 8))).unwrap());
            eventually("the sender parks", || here.stats().full_stalls > 0);
            std::thread::sleep(Duration::from_millis(2));
            let (tx, mut rx) = there.into_split();
            let mut next = 0;
            let mut take_all = |rx: &mut Receiver| {
                while let Ok(packet) = rx.try_recv() {
                    assert_eq!(number(&packet), next);
                    next += 1;
                }
                next
            };
            take_all(&mut rx);
            drop(tx);
            join("the sender", thread);
            assert_eq!(take_all(&mut rx), filled + 1);
        });
    }
}

fn everything_sent_before_the_end_arrives_however_they_race(driver: &Driver) {
    for round in 0..300 {
        both_roles(driver, SMALL, None, |here, there| {
            let receiver = std::thread::spawn(move || {
                let mut received = 0;
                while let Some(next) = wait("recv", there.recv()) {
                    assert_eq!(number(&next), received);
                    received += 1;
                }
                assert_eq!(there.finished(), Some(Ok(())));
                if round % 3 < 2 {
                    // Both directions at once, never one before the other.
                    assert_eq!(there.close_reason(), Some(CloseReason::Peer));
                }
                received
            });
            for n in 0..round % 40 {
                here.try_send(packet(n, 8)).unwrap();
            }
            match round % 3 {
                0 => drop(here),
                1 => here.close(),
                _ => drop(here.into_split()),
            }
            assert_eq!(join("receiver", receiver), round % 40);
        });
    }
}

fn an_end_that_nobody_connected_to_can_be_ended(driver: &Driver) {
    let dir = common::Dir::new();
    for (end, expected) in [
        (Endpoint::close as fn(&Endpoint), CloseReason::Local),
        (Endpoint::cancel, CloseReason::Cancelled),
    ] {
        let builder = SpscFace::builder().ring_bytes(SMALL).driver(driver);
        let face = builder.create(&dir.name("alone")).unwrap();
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| wait("recv", face.recv()));
            eventually("the receiver parks", || face.stats().parks > 0);
            end(&face);
            assert_eq!(receiver.join().unwrap(), None);
        });
        assert_sends_fail(&face, expected);
        assert_eq!(wait("closed", face.closed()), expected);
    }
}

fn an_end_is_an_error_of_connected(driver: &Driver) {
    let dir = common::Dir::new();
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(driver);
    let face = builder.create(&dir.name("alone")).unwrap();
    let mut connected = Box::pin(face.connected());
    assert!(poll_once(connected.as_mut()).is_pending());
    face.close();
    let result = wait("connected", connected);
    assert!(matches!(result, Err(ShmError::Closed { reason: CloseReason::Local, .. })));
    // One that was connected stays so in the books.
    let (face, handle) = pair_with_timeout(driver, SMALL, None);
    drop(handle);
    assert_eq!(wait("recv", face.recv()), None);
    assert!(wait("connected", face.connected()).is_ok());
}

fn a_driver_that_goes_undoes_no_orderly_end(driver: &Driver) {
    fn ends(driver: &Driver) -> (Driver, Endpoint, Endpoint) {
        let own = Driver::builder().backend(driver.backend()).build().unwrap();
        let (face, descriptor) = SpscFace::builder().driver(&own).pair().unwrap();
        let handle = SpscHandle::builder().driver(driver).from_fd(descriptor).unwrap();
        face.send_blocking(packet(1, 8)).unwrap();
        (own, face.into(), handle.into())
    }
    let all_came = |end: Endpoint| {
        assert_eq!(wait("recv", end.recv()), Some(packet(1, 8)));
        assert_eq!(wait("recv", end.recv()), None);
        assert_eq!(end.finished(), Some(Ok(())));
    };
    let (own, face, handle) = ends(driver);
    face.close();
    drop(own);
    assert_eq!(face.close_reason(), Some(CloseReason::Local));
    all_came(handle);
    let (own, face, handle) = ends(driver);
    let (mut tx, mut rx) = face.into_split();
    wait("close", tx.close()).unwrap();
    drop(own);
    assert_eq!(wait("recv", rx.recv()), None);
    assert_eq!(rx.close_reason(), Some(CloseReason::DriverGone));
    assert!(handle.try_send(packet(2, 8)).is_err());
    all_came(handle);
    // An end that was not closed is cut off.
    let (own, face, handle) = ends(driver);
    drop(own);
    assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    assert_eq!(wait("recv", handle.recv()), None);
    assert_eq!(handle.finished(), Some(Err(CloseReason::Cancelled)));
}

fn a_packet_that_a_dropped_sink_lost_is_no_orderly_end(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (mut tx, _rx) = here.into_split();
        tx.feed(packet(filled, 8)).now_or_never().unwrap().unwrap();
        drop(tx);
        assert_eq!(wait("recv", there.recv()), None);
        assert_eq!(there.finished(), Some(Err(CloseReason::Cancelled)));
    });
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (mut tx, mut rx) = here.into_split();
        tx.feed(packet(filled, 8)).now_or_never().unwrap().unwrap();
        let (mut back, mut forth) = there.into_split();
        back.try_send(packet(7, 8)).unwrap();
        // With room for it, the end is an orderly one.
        assert_eq!(number(&forth.try_recv().unwrap()), 0);
        drop(tx);
        for n in 1..=filled {
            assert_eq!(number(&wait("recv", forth.recv()).unwrap()), n);
        }
        assert_eq!(wait("recv", forth.recv()), None);
        assert_eq!(forth.finished(), Some(Ok(())));
        assert_eq!(wait("recv", rx.recv()), Some(packet(7, 8)));
    });
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (mut tx, mut rx) = here.into_split();
        tx.feed(packet(filled, 8)).now_or_never().unwrap().unwrap();
        let (mut back, forth) = there.into_split();
        // The peer receives no more, so the packet has nowhere to go; the other direction goes on.
        drop(forth);
        drop(tx);
        back.try_send(packet(7, 8)).unwrap();
        assert_eq!(wait("recv", rx.recv()), Some(packet(7, 8)));
    });
}

#[test]
#[should_panic(expected = "polled after it had returned")]
fn a_send_that_has_failed_is_not_polled_again() {
    let (face, _descriptor) =
        SpscFace::builder().ring_bytes(SMALL).send_timeout(Some(Duration::ZERO)).pair().unwrap();
    fill(&face);
    let mut send = std::pin::pin!(face.send(packet(1, 8)));
    let sent = wait("send", send.as_mut());
    assert!(matches!(sent, Err(ShmError::TimedOut { sent: 0 })), "{sent:?}");
    let _ = poll_once(send);
}
