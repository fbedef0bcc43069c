//! The region's words and geometry, as both processes see them.
//!
//! The specification (`spec.md`, the page [`spec`](crate::spec) of the documentation) describes
//! this layout. The assertions below and the test vectors keep the offsets of both equal.
//!
//! | word | writer | reader | meaning |
//! |---|---|---|---|
//! | `waiting` | its side sets bits, the other clears them | both | what this side's tasks wait for |
//! | `bell` | the other side, and its own at an end | its side | futex word that wakes this side |
//! | `ends` | its side | the other | what this side has closed; whether to wake it by byte |
//! | `head` | its side | the other's producer | where this side's consumer is, an eighth of the ring or 128 KiB at a time |
//! | `taken` | its side | the other's producer, when it finds no room | where this side's consumer is |
//! | `wants` | its side | the other's consumer | the head at which this side's parked sender is to be woken |
//! | `snapshot` | its side | tools | positions and counters |

use crate::error::ShmError;
use crate::sync::{AtomicU32, AtomicU64};

/// The first eight bytes of every region.
pub(crate) const MAGIC: [u8; 8] = *b"wakering";
/// The version of the protocol: of layout, records, bells and handshake together.
pub(crate) const VERSION: u32 = 1;
/// The bytes before the first ring.
pub(crate) const HEADER_BYTES: usize = 4096;
/// The distance of words that different sides write: two cache lines, because processors fetch
/// pairs.
pub(crate) const LINE: usize = 128;

/// Every record starts at a multiple of this. Its header is one word of this size.
pub(crate) const RECORD_ALIGN: usize = 8;
/// The size of a record's header.
pub(crate) const RECORD_HEADER: usize = 8;

/// Returns the bytes that a packet takes in a ring: its header and itself, rounded up to the
/// alignment.
#[inline]
pub(crate) const fn record_bytes(len: usize) -> usize {
    (RECORD_HEADER + len + RECORD_ALIGN - 1) & !(RECORD_ALIGN - 1)
}

/// The smallest ring: one page.
pub(crate) const MIN_RING_BYTES: usize = 4096;
/// The largest ring: 1 GiB. With 32-bit addresses 512 MiB, because a region of two larger rings
/// would be longer than an object can be there (`isize::MAX`).
pub(crate) const MAX_RING_BYTES: usize = if usize::BITS < 64 { 1 << 29 } else { 1 << 30 };
const _: () = assert!(HEADER_BYTES + 2 * MAX_RING_BYTES <= isize::MAX.unsigned_abs());
/// The size of each direction's ring if the builder sets none.
///
/// With it, a stream whose consumer is late parks ten times less often than with 1 MiB, and a
/// stream whose consumer keeps up uses only a part of it. Memory is taken only as it is used.
pub(crate) const DEFAULT_RING_BYTES: usize = 4 << 20;

/// Bit of `waiting`: a receiver waits for packets.
pub(crate) const RECV: u32 = 1;
/// Bit of `waiting`: a sender waits for room.
pub(crate) const SEND: u32 = 2;
/// The most waiters on a side's bell, including its driver; no wake wakes more.
pub(crate) const MAX_WAITERS: u32 = 1024;

/// Bit of `ends`: this side will send no more.
pub(crate) const TX_CLOSED: u32 = 1;
/// Bit of `ends`: this side will receive no more.
pub(crate) const RX_CLOSED: u32 = 2;
/// Bit of `ends`: this side has cut the channel off.
pub(crate) const CANCELLED: u32 = 4;
/// Bit of `ends`: wake this side by a byte on the lifeline as well.
pub(crate) const RING_BY_BYTE: u32 = 8;
/// All bits of `ends` that have a meaning.
pub(crate) const ENDS: u32 = TX_CLOSED | RX_CLOSED | CANCELLED | RING_BY_BYTE;

/// One end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The engine's end; it produces into the first ring.
    Face = 0,
    /// The application's end; it produces into the second ring.
    Handle = 1,
}

impl Side {
    #[inline]
    pub(crate) fn peer(self) -> Self {
        match self {
            Self::Face => Self::Handle,
            Self::Handle => Self::Face,
        }
    }

    /// Returns whose side this is, for events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Face => "engine",
            Self::Handle => "application",
        }
    }
}

/// A word on its own pair of cache lines.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

/// The words of one side.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct SideWords {
    pub(crate) bell: CachePadded<BellWords>,
    /// Written by this side only: [`TX_CLOSED`] and its neighbours.
    pub(crate) ends: CachePadded<AtomicU32>,
    /// Written by this side's consumer, read by the other's producer.
    pub(crate) head: CachePadded<AtomicU64>,
    /// Written by this side's consumer, read by the other's producer when it finds no room.
    pub(crate) taken: CachePadded<AtomicU64>,
    /// Written by this side's producer, read by the other's consumer.
    pub(crate) wants: CachePadded<AtomicU64>,
    /// Written by this side, read by tools.
    pub(crate) snapshot: CachePadded<Snapshot>,
}

