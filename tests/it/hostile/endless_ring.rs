//! A peer whose ring has no end: its records and markers lead round in a circle.
//!
//! After the peer has closed its sending direction, or has died, at most one ring of records can
//! follow. A batch takes at most one ring, and checks on the way whether the channel has ended.

#![allow(unsafe_code, reason = "lending is")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use wakering::{
    CloseReason, Driver, Endpoint, Receiver, ShmError, SpscFace, TryRecvError, Violation,
};

use super::attacker::{Attacker, BOTH, Ours};
use crate::common::raw_peer::{CANCELLED, ENDS, JUMP, PACKET, TX_CLOSED};
use crate::common::{PATIENCE, SMALL, eventually, on_both_backends, packet, pair, wait};

on_both_backends!(
    a_dead_peers_ring_ends,
    a_closed_peers_ring_ends,
    blocking_calls_find_the_end_if_nobody_runs_the_driver,
    a_whole_end_receives_one_ring_after_the_end,
    a_batch_from_an_endless_ring_returns_and_notices_a_cancel,
    a_cancel_ends_a_batch_that_is_under_way,
    a_full_ring_arrives_whole_after_a_close,
);

/// How many empty packets fit into the small ring.
const MAX: usize = SMALL / 8;

/// Scripts that make a ring without an end.
fn circles() -> [String; 3] {
    [
        // An empty packet, and a marker back to it.
        format!("put 8 {JUMP:x}; put 0 {PACKET:x}"),
        // Headers everywhere, which nobody clears.
        format!("fill {PACKET:x}"),
        // Two packets, and a marker into the middle of the ring.
        format!(
            "put 810 {JUMP:x}; put 800 {:x}; put 8 {:x}; put 0 {PACKET:x}",
            PACKET | 8,
            JUMP | 0x800
        ),
    ]
}

/// A way to receive. It returns how many packets came before the end, and stops after `most`.
type Way = (&'static str, fn(&mut Receiver, usize) -> usize);

const WAYS: [Way; 8] = [
    ("recv", |rx, most| {
        (0..=most).take_while(|_| wait("a packet or the end", rx.recv()).is_some()).count()
    }),
    ("recv_blocking", |rx, most| (0..=most).take_while(|_| rx.recv_blocking().is_some()).count()),
    ("try_recv", |rx, most| {
        let taken = (0..=most).take_while(|_| rx.try_recv().is_ok()).count();
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed(_))));
        taken
    }),
    ("recv_batch", |rx, most| {
        let mut packets = Vec::new();
        while wait("a batch", rx.recv_batch(&mut packets, usize::MAX)) > 0 && packets.len() <= most
        {
        }
        packets.len()
    }),
    ("recv_batch_blocking", |rx, most| {
        let mut packets = Vec::new();
        while rx.recv_batch_blocking(&mut packets, usize::MAX) > 0 && packets.len() <= most {}
        packets.len()
    }),
    ("recv_ref", |rx, most| {
        (0..=most).take_while(|_| wait("a packet or the end", rx.recv_ref()).is_some()).count()
    }),
    ("readable", |rx, most| {
        let mut taken = 0;
        while taken <= most && rx.readable().is_some() {
            drop(rx.try_recv_ref().unwrap());
            taken += 1;
        }
        taken
    }),
    ("lent", |rx, most| {
        let lend = |rx: &mut Receiver| {
            // SAFETY: nothing reads their bytes.
            rx.recv_ref_blocking().map(|packet| unsafe { packet.into_lent_bytes() })
        };
        let lent: Vec<Bytes> = (0..=most).map_while(|_| lend(rx)).collect();
        lent.len()
    }),
];

/// Receives as a stream, and returns how many packets came and the error after them.
fn last_of_stream(rx: Receiver) -> (usize, Option<ShmError>) {
    let items: Vec<_> = wait("the end of the stream", rx.take(MAX + 2).collect());
    let count = items.iter().filter(|item| item.is_ok()).count();
    (count, items.into_iter().find_map(Result::err))
}

fn is_endless(error: &ShmError) -> bool {
    let violation = Violation::EndlessRing(4096);
    matches!(error, ShmError::Closed { reason: CloseReason::Violation(it), .. } if *it == violation)
}

