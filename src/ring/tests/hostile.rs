//! A peer that writes what it likes: each lie is named, none costs more than the channel.

use proptest::prelude::*;

use super::{LARGEST, RING, consumer_words, ends, memory, region};
use crate::error::Violation;
use crate::ring::{KIND_JUMP, KIND_PACKET, Producer};
use crate::shm::layout::{Side, record_bytes};
use crate::sync::Ordering;

const RING_32: u32 = 4096;

/// What the consumer says when `word` stands at `offset`, where it looks next.
fn peek_at(offset: u64, max_packet: usize, word: u64) -> Result<Option<usize>, Violation> {
    let region = region(max_packet, offset);
    let (_, mut consumer) = ends(&region, offset);
    memory(&region).header(offset).store(word, Ordering::Relaxed);
    let answer = consumer.peek();
    assert_eq!(consumer.peek(), answer, "it changed its mind");
    assert_eq!(consumer.take().map(|packet| packet.map(|packet| packet.len())), answer);
    answer
}

#[test]
fn a_header_of_no_kind_is_refused() {
    for word in [5, 3 << 32, KIND_PACKET | KIND_JUMP, KIND_PACKET | 1 << 63, KIND_JUMP << 1, !0] {
        assert_eq!(peek_at(0, 100, word), Err(Violation::UnknownRecord(word)));
    }
}

#[test]
fn a_record_longer_than_a_packet_may_be_is_refused() {
    assert_eq!(peek_at(0, 100, KIND_PACKET | 100), Ok(Some(100)));
    assert_eq!(peek_at(0, 100, KIND_PACKET | 101), Err(Violation::RecordTooLong(101)));
    let longest = u32::MAX;
    assert_eq!(
        peek_at(8, 100, KIND_PACKET | u64::from(longest)),
        Err(Violation::RecordTooLong(longest))
    );
}

#[test]
fn a_record_over_the_end_is_refused() {
    assert_eq!(peek_at(RING - 32, 100, KIND_PACKET | 24), Ok(Some(24)));
    assert_eq!(peek_at(RING - 32, 100, KIND_PACKET | 25), Err(Violation::RecordOverEnd(25)));
    assert_eq!(peek_at(RING - 8, 100, KIND_PACKET), Ok(Some(0)));
    assert_eq!(peek_at(RING - 8, 100, KIND_PACKET | 1), Err(Violation::RecordOverEnd(1)));
}

#[test]
fn a_jump_to_no_place_for_a_record_is_refused() {
    for to in [4, RING_32 - 4, RING_32, RING_32 + 8, u32::MAX - 7, u32::MAX] {
        let word = KIND_JUMP | u64::from(to);
        assert_eq!(peek_at(8, LARGEST, word), Err(Violation::JumpAstray(to)));
    }
}

#[test]
fn a_jump_to_nothing_is_refused() {
    for to in [0, 16, RING_32 - 8] {
        let word = KIND_JUMP | u64::from(to);
        assert_eq!(peek_at(8, LARGEST, word), Err(Violation::JumpToNoPacket(to)));
    }
}

#[test]
fn a_jump_to_a_jump_is_refused() {
    // To itself, to and fro, and on to a packet.
    assert_eq!(peek_at(8, LARGEST, KIND_JUMP | 8), Err(Violation::JumpToNoPacket(8)));
    let region = region(LARGEST, RING - 8);
    let header = |offset, word| memory(&region).header(offset).store(word, Ordering::Relaxed);
    header(4088, KIND_JUMP);
    for second in [4088, 512] {
        let (_, mut consumer) = ends(&region, RING - 8);
        header(0, KIND_JUMP | second);
        header(512, KIND_PACKET);
        assert_eq!(consumer.peek(), Err(Violation::JumpToNoPacket(0)));
        assert_eq!(consumer.position().get(), RING - 8);
    }
}

#[test]
fn what_a_jump_leads_to_is_judged() {
    let region = region(100, 8);
    let (_, mut consumer) = ends(&region, 8);
    let header = |offset, word| memory(&region).header(offset).store(word, Ordering::Relaxed);
    header(8, KIND_JUMP | (RING - 16));
    for (word, answer) in [
        (KIND_PACKET | 101, Err(Violation::RecordTooLong(101))),
        (KIND_PACKET | 9, Err(Violation::RecordOverEnd(9))),
        (5, Err(Violation::UnknownRecord(5))),
        (KIND_PACKET | 8, Ok(Some(8))),
    ] {
        header(RING - 16, word);
        assert_eq!(consumer.peek(), answer);
    }
}

