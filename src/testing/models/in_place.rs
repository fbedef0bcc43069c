//! Packets that are written and read in place.
#![allow(unsafe_code, reason = "lending is unsafe, if not in a model")]

use bytes::BufMut;
use loom::thread;

use super::halves::{Rx, Tx};
use super::{ALL, FULL, channel, explore, halves, packet, word};
use crate::api::grant::Grant;
use crate::api::sender::Sender;
use crate::ring::{Held, Loan, Position};
use crate::shm::layout::{RECV, SEND, Side};
use crate::shm::region::Region;
use crate::sync::{Arc, Ordering, fence};
use crate::wake::bell::Bell;

/// What a writer leaves in the ring if it commits less than it wrote: a valid header in each word.
const STALE: [u8; 24] = {
    let mut bytes = [0; 24];
    let header = (1_u64 << 32 | 8).to_ne_bytes();
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = header[at % 8];
        at += 1;
    }
    bytes
};

/// Writes all of its room, and commits one word; a first attempt is given up. Returns `false`
/// without room.
fn commit(tx: &mut Tx, n: u8) -> bool {
    for is_last in [false, true] {
        let Some(claim) = tx.producer.claim(24).unwrap() else { return false };
        tx.producer.memory().copy_in(claim.offset(), &STALE);
        if is_last {
            tx.producer.memory().copy_in(claim.offset(), &word(n));
            tx.producer.stage_written(claim, 8);
            tx.producer.publish();
        }
    }
    true
}

/// Gives back what is held, with the unfenced check that each give-back makes.
fn give_back(rx: &mut Rx) {
    rx.consumer.give_back();
    if rx.peer.is_armed(SEND) {
        rx.consumer.release();
        if rx.consumer.has_what_it_wants() {
            rx.peer.wake_if_waiting(SEND);
        }
    }
}

fn assert_is(rx: &Rx, held: Held, n: u8) {
    assert_eq!(rx.consumer.copy(held)[..], word(n));
}

/// What a grant wrote and did not commit is never taken for a record, whether the grant was given
/// up or committed less. The ring goes round, and positions wrap. At most 2 preemptions.
#[test]
fn what_was_not_committed_is_never_seen() {
    for start in [64, 0_u64.wrapping_sub(48)] {
        explore(Some(2), move || {
            let region = Region::model_from(128, 24, start);
            let mut tx = Tx::starting_at(&region, Side::Face, Position::at(start));
            let mut rx = Rx::starting_at(&region, Side::Handle, Position::at(start));
            let sender = thread::spawn(move || {
                for n in 0..5 {
                    while !commit(&mut tx, n) {
                        tx.producer.look_at_taken().unwrap();
                        thread::yield_now();
                    }
                }
            });
            for n in 0..5 {
                loop {
                    if let Some(packet) = rx.take() {
                        assert_eq!(packet[..], word(n));
                        break;
                    }
                    thread::yield_now();
                }
            }
            sender.join().unwrap();
            assert_eq!(rx.take(), None, "a packet that nobody sent");
        });
    }
}

/// At most 4 preemptions.
#[test]
fn a_sleeping_receiver_misses_no_commit() {
    explore(Some(4), || {
        let (mut tx, mut rx) = halves(&Region::model(128, 24), Side::Face);
        let sender = thread::spawn(move || {
            for n in 0..2 {
                assert!(commit(&mut tx, n));
                tx.peer.wake_if_waiting_fenced(RECV);
            }
        });
        for n in 0..2 {
            assert_eq!(rx.recv().unwrap()[..], word(n));
        }
        sender.join().unwrap();
    });
}

