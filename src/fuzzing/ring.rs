//! The ring against a plain queue.

use std::collections::VecDeque;

use super::Input;
use crate::layout::record_bytes;
use crate::layout::{Geometry, Side};
use crate::region::Region;
use crate::ring::{Consumer, Producer};
use crate::sync::Arc;

/// Any sequence of calls at both ends of a ring, with a queue beside it that says what must come
/// out, and how much must fit.
///
/// # Panics
/// If the ring does something else than the queue.
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
    let geometry = Geometry::new(Some(ring_bytes), Some(max_packet)).expect("both are lawful");
    let region = Arc::new(Region::create(geometry, false).expect("a small region").0);
    let mut pair = Pair {
        producer: Producer::new(&region, Side::Face),
        consumer: Consumer::new(&region, Side::Handle),
        published: VecDeque::new(),
        staged: VecDeque::new(),
        ring_bytes: ring_bytes as u64,
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
    published: VecDeque<Vec<u8>>,
    staged: VecDeque<Vec<u8>>,
    ring_bytes: u64,
    max_packet: usize,
    /// Number of the next packet, which its content begins with.
    next: u32,
}

impl Pair {
    fn step(&mut self, op: u8, input: &mut Input<'_>) -> Option<()> {
        match op % 8 {
            0 | 1 => self.stage(usize::from(input.byte()?)),
            2 => self.stage(usize::from(input.half()?)),
            3 => self.publish(),
            4 | 5 => (0..=op >> 5).for_each(|_| self.take()),
            6 => self.consumer.release(),
            _ => self.park(usize::from(input.half()?)),
        }
        Some(())
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
                assert_eq!(fits, self.fits(packet.len(), before.get()), "{} bytes", packet.len());
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

    /// The specification's rule, from what the producer can know.
    fn fits(&self, len: usize, tail: u64) -> bool {
        let record = record_bytes(len) as u64;
        let rest = self.ring_bytes - tail % self.ring_bytes;
        let pad = if record > rest { rest } else { 0 };
        // Each take announces itself, and a wrap marker is passed only on the way to a packet.
        let used = tail - self.consumer.position().get();
        pad + record + 8 <= self.ring_bytes - used
    }

    fn publish(&mut self) {
        assert_eq!(self.producer.publish(), !self.staged.is_empty());
        self.published.append(&mut self.staged);
    }

    fn take(&mut self) {
        let peeked = self.consumer.peek().expect("a lawful producer");
        let taken = self.consumer.take().expect("a lawful producer");
        let expected = self.published.pop_front();
        assert_eq!(peeked, expected.as_ref().map(Vec::len));
        assert_eq!(taken.as_deref(), expected.as_deref());
    }

    /// A sender parks; a consumer that has taken everything must be seen to satisfy it.
    fn park(&mut self, len: usize) {
        let len = len % (self.max_packet + 1);
        self.publish();
        self.producer.announce(len);
        while !self.published.is_empty() {
            self.take();
        }
        assert!(self.consumer.peek().expect("a lawful producer").is_none());
        self.consumer.release();
        assert!(self.consumer.has_what_it_wants(), "an empty ring satisfies everybody");
        self.producer.look_at_taken().expect("a lawful consumer");
        let packet = self.packet(len);
        assert!(self.producer.stage(&packet).expect("a lawful consumer"), "an empty ring has room");
        self.staged.push_back(packet);
    }

    fn finish(&mut self) {
        self.publish();
        while !self.published.is_empty() {
            self.take();
        }
        self.take();
    }
}
