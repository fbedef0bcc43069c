//! The ring against a plain queue.

use std::collections::VecDeque;

use super::Input;
use crate::ring::{Consumer, Held, Loan, Producer};
use crate::shm::layout::record_bytes;
use crate::shm::layout::{Geometry, Side};
use crate::shm::region::Region;
use crate::sync::{Arc, Ordering};

/// Makes any sequence of calls at both ends of a ring. A queue beside it says what must come out,
/// and how much must fit.
///
/// # Panics
/// If the ring behaves differently from the queue.
pub fn ring(data: &[u8]) {
    let _ = run(&mut Input(data));
}

fn run(input: &mut Input<'_>) -> Option<()> {
    let settings = input.byte()?;
    let ring_bytes = 4096 << (settings & 1);
    let largest = ring_bytes / 4 - 8;
    let max_packet = match settings >> 1 & 3 {
        0 | 1 => largest,
        2 => 1 + usize::from(settings >> 3),
        _ => largest - usize::from(settings >> 3),
    };
    // The whole ring, or two to eight turning points in it.
    let window = ring_bytes >> (input.byte()? & 3);
    let geometry = Geometry::new(Some(ring_bytes), Some(max_packet)).expect("both are lawful");
    let region = Arc::new(Region::create(geometry, false, None).expect("a small region").0);
    let mut pair = Pair {
        producer: Producer::new(&region, Side::Face).turning_every(window),
        consumer: Consumer::new(&region, Side::Handle).turning_every(window),
        region,
        published: VecDeque::new(),
        kept: Vec::new(),
        staged: VecDeque::new(),
        ring_bytes: ring_bytes as u64,
        turns: window < ring_bytes,
        max_packet,
        next: 0,
    };
    while let Some(op) = input.byte() {
        pair.step(op, input)?;
    }
    pair.finish();
    Some(())
}

struct Pair {
    producer: Producer,
    consumer: Consumer,
    region: Arc<Region>,
    published: VecDeque<Vec<u8>>,
    kept: Vec<Kept>,
    staged: VecDeque<Vec<u8>>,
    ring_bytes: u64,
    /// Whether it makes other jumps than the one from its end to its start.
    turns: bool,
    max_packet: usize,
    /// The number of the next packet, which its content begins with.
    next: u32,
}

/// A packet that was taken and is still in the ring.
struct Kept {
    /// Where its record begins.
    begin: u64,
    held: Held,
    packet: Vec<u8>,
    /// Set if it was lent.
    loan: Option<Loan>,
}

impl Pair {
    fn step(&mut self, op: u8, input: &mut Input<'_>) -> Option<()> {
        match op % 8 {
            0 | 1 => self.stage(usize::from(input.byte()?)),
            2 if op & 0x40 != 0 => {
                self.commit(usize::from(input.half()?), usize::from(input.half()?));
            }
            2 => self.stage(usize::from(input.half()?)),
            3 => self.publish(),
            4 | 5 => (0..=op >> 5).for_each(|_| self.take()),
            6 if op & 0x40 != 0 => self.hold(op & 0x20 != 0),
            6 if op & 0x20 != 0 && !self.kept.is_empty() => {
                let which = usize::from(input.byte()?) % self.kept.len();
                self.bring_back(which);
            }
            6 => self.consumer.release(),
            _ => self.park(usize::from(input.half()?)),
        }
        for kept in &self.kept {
            assert!(self.given() <= kept.begin, "room of what is still read");
        }
        Some(())
    }

    /// Returns up to where the consumer says that it no longer needs anything.
    fn given(&self) -> u64 {
        let words = self.region.side(Side::Handle);
        // Either may be ahead, because they are stored at different times.
        words.taken.0.load(Ordering::Relaxed).max(words.head.0.load(Ordering::Relaxed))
    }

    fn packet(&mut self, len: usize) -> Vec<u8> {
        let len = len % (self.max_packet + 1);
        self.next += 1;
        self.next.to_le_bytes().into_iter().cycle().take(len).collect()
    }

