//! The region of the models: the same interface on ordinary memory that loom watches.
//!
//! Every word of a ring is a loom atomic, and packets are moved word by word with Relaxed accesses,
//! so a missing ordering shows up as a stale or torn packet. (The real region moves plain bytes; a
//! Relaxed word is the least that loom can track.)

use std::ops::Deref;

use bytes::buf::UninitSlice;

use crate::shm::layout::{
    BellWords, CachePadded, Geometry, RECORD_ALIGN, Side, SideWords, Snapshot,
};
use crate::sync::{Arc, AtomicU32, AtomicU64, Ordering};

/// Two rings and the words of both sides.
#[derive(Debug)]
pub(crate) struct Region {
    geometry: Geometry,
    sides: [SideWords; 2],
    /// Indexed by the side that produces into them.
    rings: [Vec<AtomicU64>; 2],
}

impl Region {
    /// Makes a region with rings so small that they are soon full.
    pub(crate) fn model(ring_bytes: usize, max_packet: usize) -> Arc<Self> {
        Self::model_from(ring_bytes, max_packet, 0)
    }

    /// Like [`model`](Self::model), with both consumers at position `start`.
    pub(crate) fn model_from(ring_bytes: usize, max_packet: usize, start: u64) -> Arc<Self> {
        assert!(ring_bytes.is_power_of_two() && ring_bytes >= 4 * (max_packet + RECORD_ALIGN));
        let ring = || (0..ring_bytes / RECORD_ALIGN).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            geometry: Geometry::model(ring_bytes, max_packet),
            sides: [words(start), words(start)],
            rings: [ring(), ring()],
        })
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns the control words of one side.
    pub(crate) fn side(&self, side: Side) -> &SideWords {
        &self.sides[side as usize]
    }

    /// Like [`side`](Self::side), but returns an owner that keeps the region.
    pub(crate) fn words(self: &Arc<Self>, side: Side) -> Words {
        Words { region: self.clone(), side }
    }

    /// Returns the ring that `producer` writes into.
    pub(crate) fn ring(self: &Arc<Self>, producer: Side) -> RingMemory {
        RingMemory { region: self.clone(), producer }
    }
}

/// Returns the words of a side whose consumer is at `start`.
fn words(start: u64) -> SideWords {
    let zero = || AtomicU64::new(0);
    SideWords {
        bell: CachePadded(BellWords { waiting: AtomicU32::new(0), bell: AtomicU32::new(0) }),
        ends: CachePadded(AtomicU32::new(0)),
        head: CachePadded(AtomicU64::new(start)),
        taken: CachePadded(AtomicU64::new(start)),
        wants: CachePadded(AtomicU64::new(start)),
        snapshot: CachePadded(Snapshot {
            tail: zero(),
            head: zero(),
            packets_sent: zero(),
            bytes_sent: zero(),
            packets_received: zero(),
            bytes_received: zero(),
            wakes_sent: zero(),
            parks: zero(),
            wakes_received: zero(),
            full_stalls: zero(),
            spins_paid: zero(),
            spins_unpaid: zero(),
        }),
    }
}

/// The control words of one side.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    region: Arc<Region>,
    side: Side,
}

impl Deref for Words {
    type Target = SideWords;

    fn deref(&self) -> &SideWords {
        self.region.side(self.side)
    }
}

/// The words of one ring. Every access is checked against the ring's length.
#[derive(Debug)]
pub(crate) struct RingMemory {
    region: Arc<Region>,
    producer: Side,
}

impl RingMemory {
    /// The length in bytes, a power of two.
    pub(crate) fn len(&self) -> usize {
        self.region.geometry.ring_bytes()
    }

    /// Returns the record header at `position`.
    pub(crate) fn header(&self, position: u64) -> &AtomicU64 {
        assert!(position.is_multiple_of(RECORD_ALIGN as u64), "header between two words");
        let offset = usize::try_from(position % self.len() as u64).unwrap();
        &self.words()[offset / RECORD_ALIGN]
    }

    /// Does nothing: loom has no caches.
    pub(crate) fn fetch_to_write(&self, _position: u64) {}

    /// Like [`fetch_to_write`](Self::fetch_to_write).
    pub(crate) fn fetch_to_read(&self, _position: u64) {}

