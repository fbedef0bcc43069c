//! A ring without anything around it: no checks of what the other side wrote, no ends, no bells, no
//! fence. So this is how fast such a ring can be.
//!
//! Records lie as in the library's ring: a header of a word, which publishes the packet after it,
//! then the packet, aligned to words and in one piece. A batch is published by its first header,
//! which is written last. The read position goes back to the producer every eighth of the ring.

use std::hint::spin_loop;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::Result;
use crate::items::{Chunk, packet_bytes};
use crate::loops::{AllLoops, Loops};
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::row::Side;
use crate::shared::{self, Shared};
use crate::stage::Stage;
use crate::system::{Family, STREAM, System};
use crate::trips::{Echo, Trips};

const LIMIT: System = System {
    family: Family::Limit,
    limits: &["bare ring, in place", "cache line"],
    ..System::RIVAL
};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "bare ring, in place",
        about: "packets are looked at where they lie",
        limits: &["cache line"],
        perform: |stage| perform(stage, |ring| InPlace(ring, 1)),
        ..LIMIT
    },
    System {
        name: "bare ring, in place, batch",
        about: "the same, 64 packets or 128 KiB a publication",
        measures: STREAM,
        perform: |stage| {
            let batch = batch_of(stage.bytes());
            perform(stage, |ring| InPlace(ring, batch))
        },
        ..LIMIT
    },
    System {
        name: "bare ring, Bytes",
        about: "packets are copied into an allocation each",
        perform: |stage| perform(stage, |ring| Copied(ring, 1)),
        ..LIMIT
    },
    System {
        name: "bare ring, Bytes, batch",
        about: "the same, 64 packets or 128 KiB a publication",
        measures: STREAM,
        perform: |stage| {
            let batch = batch_of(stage.bytes());
            perform(stage, |ring| Copied(ring, batch))
        },
        ..LIMIT
    },
    System {
        name: "bare ring, items",
        about: "packets of 4 KiB, or 32 KiB for items of 1 KiB, whose items are copied out by chunks",
        measures: STREAM,
        sizes: &[64, 1024],
        perform: |stage| perform(stage, |both| Items { both, is_in_place: false }),
        ..LIMIT
    },
    System {
        name: "bare ring, items in place",
        about: "the same, but the items are looked at where they lie",
        measures: STREAM,
        sizes: &[64, 1024],
        perform: |stage| perform(stage, |both| Items { both, is_in_place: true }),
        ..LIMIT
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

/// Pauses between two looks at an empty ring in a stream. Directly after the producer, each look
/// takes the line away from it; the best of what was tried.
const PAUSES: u32 = 300;

/// Packets of a batch.
fn batch_of(bytes: usize) -> usize {
    ((128 << 10) / bytes).min(64)
}

/// Opens the ring and runs the loops that `make` makes of it.
fn perform<L>(stage: &mut Stage, make: impl FnOnce(Both<'static>) -> L) -> Result<Outcome>
where
    L: AllLoops,
{
    let both = open(stage)?;
    pollster::block_on(stage.run(make(both)))
}

/// Opens the ring.
pub(super) fn open(stage: &mut Stage) -> Result<Both<'static>> {
    // Until the process ends, so that the loops can be of a type that nothing borrows.
    let memory = Shared::map(stage.share(|| shared::create(REGION))?, REGION)?;
    let memory: &Shared = Box::leak(Box::new(memory));
    let rings = [0, HEAD + RING].map(|at| Ring::new(memory, at));
    let [there, back] = rings;
    let (out, from) = match stage.side() {
        Side::A => (there, back),
        Side::B => (back, there),
    };
    Ok(Both {
        producer: Producer { ring: out, tail: 0, head: 0, withheld: None },
        consumer: Consumer { ring: from, head: 0, told: 0 },
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

    #[inline(always)]
    fn place(&self, position: u64) -> *mut u8 {
        #[allow(clippy::cast_possible_truncation, reason = "the mask leaves 22 bits")]
        let offset = (position & MASK) as usize;
        // SAFETY: the offset is smaller than the ring, which is mapped whole.
        unsafe { self.records.add(offset) }
    }

    #[inline(always)]
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
    /// The first header of what is not published yet, and where it goes.
    withheld: Option<(u64, u64)>,
}

impl Producer<'_> {
    /// Has `fill` write a packet of at most `most` bytes, and tell its length, if there is room.
    #[inline(always)]
    fn stage(&mut self, most: usize, fill: impl FnOnce(*mut u8) -> usize) -> bool {
        let record = record_bytes(most);
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
        let len = fill(self.ring.place(at).wrapping_add(HEADER));
        let end = at + record_bytes(len);
        self.ring.header(end).store(NONE, Ordering::Relaxed);
        if pad > 0 {
            self.put_header(self.tail, WRAP);
        }
        self.put_header(at, len as u64 + 1);
        self.tail = end;
        true
    }

    #[inline(always)]
    fn put_header(&mut self, at: u64, header: u64) {
        match self.withheld {
            None => self.withheld = Some((at, header)),
            // The consumer cannot get here before the one that is withheld is there.
            Some(_) => self.ring.header(at).store(header, Ordering::Relaxed),
        }
    }

    #[inline(always)]
    fn publish(&mut self) {
        if let Some((at, header)) = self.withheld.take() {
            self.ring.header(at).store(header, Ordering::Release);
        }
    }

    /// Stages a packet, waiting for room.
    #[inline(always)]
    fn put(&mut self, packet: &[u8]) {
        let fill = |place: *mut u8| {
            // SAFETY: the record does not cross the ring's end, by the padding, and nobody reads it
            // before its header is there, because the consumer has gone past all that lay here.
            unsafe { ptr::copy_nonoverlapping(packet.as_ptr(), place, packet.len()) };
            packet.len()
        };
        while !self.stage(packet.len(), fill) {
            self.publish();
            spin_loop();
        }
    }
}

pub(super) struct Consumer<'a> {
    ring: Ring<'a>,
    head: u64,
    /// What the producer knows.
    told: u64,
}

impl Consumer<'_> {
    /// Shows the next packet, if there is one.
    #[inline(always)]
    pub(super) fn try_take<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut header = self.ring.header(self.head).load(Ordering::Acquire);
        if header == NONE {
            return None;
        }
        if header == WRAP {
            self.head += RING as u64 - (self.head & MASK);
            header = self.ring.header(self.head).load(Ordering::Acquire);
        }
        let len = usize::try_from(header - 1).unwrap_or(0);
        let place = self.ring.place(self.head).wrapping_add(HEADER);
        // SAFETY: the producer, who is this same program, has written a whole record before its
        // header, and does not touch it again until the head has gone past it.
        let looked = look(unsafe { slice::from_raw_parts(place, len) });
        self.head += record_bytes(len);
        if self.head - self.told >= RING as u64 / 8 {
            self.ring.head.store(self.head, Ordering::Release);
            self.told = self.head;
        }
        Some(looked)
    }

    /// Shows the next packet, waiting for it with so many pauses between two looks.
    #[inline(always)]
    fn take<T>(&mut self, pauses: u32, mut look: impl FnMut(&[u8]) -> T) -> T {
        loop {
            if let Some(looked) = self.try_take(&mut look) {
                return looked;
            }
            for _ in 0..pauses {
                spin_loop();
            }
        }
    }
}

