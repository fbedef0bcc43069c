//! What a sink takes, holds back and sends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::{FutureExt, Sink, SinkExt};
use wakering::{CloseReason, Driver, Sender, ShmError, TryRecvError};

use super::{fill, ready, split};
use crate::common::{SMALL, both_roles, eventually, join, number, on_both_backends, packet, wait};

on_both_backends!(
    start_send_publishes_at_once,
    start_send_wakes_a_peer_that_sleeps,
    a_full_sink_holds_one_packet_back,
    poll_ready_is_pending_until_the_held_packet_is_gone,
    a_sink_is_woken_once_there_is_room,
    flush_and_close_wait_for_the_held_packet,
    feeding_and_flushing_keeps_the_order_with_the_other_calls,
    a_packet_too_large_is_an_error_of_start_send,
    start_send_without_poll_ready_panics,
    a_dropped_sender_tries_its_held_packet_once_more,
    a_held_packet_on_a_cancelled_channel_is_an_error,
);

fn start_send_publishes_at_once(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        for n in 0..1000 {
            let mut polled = ready(&mut tx);
            if polled.is_pending() {
                // It lets others run, once in a while.
                polled = ready(&mut tx);
            }
            assert!(matches!(polled, Poll::Ready(Ok(()))));
            Pin::new(&mut tx).start_send(packet(n, 8)).unwrap();
            assert_eq!(there.try_recv(), Ok(packet(n, 8)));
        }
    });
}

fn start_send_wakes_a_peer_that_sleeps(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let there = Arc::new(there);
        for n in 0..200 {
            let (receiver, parks) = (there.clone(), there.stats().parks);
            let thread = std::thread::spawn(move || wait("recv", receiver.recv()));
            eventually("the receiver parks", || there.stats().parks > parks);
            assert!(matches!(ready(&mut tx), Poll::Ready(Ok(()))));
            Pin::new(&mut tx).start_send(packet(n, 8)).unwrap();
            // There is no flush.
            assert_eq!(join("recv", thread), Some(packet(n, 8)));
        }
    });
}

fn a_full_sink_holds_one_packet_back(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let filled = fill(&mut tx);
        assert!(matches!(ready(&mut tx), Poll::Ready(Ok(()))));
        Pin::new(&mut tx).start_send(packet(filled, 8)).unwrap();
        assert!(ready(&mut tx).is_pending());
        assert!(tx.try_send(packet(99, 8)).is_err());
        assert_eq!(number(&there.try_recv().unwrap()), 0);
        // The packet that is held back goes before anything else.
        assert!(tx.try_send(packet(99, 8)).is_err());
        assert_eq!(number(&there.try_recv().unwrap()), 1);
        tx.try_send(packet(filled + 1, 8)).unwrap();
        for n in 2..filled + 2 {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        assert_eq!(there.try_recv(), Err(TryRecvError::Empty));
    });
}

fn poll_ready_is_pending_until_the_held_packet_is_gone(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let filled = fill(&mut tx);
        tx.feed(packet(filled, 8)).now_or_never().unwrap().unwrap();
        for _ in 0..10 {
            assert!(ready(&mut tx).is_pending());
            assert!(tx.flush().now_or_never().is_none());
            assert!(tx.feed(packet(0, 8)).now_or_never().is_none());
        }
        for n in 0..filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        assert!(matches!(ready(&mut tx), Poll::Ready(Ok(()))));
        assert_eq!(there.try_recv(), Ok(packet(filled, 8)));
    });
}

struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn a_sink_is_woken_once_there_is_room(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let filled = fill(&mut tx);
        tx.feed(packet(filled, 8)).now_or_never().unwrap().unwrap();
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(woken.clone());
        let poll = |tx: &mut Sender| {
            Pin::new(tx).poll_ready(&mut Context::from_waker(&waker)).is_pending()
        };
        assert!(poll(&mut tx));
        // The second look comes first.
        eventually("the second look", || woken.0.load(Ordering::SeqCst) > 0);
        assert!(poll(&mut tx));
        let before = woken.0.load(Ordering::SeqCst);
        for _ in 0..filled {
            there.try_recv().unwrap();
        }
        eventually("there is room", || woken.0.load(Ordering::SeqCst) > before);
        assert!(!poll(&mut tx));
    });
}

