//! One producer and one consumer that poll.

use bytes::Bytes;
use loom::thread;

use super::{explore, word};
use crate::ring::{Consumer, Position, Producer};
use crate::shm::layout::Side;
use crate::shm::region::Region;
use crate::sync::Arc;

/// Lengths of no, one and two words, so that records meet the ring's end in all ways.
const LENGTHS: [usize; 6] = [8, 0, 3, 8, 5, 8];

fn mixed(n: usize) -> Vec<u8> {
    vec![u8::try_from(n).unwrap() + 1; LENGTHS[n % LENGTHS.len()]]
}

fn take(consumer: &mut Consumer) -> Bytes {
    loop {
        if let Some(packet) = consumer.take().unwrap() {
            return packet;
        }
        thread::yield_now();
    }
}

fn send(producer: &mut Producer, packet: &[u8]) {
    while !producer.stage(packet).unwrap() {
        producer.look_at_taken().unwrap();
        thread::yield_now();
    }
    producer.publish();
}

/// Sends `packets` from another thread and asserts that they arrive.
fn all_arrive(region: &Arc<Region>, start: Position, packets: Vec<Vec<u8>>) {
    all_arrive_from(Producer::starting_at(region, Side::Face, start), region, start, packets);
}

fn all_arrive_from(
    mut producer: Producer,
    region: &Arc<Region>,
    start: Position,
    packets: Vec<Vec<u8>>,
) {
    let mut consumer = Consumer::starting_at(region, Side::Handle, start);
    let expected = packets.clone();
    let sender = thread::spawn(move || {
        for packet in &packets {
            send(&mut producer, packet);
        }
    });
    for packet in expected {
        assert_eq!(take(&mut consumer), packet);
    }
    sender.join().unwrap();
    assert_eq!(consumer.take(), Ok(None), "a packet that nobody sent");
}

/// Three records fit, so the ring is full and goes round. At most 2 preemptions.
#[test]
fn packets_arrive_once_whole_and_in_order() {
    explore(Some(2), || {
        let packets = (0..6).map(|n| word(n).to_vec()).collect();
        all_arrive(&Region::model(64, 8), Position::START, packets);
    });
}

/// With jumps to the start, and records that end where the ring does. At most 2 preemptions.
#[test]
fn packets_of_all_lengths_arrive() {
    explore(Some(2), || {
        all_arrive(&Region::model(64, 8), Position::START, (0..6).map(mixed).collect());
    });
}

/// The ring has room for eight records. If the consumer keeps up, the producer uses only four of
/// them; otherwise it goes on, or jumps over what is unread. At most 2 preemptions.
#[test]
fn a_producer_that_turns_early_loses_nothing() {
    explore(Some(2), || {
        let region = Region::model(128, 8);
        let producer = Producer::new(&region, Side::Face).turning_every(64);
        let packets = (0..8).map(|n| word(n).to_vec()).collect();
        all_arrive_from(producer, &region, Position::START, packets);
    });
}

/// Packets of three words, any of which could be stale. At most 3 preemptions.
#[test]
fn no_packet_is_torn() {
    explore(Some(3), || {
        let packets = (1..6).map(|n: u8| (10 * n..10 * n + 24).collect()).collect();
        all_arrive(&Region::model(128, 24), Position::START, packets);
    });
}

/// Positions that pass 2^64 while the ring is full. At most 2 preemptions.
#[test]
fn positions_wrap() {
    explore(Some(2), || {
        let start = 0_u64.wrapping_sub(40);
        let region = Region::model_from(64, 8, start);
        all_arrive(&region, Position::at(start), (0..6).map(mixed).collect());
    });
}

/// All packets of a batch are there and whole as soon as any of them is; the second batch crosses
/// the ring's end. At most 4 preemptions.
#[test]
fn a_batch_appears_at_once() {
    explore(Some(4), || {
        let region = Region::model(64, 8);
        let mut producer = Producer::new(&region, Side::Face);
        let mut consumer = Consumer::new(&region, Side::Handle);
        let sender = thread::spawn(move || {
            for batch in [0..3, 3..5] {
                for n in batch {
                    while !producer.stage(&word(n)).unwrap() {
                        producer.look_at_taken().unwrap();
                        thread::yield_now();
                    }
                }
                producer.publish();
            }
        });
        for batch in [0..3, 3..5] {
            for (place, n) in batch.enumerate() {
                let packet = match place {
                    0 => take(&mut consumer),
                    _ => consumer.take().unwrap().expect("a batch came in pieces"),
                };
                assert_eq!(packet[..], word(n));
            }
        }
        sender.join().unwrap();
    });
}

/// A producer that stops after staging publishes nothing. Every interleaving.
#[test]
fn what_is_not_published_is_not_there() {
    explore(super::ALL, || {
        let region = Region::model(64, 8);
        let mut producer = Producer::new(&region, Side::Face);
        let mut consumer = Consumer::new(&region, Side::Handle);
        let sender = thread::spawn(move || {
            assert!(producer.stage(&word(0)).unwrap());
            assert!(producer.stage(&word(1)).unwrap());
            assert!(producer.publish());
            assert!(producer.stage(&word(2)).unwrap());
        });
        let seen = std::iter::from_fn(|| consumer.take().unwrap()).count();
        assert!(seen == 0 || seen == 2, "{seen} packets");
        sender.join().unwrap();
        let rest = std::iter::from_fn(|| consumer.take().unwrap()).count();
        assert_eq!(seen + rest, 2);
    });
}
