//! The halves keep the laws of `Sink` and `Stream`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures::stream::{self, FusedStream};
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt, TryStreamExt};
use wakering::{CloseReason, Driver, Endpoint, Sender, ShmError, TryRecvError};

use crate::common::{
    self, SMALL, both_roles, eventually, join, number, on_both_backends, packet, poll_once, wait,
};

on_both_backends!(
    start_send_publishes_at_once,
    start_send_wakes_a_peer_that_sleeps,
    a_full_sink_holds_one_packet_back,
    poll_ready_is_pending_until_the_held_packet_is_gone,
    a_sink_on_which_nobody_waits_is_woken_once_there_is_room,
    flush_and_close_wait_for_the_held_packet,
    feeding_and_flushing_keeps_the_order_with_the_other_calls,
    a_packet_too_large_is_an_error_of_start_send,
    start_send_without_poll_ready_panics,
    a_dropped_sender_tries_its_held_packet_once_more,
    a_held_packet_on_a_cancelled_channel_is_an_error,
    forward_moves_everything_and_closes,
    forward_fails_where_its_source_was_cut_off,
    forward_fails_where_its_sink_has_ended,
    send_all_shows_what_came_before_its_source_failed,
    combinators_work,
    ready_chunks_takes_what_is_there,
    with_makes_a_codec,
    a_stream_is_fused,
    a_place_of_the_stream_that_is_not_polled_swallows_no_wake,
    a_place_of_the_sink_that_is_not_polled_swallows_no_wake,
    a_forgotten_recv_swallows_no_wake,
    a_forgotten_send_swallows_no_wake,
    a_half_moves_to_another_task_between_polls,
    the_halves_run_on_two_threads,
);

/// Fills the ring through the half and tells how many it took.
fn fill(tx: &mut Sender) -> u64 {
    (0..).find(|&next| tx.try_send(packet(next, 8)).is_err()).unwrap()
}

fn split(here: Endpoint) -> (Sender, wakering::Receiver) {
    here.into_split()
}

fn ready(tx: &mut Sender) -> Poll<Result<(), ShmError>> {
    let mut cx = Context::from_waker(futures::task::noop_waker_ref());
    Pin::new(tx).poll_ready(&mut cx)
}

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
            // No flush.
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
        // It goes before anything else.
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

fn a_sink_on_which_nobody_waits_is_woken_once_there_is_room(driver: &Driver) {
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
        // The sink goes on.
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
            // Without room it is lost, and the peer is told.
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

fn forward_moves_everything_and_closes(driver: &Driver) {
    both_roles(driver, SMALL, None, |source, from| {
        let (to, sink) = common::pair_with_timeout(driver, 2 * SMALL, None);
        let (_from_tx, from_rx) = from.into_split();
        let (to_tx, _to_rx) = Endpoint::from(to).into_split();
        let forwarding = std::thread::spawn(move || wait("forward", from_rx.forward(to_tx)));
        let sending = std::thread::spawn(move || {
            for n in 0..5000 {
                wait("send", source.send(packet(n, 50))).unwrap();
            }
        });
        for n in 0..5000 {
            assert_eq!(number(&wait("recv", sink.recv()).unwrap()), n);
        }
        assert_eq!(wait("recv", sink.recv()), None);
        join("sending", sending);
        join("forward", forwarding).unwrap();
        assert_eq!(sink.finished(), Some(Ok(())));
        // The other direction was not used, and is open still.
        assert_eq!(sink.close_reason(), None);
    });
}

fn forward_fails_where_its_source_was_cut_off(driver: &Driver) {
    both_roles(driver, SMALL, None, |source, from| {
        let (to, sink) = common::pair_with_timeout(driver, SMALL, None);
        source.try_send(packet(0, 8)).unwrap();
        let (_from_tx, from_rx) = from.into_split();
        let (to_tx, _to_rx) = Endpoint::from(to).into_split();
        let forwarding = std::thread::spawn(move || wait("forward", from_rx.forward(to_tx)));
        assert_eq!(number(&wait("recv", sink.recv()).unwrap()), 0);
        source.cancel();
        let result = join("forward", forwarding);
        let cancelled = CloseReason::Cancelled;
        assert!(matches!(result, Err(ShmError::Closed { reason, .. }) if reason == cancelled));
    });
}

fn forward_fails_where_its_sink_has_ended(driver: &Driver) {
    both_roles(driver, SMALL, None, |source, from| {
        let (to, sink) = common::pair_with_timeout(driver, SMALL, None);
        let (_from_tx, from_rx) = from.into_split();
        let (to_tx, _to_rx) = Endpoint::from(to).into_split();
        drop(sink);
        let forwarding = std::thread::spawn(move || wait("forward", from_rx.forward(to_tx)));
        // The source is told in its turn, because forward drops both.
        eventually("the source is told", || source.try_send(packet(0, 8)).is_err());
        let result = join("forward", forwarding);
        assert!(matches!(result, Err(ShmError::Closed { reason: CloseReason::Peer, .. })));
    });
}

fn send_all_shows_what_came_before_its_source_failed(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let failure = || ShmError::Busy;
        let mut source = stream::iter([Ok(packet(0, 8)), Ok(packet(1, 8)), Err(failure())]);
        let there = Arc::new(there);
        let receiver = there.clone();
        let thread = std::thread::spawn(move || {
            for n in [0, 1] {
                assert_eq!(number(&wait("recv", receiver.recv()).unwrap()), n);
            }
        });
        assert!(matches!(wait("send_all", tx.send_all(&mut source)), Err(ShmError::Busy)));
        // Not flushed, but there, and the receiver was woken.
        join("receiver", thread);
        let mut source = stream::iter((2..1000).map(|n| Ok(packet(n, 8))));
        let sending = std::thread::spawn(move || wait("send_all", tx.send_all(&mut source)));
        for n in 2..1000 {
            assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
        }
        join("send_all", sending).unwrap();
    });
}