/// The two words of a bell. A wake touches both, so they share their cache lines.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct BellWords {
    /// [`RECV`] and [`SEND`]: set by this side, cleared by the side that wakes it.
    pub(crate) waiting: AtomicU32,
    /// Futex word, incremented by each wake.
    pub(crate) bell: AtomicU32,
}

/// What a monitoring tool can show. Never read by the protocol.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Snapshot {
    pub(crate) tail: AtomicU64,
    pub(crate) head: AtomicU64,
    pub(crate) packets_sent: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) packets_received: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) wakes_sent: AtomicU64,
    pub(crate) parks: AtomicU64,
    pub(crate) wakes_received: AtomicU64,
    pub(crate) full_stalls: AtomicU64,
    pub(crate) spins_paid: AtomicU64,
    pub(crate) spins_unpaid: AtomicU64,
}

/// The start of the region. Written by its creator before anybody else can see it, then constant.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct GeometryWords {
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU32,
    pub(crate) reserved: AtomicU32,
    pub(crate) header_bytes: AtomicU64,
    pub(crate) features: AtomicU64,
    pub(crate) region_bytes: AtomicU64,
    pub(crate) ring_bytes: AtomicU64,
    pub(crate) max_packet: AtomicU64,
}

/// The first page of a region.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) geometry: CachePadded<GeometryWords>,
    pub(crate) sides: [SideWords; 2],
}

#[cfg(not(all(test, loom)))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<SideWords>() == 6 * LINE);
    assert!(offset_of!(Header, sides) == 0x080);
    assert!(offset_of!(SideWords, bell) == 0x000);
    assert!(offset_of!(BellWords, waiting) == 0 && offset_of!(BellWords, bell) == 4);
    assert!(offset_of!(SideWords, ends) == 0x080);
    assert!(offset_of!(SideWords, head) == 0x100);
    assert!(offset_of!(SideWords, taken) == 0x180);
    assert!(offset_of!(SideWords, wants) == 0x200);
    assert!(offset_of!(SideWords, snapshot) == 0x280);
    assert!(offset_of!(Snapshot, spins_unpaid) == 0x58);
    assert!(size_of::<Header>() <= HEADER_BYTES);
};

/// The numbers that determine a region's layout. Private to each side once they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    ring_bytes: usize,
    max_packet: usize,
}

impl Geometry {
    /// Returns the geometry that a builder asks for. A number that is not set follows from the
    /// other.
    ///
    /// # Errors
    /// `InvalidConfig` with the number and its limit.
    pub(crate) fn new(
        ring_bytes: Option<usize>,
        max_packet: Option<usize>,
    ) -> Result<Self, ShmError> {
        let ring_bytes = match (ring_bytes, max_packet) {
            (Some(ring_bytes), _) => ring_bytes,
            (None, None) => DEFAULT_RING_BYTES,
            (None, Some(max_packet)) => ring_for(max_packet)?.max(DEFAULT_RING_BYTES),
        };
        check_ring(ring_bytes as u64)?;
        let max_packet = max_packet.unwrap_or(largest_packet(ring_bytes));
        check_packet(max_packet as u64, ring_bytes)?;
        Ok(Self { ring_bytes, max_packet })
    }

    /// Checks the numbers that the creator of a region wrote against the region's real size.
    ///
    /// PEER: each was loaded once; nothing is computed from one before it is checked.
    pub(crate) fn judge(
        ring_bytes: u64,
        max_packet: u64,
        region_bytes: u64,
    ) -> Result<Self, ShmError> {
        let ring_bytes = check_ring(ring_bytes)?;
        let max_packet = check_packet(max_packet, ring_bytes)?;
        let geometry = Self { ring_bytes, max_packet };
        let lawful = geometry.region_bytes() as u64;
        if region_bytes != lawful {
            return Err(invalid("region size in bytes", region_bytes, lawful));
        }
        Ok(geometry)
    }

    /// Accepts any numbers, for the models, whose rings hold a few words.
    #[cfg(all(test, loom))]
    pub(crate) fn model(ring_bytes: usize, max_packet: usize) -> Self {
        Self { ring_bytes, max_packet }
    }

    /// The size of each ring in bytes, a power of two.
    pub(crate) fn ring_bytes(self) -> usize {
        self.ring_bytes
    }

    /// The longest packet in bytes.
    #[inline]
    pub(crate) fn max_packet(self) -> usize {
        self.max_packet
    }

    /// The size of the whole region. Cannot overflow: a ring is at most `MAX_RING_BYTES`.
    pub(crate) fn region_bytes(self) -> usize {
        HEADER_BYTES + 2 * self.ring_bytes
    }