/// A ring of three records, one of which is held. The held record does not change, whatever the
/// sender does meanwhile. Once it is given back its room is used. At most 3 preemptions.
#[test]
fn a_held_packet_is_not_overwritten() {
    explore(Some(3), || {
        let (mut tx, mut rx) = halves(&Region::model(64, 8), Side::Face);
        assert!((0..2).all(|n| tx.fill(&word(n))));
        let sender = thread::spawn(move || {
            for n in 2..5 {
                while !tx.fill(&word(n)) {
                    tx.producer.look_at_taken().unwrap();
                    thread::yield_now();
                }
            }
        });
        for n in 0..5 {
            let held = loop {
                if let Some(held) = rx.consumer.hold().unwrap() {
                    break held;
                }
                thread::yield_now();
            };
            assert_is(&rx, held, n);
            thread::yield_now();
            assert_is(&rx, held, n);
            give_back(&mut rx);
        }
        sender.join().unwrap();
    });
}

/// The sender parks before, while or after a packet is held. The room that is given back wakes it,
/// through the unfenced check or through the one of the receiver's own park. At most 3 preemptions.
#[test]
fn a_sleeping_sender_misses_no_room_that_was_held() {
    explore(Some(3), || {
        let (mut tx, mut rx) = halves(&Region::model(64, 8), Side::Face);
        assert!((0..3).all(|n| tx.fill(&word(n))) && !tx.fill(&word(3)));
        let sender = thread::spawn(move || assert!(tx.send(&word(3))));
        for n in 0..3 {
            let held = rx.consumer.hold().unwrap().unwrap();
            assert_is(&rx, held, n);
            give_back(&mut rx);
        }
        rx.settle();
        sender.join().unwrap();
        assert_eq!(rx.take().unwrap()[..], word(3));
    });
}

/// The consumer may take more without giving anything back: `taken` and `head` do not show it, and
/// no sender is told that it has room. Every interleaving.
#[test]
fn what_is_held_is_not_given_back() {
    explore(ALL, || {
        let region = Region::model(64, 8);
        let (mut tx, rx) = halves(&region, Side::Face);
        while tx.fill(&word(0)) {}
        let region = Arc::clone(&region);
        let receiver = thread::spawn(move || {
            let mut rx = rx;
            assert!(rx.consumer.hold().unwrap().is_some());
            assert!(rx.consumer.holds());
            rx.consumer.release();
            (!rx.consumer.has_what_it_wants(), rx)
        });
        tx.producer.announce(8);
        tx.own.arm(SEND);
        tx.producer.look_at_taken().unwrap();
        assert!(!tx.fill(&word(1)), "room that is held");
        receiver.join().unwrap();
        drop(region);
    });
}

/// Brings a loan back and wakes the sender that waits for it, as the drop of a lent packet does.
fn bring_back(loan: &Loan, sender: &Bell) {
    loan.bring_back();
    fence(Ordering::SeqCst);
    if sender.is_armed(SEND) && loan.gives_what_it_wants() {
        sender.wake_if_waiting(SEND);
    }
}

/// A full ring, all of it lent. The sender parks, and another thread brings the oldest loan back.
/// There is no second look. At most 3 preemptions.
#[test]
fn a_sleeping_sender_misses_no_loan_that_comes_back() {
    explore(Some(3), || {
        let region = Region::model(64, 8);
        let (mut tx, mut rx) = halves(&region, Side::Face);
        assert!((0..3).all(|n| tx.fill(&word(n))) && !tx.fill(&word(3)));
        let mut lend = || {
            let held = rx.consumer.hold().unwrap().unwrap();
            rx.consumer.lend(held)
        };
        let (oldest, _others) = (lend(), (lend(), lend()));
        assert!(rx.consumer.lends());
        let bell = Bell::new(&region, Side::Face);
        let dropper = thread::spawn(move || bring_back(&oldest, &bell));
        assert!(tx.send(&word(3)));
        dropper.join().unwrap();
        assert_eq!(rx.consumer.hold().unwrap().map(|held| rx.consumer.copy(held)[0]), Some(4));
    });
}

