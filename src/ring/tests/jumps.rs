//! A ring with turning points: nothing is written over, nothing is lost, and all of it is used.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{RING, consumer_words, ends, region};
use crate::ring::{Consumer, Held, Position, Producer};
use crate::shm::layout::{Geometry, Side, record_bytes};
use crate::shm::region::Region;
use crate::sync::{Arc, Ordering};

const WINDOW: usize = 1024;
const RING_BYTES: usize = 4096;
const MAX_PACKET: usize = super::LARGEST;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// So many packets of this length, as long as there is room.
    Send(usize, usize),
    Claim(usize, usize),
    Publish,
    Take(usize),
    Hold,
    GiveBack,
    Park(usize),
    /// How much room there is, and whether that is so.
    Ask,
}

/// What was sent and not given back, and the ring that it is in.
struct Pair {
    producer: Producer,
    consumer: Consumer,
    staged: VecDeque<Vec<u8>>,
    published: VecDeque<Vec<u8>>,
    held: Vec<(Held, Vec<u8>)>,
    number: u64,
    /// The tail at which a sender parked last.
    parked: Option<u64>,
}

impl Pair {
    fn new(start: u64) -> Self {
        let (producer, consumer) = ends(&region(MAX_PACKET, start), start);
        Self {
            producer: producer.turning_every(WINDOW),
            consumer: consumer.turning_every(WINDOW),
            staged: VecDeque::new(),
            published: VecDeque::new(),
            held: Vec::new(),
            number: 0,
            parked: None,
        }
    }

    fn packet(&mut self, len: usize) -> Vec<u8> {
        self.number += 1;
        self.number.to_le_bytes().into_iter().cycle().take(len).collect()
    }

    fn stage(&mut self, len: usize) -> bool {
        let packet = self.packet(len);
        let is_staged = self.producer.stage(&packet).unwrap();
        if is_staged {
            self.staged.push_back(packet);
        }
        is_staged
    }

    fn publish(&mut self) {
        assert_eq!(self.producer.publish(), !self.staged.is_empty());
        self.published.append(&mut self.staged);
    }

    fn hold(&mut self) {
        let held = self.consumer.hold().unwrap();
        assert_eq!(held.is_some(), !self.published.is_empty());
        if let Some(held) = held {
            self.held.push((held, self.published.pop_front().unwrap()));
        }
    }