    /// Returns where in the region the ring begins that `producer` writes.
    pub(crate) fn ring_offset(self, producer: Side) -> usize {
        match producer {
            Side::Face => HEADER_BYTES,
            Side::Handle => HEADER_BYTES + self.ring_bytes,
        }
    }
}

fn invalid(what: &'static str, given: u64, allowed: u64) -> ShmError {
    ShmError::InvalidConfig { what, given, allowed }
}

/// Returns the largest packet that a ring may carry: with its header, a quarter of the ring.
const fn largest_packet(ring_bytes: usize) -> usize {
    ring_bytes / 4 - RECORD_HEADER
}

/// Returns the smallest ring for packets of this length.
fn ring_for(max_packet: usize) -> Result<usize, ShmError> {
    check_packet(max_packet as u64, MAX_RING_BYTES)?;
    Ok((4 * (max_packet + RECORD_HEADER)).next_power_of_two())
}

fn check_ring(given: u64) -> Result<usize, ShmError> {
    let ring_bytes = usize::try_from(given).unwrap_or(usize::MAX);
    if ring_bytes < MIN_RING_BYTES {
        return Err(invalid("ring_bytes (smallest)", given, MIN_RING_BYTES as u64));
    }
    if ring_bytes > MAX_RING_BYTES {
        return Err(invalid("ring_bytes (largest)", given, MAX_RING_BYTES as u64));
    }
    if !ring_bytes.is_power_of_two() {
        let next = ring_bytes.next_power_of_two() as u64;
        return Err(invalid("ring_bytes (a power of two)", given, next));
    }
    Ok(ring_bytes)
}

fn check_packet(given: u64, ring_bytes: usize) -> Result<usize, ShmError> {
    let largest = largest_packet(ring_bytes);
    let max_packet = usize::try_from(given).unwrap_or(usize::MAX);
    if max_packet > largest {
        let what = "max_packet (at most ring_bytes / 4 - 8)";
        return Err(invalid(what, given, largest as u64));
    }
    if max_packet == 0 {
        return Err(invalid("max_packet (smallest)", 0, 1));
    }
    Ok(max_packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(ring_bytes: Option<usize>, max_packet: Option<usize>) -> (u64, u64) {
        match Geometry::new(ring_bytes, max_packet) {
            Err(ShmError::InvalidConfig { given, allowed, .. }) => (given, allowed),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn one_setting_adjusts_the_other() {
        let geometry = Geometry::new(None, None).unwrap();
        assert_eq!((geometry.ring_bytes(), geometry.max_packet()), (4 << 20, (1 << 20) - 8));
        let geometry = Geometry::new(None, Some(1 << 20)).unwrap();
        assert_eq!((geometry.ring_bytes(), geometry.max_packet()), (8 << 20, 1 << 20));
        let geometry = Geometry::new(Some(8192), None).unwrap();
        assert_eq!((geometry.ring_bytes(), geometry.max_packet()), (8192, 2040));
        let geometry = Geometry::new(None, Some(largest_packet(MAX_RING_BYTES))).unwrap();
        assert_eq!(geometry.ring_bytes(), MAX_RING_BYTES);
    }

    #[test]
    fn a_refusal_names_both_numbers() {
        assert_eq!(refusal(Some(4096), Some(1017)), (1017, 1016));
        assert_eq!(refusal(Some(5000), None), (5000, 8192));
        assert_eq!(refusal(Some(0), None), (0, 4096));
        let largest = MAX_RING_BYTES as u64;
        assert_eq!(refusal(Some(MAX_RING_BYTES * 2), None), (largest * 2, largest));
        let huge = usize::MAX as u64;
        assert_eq!(refusal(Some(usize::MAX), None), (huge, largest));
        assert_eq!(refusal(None, Some(usize::MAX)), (huge, largest / 4 - 8));
        assert_eq!(refusal(None, Some(0)), (0, 1));
    }

    #[test]
    fn a_claimed_geometry_must_fit_the_real_size() {
        assert!(Geometry::judge(4096, 1016, 4096 * 3).is_ok());
        for (ring, packet, size) in [
            (4096, 1016, 4096 * 3 + 1),
            (4096, 1016, 4096 * 2),
            (4096, 1017, 4096 * 3),
            (0, 0, 4096),
            (u64::MAX, 1, 4096),
            (1 << 63, 1, 4096),
            // Allowed elsewhere, but not with 32-bit addresses.
            (u64::from(usize::BITS < 64) << 30, 1, 4096 + (2 << 30)),
            (1 << 30, u64::MAX, 4096 + (2 << 30)),
        ] {
            assert!(Geometry::judge(ring, packet, size).is_err(), "{ring} {packet} {size}");
        }
    }
}