/// Returns an end whose peer has made a circle and then ended as `last` says. Waits until this side
/// knows of that.
fn at_the_end_of(circle: &str, last: Last, driver: &Driver, ours: Ours) -> (Attacker, Endpoint) {
    let mut attacker = Attacker::start();
    let end = attacker.meet(driver, ours);
    attacker.say(circle);
    match last {
        Last::Closes => attacker.say(&format!("or32 {:x} {TX_CLOSED:x}", ours.words().1 + ENDS)),
        Last::Dies => {
            attacker.kill();
            eventually("its death is known", || !end.is_connected());
        }
    }
    (attacker, end)
}

#[derive(Debug, Clone, Copy)]
enum Last {
    Closes,
    Dies,
}

fn a_dead_peers_ring_ends(driver: &Driver) {
    each_way_comes_to_the_end(driver, Last::Dies);
}

fn a_closed_peers_ring_ends(driver: &Driver) {
    each_way_comes_to_the_end(driver, Last::Closes);
}

fn each_way_comes_to_the_end(driver: &Driver, last: Last) {
    for (circle, ours) in circles().iter().zip(BOTH.into_iter().cycle()) {
        for (name, way) in WAYS {
            let (_attacker, end) = at_the_end_of(circle, last, driver, ours);
            let (_tx, mut rx) = end.into_split();
            let taken = way(&mut rx, MAX);
            assert!((1..=MAX).contains(&taken), "{name}, {circle}: {taken} packets");
            let Err(TryRecvError::Closed(reason)) = rx.try_recv() else {
                panic!("{name}, {circle}")
            };
            assert!(reason.is_lossy(), "{name}, {circle}: {reason}");
            assert_eq!(rx.close_reason(), Some(reason), "{name}, {circle}");
            assert_eq!(rx.finished(), Some(Err(reason)), "{name}, {circle}");
        }
        let (_attacker, end) = at_the_end_of(circle, last, driver, ours);
        let (taken, error) = last_of_stream(end.into_split().1);
        assert!((1..=MAX).contains(&taken), "stream, {circle}: {taken} packets");
        assert!(error.as_ref().is_some_and(is_endless), "{circle}: {error:?}");
    }
}

/// The peer has died, which only the driver would report.
fn blocking_calls_find_the_end_if_nobody_runs_the_driver(driver: &Driver) {
    type Way = (&'static str, fn(&mut Receiver) -> bool);
    const WAYS: [Way; 4] = [
        ("recv_blocking", |rx| rx.recv_blocking().is_some()),
        ("recv_ref_blocking", |rx| rx.recv_ref_blocking().is_some()),
        ("recv_batch_blocking", |rx| rx.recv_batch_blocking(&mut Vec::new(), 1 << 20) > 0),
        ("recv_timeout", |rx| rx.recv_timeout(PATIENCE).is_ok()),
    ];
    for ((name, way), ours) in WAYS.into_iter().zip(BOTH.into_iter().cycle()) {
        let idle = Driver::builder().backend(driver.backend()).build().unwrap();
        let mut attacker = Attacker::start();
        let end = match ours {
            Ours::Face => {
                let face = attacker.next_name();
                let builder = SpscFace::builder().ring_bytes(SMALL).driver(&idle);
                let end = builder.create(&face).unwrap();
                attacker.order(&format!("connect {face}"));
                idle.block_on(end.connected()).unwrap();
                attacker.done();
                Endpoint::from(end)
            }
            Ours::Handle => attacker.meet(&idle, ours),
        };
        attacker.say(&circles()[0]);
        let (_tx, mut rx) = end.into_split();
        assert!(way(&mut rx));
        attacker.kill();
        let begin = Instant::now();
        while way(&mut rx) {
            assert!(begin.elapsed() < PATIENCE, "{name}: the ring does not end");
        }
        assert!(rx.finished().is_some_and(|finished| finished.is_err()), "{name}");
    }
}

fn a_whole_end_receives_one_ring_after_the_end(driver: &Driver) {
    for (ours, last) in BOTH.into_iter().zip([Last::Closes, Last::Dies]) {
        let (_attacker, end) = at_the_end_of(&circles()[0], last, driver, ours);
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while wait("a packet or the end", end.recv()).is_some() {
                        assert!(
                            taken.fetch_add(1, Ordering::Relaxed) < MAX,
                            "the ring does not end"
                        );
                    }
                });
            }
        });
        assert!(end.close_reason().is_some_and(CloseReason::is_lossy));
    }
}