    fn give_back(&mut self) {
        for (held, packet) in self.held.drain(..) {
            assert_eq!(self.consumer.copy(held), packet);
        }
        self.consumer.give_back();
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Send(count, len) => {
                for _ in 0..count {
                    if !self.stage(len) {
                        break;
                    }
                }
            }
            Op::Claim(len, written) => {
                let packet = self.packet(written);
                if let Some(claim) = self.producer.claim(len).unwrap() {
                    self.producer.memory().copy_in(claim.offset(), &vec![0xff; len]);
                    self.producer.memory().copy_in(claim.offset(), &packet);
                    self.producer.stage_written(claim, written);
                    self.staged.push_back(packet);
                }
            }
            Op::Publish => self.publish(),
            Op::Take(count) => {
                for _ in 0..count {
                    self.hold();
                    self.give_back();
                }
            }
            Op::Hold => self.hold(),
            Op::GiveBack => self.give_back(),
            Op::Park(len) => self.park(len),
            Op::Ask => self.ask(),
        }
        let free = self.producer.free_bytes();
        let unread: usize = self.unread().map(|packet| record_bytes(packet.len())).sum();
        assert!(free + unread <= RING_BYTES, "{free} free and {unread} unread");
    }

    /// What is free is known to a record at the ring's end, and a few markers and headers; and when
    /// nothing is unread, any packet finds room.
    fn ask(&mut self) {
        self.consumer.release();
        self.producer.look_at_taken().unwrap();
        let unread: usize = self.unread().map(|packet| record_bytes(packet.len())).sum();
        let least = RING_BYTES.saturating_sub(unread + record_bytes(MAX_PACKET) + 66 * 8);
        let free = self.producer.free_bytes();
        assert!(free >= least, "{free} free and {unread} unread");
        if unread == 0 {
            self.fits_largest();
        }
    }

    fn fits_largest(&mut self) {
        let free = self.producer.free_bytes();
        assert!(self.producer.claim(MAX_PACKET).unwrap().is_some(), "{free} free");
    }

    fn unread(&self) -> impl Iterator<Item = &Vec<u8>> {
        let held = self.held.iter().map(|(_, packet)| packet);
        held.chain(&self.published).chain(&self.staged)
    }

    /// A sender that parks is woken when there is room, and not before; the first time at once.
    fn park(&mut self, len: usize) {
        self.publish();
        self.producer.look_at_taken().unwrap();
        if self.producer.claim(len).unwrap().is_some() {
            return;
        }
        let tail = self.producer.tail().get();
        let is_soon = self.parked.is_some_and(|parked| tail.wrapping_sub(parked) < RING);
        self.parked = Some(tail);
        self.producer.announce(len);
        let mut has_room = false;
        while !self.has_what_it_wants() {
            assert!(!has_room || is_soon, "woken too late");
            assert!(!self.published.is_empty() || !self.held.is_empty(), "never woken");
            self.hold();
            self.give_back();
            self.producer.look_at_taken().unwrap();
            has_room = self.producer.claim(len).unwrap().is_some();
        }
        self.producer.look_at_taken().unwrap();
        assert!(self.producer.claim(len).unwrap().is_some(), "woken too early");
    }

    /// As the consumer asks that who has seen the bit.
    fn has_what_it_wants(&mut self) -> bool {
        self.consumer.release();
        self.consumer.has_what_it_wants()
    }

    fn drain(&mut self) {
        self.publish();
        self.give_back();
        while !self.published.is_empty() {
            self.run(Op::Take(1));
        }
        assert_eq!(self.consumer.hold().unwrap().map(|_| ()), None);
    }
}

