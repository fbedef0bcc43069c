//! How a channel ends: every row of the table of ends, in both directions, from both sides, for
//! every way of waiting.

mod close;
mod parked_calls;
mod races;
mod reasons;
mod truncation;

use wakering::{CloseReason, Endpoint, RecvTimeoutError, ShmError, TryRecvError, TrySendError};

use crate::common::{self, packet, wait};

fn assert_closed(result: Result<(), ShmError>, expected: CloseReason) {
    match result {
        Err(ShmError::Closed { reason, sent: 0 }) => assert_eq!(reason, expected),
        other => panic!("expected Closed {{ {expected:?} }}, got {other:?}"),
    }
}

/// Asserts that every way to send fails with this reason.
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

/// Asserts that every way to receive reports the end and its reason.
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

/// Returns what `finished` returns for a direction that ended for `reason`.
fn finish(reason: CloseReason) -> Result<(), CloseReason> {
    if reason == CloseReason::Peer { Ok(()) } else { Err(reason) }
}

type End = (&'static str, fn(Endpoint) -> Option<Endpoint>, CloseReason);

/// What the other side may do, and the reason that this side then has. The returned value stays
/// open until the call under test has returned.
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
