//! The adapters of `futures` over both halves.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use futures::{Sink, SinkExt, Stream, StreamExt, TryStreamExt};
use wakering::{CloseReason, Driver, Endpoint, ShmError};

use super::split;
use crate::common::{
    self, SMALL, both_roles, eventually, join, number, on_both_backends, packet, wait,
};

on_both_backends!(
    forward_moves_everything_and_closes,
    forward_fails_where_its_source_was_cut_off,
    forward_fails_where_its_sink_has_ended,
    send_all_publishes_what_came_before_its_source_failed,
    combinators_work,
    ready_chunks_takes_what_is_there,
    with_makes_a_codec,
);

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
        // The other direction was not used, and is still open.
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
        // The source then learns of it too, because forward drops both.
        eventually("the source learns of it", || source.try_send(packet(0, 8)).is_err());
        let result = join("forward", forwarding);
        assert!(matches!(result, Err(ShmError::Closed { reason: CloseReason::Peer, .. })));
    });
}

fn send_all_publishes_what_came_before_its_source_failed(driver: &Driver) {
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
        // The packet was not flushed, but it is there, and the receiver was woken.
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

/// Generic code knows the halves only by these bounds.
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