fn a_batch_from_an_endless_ring_returns_and_notices_a_cancel(driver: &Driver) {
    for (circle, ours) in circles().iter().zip(BOTH.into_iter().cycle()) {
        for (by_us, blocking) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut attacker = Attacker::start();
            let end = attacker.meet(driver, ours);
            attacker.say(circle);
            let canceller = end.canceller();
            let batches = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                let receiver = scope.spawn(|| {
                    let mut packets = Vec::new();
                    loop {
                        let taken = match blocking {
                            true => end.recv_batch_blocking(&mut packets, usize::MAX),
                            false => wait("a batch", end.recv_batch(&mut packets, usize::MAX)),
                        };
                        assert!(taken <= MAX && taken == packets.len(), "{taken} at once");
                        batches.fetch_add(1, Ordering::Relaxed);
                        packets.clear();
                        if taken == 0 {
                            return;
                        }
                    }
                });
                let begun = Instant::now();
                // The receiver is in full flight, and has returned from more than one batch.
                while batches.load(Ordering::Relaxed) < 100 {
                    assert!(begun.elapsed() < PATIENCE, "no batch returns");
                    std::thread::sleep(Duration::from_micros(100));
                }
                match by_us {
                    true => canceller.cancel(),
                    false => {
                        attacker.say(&format!("or32 {:x} {CANCELLED:x}", ours.words().1 + ENDS));
                    }
                }
                eventually("the receiver ends", || receiver.is_finished());
            });
            assert_eq!(end.close_reason(), Some(CloseReason::Cancelled));
        }
    }
}

fn a_cancel_ends_a_batch_that_is_under_way(driver: &Driver) {
    let empty = vec![Bytes::new(); (1 << 20) - 2];
    for by_us in [true, false] {
        // The batch may be over before this thread runs again.
        eventually("the cancel comes in the middle of a batch", || {
            let (face, handle) = pair(driver, 8 << 20);
            face.send_batch_blocking(&empty).unwrap();
            let taken = std::thread::scope(|scope| {
                let receive = || handle.recv_batch_blocking(&mut Vec::new(), usize::MAX);
                let receiver = scope.spawn(receive);
                while handle.stats().packets_received == 0 {
                    std::hint::spin_loop();
                }
                if by_us {
                    handle.cancel()
                } else {
                    face.cancel()
                }
                receiver.join().unwrap()
            });
            assert_eq!(handle.recv_batch_blocking(&mut Vec::new(), usize::MAX), 0);
            (1..empty.len()).contains(&taken)
        });
    }
}

/// A lawful ring is received whole, in whatever state it is when its sender closes.
fn a_full_ring_arrives_whole_after_a_close(driver: &Driver) {
    for ring_bytes in [4096, 8192, 1 << 16, 1 << 20, 1 << 22] {
        for (before, len) in [(0, 0), (1, 1), (7, 0), (700, 24), (3, 1016), (5, 999), (40, 100)] {
            let (face, handle) = pair(driver, ring_bytes);
            for n in 0..before {
                face.try_send(packet(n, len)).unwrap_or_else(|_| {
                    while handle.try_recv().is_ok() {}
                    face.try_send(packet(n, len)).unwrap();
                });
            }
            while handle.try_recv().is_ok() {}
            let mut sent = 0;
            while face.try_send(packet(sent, len)).is_ok() {
                sent += 1;
            }
            face.close();
            let mut received = Vec::new();
            while handle.recv_batch_blocking(&mut received, usize::MAX) > 0 {}
            let expected: Vec<_> = (0..sent).map(|n| packet(n, len)).collect();
            assert!(received == expected, "{ring_bytes}, {len}: {} of {sent}", received.len());
            assert_eq!(handle.close_reason(), Some(CloseReason::Peer));
        }
    }
}