    fn stage(&mut self, len: usize) {
        let packet = self.packet(len);
        let before = self.producer.tail();
        match self.producer.stage(&packet) {
            Ok(true) => self.staged.push_back(packet),
            Ok(false) => {
                assert_eq!(self.producer.tail(), before, "nothing was written");
                self.producer.look_at_taken().expect("a lawful consumer");
                let fits = self.producer.stage(&packet).expect("a lawful consumer");
                if !self.turns {
                    let expected = self.fits(packet.len(), before.get());
                    assert_eq!(fits, expected, "{} bytes", packet.len());
                }
                assert!(fits || self.given() != before.get(), "an empty ring has room");
                if fits {
                    self.staged.push_back(packet);
                }
            }
            Err(violation) => panic!("a lawful consumer was blamed: {violation}"),
        }
        if self.producer.staged_enough() {
            self.publish();
        }
    }

    /// Writes a packet in place and makes it shorter than its room, all of which is written.
    fn commit(&mut self, len: usize, short: usize) {
        let packet = self.packet(len);
        let claim = self.producer.claim(packet.len()).expect("a lawful consumer");
        let Some(claim) = claim else { return };
        let meant = packet.len() - short % (packet.len() + 1);
        self.producer.memory().copy_in(claim.offset(), &packet);
        self.producer.stage_written(claim, meant);
        self.staged.push_back(packet[..meant].to_vec());
    }

    /// Takes a packet in place, and lends it or holds it.
    fn hold(&mut self, is_lent: bool) {
        self.give_back();
        let Some(held) = self.consumer.hold().expect("a lawful producer") else {
            return assert!(self.published.is_empty());
        };
        let packet = self.published.pop_front().expect("a packet that was sent");
        let begin = self.consumer.position().get() - record_bytes(held.len()) as u64;
        let loan = is_lent.then(|| self.consumer.lend(held));
        self.kept.push(Kept { begin, held, packet, loan });
    }

    /// Brings back a packet that was lent, or all that are held.
    fn bring_back(&mut self, which: usize) {
        let kept = &self.kept[which];
        assert_eq!(self.consumer.copy(kept.held), kept.packet, "it was written over");
        match &kept.loan {
            Some(loan) => {
                loan.bring_back();
                self.kept.swap_remove(which);
            }
            None => self.give_back(),
        }
    }

    fn give_back(&mut self) {
        if self.consumer.holds() {
            self.consumer.give_back();
        }
        for kept in self.kept.extract_if(.., |kept| kept.loan.is_none()) {
            assert_eq!(self.consumer.copy(kept.held), kept.packet, "it was written over");
        }
    }

    fn give_all_back(&mut self) {
        while !self.kept.is_empty() {
            self.bring_back(0);
        }
        self.consumer.give_back();
    }

    /// Applies the specification's rule to what the producer can know.
    fn fits(&self, len: usize, tail: u64) -> bool {
        let record = record_bytes(len) as u64;
        let rest = self.ring_bytes - tail % self.ring_bytes;
        let pad = if record > rest { rest } else { 0 };
        let used = tail - self.given();
        pad + record + 8 <= self.ring_bytes - used
    }

    fn publish(&mut self) {
        assert_eq!(self.producer.publish(), !self.staged.is_empty());
        self.published.append(&mut self.staged);
    }

    fn take(&mut self) {
        self.give_back();
        let peeked = self.consumer.peek().expect("a lawful producer");
        let taken = self.consumer.take().expect("a lawful producer");
        let expected = self.published.pop_front();
        assert_eq!(peeked, expected.as_ref().map(Vec::len));
        assert_eq!(taken.as_deref(), expected.as_deref());
    }

    /// Parks a sender, and checks that a consumer that has taken everything satisfies it.
    fn park(&mut self, len: usize) {
        let len = len % (self.max_packet + 1);
        self.publish();
        self.producer.announce(len);
        while !self.published.is_empty() {
            self.take();
        }
        assert!(self.consumer.peek().expect("a lawful producer").is_none());
        self.give_all_back();
        assert!(!self.consumer.lends() && self.given() == self.consumer.position().get());
        self.consumer.release();
        assert!(self.consumer.has_what_it_wants(), "an empty ring satisfies everybody");
        self.producer.look_at_taken().expect("a lawful consumer");
        let packet = self.packet(len);
        assert!(self.producer.stage(&packet).expect("a lawful consumer"), "an empty ring has room");
        self.staged.push_back(packet);
    }

    fn finish(&mut self) {
        self.publish();
        // Only what was published comes now, and none of it is refused.
        self.consumer.expect_no_more();
        while !self.published.is_empty() {
            self.take();
        }
        self.take();
        self.give_all_back();
        assert_eq!(self.given(), self.consumer.position().get());
    }
}
