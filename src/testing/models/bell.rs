//! Halves that sleep: no wake is lost, in either direction.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use loom::thread;

use super::halves::{Rx, Tx};
use super::{ALL, explore, halves, word};
use crate::ring::Position;
use crate::shm::layout::{RECV, SEND, Side};
use crate::shm::region::Region;
use crate::sync::Arc;
use crate::wake::bell::Bell;

/// The data side of the bell. At most 4 preemptions.
#[test]
fn a_sleeping_receiver_misses_no_packet() {
    explore(Some(4), || {
        let (mut tx, mut rx) = halves(&Region::model(64, 8), Side::Face);
        let sender = thread::spawn(move || {
            for n in 0..2 {
                assert!(tx.fill(&word(n)));
                tx.peer.wake_if_waiting_fenced(RECV);
            }
        });
        for n in 0..2 {
            assert_eq!(rx.recv().unwrap()[..], word(n));
        }
        sender.join().unwrap();
    });
}

/// The room side: the ring is full at the start. At most 3 preemptions.
#[test]
fn a_sleeping_sender_misses_no_room() {
    explore(Some(3), || {
        let (mut tx, mut rx) = halves(&Region::model(64, 8), Side::Face);
        assert!((0..3).all(|n| tx.fill(&word(n))) && !tx.fill(&word(3)));
        let sender = thread::spawn(move || assert!(tx.send(&word(3))));
        // It takes what is there and settles, as before a sleep; the sleep itself is left out.
        for n in 0..3 {
            assert_eq!(rx.take().unwrap()[..], word(n));
        }
        rx.settle();
        sender.join().unwrap();
        assert_eq!(rx.take().unwrap()[..], word(3));
    });
}

/// The sender parks again within one round of the ring and then needs half of it more. The receiver
/// may settle without having taken that half. In the larger ring `head` lags behind `taken`. At
/// most 3 preemptions.
#[test]
fn a_sender_that_parks_again_misses_no_room() {
    for ring_bytes in [64, 128] {
        explore(Some(3), move || {
            let (mut tx, mut rx) = halves(&Region::model(ring_bytes, 8), Side::Face);
            let full = (1..).take_while(|_| tx.fill(&[])).count();
            let sender = thread::spawn(move || {
                assert!(tx.send(&[]));
                assert!(tx.send(&[]));
            });
            for _ in 0..2 {
                assert!(rx.take().unwrap().is_empty());
            }
            rx.settle();
            sender.join().unwrap();
            assert_eq!(std::iter::from_fn(|| rx.take()).count(), full);
        });
    }
}

/// Both sleep, the sender in the middle of a batch that is longer than the ring. At most 2
/// preemptions.
#[test]
fn a_batch_longer_than_the_ring_gets_through() {
    explore(Some(2), || {
        let (mut tx, mut rx) = halves(&Region::model(64, 8), Side::Face);
        let packets: [[u8; 8]; 4] = std::array::from_fn(|n| word(u8::try_from(n).unwrap()));
        let sender =
            thread::spawn(move || assert!(tx.send_batch(&packets.each_ref().map(|p| &p[..]))));
        for n in 0..4 {
            assert_eq!(rx.recv().unwrap()[..], word(n));
        }
        sender.join().unwrap();
    });
}

/// Two rings, and on each side one thread that sends and receives in turn. At most 3 preemptions.
#[test]
fn ping_and_pong_never_both_sleep() {
    explore(Some(3), || {
        let region = Region::model(64, 8);
        let (mut ping, mut pinged) = halves(&region, Side::Face);
        let (mut pong, mut ponged) = halves(&region, Side::Handle);
        let other = thread::spawn(move || {
            for n in 0..2 {
                assert_eq!(pinged.recv().unwrap()[..], word(n));
                assert!(pong.send(&word(n)));
            }
        });
        for n in 0..2 {
            assert!(ping.send(&word(n)));
            assert_eq!(ponged.recv().unwrap()[..], word(n));
        }
        other.join().unwrap();
    });
}