fn combinators_work(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, rx) = split(here);
        drop(tx);
        for n in 0..100 {
            there.try_send(packet(n, 8)).unwrap();
        }
        drop(there);
        let sum = rx
            .map_ok(|packet| number(&packet))
            .try_filter(|n| futures::future::ready(n % 2 == 0))
            .take(40)
            .try_fold(0, |sum, n| async move { Ok(sum + n) });
        assert_eq!(wait("the sum", sum).unwrap(), (0..40).map(|n| 2 * n).sum());
    });
}

fn ready_chunks_takes_what_is_there(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (_tx, rx) = split(here);
        for n in 0..25 {
            there.try_send(packet(n, 8)).unwrap();
        }
        there.close();
        let chunks: Vec<_> = wait("chunks", rx.ready_chunks(10).collect());
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
    });
}

fn with_makes_a_codec(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, _rx) = split(here);
        let mut numbers = tx.with(|n: u64| futures::future::ok::<_, ShmError>(packet(n, 8)));
        for n in 0..50 {
            wait("send", numbers.send(n)).unwrap();
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        wait("close", numbers.close()).unwrap();
        assert_eq!(wait("recv", there.recv()), None);
    });
}

fn a_stream_is_fused(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (_tx, mut rx) = split(here);
        assert!(!rx.is_terminated());
        there.try_send(packet(0, 8)).unwrap();
        drop(there);
        assert!(wait("an item", rx.next()).unwrap().is_ok());
        assert!(!rx.is_terminated());
        assert!(wait("the end", rx.next()).is_none());
        assert!(rx.is_terminated());
        for _ in 0..3 {
            let mut cx = Context::from_waker(futures::task::noop_waker_ref());
            assert!(matches!(Pin::new(&mut rx).poll_next(&mut cx), Poll::Ready(None)));
        }
        assert_eq!(rx.size_hint().0, 0);
        futures::executor::block_on(async {
            futures::select! {
                item = rx.next() => panic!("polled behind its end: {item:?}"),
                complete => {}
            }
        });
    });
}

fn a_place_of_the_stream_that_is_not_polled_swallows_no_wake(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (_tx, mut rx) = split(here);
        // Polled by somebody who then went away.
        assert!(rx.next().now_or_never().is_none());
        let (tell, told) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || {
            let mut recv = Box::pin(rx.recv());
            assert!(poll_once(recv.as_mut()).is_pending());
            tell.send(()).unwrap();
            wait("recv", recv)
        });
        told.recv().unwrap();
        there.try_send(packet(1, 8)).unwrap();
        assert_eq!(join("recv", receiver), Some(packet(1, 8)));
    });
}

