//! Random operations on a ring and on a plain queue, which must agree after each of them.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{LARGEST, NEARLY_WRAPPED, RING, consumer_words, ends, region};
use crate::ring::{Consumer, Producer};
use crate::shm::layout::Side;
use crate::shm::region::Region;
use crate::sync::{Arc, Ordering};

#[derive(Debug, Clone, Copy)]
enum Op {
    Stage(usize),
    Publish,
    /// Room for so many bytes, of which so many are written.
    Claim(usize, usize),
    Take,
    Hold,
    GiveBack,
    Peek,
    Release,
    LookAtTaken,
    Announce(usize),
}

/// A packet as it lies in the ring.
#[derive(Debug)]
struct Record {
    at: u64,
    end: u64,
    packet: Vec<u8>,
}

/// What the ring should be, in the words of the specification.
#[derive(Debug)]
struct Queue {
    published: VecDeque<Record>,
    staged: VecDeque<Record>,
    held: Vec<Record>,
    /// Where the staged records begin, with a marker before the first.
    staged_begin: u64,
    tail: u64,
    position: u64,
    /// Up to here nothing is held.
    given: u64,
    holds: bool,
    head: u64,
    taken: u64,
    /// The furthest that the producer knows of.
    freed: u64,
    packets: u64,
}

impl Queue {
    fn new(start: u64) -> Self {
        Self {
            published: VecDeque::new(),
            staged: VecDeque::new(),
            held: Vec::new(),
            staged_begin: start,
            tail: start,
            position: start,
            given: start,
            holds: false,
            head: start,
            taken: start,
            freed: start,
            packets: 0,
        }
    }

    /// Bytes skipped before the record of a packet, and those of the record.
    fn place(&self, len: usize) -> (u64, u64) {
        let record = (len as u64 + 8).next_multiple_of(8);
        let rest = RING - self.tail % RING;
        (if record > rest { rest } else { 0 }, record)
    }

    fn need(&self, len: usize) -> u64 {
        let (pad, record) = self.place(len);
        pad + record + 8
    }

    /// Where the consumer is when it has reached `position`: never between two records.
    fn after_gap(&self, position: u64) -> u64 {
        let is_before = |one: u64, other: u64| other.wrapping_sub(one).wrapping_sub(1) < 1 << 63;
        if is_before(position, self.given) {
            return self.given;
        }
        let mut end = self.given;
        for record in self.held.iter().chain(&self.published).chain(&self.staged) {
            if is_before(end, position) && is_before(position, record.at) {
                return record.at;
            }
            end = record.end;
        }
        position
    }

    fn free_to(&mut self, head: u64) {
        if head.wrapping_sub(self.freed) < 1 << 63 {
            self.freed = head;
        }
    }

    /// A packet, for which room of `len` bytes was asked.
    fn stage(&mut self, packet: &[u8], len: usize) -> bool {
        let need = self.need(len);
        if need > RING - self.tail.wrapping_sub(self.freed) {
            self.free_to(self.head);
        }
        if need > RING - self.tail.wrapping_sub(self.freed) {
            return false;
        }
        let (pad, _) = self.place(len);
        let at = self.tail.wrapping_add(pad);
        self.tail = at.wrapping_add((packet.len() as u64 + 8).next_multiple_of(8));
        self.staged.push_back(Record { at, end: self.tail, packet: packet.to_vec() });
        self.packets += 1;
        true
    }

    fn publish(&mut self) -> bool {
        self.staged_begin = self.tail;
        self.published.append(&mut self.staged);
        self.published.len() > self.staged.len()
    }

    fn peek(&mut self) -> Option<usize> {
        let next = self.published.front()?;
        self.position = next.at;
        if !self.holds {
            self.given = next.at;
        }
        Some(next.packet.len())
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let packet = self.hold()?;
        self.give_back();
        Some(packet)
    }

    fn hold(&mut self) -> Option<Vec<u8>> {
        self.peek()?;
        let next = self.published.pop_front()?;
        self.position = next.end;
        self.holds = true;
        let packet = next.packet.clone();
        self.held.push(next);
        Some(packet)
    }

    fn give_back(&mut self) {
        self.holds = false;
        self.held.clear();
        self.given = self.position;
        self.taken = self.position;
        if self.position.wrapping_sub(self.head) >= RING / 8 {
            self.head = self.position;
        }
    }
}

/// The ring and its queue side by side.
struct Pair {
    region: Arc<Region>,
    producer: Producer,
    consumer: Consumer,
    queue: Queue,
}