fn lengths() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![Just(0), Just(MAX_PACKET), 0..=40_usize, 0..=MAX_PACKET]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let len = lengths();
    let op = prop_oneof![
        4 => (1..9_usize, len.clone()).prop_map(|(count, len)| Op::Send(count, len)),
        1 => len.clone().prop_map(|len| Op::Send(1000, len)),
        2 => (len.clone(), len.clone()).prop_map(|(one, two)| Op::Claim(one.max(two), one.min(two))),
        4 => Just(Op::Publish),
        4 => (1..20_usize).prop_map(Op::Take),
        1 => Just(Op::Take(1000)),
        1 => Just(Op::Hold),
        1 => Just(Op::GiveBack),
        1 => len.prop_map(Op::Park),
        2 => Just(Op::Ask),
    ];
    proptest::collection::vec(op, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn whatever_jumps_nothing_is_lost(
        start in prop_oneof![Just(0), Just(0_u64.wrapping_sub(RING / 2)), (0..1024_u64).prop_map(|n| n * 8)],
        ops in ops(),
    ) {
        let mut pair = Pair::new(start);
        for op in ops {
            pair.run(op);
        }
        pair.drain();
        prop_assert!(pair.stage(MAX_PACKET), "an empty ring has room for any packet");
        pair.drain();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// The bound on what may follow the end refuses nothing that a lawful producer has published.
    #[test]
    fn what_is_unread_at_the_end_arrives_whole(
        start in prop_oneof![Just(0), Just(0_u64.wrapping_sub(RING / 2)), (0..1024_u64).prop_map(|n| n * 8)],
        ops in ops(),
        lens in proptest::collection::vec(lengths(), 0..600),
    ) {
        let mut pair = Pair::new(start);
        for op in ops {
            pair.run(op);
        }
        for len in lens {
            pair.stage(len);
        }
        pair.publish();
        pair.consumer.expect_no_more();
        while !pair.published.is_empty() {
            // With as little looking ahead as possible, and with as much.
            prop_assert_eq!(pair.consumer.peek().unwrap(), pair.published.front().map(Vec::len));
            pair.hold();
        }
        prop_assert_eq!(pair.consumer.peek(), Ok(None));
        pair.give_back();
    }
}

/// The offsets at which records begin while the consumer follows `behind` packets behind.
fn offsets(behind: usize, packets: usize) -> Vec<u64> {
    let mut pair = Pair::new(0);
    (0..packets)
        .map(|sent| {
            assert!(pair.stage(56), "{behind} packets behind, {sent} sent");
            pair.publish();
            if sent >= behind {
                pair.run(Op::Take(1));
            }
            (pair.producer.tail().get() - 64) % RING
        })
        .collect()
}

#[test]
fn a_stream_whose_consumer_keeps_up_goes_round_in_a_window() {
    for behind in [0, 1, 4] {
        assert!(*offsets(behind, 1000).iter().max().unwrap() < WINDOW as u64);
    }
}

#[test]
fn a_consumer_that_falls_behind_has_the_whole_ring() {
    // Half of the window is not left behind when the first turning point comes.
    let in_two_windows = *offsets(10, 1000).iter().max().unwrap();
    assert!((WINDOW as u64..2 * WINDOW as u64).contains(&in_two_windows));
    assert!(*offsets(50, 1000).iter().max().unwrap() > RING - 128);
}

#[test]
fn a_burst_after_a_turn_finds_nearly_all_of_the_ring() {
    for behind in 0..4 {
        for sent in 0..40 {
            let mut pair = Pair::new(0);
            for _ in 0..sent {
                assert!(pair.stage(56));
                pair.publish();
                if pair.published.len() > behind {
                    pair.run(Op::Take(1));
                }
            }
            pair.producer.look_at_taken().unwrap();
            let mut burst = pair.published.len();
            while pair.stage(56) {
                burst += 1;
            }
            // 64 records of 64 bytes; a jump costs one, and so does the last header.
            assert!(burst >= 60, "{burst} after {sent}, {behind} behind");
            pair.drain();
        }
    }
}

/// A producer that turned, was stopped, and jumped over what was unread tells all of that in one
/// batch.
#[test]
fn a_batch_may_jump() {
    let mut pair = Pair::new(0);
    assert_eq!((0..10).filter(|_| pair.stage(56)).count(), 10);
    pair.publish();
    pair.run(Op::Take(9));
    assert_eq!((0..62).take_while(|_| pair.stage(56)).count(), 60);
    assert_eq!(pair.consumer.peek(), Ok(Some(56)));
    pair.run(Op::Take(1));
    assert_eq!(pair.consumer.peek(), Ok(None), "a jump of a batch that is not published");
    pair.drain();
}

fn run(ops: &[Op]) -> Pair {
    let mut pair = Pair::new(0);
    ops.iter().for_each(|op| pair.run(*op));
    pair
}

/// While much is unread, the ring is not cut in pieces that a largest packet does not go into once
/// nothing but a little at each cut is.
#[test]
fn little_that_is_unread_does_not_cut_the_ring() {
    use Op::{Ask, Claim, Publish, Send, Take};
    let first = [Send(41, 64), Send(1, 40), Publish, Take(29), Ask];
    let second = [Send(28, 64), Send(1, 16), Send(1, 64), Publish, Take(28), Ask];
    let third = [Claim(1016, 64), Send(13, 64), Send(1, 8), Send(1, 64), Claim(928, 64), Publish];
    let mut pair = run(&[&first[..], &second, &third, &[Take(29), Ask]].concat());
    pair.fits_largest();
    pair.drain();
}

#[test]
fn packets_that_become_short_do_not_cut_the_ring() {
    use Op::{Ask, Claim, Publish, Send, Take};
    let mut ops = vec![Send(4, 64), Send(1, 24), Send(48, 64), Send(1, 8), Publish, Take(5), Ask];
    ops.push(Claim(304, 24));
    ops.extend((56..=280).rev().step_by(16).map(|len| Claim(len, 16)));
    ops.extend([Publish, Take(48), Ask]);
    let mut pair = run(&ops);
    pair.fits_largest();
    pair.drain();
}

/// Lent packets on both sides of a jump over what was unread.
#[test]
fn a_largest_packet_fits_beside_a_few_that_are_lent() {
    let geometry = Geometry::new(None, None).unwrap();
    let region = Arc::new(Region::create(geometry, false, None).unwrap().0);
    let mut producer = Producer::new(&region, Side::Face);
    let mut consumer = Consumer::new(&region, Side::Handle);
    let mut take = |bytes: usize| {
        for _ in 0..bytes / 4096 {
            consumer.hold().unwrap().unwrap();
            consumer.give_back();
        }
        consumer.release();
    };
    let mut send = |bytes: usize| {
        for _ in 0..bytes / 4096 {
            assert!(producer.stage(&[7; 4088]).unwrap());
        }
        producer.publish();
    };
    // Up to before the third turning point, where there is room to turn, and stopped soon.
    send((3 << 20) - (4 << 10));
    take(600 << 10);
    send(600 << 10);
    send(8 << 10);
    take((3 << 20) - (4 << 10) - (4 << 10));
    let loans = [(); 3].map(|()| {
        let held = consumer.hold().unwrap().unwrap();
        consumer.lend(held)
    });
    assert_eq!(consumer.peek(), Ok(None));
    producer.look_at_taken().unwrap();
    assert!(producer.free_bytes() > 4_180_000, "{}", producer.free_bytes());
    assert!(producer.stage(&vec![8; (1 << 20) - 8]).unwrap());
    drop(loans);
}

/// However often it is asked, and wherever a consumer says that it is: room that was there is
/// there.
#[test]
fn a_head_between_two_runs_takes_no_room_back() {
    for step in (0..RING).step_by(8) {
        let region = region(MAX_PACKET, 0);
        let (producer, _) = ends(&region, 0);
        let mut producer = producer.turning_every(WINDOW);
        let taken = |to: u64| consumer_words(&region).taken.0.store(to, Ordering::Relaxed);
        let head = |to: u64| consumer_words(&region).head.0.store(to, Ordering::Relaxed);
        let send = |producer: &mut Producer, count| {
            assert_eq!((0..count).filter(|_| producer.stage(&[7; 56]).unwrap()).count(), count);
            producer.publish();
        };
        // A turn, and after it as much as was free.
        send(&mut producer, 15);
        taken(12 * 64);
        producer.look_at_taken().unwrap();
        send(&mut producer, 11);
        assert!(producer.tail().get() > RING, "turned");
        let fits = producer.claim(400).unwrap().is_some();
        head((12 * 64 + step).min(producer.tail().get()));
        let still = producer.claim(400).unwrap().is_some();
        assert!(still || !fits, "{step} further");
        assert!(producer.claim(400).unwrap().is_some() == still);
    }
}

#[test]
fn what_a_head_between_two_runs_frees_stays_in_the_ring() {
    let region = region(MAX_PACKET, 0);
    let (producer, _) = ends(&region, 0);
    let mut producer = producer.turning_every(WINDOW);
    let head = |to: Position| consumer_words(&region).taken.0.store(to.get(), Ordering::Relaxed);
    for _ in 0..400 {
        while producer.stage(&[7; 56]).unwrap() {
            producer.publish();
        }
        // Anywhere, also where nothing was ever written.
        head(Position(producer.tail().get() - 8 * (producer.tail().get() % 7)));
        producer.look_at_taken().unwrap();
        assert!(producer.free_bytes() <= RING_BYTES);
    }
}