#[inline(always)]
fn record_bytes(len: usize) -> u64 {
    (HEADER + len.next_multiple_of(8)) as u64
}

pub(super) struct Both<'a> {
    producer: Producer<'a>,
    pub(super) consumer: Consumer<'a>,
}

impl Both<'_> {
    /// Sends a stream, so many packets a publication.
    #[inline(always)]
    fn send<const N: usize>(&mut self, source: &mut Source<N>, batch: usize) {
        let mut staged = 0;
        while let Some(packet) = source.next() {
            self.producer.put(packet);
            staged += 1;
            if staged == batch {
                self.producer.publish();
                staged = 0;
            }
        }
        self.producer.publish();
    }

    #[inline(always)]
    pub(super) fn put(&mut self, packet: &[u8]) {
        self.producer.put(packet);
        self.producer.publish();
    }
}

/// Packets that are looked at where they lie, so many a publication.
struct InPlace(Both<'static>, usize);

impl<const N: usize> Loops<N> for InPlace {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        self.0.send(source, self.1);
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while self.0.consumer.take(PAUSES, |packet| sink.take(packet)) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.0.put(packet);
            self.0.consumer.take(1, |answer| trips.take(answer));
        }
        self.0.put(trips.last());
        Ok(())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while self.0.consumer.take(1, |packet| echo.take(packet)) {
            self.0.put(echo.answer());
        }
        Ok(())
    }
}

/// Packets that are copied into an allocation each, so many a publication.
struct Copied(Both<'static>, usize);

impl<const N: usize> Loops<N> for Copied {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        self.0.send(source, self.1);
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(&self.0.consumer.take(PAUSES, Bytes::copy_from_slice)) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.0.put(packet);
            trips.take(&self.0.consumer.take(1, Bytes::copy_from_slice));
        }
        self.0.put(trips.last());
        Ok(())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(&self.0.consumer.take(1, Bytes::copy_from_slice)) {
            self.0.put(echo.answer());
        }
        Ok(())
    }
}

/// Packets that hold items, which are looked at where they lie or in a chunk.
struct Items {
    both: Both<'static>,
    is_in_place: bool,
}

impl<const N: usize> Loops<N> for Items {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let (mut chunk, mut is_over) = (Chunk::new(), false);
        while !is_over {
            let fill = |place: *mut u8| {
                let mut len = 0;
                while !is_over && len < packet_bytes::<N>() {
                    let items = chunk.collect(source);
                    let place = place.wrapping_add(len);
                    // SAFETY: as in `Producer::put`; the record has room for a whole packet, and
                    // chunks fill one exactly.
                    unsafe { ptr::copy_nonoverlapping(items.as_ptr(), place, items.len()) };
                    len += items.len();
                    is_over = items.len() < Chunk::BYTES;
                }
                len
            };
            if self.both.producer.stage(packet_bytes::<N>(), fill) {
                self.both.producer.publish();
            } else {
                spin_loop();
            }
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        let mut chunk = (!self.is_in_place).then(Chunk::new);
        let mut goes_on = true;
        while goes_on {
            self.both.consumer.take(PAUSES, |packet| match &mut chunk {
                None => packet.chunks_exact(N).for_each(|item| goes_on = sink.take(item)),
                Some(chunk) => {
                    for part in packet.chunks(Chunk::BYTES) {
                        let items = chunk.up_to(part.len());
                        items.copy_from_slice(part);
                        items.chunks_exact(N).for_each(|item| goes_on = sink.take(item));
                    }
                }
            });
        }
        Ok(())
    }
}