/// Two threads bring back what the consumer lent, in either order, while it keeps taking. Room is
/// given back once and never moves back; in the end all of it is given back. At most 3 preemptions.
#[test]
fn loans_come_back_in_any_order() {
    explore(Some(3), || {
        let (mut tx, mut rx) = halves(&Region::model(64, 8), Side::Face);
        assert!((0..3).all(|n| tx.fill(&word(n))));
        let droppers: Vec<_> = (0..2)
            .map(|_| {
                let held = rx.consumer.hold().unwrap().unwrap();
                let loan = rx.consumer.lend(held);
                thread::spawn(move || loan.bring_back())
            })
            .collect();
        assert_eq!(rx.take().unwrap()[..], word(2));
        tx.producer.look_at_taken().unwrap();
        for dropper in droppers {
            dropper.join().unwrap();
        }
        rx.settle();
        assert!(!rx.consumer.lends());
        tx.producer.look_at_taken().unwrap();
        assert!((0..3).all(|n| tx.fill(&word(n))), "room is missing");
    });
}

fn put(mut grant: Grant<'_>, n: u8) {
    grant.put_slice(&word(n));
    grant.commit().unwrap();
}

/// Sends a packet that is written in place.
async fn commit_one(tx: &mut Sender, n: u8) {
    put(tx.reserve(8).await.unwrap(), n);
}

/// The shipped halves, and more packets than fit, so that both sleep in turn. No timer fires. At
/// most 2 preemptions.
#[test]
fn a_stream_in_place_gets_through() {
    explore(Some(2), || {
        let [(face, driver), (handle, other)] = channel(64);
        let (mut tx, _unused_rx) = face.into_split();
        let (_unused_tx, mut rx) = handle.into_split();
        let sender = thread::spawn(move || {
            driver.block_on(async {
                for n in 0..FULL + 1 {
                    commit_one(&mut tx, n).await;
                }
            });
            tx
        });
        other.block_on(async {
            for n in 0..FULL + 1 {
                let packet = rx.recv_ref().await.unwrap();
                assert_eq!(packet.to_bytes()[..], word(n));
            }
        });
        drop(sender.join().unwrap());
    });
}

/// The first two packets of a batch are an eighth of the ring, which publishes them; the drop
/// publishes the third, and the next batch the fourth. No timer fires. At most 3 preemptions.
#[test]
fn a_sleeping_receiver_misses_no_batch() {
    explore(Some(3), || {
        let [(face, driver), (handle, other)] = channel(256);
        let (mut tx, _unused_rx) = face.into_split();
        let (_unused_tx, mut rx) = handle.into_split();
        let sender = thread::spawn(move || {
            driver.block_on(async {
                let mut first = tx.batch();
                for n in 0..3 {
                    put(first.reserve(8).await.unwrap(), n);
                }
                drop(first);
                let mut second = tx.batch();
                put(second.try_reserve(8).unwrap(), 3);
                second.publish().unwrap();
            });
            tx
        });
        other.block_on(async {
            for n in 0..4 {
                assert_eq!(rx.recv_ref().await.unwrap().to_bytes()[..], word(n));
            }
        });
        drop(sender.join().unwrap());
    });
}

/// The receiver lends and goes away. The drop of the packet always wakes the sender, so that no
/// second look is needed. At most 3 preemptions.
#[test]
fn a_lent_packet_that_is_dropped_leaves_no_sender_asleep() {
    explore(Some(3), || {
        let [(face, driver), (handle, _other)] = channel(64);
        let (mut tx, _unused_rx) = face.into_split();
        let (_unused_tx, mut rx) = handle.into_split();
        (0..FULL).for_each(|n| tx.try_send(packet(n)).unwrap());
        // SAFETY: in a model the bytes are a copy, and nobody writes to it.
        let lent = unsafe { rx.try_recv_ref().unwrap().into_lent_bytes() };
        let sender = thread::spawn(move || {
            driver.block_on(commit_one(&mut tx, FULL));
            tx
        });
        drop(lent);
        let _tx = sender.join().unwrap();
        for n in 1..FULL + 1 {
            assert_eq!(rx.try_recv_ref().unwrap().to_bytes()[..], word(n));
        }
    });
}
