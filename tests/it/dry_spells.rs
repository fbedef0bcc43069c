//! Receivers that have run dry look again, after other tasks, before they park.

use std::pin::pin;
use std::task::Poll;
use std::thread::available_parallelism;
use std::time::Duration;

use futures::future::join;
use wakering::{Driver, Endpoint, SpscFace, SpscHandle};

use crate::common::woken::Woken;
use crate::common::{
    SMALL, eventually, number, on_both_backends, packet, pair, poll_with, unnamed_pair, wait,
    wakes_before_sleep,
};

on_both_backends!(
    tasks_of_one_thread_exchange_packets_without_parking,
    a_receive_made_anew_for_each_poll_parks_in_the_end,
    a_receiver_that_must_not_spin_parks_at_once,
);

/// Whether a receiver may look again: on a single core nothing would come meanwhile.
fn looks_again() -> bool {
    available_parallelism().unwrap().get() > 1
}

fn tasks_of_one_thread_exchange_packets_without_parking(driver: &Driver) {
    const TRIPS: u64 = 1_000;
    let (face, handle) = pair(driver, SMALL);
    let asks = async {
        for n in 0..TRIPS {
            face.send(packet(n, 8)).await.unwrap();
            assert_eq!(number(&face.recv().await.unwrap()), n);
        }
    };
    let answers = async {
        for _ in 0..TRIPS {
            let question = handle.recv().await.unwrap();
            handle.send(question).await.unwrap();
        }
    };
    wait("the answers", join(asks, answers));
    for end in [&face as &Endpoint, &handle] {
        let parks = end.stats().parks;
        // The first dry spells, and what runs late on a busy machine.
        assert!(parks < if looks_again() { TRIPS / 2 } else { u64::MAX }, "{parks} parks");
    }
}

/// Polls a new receive each time, until it no longer wakes its task by itself. Returns how often it
/// did.
fn dry_spell(end: &Endpoint) -> usize {
    wakes_before_sleep(|waker| poll_with(pin!(end.recv()), waker).is_pending())
}

fn a_receive_made_anew_for_each_poll_parks_in_the_end(driver: &Driver) {
    let (face, handle) = pair(driver, SMALL);
    let mut looks = 0;
    for n in 0..200 {
        looks += dry_spell(&handle);
        // It has parked: what comes now wakes it.
        let (woken, waker) = Woken::counting();
        let mut recv = pin!(handle.recv());
        if poll_with(recv.as_mut(), &waker).is_pending() {
            face.try_send(packet(n, 8)).unwrap();
            eventually("a wake", || woken.calls() > 0);
        }
        let Poll::Ready(Some(received)) = poll_with(recv.as_mut(), &waker) else {
            panic!("no packet after a wake")
        };
        assert_eq!(number(&received), n);
    }
    assert_eq!(looks > 0, looks_again());
}

fn a_receiver_that_must_not_spin_parks_at_once(driver: &Driver) {
    let face = SpscFace::builder().driver(driver).spin(Duration::ZERO);
    let handle = SpscHandle::builder().driver(driver).spin(Duration::ZERO);
    let (face, handle) = unnamed_pair(face, handle);
    for n in 0..200 {
        assert_eq!(dry_spell(&handle), 0);
        face.try_send(packet(n, 8)).unwrap();
        assert_eq!(number(&wait("recv", handle.recv()).unwrap()), n);
    }
}
