//! Ends: set the flag, then wake the peer, whatever its bits say.

use loom::thread;

use super::halves::end;
use super::{ALL, explore, halves, word};
use crate::shm::layout::{CANCELLED, RX_CLOSED, Side, TX_CLOSED};
use crate::shm::region::Region;

/// The receiver may sleep, be about to, or not look yet. Every interleaving.
#[test]
fn a_half_close_ends_a_sleeping_receiver() {
    explore(ALL, || {
        let region = Region::model(64, 8);
        let (_tx, mut rx) = halves(&region, Side::Face);
        let closer = thread::spawn(move || end(&region, Side::Face, TX_CLOSED));
        assert_eq!(rx.recv(), None);
        closer.join().unwrap();
    });
}

/// Packets for which the receiver is not woken, because the end follows at once. At most 3
/// preemptions.
#[test]
fn nothing_sent_before_a_half_close_is_lost() {
    explore(Some(3), || {
        let region = Region::model(64, 8);
        let (mut tx, mut rx) = halves(&region, Side::Face);
        let closer = thread::spawn(move || {
            assert!(tx.send(&word(0)));
            assert!(tx.fill(&word(1)));
            end(&region, Side::Face, TX_CLOSED);
        });
        assert_eq!(rx.recv().unwrap()[..], word(0));
        assert_eq!(rx.recv().unwrap()[..], word(1));
        assert_eq!(rx.recv(), None);
        closer.join().unwrap();
    });
}

/// With a full ring. Every interleaving.
#[test]
fn the_end_of_a_receiver_ends_a_sleeping_sender() {
    for flags in [RX_CLOSED, CANCELLED] {
        explore(ALL, move || {
            let region = Region::model(64, 8);
            let (mut tx, _rx) = halves(&region, Side::Face);
            assert!((0..3).all(|n| tx.fill(&word(n))));
            let closer = thread::spawn(move || end(&region, Side::Handle, flags));
            assert!(!tx.send(&word(3)));
            closer.join().unwrap();
        });
    }
}

/// What arrives before a cancel is a prefix of what was sent. At most 3 preemptions.
#[test]
fn a_cancel_ends_a_sleeping_receiver() {
    explore(Some(3), || {
        let region = Region::model(64, 8);
        let (mut tx, mut rx) = halves(&region, Side::Face);
        let canceller = thread::spawn(move || {
            assert!(tx.send(&word(0)));
            end(&region, Side::Face, CANCELLED);
        });
        if let Some(packet) = rx.recv() {
            assert_eq!(packet[..], word(0));
            assert_eq!(rx.recv(), None);
        }
        canceller.join().unwrap();
    });
}

/// The peer's receiver ends while our sender sleeps, and its sender continues: that end affects one
/// direction, and not the other. At most 3 preemptions.
#[test]
fn a_half_close_leaves_the_other_direction_alone() {
    explore(Some(3), || {
        let region = Region::model(64, 8);
        let (mut tx, _) = halves(&region, Side::Handle);
        let (mut peer_tx, mut rx) = halves(&region, Side::Face);
        assert!((0..3).all(|n| tx.fill(&word(n))));
        let peer = thread::spawn(move || {
            end(&region, Side::Face, RX_CLOSED);
            assert!(peer_tx.send(&word(0)));
            end(&region, Side::Face, TX_CLOSED);
        });
        assert!(!tx.send(&word(3)));
        assert_eq!(rx.recv().unwrap()[..], word(0));
        assert_eq!(rx.recv(), None);
        peer.join().unwrap();
    });
}

/// A cancel from a third thread, while both halves of the peer sleep on one bell. At most 2
/// preemptions.
#[test]
fn a_cancel_ends_both_halves_of_the_peer() {
    explore(Some(2), || {
        let region = Region::model(64, 8);
        let (mut tx, _) = halves(&region, Side::Face);
        let (_, mut rx) = halves(&region, Side::Handle);
        assert!((0..3).all(|n| tx.fill(&word(n))));
        let sender = thread::spawn(move || assert!(!tx.send(&word(3))));
        let receiver = thread::spawn(move || assert_eq!(rx.recv(), None));
        end(&region, Side::Handle, CANCELLED);
        sender.join().unwrap();
        receiver.join().unwrap();
    });
}