fn flush_and_close_wait_for_the_held_packet(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        wait("an empty flush", tx.flush()).unwrap();
        let filled = fill(&mut tx);
        wait("a flush with nothing held", tx.flush()).unwrap();
        tx.feed(packet(filled, 8)).now_or_never().unwrap().unwrap();
        assert!(tx.flush().now_or_never().is_none());
        assert!(tx.close().now_or_never().is_none());
        let closing = std::thread::spawn(move || wait("close", tx.close()));
        for n in 0..=filled {
            assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
        }
        join("close", closing).unwrap();
        assert_eq!(wait("recv", there.recv()), None);
    });
}

fn feeding_and_flushing_keeps_the_order_with_the_other_calls(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let sender = std::thread::spawn(move || {
            let mut n = 0;
            let mut next = move || {
                n += 1;
                packet(n - 1, 100)
            };
            for round in 0..3000 {
                match round % 7 {
                    0 => wait("feed", tx.feed(next())).unwrap(),
                    1 => wait("send", Sender::send(&mut tx, next())).unwrap(),
                    2 => wait("sink send", SinkExt::send(&mut tx, next())).unwrap(),
                    3 => tx.send_blocking(next()).unwrap(),
                    4 => wait("batch", tx.send_batch(&[next(), next(), next()])).unwrap(),
                    5 => {
                        wait("feed", tx.feed(next())).unwrap();
                        tx.send_batch_blocking(&[next(), next()]).unwrap();
                    }
                    _ => {
                        wait("feed", tx.feed(next())).unwrap();
                        let mut last = next();
                        while let Err(refusal) = tx.try_send(last) {
                            last = refusal.into_inner();
                            std::thread::yield_now();
                        }
                    }
                }
            }
            wait("close", tx.close()).unwrap();
            number(&next())
        });
        let mut received = 0;
        while let Some(next) = wait("recv", there.recv()) {
            assert_eq!(number(&next), received);
            received += 1;
        }
        assert_eq!(join("sender", sender), received);
    });
}

fn a_packet_too_large_is_an_error_of_start_send(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let result = wait("send", SinkExt::send(&mut tx, packet(0, 1017)));
        assert!(matches!(result, Err(ShmError::PacketTooLarge { len: 1017, max: 1016 })));
        // The sink still works.
        wait("send", SinkExt::send(&mut tx, packet(1, 1016))).unwrap();
        assert_eq!(there.try_recv(), Ok(packet(1, 1016)));
    });
}

fn start_send_without_poll_ready_panics(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, _there| {
        let (mut tx, _rx) = split(here);
        fill(&mut tx);
        Pin::new(&mut tx).start_send(packet(0, 8)).unwrap();
        let again = std::panic::AssertUnwindSafe(|| Pin::new(&mut tx).start_send(packet(1, 8)));
        assert!(std::panic::catch_unwind(again).is_err());
    });
}

fn a_dropped_sender_tries_its_held_packet_once_more(driver: &Driver) {
    for has_room in [true, false] {
        both_roles(driver, SMALL, None, |here, there| {
            let (mut tx, _rx) = split(here);
            let filled = fill(&mut tx);
            tx.feed(packet(filled, 8)).now_or_never().unwrap().unwrap();
            let from = u64::from(has_room);
            if has_room {
                assert_eq!(number(&there.try_recv().unwrap()), 0);
            }
            drop(tx);
            if has_room {
                for n in from..filled + from {
                    assert_eq!(number(&there.try_recv().unwrap()), n);
                }
            }
            assert_eq!(wait("recv", there.recv()), None);
            // Without room the packet is lost, and the peer learns of that.
            let all = if has_room { Ok(()) } else { Err(CloseReason::Cancelled) };
            assert_eq!(there.finished(), Some(all));
        });
    }
}

fn a_held_packet_on_a_cancelled_channel_is_an_error(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        fill(&mut tx);
        tx.feed(packet(0, 8)).now_or_never().unwrap().unwrap();
        there.cancel();
        let is_cancelled = |result| {
            let cancelled = CloseReason::Cancelled;
            matches!(result, Err(ShmError::Closed { reason, .. }) if reason == cancelled)
        };
        assert!(is_cancelled(wait("flush", tx.flush())));
        assert!(is_cancelled(wait("close", tx.close())));
        assert!(is_cancelled(wait("feed", tx.feed(packet(0, 8)))));
    });
}
