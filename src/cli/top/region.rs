//! The first page of a region, copied once and checked. The offsets are those of the specification,
//! [`wakering::spec`]. Every number is the claim of a process that may lie, and is shown as such.

use std::os::fd::BorrowedFd;

use rustix::fs::FileType;

/// The bytes before the first ring. Only these are read.
const PAGE: usize = 4096;
const MAGIC: &[u8; 8] = b"wakering";
const VERSION: u32 = 1;
/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS: u64 = 0x0102_1994;

/// Where each side's block begins; the face's is the first.
const BLOCKS: [usize; 2] = [0x080, 0x380];

/// A channel, as it was at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    /// The length of the ring of each direction.
    pub(crate) ring_bytes: u64,
    pub(crate) max_packet: u64,
    /// The face and the handle.
    pub(crate) sides: [Side; 2],
}

/// What one side says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Side {
    waiting: u32,
    ends: u32,
    taken: u64,
    tail: u64,
    packets_sent: u64,
    bytes_sent: u64,
    packets_received: u64,
    bytes_received: u64,
    pub(crate) wakes_sent: u64,
    pub(crate) parks: u64,
    pub(crate) wakes_received: u64,
    pub(crate) full_stalls: u64,
    pub(crate) spins_paid: u64,
    pub(crate) spins_unpaid: u64,
}

/// What went one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Region {
    /// Reads the page if this is a region. The page is not mapped, so nothing that its writers do
    /// to it meanwhile can do harm: a hole reads as zeros, and what is cut off is not read.
    pub(crate) fn read(file: BorrowedFd<'_>) -> Option<Self> {
        let stat = rustix::fs::fstat(file).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || rustix::fs::fstatfs(file).ok()?.f_type as u64 != TMPFS {
            return None;
        }
        let mut page = [0; PAGE];
        let read = rustix::io::pread(file, &mut page, 0).ok()?;
        if read < PAGE { None } else { Self::judge(&page, u64::try_from(stat.st_size).ok()?) }
    }

    /// Returns what the page says, if that can be true of a file of `size` bytes.
    fn judge(page: &[u8; PAGE], size: u64) -> Option<Self> {
        let ring_bytes = word64(page, 0x028);
        let max_packet = word64(page, 0x030);
        let is_ours = page.starts_with(MAGIC) && word32(page, 0x008) == VERSION;
        let is_known = word64(page, 0x010) == PAGE as u64 && word64(page, 0x018) == 0;
        let is_ring = ring_bytes.is_power_of_two() && (4096..=1 << 30).contains(&ring_bytes);
        if !(is_ours && is_known && is_ring) {
            return None;
        }
        let fits = (1..=ring_bytes / 4 - 8).contains(&max_packet);
        let lawful = PAGE as u64 + 2 * ring_bytes;
        let sides = BLOCKS.map(|block| Side::at(page, block));
        (fits && size == lawful && word64(page, 0x020) == lawful).then_some(Self {
            ring_bytes,
            max_packet,
            sides,
        })
    }

    /// Returns what `side` has sent so far. Both sides count it, as of their last snapshots.
    pub(crate) fn sent(&self, side: usize) -> Passed {
        let (sender, receiver) = (&self.sides[side], &self.sides[1 - side]);
        Passed {
            packets: sender.packets_sent.max(receiver.packets_received),
            bytes: sender.bytes_sent.max(receiver.bytes_received),
        }
    }

    /// Returns how many bytes are in the ring that `side` sends into, as of its last snapshot. Up
    /// to an eighth of the ring may have come since.
    ///
    /// Positions also count the bytes that the sender skipped, so the counts may give less.
    pub(crate) fn fill(&self, side: usize) -> u64 {
        let (sender, receiver) = (&self.sides[side], &self.sides[1 - side]);
        // A difference of more than half of all numbers means that the snapshot is older than
        // `taken`.
        let between = |sent: u64, taken: u64| match sent.wrapping_sub(taken) {
            late if late > u64::MAX / 2 => 0,
            between => between,
        };
        let packets = between(sender.packets_sent, receiver.packets_received);
        let bytes = between(sender.bytes_sent, receiver.bytes_received);
        let records = bytes.saturating_add(packets.saturating_mul(16));
        between(sender.tail, receiver.taken).min(records).min(self.ring_bytes)
    }
}

impl Side {
    fn at(page: &[u8; PAGE], block: usize) -> Self {
        let word = |offset: usize| word64(page, block + offset);
        Self {
            waiting: word32(page, block),
            ends: word32(page, block + 0x080),
            taken: word(0x180),
            tail: word(0x280),
            packets_sent: word(0x290),
            bytes_sent: word(0x298),
            packets_received: word(0x2a0),
            bytes_received: word(0x2a8),
            wakes_sent: word(0x2b0),
            parks: word(0x2b8),
            wakes_received: word(0x2c0),
            full_stalls: word(0x2c8),
            spins_paid: word(0x2d0),
            spins_unpaid: word(0x2d8),
        }
    }

    /// Whether this side was never used, as far as one can see.
    pub(crate) fn is_untouched(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it sleeps for packets.
    pub(crate) fn waits_to_receive(&self) -> bool {
        self.waiting & 1 != 0
    }

    /// Whether it sleeps for room.
    pub(crate) fn waits_to_send(&self) -> bool {
        self.waiting & 2 != 0
    }

    /// Returns what it has ended.
    pub(crate) fn state(&self) -> &'static str {
        match (self.ends & 4 != 0, self.ends & 3) {
            (true, _) => "cancelled",
            (_, 3) => "closed",
            (_, 2) => "sends only",
            (_, 1) => "receives only",
            _ => "open",
        }
    }
}

fn word32(page: &[u8; PAGE], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|byte| page[at + byte]))
}

fn word64(page: &[u8; PAGE], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|byte| page[at + byte]))
}