/// Bytes of records and markers that come until the consumer refuses to go on, which it must, after
/// the end of a producer that wrote `headers`.
fn bytes_after_the_end(headers: &[(u64, u64)]) -> u64 {
    let region = region(LARGEST, 0);
    let (_, mut consumer) = ends(&region, 0);
    for (offset, word) in headers {
        memory(&region).header(*offset).store(*word, Ordering::Relaxed);
    }
    // Before the end, it may send whatever it likes.
    for _ in 0..3 * RING {
        assert!(consumer.take().unwrap().is_some());
    }
    consumer.expect_no_more();
    let mut bytes = 0;
    loop {
        let before = consumer.position().get();
        let peeked = consumer.peek();
        assert_eq!(consumer.peek(), peeked, "it changed its mind");
        let jumped = if consumer.position().get() == before { 0 } else { 8 };
        // To say it again gives no new bound.
        consumer.expect_no_more();
        match consumer.take() {
            Ok(Some(packet)) => bytes += record_bytes(packet.len()) as u64 + jumped,
            Ok(None) => panic!("there is no end"),
            Err(violation) => {
                assert_eq!(violation, Violation::EndlessRing(RING));
                assert_eq!(peeked, Err(violation));
                assert_eq!(consumer.take(), Err(violation));
                return bytes;
            }
        }
        assert!(bytes <= RING, "{bytes} bytes");
    }
}

#[test]
fn at_most_one_ring_of_records_follows_the_end() {
    // An empty packet and a marker back to it; two of them; a record that does not divide the ring.
    assert_eq!(bytes_after_the_end(&[(0, KIND_PACKET), (8, KIND_JUMP)]), RING);
    let two = [(0, KIND_PACKET), (8, KIND_JUMP | 512), (512, KIND_PACKET), (520, KIND_JUMP)];
    assert_eq!(bytes_after_the_end(&two), RING);
    let long = [(0, KIND_PACKET | 992), (1000, KIND_JUMP)];
    assert!((RING - 1008..=RING).contains(&bytes_after_the_end(&long)));
    // Headers everywhere.
    let all: Vec<_> = (0..RING / 8).map(|word| (word * 8, KIND_PACKET)).collect();
    assert_eq!(bytes_after_the_end(&all), RING);
}

/// Which of the consumer's two words lies.
#[derive(Debug, Clone, Copy)]
enum Word {
    Head,
    Taken,
}

/// What a producer says to `first` and then `then` in the consumer's word, after 1000 bytes.
fn claims(word: Word, first: u64, then: u64) -> Result<(), Violation> {
    let region = region(LARGEST, 0);
    let (mut producer, _) = ends(&region, 0);
    // Records of 1000 bytes; the fifth would need 1000 more.
    for _ in 0..4 {
        assert!(producer.stage(&[7; 992]).unwrap());
        producer.publish();
    }
    let look = |producer: &mut Producer, claim: u64| match word {
        Word::Head => {
            consumer_words(&region).head.0.store(claim, Ordering::Relaxed);
            producer.stage(&[7; 992]).map(drop)
        }
        Word::Taken => {
            consumer_words(&region).taken.0.store(claim, Ordering::Relaxed);
            producer.look_at_taken()
        }
    };
    look(&mut producer, first)?;
    look(&mut producer, then)
}

const BOTH: [Word; 2] = [Word::Head, Word::Taken];

#[test]
fn an_unaligned_head_is_refused() {
    for word in BOTH {
        assert_eq!(claims(word, 8, 16), Ok(()), "{word:?}");
        assert_eq!(claims(word, 0, 12), Err(Violation::UnalignedHead(12)), "{word:?}");
        assert_eq!(claims(word, 0, !0), Err(Violation::UnalignedHead(!0)), "{word:?}");
    }
}

#[test]
fn a_head_that_moved_back_is_refused() {
    for word in BOTH {
        assert_eq!(claims(word, 16, 8), Err(Violation::HeadMovedBack(8)), "{word:?}");
        let negative = 0_u64.wrapping_sub(8);
        assert_eq!(claims(word, 0, negative), Err(Violation::HeadMovedBack(negative)), "{word:?}");
    }
}

