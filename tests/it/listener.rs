//! A listener makes a face for each application that comes: in which order, until when, and which
//! clients are not let in.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures::future::{join_all, select_all};
use futures::stream::FusedStream;
use futures::{FutureExt, Stream, StreamExt};
use rustix::net::{SendFlags, send};
use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, SpscListener};

use crate::common::woken::Woken;
use crate::common::{
    self, Dir, SMALL, eventually, on_both_backends, packet, poll_once, raw_peer, wait,
};

on_both_backends!(
    applications_are_served_in_their_order,
    accept_and_the_stream_take_turns,
    a_dropped_accept_has_accepted_nobody,
    a_closed_listener_still_yields_the_faces_it_has,
    a_dropped_listener_cancels_the_channels_it_has_not_yielded,
    applications_beyond_the_queues_limit_get_busy,
    clients_that_are_not_let_in_are_counted,
);

fn bind(driver: &Driver, name: &str) -> SpscListener {
    SpscListener::builder().ring_bytes(SMALL).driver(driver).bind(name).unwrap()
}

fn connected(driver: &Driver, name: &str) -> Result<SpscHandle, ShmError> {
    SpscHandle::builder().driver(driver).connect(name)
}

/// Returns an application that has sent its number.
fn application(driver: &Driver, name: &str, n: u64) -> SpscHandle {
    let handle = connected(driver, name).unwrap();
    handle.try_send(packet(n, 8)).unwrap();
    handle
}

fn hear(face: &Endpoint) -> u64 {
    common::number(&wait("recv", face.recv()).unwrap())
}

fn next(listener: &mut SpscListener) -> Option<Result<SpscFace, ShmError>> {
    wait("the next face", listener.next())
}

fn poll_next(listener: &mut SpscListener) -> Poll<Option<Result<SpscFace, ShmError>>> {
    let mut cx = Context::from_waker(futures::task::noop_waker_ref());
    Pin::new(listener).poll_next(&mut cx)
}

fn is_closed(result: Result<SpscFace, ShmError>, why: CloseReason) -> bool {
    matches!(result, Err(ShmError::Closed { reason, sent: 0 }) if reason == why)
}

fn applications_are_served_in_their_order(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let mut listener = bind(driver, &name);
    assert!(poll_next(&mut listener).is_pending());
    let handles: Vec<_> = (0..20).map(|n| application(driver, &name, n)).collect();
    for n in 0..20 {
        let face = next(&mut listener).unwrap().unwrap();
        assert!(face.is_connected());
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(face.peer_credentials().unwrap().pid, pid);
        assert_eq!(hear(&face), n);
    }
    assert_eq!(listener.stats().accepted, 20);
    // Each face was dropped, which ends the channel of its application and no other.
    for handle in handles {
        assert_eq!(wait("closed", handle.closed()), CloseReason::Peer);
    }
    let _more = application(driver, &name, 20);
    assert_eq!(hear(&wait("accept", listener.accept()).unwrap()), 20);
}

