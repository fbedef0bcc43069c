//! How much fits, and when a sender that found no room is to be woken.

use proptest::prelude::*;

use super::{LARGEST, NEARLY_WRAPPED, RING, consumer_words, ends, memory, region};
use crate::ring::LOOK_AGAIN_AFTER;
use crate::sync::Ordering;

/// Stages packets of `len` bytes until there is no room.
fn fill(producer: &mut super::Producer, len: usize) -> usize {
    let packet = vec![7; len];
    (0..).take_while(|_| producer.stage(&packet).unwrap()).count()
}

#[test]
fn a_full_ring_keeps_its_oldest_packet() {
    for start in [0, NEARLY_WRAPPED] {
        let (mut producer, mut consumer) = ends(&region(8, start), start);
        // Records of 16 bytes, and 8 bytes for the header behind the last.
        assert_eq!(fill(&mut producer, 8), 255);
        assert_eq!(fill(&mut producer, 0), 1);
        assert!(producer.publish());
        for _ in 0..255 {
            assert_eq!(consumer.take().unwrap().unwrap(), [7; 8][..]);
        }
        assert_eq!(consumer.take().unwrap().unwrap(), [][..]);
        assert_eq!(consumer.take(), Ok(None));
    }
}

/// Every offset in the ring, and every remainder of an eighth that `head` can lag behind.
#[test]
fn a_consumer_that_took_all_and_never_came_back_leaves_room_for_any_packet() {
    for (offset, lag) in (0..RING).step_by(8).flat_map(|o| [0, 8, 248, 504].map(|lag| (o, lag))) {
        let start = offset.wrapping_sub(lag);
        let region = region(LARGEST, start);
        let (mut producer, mut consumer) = ends(&region, start);
        for _ in 0..lag / 8 {
            assert!(producer.stage(&[]).unwrap());
            producer.publish();
            assert!(consumer.take().unwrap().is_some());
        }
        assert_eq!(consumer_words(&region).head.0.load(Ordering::Relaxed), start, "not released");
        assert!(producer.stage(&[7; LARGEST]).unwrap(), "at {offset}, {lag} bytes behind");
    }
}

/// Without a look at `taken`, an eighth of the ring at a time; with it, each record.
#[test]
fn a_look_at_taken_sees_each_record() {
    let (mut producer, mut consumer) = ends(&region(8, 0), 0);
    fill(&mut producer, 8);
    producer.publish();
    assert!(consumer.take().unwrap().is_some());
    assert!(!producer.stage(&[7; 8]).unwrap());
    producer.look_at_taken().unwrap();
    assert!(producer.stage(&[7; 8]).unwrap());
    for _ in 0..31 {
        assert!(!producer.stage(&[7; 8]).unwrap());
        assert!(consumer.take().unwrap().is_some());
    }
    assert!(producer.stage(&[7; 8]).unwrap());
}

#[test]
fn a_sender_that_parks_again_soon_wants_half_the_ring_more() {
    let region = region(8, 0);
    let (mut producer, mut consumer) = ends(&region, 0);
    let wanted = |consumer: &mut super::Consumer| {
        (0..).find(|_| consumer.has_what_it_wants() || consumer.take().unwrap().is_none()).unwrap()
    };
    fill(&mut producer, 8);
    producer.publish();
    assert_eq!(producer.announce(8), Some(LOOK_AGAIN_AFTER));
    assert_eq!(producer.announce(8), None, "nothing has changed");
    assert_eq!(wanted(&mut consumer), 1, "exactly its need the first time");
    producer.look_at_taken().unwrap();
    assert_eq!(fill(&mut producer, 8), 1);
    producer.publish();
    assert_eq!(producer.announce(8), Some(LOOK_AGAIN_AFTER));
    assert_eq!(wanted(&mut consumer), 1 + 128, "parked again within a turn of the ring");
    producer.look_at_taken().unwrap();
    assert_eq!(fill(&mut producer, 8), 129);
    producer.publish();
    assert_eq!(producer.announce(8), Some(LOOK_AGAIN_AFTER));
    assert_eq!(wanted(&mut consumer), 1 + 128);
    let looks: Vec<_> = (0..6).map(|_| producer.announce(8)).collect();
    let millis = |n| Some(LOOK_AGAIN_AFTER * n);
    assert_eq!(looks, [millis(2), millis(4), millis(8), millis(16), millis(1), None]);
    assert!(consumer.has_what_it_wants(), "its bare need in the end");
    for _ in 0..2 {
        while consumer.take().unwrap().is_some() {}
        producer.look_at_taken().unwrap();
        fill(&mut producer, 8);
        producer.publish();
    }
    assert_eq!(producer.announce(8), Some(LOOK_AGAIN_AFTER));
    assert_eq!(wanted(&mut consumer), 1, "a turn of the ring went by");
}

#[test]
fn nothing_is_seen_of_what_is_not_published() {
    let region = region(LARGEST, 0);
    let (mut producer, mut consumer) = ends(&region, 0);
    assert!(!producer.publish());
    for _ in 0..3 {
        assert!(producer.stage(&[1; 100]).unwrap());
        assert_eq!(consumer.take(), Ok(None));
    }
    drop(producer);
    assert_eq!(consumer.peek(), Ok(None));
    assert_eq!(memory(&region).header(0).load(Ordering::Relaxed), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn an_emptied_ring_has_room_for_any_packet(
        max_packet in prop_oneof![1..=LARGEST, Just(LARGEST)],
        parts in proptest::collection::vec(0.0..=1.0, 0..300),
    ) {
        let (mut producer, mut consumer) = ends(&region(max_packet, 0), 0);
        for part in parts {
            #[allow(clippy::cast_possible_truncation, reason = "between 0 and max_packet")]
            let len = (part * max_packet as f64) as usize;
            assert!(producer.stage(&vec![7; len]).unwrap());
            assert!(producer.publish());
            assert_eq!(consumer.take().unwrap().unwrap().len(), len);
        }
        assert!(producer.stage(&vec![7; max_packet]).unwrap());
    }
}
