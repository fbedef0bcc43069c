//! Ends that cut off what was not received, and how they differ from orderly ends.

use futures::{FutureExt, SinkExt, StreamExt};
use wakering::{CloseReason, Driver, Receiver, ShmError};

use super::{assert_receives_end, assert_sends_fail};
use crate::common::{SMALL, both_roles, fill, number, on_both_backends, packet, wait};

on_both_backends!(
    cancelling_ends_everything_at_once,
    cancel_after_close_cuts_off_what_was_not_received,
    truncation_never_looks_like_success,
    a_stream_yields_no_error_at_an_orderly_end,
    dropping_a_sink_that_loses_a_packet_cancels,
);

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
            // The very next calls on both sides see it.
            for end in [&here, &there] {
                assert_sends_fail(end, CloseReason::Cancelled);
                assert_receives_end(end, CloseReason::Cancelled);
                assert_eq!(end.close_reason(), Some(CloseReason::Cancelled));
            }
        });
    }
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

/// Returns everything that a stream yields until its end.
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
    // The same holds for our own cancel, and after an orderly close.
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

fn a_stream_yields_no_error_at_an_orderly_end(driver: &Driver) {
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

fn dropping_a_sink_that_loses_a_packet_cancels(driver: &Driver) {
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
        // If there is room for the packet, the end is an orderly one.
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
        // The peer no longer receives, so the packet cannot be sent. The other direction goes on.
        drop(forth);
        drop(tx);
        back.try_send(packet(7, 8)).unwrap();
        assert_eq!(wait("recv", rx.recv()), Some(packet(7, 8)));
    });
}
