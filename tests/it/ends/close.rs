//! Ends and halves that are closed or dropped.

use futures::SinkExt;
use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, TrySendError};

use super::{assert_closed, assert_receives_end, assert_sends_fail};
use crate::common::{
    self, SMALL, both_roles, eventually, fill, number, on_both_backends, packet, pair_with_timeout,
    poll_once, wait,
};

on_both_backends!(
    a_closed_peer_ends_recv_after_all_that_was_sent,
    a_closed_peer_fails_sends,
    a_dropped_end_is_a_closed_end,
    a_dropped_sender_ends_recv_and_leaves_send_alone,
    a_dropped_receiver_fails_sends_and_leaves_recv_alone,
    a_closed_sink_is_a_dropped_sender,
    closing_ends_our_own_calls_at_once,
    the_peers_half_close_ends_nothing_but_that_half,
    an_end_that_nobody_connected_to_can_be_ended,
    connected_fails_after_an_end,
    a_driver_that_goes_undoes_no_orderly_end,
);

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

fn the_peers_half_close_ends_nothing_but_that_half(driver: &Driver) {
    // The peer's sender is dropped: everything that was sent arrives, then only this direction
    // ends.
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
    // The peer's receiver is dropped: packets still come.
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

fn connected_fails_after_an_end(driver: &Driver) {
    let dir = common::Dir::new();
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(driver);
    let face = builder.create(&dir.name("alone")).unwrap();
    let mut connected = Box::pin(face.connected());
    assert!(poll_once(connected.as_mut()).is_pending());
    face.close();
    let result = wait("connected", connected);
    assert!(matches!(result, Err(ShmError::Closed { reason: CloseReason::Local, .. })));
    // An end that was connected still says so afterwards.
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
