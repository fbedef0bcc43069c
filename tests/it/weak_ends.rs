//! Ends that a registry holds by `Weak`.

use std::sync::{Arc, Weak};

use wakering::{CloseReason, Driver, Endpoint};

use crate::common::{SMALL, both_roles, join, number, on_both_backends, packet, poll_once, wait};

on_both_backends!(
    an_end_that_is_only_held_weakly_has_closed_in_order,
    an_upgrade_keeps_the_end_open_until_it_is_dropped,
    the_last_of_many_threads_closes_in_order,
    a_call_that_waits_keeps_the_end_open,
);

fn assert_orderly_end(end: &Endpoint) {
    assert_eq!(wait("recv", end.recv()), None);
    assert_eq!(end.finished(), Some(Ok(())));
    assert_eq!(end.close_reason(), Some(CloseReason::Peer));
}

fn an_end_that_is_only_held_weakly_has_closed_in_order(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let here = Arc::new(here);
        let (weak, canceller) = (Arc::downgrade(&here), here.canceller());
        weak.upgrade().unwrap().try_send(packet(1, 8)).unwrap();
        drop(here);
        assert!(weak.upgrade().is_none());
        // Too late to cut off what was sent.
        canceller.cancel();
        assert_eq!(number(&wait("recv", there.recv()).unwrap()), 1);
        assert_orderly_end(&there);
    });
}

fn an_upgrade_keeps_the_end_open_until_it_is_dropped(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let here = Arc::new(here);
        let weak = Arc::downgrade(&here);
        let upgraded = weak.upgrade().unwrap();
        drop(here);
        assert!(!there.is_closed());
        upgraded.try_send(packet(2, 8)).unwrap();
        drop(upgraded);
        assert_eq!(number(&wait("recv", there.recv()).unwrap()), 2);
        assert_orderly_end(&there);
    });
}

fn the_last_of_many_threads_closes_in_order(driver: &Driver) {
    const THREADS: u64 = 4;
    const EACH: u64 = 500;
    both_roles(driver, SMALL, None, |here, there| {
        let here = Arc::new(here);
        let weak = Arc::downgrade(&here);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let here = here.clone();
                std::thread::spawn(move || {
                    (0..EACH)
                        .for_each(|n| here.send_blocking(packet(thread * EACH + n, 8)).unwrap());
                })
            })
            .collect();
        drop(here);
        let mut numbers = Vec::new();
        while let Some(packet) = wait("recv", there.recv()) {
            numbers.push(number(&packet));
        }
        threads.into_iter().for_each(|thread| join("a sender", thread));
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..THREADS * EACH));
        assert_orderly_end(&there);
        assert!(Weak::upgrade(&weak).is_none());
    });
}

fn a_call_that_waits_keeps_the_end_open(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let here = Arc::new(here);
        let weak = Arc::downgrade(&here);
        let mut waiting = Box::pin(async move { here.recv().await });
        assert!(poll_once(waiting.as_mut()).is_pending());
        assert!(weak.upgrade().is_some() && !there.is_closed());
        drop(waiting);
        assert!(weak.upgrade().is_none());
        assert_orderly_end(&there);
    });
}
