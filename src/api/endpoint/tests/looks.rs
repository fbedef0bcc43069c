//! The look that a parked sender takes by itself.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{drivers, pair};
use crate::channel::{Attempt, Limit, Payload};
use crate::ring::LOOK_AGAIN_AFTER;
use crate::sync::lock;

/// The consumer may have missed the bit, so nobody else might ever wake the sender.
#[test]
fn a_wake_for_nothing_leaves_a_parked_sender_its_look() {
    for driver in drivers() {
        let (face, _handle) = pair(&driver, 4096);
        let packet = Bytes::from_static(&[7; 1000]);
        while face.try_send(packet.clone()).is_ok() {}
        let mut tx = lock(&face.tx);
        let payload = Payload::Packets(std::slice::from_ref(&packet));
        let mut park = || {
            let parked = tx.tx().park(payload, &mut 0, Limit::None);
            let Attempt::Parked { look_again } = parked else { panic!("the ring is full") };
            look_again
        };
        let first = park().expect("the bit may be missed");
        assert!(first <= LOOK_AGAIN_AFTER);
        let end = Instant::now() + first;
        // Woken for nothing, again and again; a slow machine may see the time pass by itself.
        let mut wakes = 0;
        while let Some(left) = park() {
            let late = Instant::now().saturating_duration_since(end);
            assert!(late < Duration::from_secs(20), "it never looks");
            assert!(left <= first, "the look was put off");
            wakes += 1;
        }
        assert!(Instant::now() >= end, "after {wakes} wakes it was forgotten");
    }
}

/// It asks for no more than the sender before it did, but the consumer may have missed its bit.
#[test]
fn a_sender_that_comes_after_one_that_gave_up_looks_by_itself() {
    for driver in drivers() {
        let (face, _handle) = pair(&driver, 4096);
        let packet = Bytes::from_static(&[7; 1000]);
        while face.try_send(packet.clone()).is_ok() {}
        for _ in 0..4 {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(pin!(face.send(packet.clone())).poll(&mut cx).is_pending());
            let mut tx = lock(&face.tx);
            let payload = Payload::Packets(std::slice::from_ref(&packet));
            let parked = tx.tx().park(payload, &mut 0, Limit::None);
            assert!(matches!(parked, Attempt::Parked { look_again: Some(_) }), "it never looks");
        }
    }
}