#[test]
fn a_head_that_overtook_is_refused() {
    for word in BOTH {
        let overtook = 1 << 40;
        assert_eq!(claims(word, 8, 4008), Err(Violation::HeadOvertook(4008)), "{word:?}");
        assert_eq!(claims(word, 8, overtook), Err(Violation::HeadOvertook(overtook)), "{word:?}");
    }
    assert_eq!(claims(Word::Taken, 8, 4000), Ok(()));
}

/// What is staged but not published nobody can have taken.
#[test]
fn a_head_beyond_what_was_published_is_refused() {
    let region = region(LARGEST, 0);
    let (mut producer, _) = ends(&region, 0);
    assert!(producer.stage(&[7; 8]).unwrap());
    producer.publish();
    assert!(producer.stage(&[7; 8]).unwrap());
    consumer_words(&region).taken.0.store(32, Ordering::Relaxed);
    assert_eq!(producer.look_at_taken(), Err(Violation::HeadOvertook(32)));
    consumer_words(&region).taken.0.store(16, Ordering::Relaxed);
    assert_eq!(producer.look_at_taken(), Ok(()));
}

/// Words that are nearly lawful, so that they get past the first checks.
fn garbage() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..1100_u64).prop_map(|len| KIND_PACKET | len),
        2 => Just(KIND_JUMP),
        1 => Just(0),
        1 => any::<u64>(),
    ]
}

/// The header was judged once: whatever is written over it, the packet is as long as it was.
#[test]
fn the_length_of_what_is_held_is_never_read_again() {
    let region = region(LARGEST, 0);
    let (mut producer, mut consumer) = ends(&region, 0);
    assert!(producer.stage(&[5; 40]).unwrap() && producer.publish());
    let held = consumer.hold().unwrap().unwrap();
    for header in [0, KIND_PACKET | LARGEST as u64, KIND_JUMP, u64::MAX] {
        memory(&region).header(0).store(header, Ordering::Relaxed);
        assert_eq!(held.len(), 40);
        assert_eq!(consumer.copy(held), vec![5; 40]);
    }
    consumer.give_back();
    assert_eq!(consumer_words(&region).taken.0.load(Ordering::Relaxed), 48);
    assert_eq!(consumer.hold().unwrap().map(|held| held.len()), None);
}

fn garbage_position() -> impl Strategy<Value = u64> {
    prop_oneof![(0..2000_u64).prop_map(|n| n * 8), 0..16_000_u64, any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn garbage_in_the_ring_stops_at_a_violation(
        words in proptest::collection::vec(garbage(), 512),
        start in (0..512_u64).prop_map(|n| n * 8),
    ) {
        let region = region(LARGEST, start);
        let (_, mut consumer) = ends(&region, start);
        for (n, word) in (0..).zip(words) {
            memory(&region).header(n * 8).store(word, Ordering::Relaxed);
        }
        // A peer could go on for ever; nobody does anything but return.
        for _ in 0..1000 {
            match consumer.take() {
                Ok(Some(packet)) => assert!(packet.len() <= LARGEST),
                Ok(None) | Err(_) => break,
            }
            consumer.has_what_it_wants();
        }
        // Not after its end.
        consumer.expect_no_more();
        let taken = (0..=RING / 8).take_while(|_| matches!(consumer.take(), Ok(Some(_)))).count();
        assert!(taken as u64 <= RING / 8, "{taken} packets after the end");
    }

    #[test]
    fn garbage_in_the_consumers_words_frees_nothing_that_is_not_written(
        claims in proptest::collection::vec((garbage_position(), garbage_position(), any::<u64>(), 0..=LARGEST), 1..100),
    ) {
        let region = region(LARGEST, 0);
        let (mut producer, consumer) = ends(&region, 0);
        for (head, taken, wants, len) in claims {
            let words = consumer_words(&region);
            words.head.0.store(head, Ordering::Relaxed);
            words.taken.0.store(taken, Ordering::Relaxed);
            region.side(Side::Face).wants.0.store(wants, Ordering::Relaxed);
            consumer.has_what_it_wants();
            let before = producer.tail().get();
            match producer.look_at_taken().and_then(|()| producer.stage(&vec![7; len])) {
                Ok(staged) => {
                    let written = producer.tail().get() - before;
                    assert!(staged == (written > 0) && written <= RING);
                }
                Err(_) => assert_eq!(producer.tail().get(), before),
            }
            producer.announce(len);
            producer.publish();
        }
    }
}
