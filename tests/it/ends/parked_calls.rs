//! Calls that are parked when the channel ends.

use std::sync::Arc;

use wakering::{CloseReason, Driver, Endpoint, ShmError};

use super::ENDS;
use crate::common::{
    self, SMALL, both_roles, eventually, fill, join, on_both_backends, packet, wait,
};

on_both_backends!(every_parked_call_learns_of_every_end, the_reason_never_changes,);

type Parked = (&'static str, fn(&Endpoint) -> CloseReason);

fn ended(end: &Endpoint, received: Option<impl Sized>) -> CloseReason {
    assert!(received.is_none());
    end.close_reason().expect("a reason after the end")
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
                // A second call that queues after the parked one.
                let queued = here.clone();
                let queued = std::thread::spawn(move || call(&queued));
                let _there = end(there);
                assert_eq!(join(what, thread), expected, "{what}, {how} by the peer");
                assert_eq!(join(what, queued), expected, "queued {what}, {how} by the peer");
            });
        }
    }
    // Ends that this side causes.
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