impl Pair {
    fn new(max_packet: usize, start: u64) -> Self {
        let region = region(max_packet, start);
        let (producer, consumer) = ends(&region, start);
        Self { region, producer, consumer, queue: Queue::new(start) }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Stage(len) => {
                let packet = contents(self.queue.packets, len);
                let staged = self.producer.stage(&packet).unwrap();
                assert_eq!(staged, self.queue.stage(&packet, len), "room for {len} bytes");
            }
            Op::Claim(len, written) => {
                let packet = contents(self.queue.packets, written);
                let claim = self.producer.claim(len).unwrap();
                assert_eq!(claim.is_some(), self.queue.stage(&packet, len), "room for {len}");
                if let Some(claim) = claim {
                    // All of it is written, and only so much is meant.
                    self.producer.memory().copy_in(claim.offset(), &vec![0xff; claim.len()]);
                    self.producer.memory().copy_in(claim.offset(), &packet);
                    self.producer.stage_written(claim, written);
                }
            }
            Op::Publish => {
                let something = !self.queue.staged.is_empty();
                self.queue.publish();
                assert_eq!(self.producer.publish(), something);
            }
            Op::Take => {
                let packet = self.consumer.take().unwrap();
                assert_eq!(packet.map(Vec::from), self.queue.take());
            }
            Op::Hold => {
                let held = self.consumer.hold().unwrap();
                let packet = held.map(|held| self.consumer.copy(held));
                assert_eq!(packet.map(Vec::from), self.queue.hold());
            }
            Op::GiveBack => {
                self.consumer.give_back();
                self.queue.give_back();
            }
            Op::Peek => assert_eq!(self.consumer.peek().unwrap(), self.queue.peek()),
            Op::Release => {
                self.consumer.release();
                self.queue.head = self.queue.given;
            }
            Op::LookAtTaken => {
                self.producer.look_at_taken().unwrap();
                self.queue.free_to(self.queue.taken);
            }
            Op::Announce(len) => self.announce(len),
        }
        self.agree();
    }

    /// What a sender wants is enough, plus at most half of the ring, and can always come.
    fn announce(&mut self, len: usize) {
        self.producer.announce(len);
        let wants = self.region.side(Side::Face).wants.0.load(Ordering::Relaxed);
        let exact = self.queue.tail.wrapping_add(self.queue.need(len)).wrapping_sub(RING);
        // Nobody asks for what there is.
        let is_there = |word: u64| word.wrapping_sub(exact) < 1 << 63;
        if !is_there(self.queue.head) && !is_there(self.queue.taken) {
            let exact = self.queue.after_gap(exact);
            let more = (RING / 2).min(self.queue.tail.wrapping_sub(exact));
            assert!(wants == exact || wants == exact.wrapping_add(more));
        }
        assert!(self.queue.tail.wrapping_sub(wants) < 1 << 63, "more than everything");
        let has = self.queue.given.wrapping_sub(wants) < 1 << 63;
        assert_eq!(self.consumer.has_what_it_wants(), has);
    }

    fn agree(&self) {
        let words = consumer_words(&self.region);
        assert_eq!(words.head.0.load(Ordering::Relaxed), self.queue.head);
        assert_eq!(words.taken.0.load(Ordering::Relaxed), self.queue.taken);
        assert_eq!(self.producer.tail().get(), self.queue.tail);
        assert_eq!(self.consumer.position().get(), self.queue.position);
        let staged = self.queue.tail.wrapping_sub(self.queue.staged_begin);
        assert_eq!(self.producer.staged_enough(), staged >= RING / 8);
    }
}

/// Bytes unlike those of the packets around it.
fn contents(n: u64, len: usize) -> Vec<u8> {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)..).take(len).map(|byte| (byte % 251) as u8).collect()
}

fn lengths(max_packet: usize) -> impl Strategy<Value = usize> + Clone {
    prop_oneof![Just(0), Just(max_packet), 0..=max_packet.min(40), 0..=max_packet]
}

fn ops(max_packet: usize) -> impl Strategy<Value = Vec<Op>> {
    let len = lengths(max_packet);
    let op = prop_oneof![
        8 => len.clone().prop_map(Op::Stage),
        3 => Just(Op::Publish),
        5 => Just(Op::Take),
        2 => Just(Op::Hold),
        1 => Just(Op::GiveBack),
        4 => (len.clone(), len.clone()).prop_map(|(one, two)| Op::Claim(one.max(two), one.min(two))),
        1 => Just(Op::Peek),
        1 => Just(Op::Release),
        1 => Just(Op::LookAtTaken),
        1 => len.prop_map(Op::Announce),
    ];
    proptest::collection::vec(op, 0..600)
}

fn cases() -> impl Strategy<Value = (usize, u64, Vec<Op>)> {
    let max_packet = prop_oneof![Just(1), Just(8), Just(100), Just(1000), Just(LARGEST)];
    let start = prop_oneof![Just(0), Just(NEARLY_WRAPPED), (0..1024_u64).prop_map(|n| n * 8)];
    (max_packet, start).prop_flat_map(|(max, start)| (Just(max), Just(start), ops(max)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn the_ring_does_what_a_queue_does((max_packet, start, ops) in cases()) {
        let mut pair = Pair::new(max_packet, start);
        for op in ops {
            pair.run(op);
        }
        // Whatever state that was, nothing is lost and the ring goes on.
        pair.run(Op::Publish);
        while !pair.queue.published.is_empty() {
            pair.run(Op::Take);
        }
        pair.run(Op::Stage(max_packet));
        pair.run(Op::Publish);
        pair.run(Op::Take);
        assert_eq!(pair.consumer.take(), Ok(None));
    }
}