fn accept_and_the_stream_take_turns(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let mut listener = bind(driver, &name);
    // The stream waits first and is then no longer polled. It must not keep the face from an
    // `accept` that still waits.
    for n in 10..15 {
        assert!(poll_next(&mut listener).is_pending());
        let mut accept = Box::pin(listener.accept());
        let (woken, waker) = Woken::counting();
        assert!(accept.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let _handle = application(driver, &name, n);
        eventually("it is woken", || woken.calls() > 0);
        assert_eq!(hear(&wait("accept", accept).unwrap()), n);
    }
    assert!(poll_next(&mut listener).is_pending());
    let waiting: Vec<_> = (0..4).map(|_| Box::pin(listener.accept())).collect();
    let handles: Vec<_> = (0..4).map(|n| application(driver, &name, n)).collect();
    let faces = wait("four accepts", join_all(waiting));
    let mut heard: Vec<_> = faces.iter().map(|face| hear(face.as_ref().unwrap())).collect();
    heard.sort_unstable();
    assert_eq!(heard, [0, 1, 2, 3]);
    drop(handles);
    let _handle = application(driver, &name, 4);
    assert_eq!(hear(&next(&mut listener).unwrap().unwrap()), 4);
}

fn a_dropped_accept_has_accepted_nobody(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let listener = bind(driver, &name);
    for n in 0..20 {
        let mut first = Box::pin(listener.accept());
        let mut second = Box::pin(listener.accept());
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(poll_once(second.as_mut()).is_pending());
        let _handle = application(driver, &name, n);
        eventually("a face waits", || listener.stats().waiting == 1);
        // If the wake has come already, it went to the first one.
        drop(first);
        let face = wait("the second", second).unwrap();
        assert_eq!(hear(&face), n);
        assert_eq!(listener.stats().waiting, 0);
    }
}

fn a_closed_listener_still_yields_the_faces_it_has(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let mut listener = bind(driver, &name);
    let handles: Vec<_> = (0..3).map(|n| application(driver, &name, n)).collect();
    eventually("they have come", || listener.stats().waiting == 3);
    listener.close();
    assert!(matches!(connected(driver, &name), Err(ShmError::NotFound { .. })));
    assert!(!listener.is_terminated(), "there are faces");
    assert_eq!(hear(&wait("accept", listener.accept()).unwrap()), 0);
    assert_eq!(hear(&next(&mut listener).unwrap().unwrap()), 1);
    let last = next(&mut listener).unwrap().unwrap();
    assert!(listener.is_terminated());
    assert!(next(&mut listener).is_none());
    assert!(is_closed(wait("accept", listener.accept()), CloseReason::Local));
    assert_eq!(listener.stats().accepted, 3);
    // Another listener may now take the name. The faces live on.
    let other = bind(driver, &name);
    drop(listener);
    assert_eq!(hear(&last), 2);
    last.try_send(packet(7, 8)).unwrap();
    assert_eq!(hear(&handles[2]), 7);
    let _handle = application(driver, &name, 9);
    assert_eq!(hear(&wait("accept", other.accept()).unwrap()), 9);
    // Every waiting `accept` learns of the close.
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(other.accept())).collect();
    assert!(waiting.iter_mut().all(|accept| poll_once(accept.as_mut()).is_pending()));
    other.close();
    for accepted in wait("all accepts return", join_all(waiting)) {
        assert!(is_closed(accepted, CloseReason::Local));
    }
}

fn a_dropped_listener_cancels_the_channels_it_has_not_yielded(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let listener = bind(driver, &name);
    let handles: Vec<_> = (0..3).map(|n| application(driver, &name, n)).collect();
    eventually("they have come", || listener.stats().waiting == 3);
    drop(listener);
    for handle in handles {
        assert_eq!(wait("closed", handle.closed()), CloseReason::Cancelled);
        assert_eq!(wait("the end", handle.recv()), None);
        assert_eq!(handle.finished(), Some(Err(CloseReason::Cancelled)), "its packet is lost");
    }
    assert!(matches!(connected(driver, &name), Err(ShmError::NotFound { .. })));
}

fn applications_beyond_the_queues_limit_get_busy(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let listener = bind(driver, &name);
    let mut handles: Vec<_> = (0..128).map(|n| application(driver, &name, n)).collect();
    for _ in 0..3 {
        assert!(matches!(connected(driver, &name), Err(ShmError::Busy)));
    }
    let stats = listener.stats();
    assert_eq!((stats.accepted, stats.waiting, stats.refused), (128, 128, 3));
    assert_eq!(hear(&wait("accept", listener.accept()).unwrap()), 0);
    handles.push(application(driver, &name, 128));
    for n in 1..=128 {
        assert_eq!(hear(&wait("accept", listener.accept()).unwrap()), n);
    }
}

fn clients_that_are_not_let_in_are_counted(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let refusing = SpscListener::builder().driver(driver).allow(|_| false).bind(&name).unwrap();
    assert!(matches!(connected(driver, &name), Err(ShmError::PermissionDenied { .. })));
    assert_eq!(refusing.stats().refused, 1);
    assert!(poll_once(pin!(refusing.accept())).is_pending());
    drop(refusing);

    let listener = bind(driver, &name);
    let unknown_client = || raw_peer::connect_to(&name).unwrap();
    drop(unknown_client());
    eventually("one hung up", || listener.stats().half_done == 1);
    let hostile = unknown_client();
    send(&hostile, b"no hello", SendFlags::NOSIGNAL).unwrap();
    eventually("one was hostile", || listener.stats().hostile == 1);
    // None of these clients becomes an item of the stream. The next application does.
    let silent = unknown_client();
    assert!(poll_once(pin!(listener.accept())).is_pending());
    let _handle = application(driver, &name, 1);
    let accepts = (0..3).map(|_| listener.accept().boxed());
    let (face, _, others) = wait("accept", select_all(accepts));
    assert_eq!(hear(&face.unwrap()), 1);
    drop((others, silent));
    eventually("the silent one is gone", || listener.stats().half_done == 2);
    let stats = listener.stats();
    assert_eq!((stats.accepted, stats.waiting, stats.refused), (1, 0, 0));
}
