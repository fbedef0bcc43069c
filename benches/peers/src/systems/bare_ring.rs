//! A ring without anything around it: no checks of what the other side wrote, no ends, no bells.
//!
//! Records lie as in the library's ring: a header of a word, which publishes the packet behind it,
//! then the packet, aligned to words and in one piece. The read position goes back to the producer
//! every eighth of the ring. So this is how fast such a ring can be, by three ways of taking a
//! packet out of it.

use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{BOTH, Family, System, Waits, spin_pausing};
use crate::Result;
use crate::cell::Side;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::Port;
use crate::shared::{self, Shared};
use crate::stage::Stage;

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "bare ring, in place",
        family: Family::Limit,
        waits: Waits::Spinning,
        about: "packets are looked at where they lie",
        measures: BOTH,
        sizes: &[],
        perform: |stage| perform(stage, Out::InPlace),
    },
    System {
        name: "bare ring, copied",
        family: Family::Limit,
        waits: Waits::Spinning,
        about: "packets are copied into one buffer, again and again",
        measures: BOTH,
        sizes: &[],
        perform: |stage| perform(stage, Out::Copied(Vec::new())),
    },
    System {
        name: "bare ring, Bytes",
        family: Family::Limit,
        waits: Waits::Spinning,
        about: "packets are copied into an allocation each",
        measures: BOTH,
        sizes: &[],
        perform: |stage| perform(stage, Out::Bytes),
    },
];

/// As large as the library's rings are by default.
const RING: usize = 4 << 20;
const MASK: u64 = RING as u64 - 1;
/// The read position has this place before its ring, and the neighbourhood to itself.
const HEAD: usize = 256;
const REGION: usize = 2 * (HEAD + RING);

/// A header: nothing yet, the length of the packet plus one, or that the ring goes on at its start.
const NONE: u64 = 0;
const WRAP: u64 = u64::MAX;
const HEADER: usize = 8;

/// Pauses between two looks at an empty ring in a stream. On the producer's heels each look tears
/// the line away from it; the best of what was tried.
const PAUSES: u32 = 300;

/// How a packet leaves the ring.
enum Out {
    InPlace,
    Copied(Vec<u8>),
    Bytes,
}

fn perform(stage: &mut Stage, mut out: Out) -> Result<Outcome> {
    if let Out::Copied(buffer) = &mut out {
        buffer.resize(stage.bytes(), 0);
    }
    let memory = Shared::map(stage.share(|| shared::create(REGION))?, REGION)?;
    let rings = [0, HEAD + RING].map(|at| Ring::new(&memory, at));
    let [there, back] = rings;
    let (producer, consumer) = match stage.side() {
        Side::A => (there, back),
        Side::B => (back, there),
    };
    stage.run(BareRing {
        producer: Producer { ring: producer, tail: 0, head: 0 },
        consumer: Consumer { ring: consumer, head: 0, told: 0 },
        out,
    })
}

/// One direction.
#[derive(Clone, Copy)]
struct Ring<'a> {
    head: &'a AtomicU64,
    records: *mut u8,
}

impl<'a> Ring<'a> {
    fn new(memory: &'a Shared, at: usize) -> Self {
        // SAFETY: `REGION`, which is mapped, holds two rings with their heads, and `at` is the
        // beginning of one of them.
        let records = unsafe { memory.start().add(at + HEAD) };
        Self { head: memory.word(at), records }
    }

    #[inline]
    fn place(&self, position: u64) -> *mut u8 {
        #[allow(clippy::cast_possible_truncation, reason = "the mask leaves 22 bits")]
        let offset = (position & MASK) as usize;
        // SAFETY: the offset is smaller than the ring, which is mapped whole.
        unsafe { self.records.add(offset) }
    }

    #[inline]
    fn header(&self, position: u64) -> &'a AtomicU64 {
        // SAFETY: positions are multiples of 8, so a whole aligned word of the ring is there, which
        // lives as long as the mapping; both sides use headers through atomics alone.
        unsafe { AtomicU64::from_ptr(self.place(position).cast()) }
    }
}