    pub(crate) fn make_pages(&self, _offset: usize, _len: usize) {}

    /// Copies `packet` to `offset`, and zeroes the rest of the last word.
    pub(crate) fn copy_in(&self, offset: usize, packet: &[u8]) {
        for (word, bytes) in self.span(offset, packet.len()).iter().zip(packet.chunks(RECORD_ALIGN))
        {
            let mut padded = [0; RECORD_ALIGN];
            padded[..bytes.len()].copy_from_slice(bytes);
            // ORDERING: Relaxed; the real region moves plain bytes.
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
    }

    /// Appends the `len` bytes at `offset` to `copy`.
    pub(crate) fn copy_out(&self, offset: usize, len: usize, copy: &mut Vec<u8>) {
        let end = copy.len() + len;
        for word in self.span(offset, len) {
            // ORDERING: as in `copy_in`.
            copy.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        copy.truncate(end);
    }

    /// Returns a copy of the `len` bytes at `offset`.
    pub(crate) fn boxed(&self, offset: usize, len: usize) -> Box<[u8]> {
        let mut copy = Vec::new();
        self.copy_out(offset, len, &mut copy);
        copy.into()
    }

    /// Copies the bytes at `offset` to `copy`.
    pub(crate) fn copy_to(&self, offset: usize, copy: &mut [u8]) {
        for (at, byte) in (offset..).zip(copy) {
            // ORDERING: as in `copy_in`.
            let word = self.words()[at / RECORD_ALIGN].load(Ordering::Relaxed);
            *byte = word.to_ne_bytes()[at % RECORD_ALIGN];
        }
    }

    /// Copies the `len` bytes at `from_offset` of another ring to `offset`.
    pub(crate) fn copy_across(&self, offset: usize, from: &Self, from_offset: usize, len: usize) {
        let mut copy = vec![0; len];
        from.copy_to(from_offset, &mut copy);
        self.put(offset, copy);
    }

    /// Writes `byte` to the `len` bytes at `offset`.
    pub(crate) fn fill(&self, offset: usize, byte: u8, len: usize) {
        self.put(offset, std::iter::repeat_n(byte, len));
    }

    fn put(&self, offset: usize, bytes: impl IntoIterator<Item = u8>) {
        for (at, byte) in (offset..).zip(bytes) {
            let word = &self.words()[at / RECORD_ALIGN];
            // ORDERING: as in `copy_in`; nobody else writes to room that is being filled.
            let mut padded = word.load(Ordering::Relaxed).to_ne_bytes();
            padded[at % RECORD_ALIGN] = byte;
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
    }

    /// Not used: no model borrows the ring's bytes, because loom would not see the accesses to
    /// them.
    ///
    /// # Safety
    /// As for the real one.
    pub(crate) unsafe fn spare(&self, _offset: usize, _len: usize) -> &mut UninitSlice {
        unimplemented!("bytes that loom does not see")
    }

    /// As [`spare`](Self::spare).
    ///
    /// # Safety
    /// As for the real one.
    pub(crate) unsafe fn slice(&self, _offset: usize, _len: usize) -> &[u8] {
        unimplemented!("bytes that loom does not see")
    }

    /// Returns a copy of the `len` bytes at `offset`, as they are now.
    pub(crate) fn keep(&self, offset: usize, len: usize) -> Kept {
        let mut copy = vec![0; len];
        self.copy_to(offset, &mut copy);
        Kept { copy }
    }

    /// Returns the words that hold the `len` bytes from `offset`.
    fn span(&self, offset: usize, len: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(RECORD_ALIGN), "packet between two words");
        let first = offset / RECORD_ALIGN;
        &self.words()[first..first + len.div_ceil(RECORD_ALIGN)]
    }

    fn words(&self) -> &[AtomicU64] {
        &self.region.rings[self.producer as usize]
    }
}

/// Bytes of a ring that are read later; here, a copy.
#[derive(Debug)]
pub(crate) struct Kept {
    copy: Vec<u8>,
}

impl Kept {
    /// Returns the bytes.
    ///
    /// # Safety
    /// None here; the real one requires that nobody writes to them.
    pub(crate) unsafe fn as_slice(&self) -> &[u8] {
        &self.copy
    }
}