/// One bell for both directions: a receiver and a sender of one side sleep on it together, and the
/// peer serves both, in either order. At most 2 preemptions.
#[test]
fn waiters_for_both_directions_share_a_bell() {
    for data_first in [true, false] {
        explore(Some(2), move || {
            let region = Region::model(64, 8);
            let (mut tx, mut peer_rx) = halves(&region, Side::Face);
            let (mut peer_tx, mut rx) = halves(&region, Side::Handle);
            assert!((0..3).all(|n| tx.fill(&word(n))) && !tx.fill(&word(3)));
            let sender = thread::spawn(move || assert!(tx.send(&word(3))));
            let receiver = thread::spawn(move || assert_eq!(rx.recv().unwrap()[..], word(9)));
            if data_first {
                assert!(peer_tx.send(&word(9)));
            }
            assert_eq!(peer_rx.take().unwrap()[..], word(0));
            peer_rx.settle();
            if !data_first {
                assert!(peer_tx.send(&word(9)));
            }
            sender.join().unwrap();
            receiver.join().unwrap();
        });
    }
}

/// Two threads of one side wake the same park: the bell is counted up once. Every interleaving.
#[test]
fn a_bit_asks_for_one_wake() {
    explore(ALL, || {
        let own = Arc::new(Bell::new(&Region::model(64, 8), Side::Handle));
        assert!(own.arm(RECV) && !own.arm(RECV));
        let ring = || {
            let bell = own.clone();
            thread::spawn(move || u32::from(bell.wake_if_waiting(RECV)))
        };
        let (one, two) = (ring(), ring());
        assert_eq!(one.join().unwrap() + two.join().unwrap(), 1);
        assert_eq!(own.count(), 1);
        assert!(!own.is_armed(RECV));
    });
}

/// The documented exception: a consumer that takes once, checks the bit without a fence and goes
/// away may leave the sender asleep. The sender's timed second look ends that sleep. So the second
/// look must find the room once the consumer's stores are visible, in `taken` where `head` lags
/// behind. Every interleaving.
#[test]
fn the_second_look_finds_what_the_unfenced_one_missed() {
    static MISSED: AtomicBool = AtomicBool::new(false);
    explore(ALL, || {
        let (mut tx, mut rx) = halves(&Region::model(128, 8), Side::Face);
        while tx.fill(&[]) {}
        let consumer = thread::spawn(move || rx.take().map(drop));
        let count = tx.own.count();
        tx.producer.announce(0);
        tx.own.arm(SEND);
        tx.producer.look_at_taken().unwrap();
        if tx.fill(&[]) {
            consumer.join().unwrap();
            return;
        }
        // Here it sleeps, until the time of the second look has come.
        consumer.join().unwrap();
        if tx.own.count() == count {
            MISSED.store(true, Relaxed);
        }
        tx.producer.look_at_taken().unwrap();
        assert!(tx.fill(&[]), "the second look found no room");
    });
    assert!(MISSED.load(Relaxed), "no wake was missed: then the second look is not needed");
}

/// The room side over the wrap of the positions, where `wants` compares the shorter way round. At
/// most 2 preemptions.
#[test]
fn a_sleeping_sender_misses_no_room_where_positions_wrap() {
    explore(Some(2), || {
        let start = 0_u64.wrapping_sub(32);
        let region = Region::model_from(64, 8, start);
        let mut tx = Tx::starting_at(&region, Side::Face, Position::at(start));
        let mut rx = Rx::starting_at(&region, Side::Handle, Position::at(start));
        assert!((0..3).all(|n| tx.fill(&word(n))));
        let sender = thread::spawn(move || {
            for n in 3..5 {
                assert!(tx.send(&word(n)));
            }
        });
        for n in 0..5 {
            assert_eq!(rx.recv().unwrap()[..], word(n));
        }
        sender.join().unwrap();
    });
}
