//! One direction of a channel: a byte ring with one producer and one consumer.
//!
//! Records follow one another at multiples of 8 bytes: a header word, then the packet. A record is
//! contiguous. Where the next one would run over the end, a marker makes the consumer jump to the
//! start, and in a long ring to where the producer is best served: see `space`. There is no shared
//! tail: a record is published by its own header, which the consumer polls where the next record
//! will be. The producer first clears the header *after* the new record, then writes the packet,
//! then stores the header. So nothing half-written is ever visible, even if the producer dies in
//! the middle. A packet that is written in place may turn out shorter than the room claimed for it,
//! so there the clear waits until the length is known; it too comes before the header. (Publication
//! in the record is what Aeron's log buffers do, and FastForward for fixed slots: Giacomoni,
//! Moseley, Vachharajani, 2008.)
//!
//! | word | writer | reader | publishes |
//! |---|---|---|---|
//! | a record's header | producer, Release | consumer, Acquire | the packet, the cleared header after it, the rest of its batch |
//! | `head`, `taken` | consumer, Release | producer, Acquire | that the bytes before it will not be read again and may be overwritten |
//! | `wants` | producer, Relaxed before the bell's bit | consumer, Relaxed after it | nothing: a request |
//!
//! There are two heads. The consumer stores `taken` at each take, on a line that a producer reads
//! only when it finds no room, so that the line stays with the consumer. It stores `head` once for
//! each share of the ring, an eighth or 128 KiB, and a busy producer reads that. So the consumer of
//! a full ring gives room back in shares, but a producer that is about to sleep sees the room of
//! each record.
//!
//! A packet that is read in place is *held*: the consumer's position has moved past it, but `taken`
//! and `head` have not. Its length is in the consumer's own memory by then. A packet that is *lent*
//! comes back at any time, from any thread: see `loans`.
//!
//! Positions count bytes since the channel was created, including those that were jumped over, and
//! are private to their owner. The offset in the ring is the position modulo the ring's length,
//! which is a power of two.
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod consumer;
mod loans;
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "no number here comes from the peer"
)]
mod pool;
mod prefault;
mod probe;
mod producer;
mod space;

pub(crate) use consumer::{Consumer, Held};
pub(crate) use loans::Loan;
pub(crate) use probe::Probe;
pub(crate) use producer::{Claim, LOOK_AGAIN_AFTER, Producer};

use crate::error::Violation;
use crate::shm::region::Region;

/// Bytes since the channel was created, including those that were jumped over. Wraps after 2^64,
/// which all its arithmetic allows for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position(u64);

impl Position {
    pub(crate) const START: Self = Self(0);

    /// Returns any position, for the tests that begin shortly before 2^64.
    #[cfg(test)]
    pub(crate) fn at(bytes: u64) -> Self {
        Self(bytes)
    }

    #[inline]
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    #[inline]
    fn plus(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u64))
    }

    #[inline]
    fn minus(self, bytes: usize) -> Self {
        Self(self.0.wrapping_sub(bytes as u64))
    }

    /// Returns the last multiple of `unit`, a power of two, at or before `self`.
    #[inline]
    fn aligned(self, unit: usize) -> Self {
        Self(self.0 & (unit as u64).wrapping_neg())
    }

    /// Returns the bytes from `earlier` to `self`.
    #[inline]
    fn since(self, earlier: Self) -> u64 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `self` is at `other` or past it, the shorter way round.
    #[inline]
    fn has_reached(self, other: Self) -> bool {
        self.since(other) < 1 << 63
    }
}

/// The meaning of a record's header. 0 is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// A packet of this length follows.
    Packet(u32),
    /// The next record is at this offset.
    Jump(u32),
}

const KIND_PACKET: u64 = 1 << 32;
const KIND_JUMP: u64 = 2 << 32;

impl Mark {
    /// Returns the mark of a packet, whose length was checked against `max_packet`.
    #[inline]
    fn packet(len: usize) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "a packet is shorter than 1 GiB")]
        Self::Packet(len as u32)
    }

    /// Returns the mark that leads to `offset`.
    #[inline]
    fn jump(offset: usize) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "a ring is of at most 1 GiB")]
        Self::Jump(offset as u32)
    }

    #[inline]
    fn encode(self) -> u64 {
        match self {
            Self::Packet(len) => KIND_PACKET | u64::from(len),
            Self::Jump(to) => KIND_JUMP | u64::from(to),
        }
    }

    /// PEER: the word may have any value.
    #[inline]
    fn decode(word: u64) -> Result<Option<Self>, Violation> {
        #[allow(clippy::cast_possible_truncation, reason = "what it says is the lower half")]
        let len = word as u32;
        match word & !u64::from(u32::MAX) {
            KIND_PACKET => Ok(Some(Self::Packet(len))),
            KIND_JUMP => Ok(Some(Self::Jump(len))),
            _ if word == 0 => Ok(None),
            _ => Err(Violation::UnknownRecord(word)),
        }
    }
}

/// In how much of a ring a stream goes round, as long as its consumer keeps up: bytes that stay in
/// a core's own cache, of which today's cores have 512 KiB to 2 MiB. (In the small rings of the
/// fuzzers it is less, so that they turn.)
const WINDOW: usize = if cfg!(fuzzing) { 1 << 10 } else { 1 << 20 };

/// The numbers of a ring that both ends compute with.
#[derive(Debug, Clone, Copy)]
struct Shape {
    bytes: usize,
    /// The bits of a position that are its offset: one less than `bytes`.
    mask: u64,
    max_packet: usize,
    /// A power of two, and at most `bytes`.
    window: usize,
    /// How much is taken before `head` is stored again: an eighth of the window.
    share: u64,
}

impl Shape {
    fn of(region: &Region) -> Self {
        let (bytes, max_packet) = (region.geometry().ring_bytes(), region.geometry().max_packet());
        let mask = (bytes as u64).wrapping_sub(1);
        Self { bytes, mask, max_packet, window: 0, share: 0 }.with_window(bytes.min(WINDOW))
    }

    /// Returns the shape with another window.
    fn with_window(self, window: usize) -> Self {
        Self { window, share: window as u64 / 8, ..self }
    }

    /// Returns the offset of `position` in the ring.
    #[inline]
    fn offset(self, position: Position) -> usize {
        let offset = position.0 & self.mask;
        #[allow(clippy::cast_possible_truncation, reason = "masked to less than the ring's length")]
        let offset = offset as usize;
        offset
    }

    /// Returns the bytes between `offset` and the ring's end.
    #[inline]
    fn rest(self, offset: usize) -> usize {
        self.bytes.wrapping_sub(offset)
    }

    /// Returns the first position at or past `position` that lies at `offset`.
    #[inline]
    fn ahead(self, position: Position, offset: usize) -> Position {
        let distance = offset.wrapping_sub(self.offset(position)) & self.bytes.wrapping_sub(1);
        position.plus(distance)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
