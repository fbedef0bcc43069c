//! Halves that tasks poll and then poll no longer, or that move from one task to another.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::FusedStream;
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use wakering::{Driver, Sender};

use super::{fill, split};
use crate::common::{SMALL, both_roles, join, number, on_both_backends, packet, poll_once, wait};

on_both_backends!(
    a_stream_is_fused,
    a_stream_that_is_no_longer_polled_takes_no_wake,
    a_sink_that_is_no_longer_polled_takes_no_wake,
    a_forgotten_recv_takes_no_wake,
    a_forgotten_send_takes_no_wake,
    a_half_moves_to_another_task_between_polls,
    the_halves_run_on_two_threads,
);

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
                item = rx.next() => panic!("polled after its end: {item:?}"),
                complete => {}
            }
        });
    });
}

fn a_stream_that_is_no_longer_polled_takes_no_wake(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (_tx, mut rx) = split(here);
        // Polled by a task that then stopped.
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

fn a_sink_that_is_no_longer_polled_takes_no_wake(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = split(here);
        let filled = fill(&mut tx);
        wait("feed", tx.feed(packet(filled, 8))).unwrap();
        assert!(tx.flush().now_or_never().is_none());
        let sender = std::thread::spawn(move || {
            wait("send", Sender::send(&mut tx, packet(filled + 1, 8))).unwrap();
        });
        // Longer than until the sink's second look.
        std::thread::sleep(std::time::Duration::from_millis(20));
        for n in 0..filled + 2 {
            assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
        }
        join("send", sender);
    });
}

fn a_forgotten_recv_takes_no_wake(driver: &Driver) {
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

fn a_forgotten_send_takes_no_wake(driver: &Driver) {
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