fn a_place_of_the_sink_that_is_not_polled_swallows_no_wake(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let filled = fill(&mut tx);
        wait("feed", tx.feed(packet(filled, 8))).unwrap();
        assert!(tx.flush().now_or_never().is_none());
        let sender = std::thread::spawn(move || {
            wait("send", Sender::send(&mut tx, packet(filled + 1, 8))).unwrap();
        });
        // Longer than until its second look.
        std::thread::sleep(std::time::Duration::from_millis(20));
        for n in 0..filled + 2 {
            assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
        }
        join("send", sender);
    });
}

fn a_forgotten_recv_swallows_no_wake(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (_tx, mut rx) = split(here);
        let mut recv = Box::pin(rx.recv());
        assert!(poll_once(recv.as_mut()).is_pending());
        std::mem::forget(recv);
        let receiver = std::thread::spawn(move || {
            for n in 0..100 {
                assert_eq!(wait("recv", rx.recv()), Some(packet(n, 8)));
            }
        });
        for n in 0..100 {
            wait("send", there.send(packet(n, 8))).unwrap();
        }
        join("recv", receiver);
    });
}

fn a_forgotten_send_swallows_no_wake(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let filled = fill(&mut tx);
        let mut send = Box::pin(Sender::send(&mut tx, packet(999, 8)));
        assert!(poll_once(send.as_mut()).is_pending());
        std::mem::forget(send);
        let sender = std::thread::spawn(move || {
            for n in filled..2000 {
                wait("send", Sender::send(&mut tx, packet(n, 8))).unwrap();
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        for n in 0..2000 {
            assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
        }
        join("send", sender);
    });
}

fn a_half_moves_to_another_task_between_polls(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx) = split(here);
        for n in 0..100 {
            assert!(rx.next().now_or_never().is_none());
            let receiver = std::thread::spawn(move || {
                let item = wait("next", rx.next()).unwrap().unwrap();
                (item, rx)
            });
            there.try_send(packet(n, 8)).unwrap();
            let (item, back) = join("next", receiver);
            rx = back;
            assert_eq!(number(&item), n);
            tx = std::thread::spawn(move || {
                wait("send", SinkExt::send(&mut tx, packet(n, 8))).unwrap();
                tx
            })
            .join()
            .unwrap();
            assert_eq!(there.try_recv(), Ok(packet(n, 8)));
        }
    });
}

fn the_halves_run_on_two_threads(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx) = split(here);
        let (echo_tx, echo_rx) = split(there);
        let echo = std::thread::spawn(move || wait("echo", echo_rx.forward(echo_tx)));
        let sender = std::thread::spawn(move || {
            pollster::block_on(async {
                for n in 0..10_000 {
                    tx.feed(packet(n, 20)).await.unwrap();
                }
                tx.close().await.unwrap();
            });
        });
        pollster::block_on(async {
            let mut received = 0;
            while let Some(item) = rx.next().await {
                assert_eq!(number(&item.unwrap()), received);
                received += 1;
            }
            assert_eq!(received, 10_000);
        });
        join("sender", sender);
        join("echo", echo).unwrap();
    });
}

/// Generic code knows the halves by these bounds alone.
#[test]
fn generic_code_takes_the_halves() {
    fn pipe(
        source: impl Stream<Item = Result<Bytes, ShmError>>,
        sink: impl Sink<Bytes, Error = ShmError>,
    ) -> impl Future<Output = Result<(), ShmError>> {
        source.forward(sink)
    }
    let (face, descriptor) = wakering::SpscFace::builder().ring_bytes(SMALL).pair().unwrap();
    let handle = wakering::SpscHandle::from_fd(descriptor).unwrap();
    let (tx, rx) = Endpoint::from(face).into_split();
    handle.try_send(packet(1, 8)).unwrap();
    handle.try_send(packet(2, 8)).unwrap();
    let pipe = pipe(rx.take(2), tx);
    wait("the pipe", pipe).unwrap();
    assert_eq!(wait("recv", handle.recv()), Some(packet(1, 8)));
    assert_eq!(wait("recv", handle.recv()), Some(packet(2, 8)));
    assert_eq!(wait("recv", handle.recv()), None);
}