struct Producer<'a> {
    ring: Ring<'a>,
    tail: u64,
    /// The consumer's position, as last seen.
    head: u64,
}

impl Producer<'_> {
    #[inline]
    fn try_write(&mut self, packet: &[u8]) -> bool {
        let record = record_bytes(packet.len());
        let until_end = RING as u64 - (self.tail & MASK);
        let pad = if until_end < record { until_end } else { 0 };
        // The word after the record is cleared, and must not be one that is still unread.
        let needed = pad + record + HEADER as u64;
        if needed > RING as u64 - (self.tail - self.head) {
            self.head = self.ring.head.load(Ordering::Acquire);
            if needed > RING as u64 - (self.tail - self.head) {
                return false;
            }
        }
        let at = self.tail + pad;
        self.ring.header(at + record).store(NONE, Ordering::Relaxed);
        let place = self.ring.place(at).wrapping_add(HEADER);
        // SAFETY: the record does not cross the ring's end, by the padding, and nobody reads it
        // before its header is there, because the consumer has gone past all that lay here.
        unsafe { ptr::copy_nonoverlapping(packet.as_ptr(), place, packet.len()) };
        let header = packet.len() as u64 + 1;
        if pad > 0 {
            self.ring.header(at).store(header, Ordering::Release);
            self.ring.header(self.tail).store(WRAP, Ordering::Release);
        } else {
            self.ring.header(at).store(header, Ordering::Release);
        }
        self.tail = at + record;
        true
    }
}

struct Consumer<'a> {
    ring: Ring<'a>,
    head: u64,
    /// What the producer knows.
    told: u64,
}

impl Consumer<'_> {
    /// Shows the next packet, if there is one.
    #[inline]
    fn try_read(&mut self, look: impl FnOnce(&[u8])) -> bool {
        let mut header = self.ring.header(self.head).load(Ordering::Acquire);
        if header == NONE {
            return false;
        }
        if header == WRAP {
            self.head += RING as u64 - (self.head & MASK);
            header = self.ring.header(self.head).load(Ordering::Acquire);
        }
        let len = usize::try_from(header - 1).unwrap_or(0);
        let place = self.ring.place(self.head).wrapping_add(HEADER);
        // SAFETY: the producer, who is this same program, has written a whole record before its
        // header, and does not touch it again until the head has gone past it.
        look(unsafe { slice::from_raw_parts(place, len) });
        self.head += record_bytes(len);
        if self.head - self.told >= RING as u64 / 8 {
            self.tell();
        }
        true
    }

    fn tell(&mut self) {
        self.ring.head.store(self.head, Ordering::Release);
        self.told = self.head;
    }
}

#[inline]
fn record_bytes(len: usize) -> u64 {
    (HEADER + len.next_multiple_of(8)) as u64
}

struct BareRing<'a> {
    producer: Producer<'a>,
    consumer: Consumer<'a>,
    out: Out,
}

impl BareRing<'_> {
    #[inline]
    fn take(&mut self, pauses: u32, sink: &mut Sink) -> Result<()> {
        let Self { consumer, out, .. } = self;
        match out {
            Out::InPlace => wait(pauses, consumer, |packet| sink.take(packet)),
            Out::Copied(buffer) => wait(pauses, consumer, |packet| {
                let copy = &mut buffer[..packet.len()];
                copy.copy_from_slice(packet);
                sink.take(copy);
            }),
            Out::Bytes => wait(pauses, consumer, |packet| {
                sink.take(&Bytes::copy_from_slice(packet));
            }),
        }
    }
}

#[inline]
fn wait(pauses: u32, consumer: &mut Consumer<'_>, mut look: impl FnMut(&[u8])) -> Result<()> {
    spin_pausing(pauses, || Ok(consumer.try_read(&mut look).then_some(())))
}

impl Port for BareRing<'_> {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        let packet = source.packet();
        spin_pausing(1, || Ok(self.producer.try_write(packet).then_some(())))
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        self.take(1, sink)
    }

    #[inline]
    fn recv_some(&mut self, sink: &mut Sink) -> Result<()> {
        self.take(PAUSES, sink)
    }
}
