//! Prefaults the pages of a ring the first time that the producer goes round.
//!
//! The first write to a page has the kernel allocate and map it. The first read does the same for
//! 16 pages at once, if they exist. In a stream of small packets, one in fifty then takes ten times
//! as long as the others. So the producer has the kernel make many pages at once, before it reaches
//! them, which spares the consumer its faults as well. It makes as many pages as were used so far,
//! so that a channel that carries little takes little memory.
//!
//! Round trips of 64 bytes between two spinning processes, the first 4 MiB, with and without: the
//! mean 0.8 and 0.95 us, of a hundred the slowest 1.3 and 12, of a thousand 15 and 18; but of ten
//! thousand 190 and 60. (In a virtual machine, which takes 5 us for a page. 32 KiB at a time
//! instead of 128 would make it 50 us, one in four hundred.)

use super::Position;
use crate::shm::region::RingMemory;

/// The least that is prefaulted at once: the smallest page that there is.
const MIN: u64 = 4 << 10;

/// The most that is prefaulted at once, except for the last page. The rest of a longer record is
/// faulted in as it is written, if it is.
const MAX: u64 = 128 << 10;

/// How far from the start of a ring its pages are prefaulted.
#[derive(Debug)]
pub(super) struct Prefault {
    made: u64,
}

impl Prefault {
    /// Starts at the beginning of a ring that no producer has written to. If `begin` is not the
    /// start, the ring has been gone round before, and nothing is left to do.
    pub(super) fn new(begin: Position) -> Self {
        Self { made: if begin == Position::START { 0 } else { u64::MAX } }
    }

    /// Prefaults the pages that cover `need` bytes at `offset` (at most `MAX`), plus read-ahead,
    /// unless they are there. Returns for how many bytes from `offset` on no further call is
    /// needed.
    pub(super) fn make(&mut self, memory: &RingMemory, offset: usize, need: u64) -> u64 {
        let (len, offset) = (memory.len() as u64, offset as u64);
        let least = offset.saturating_add(need.min(MAX));
        if self.made < least {
            // Longer records and jumps may have gone past what was prefaulted.
            let begin = self.made.max(offset & MIN.wrapping_neg()).min(len);
            let some = begin.saturating_add(begin.clamp(MIN, MAX));
            let end = least.max(some).next_multiple_of(MIN).min(len);
            #[allow(clippy::cast_possible_truncation, reason = "both lie in the ring")]
            memory.make_pages(begin as usize, end.saturating_sub(begin) as usize);
            self.made = if end == len { u64::MAX } else { end };
        }
        self.made.saturating_sub(offset).max(need)
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::shm::layout::{Geometry, Side};
    use crate::shm::region::Region;
    use crate::sync::Arc;

    /// Returns what is prefaulted for records of `record` bytes, until the ring was gone round.
    fn made(record: u64) -> Vec<u64> {
        let geometry = Geometry::new(Some(1 << 20), None).unwrap();
        let (region, _file) = Region::create(geometry, false, None).unwrap();
        let memory = Arc::new(region).ring(Side::Face);
        let (mut prefault, mut tail, mut made) = (Prefault::new(Position::START), 0, Vec::new());
        while prefault.made != u64::MAX {
            let before = prefault.made;
            let room = prefault.make(&memory, usize::try_from(tail).unwrap(), record);
            assert!(room >= record && room >= prefault.made.saturating_sub(tail));
            if prefault.made != before {
                made.push(prefault.made);
            }
            tail += record;
        }
        assert!(prefault.make(&memory, (1 << 20) - 8, record) >= record, "for good");
        made
    }

    #[test]
    fn pages_are_made_as_many_as_were_used_and_not_too_many() {
        let kib: Vec<_> = made(72).iter().map(|end| end / 1024).collect();
        assert_eq!(kib[..8], [4, 8, 16, 32, 64, 128, 256, 384]);
        assert_eq!(kib.len(), 13);
    }

    #[test]
    fn of_a_long_record_only_the_first_pages_are_made() {
        assert_eq!(made(300_000)[..2], [128 << 10, (300_000_u64 + MAX).next_multiple_of(MIN)]);
        assert_eq!(made(1 << 20), [MAX, u64::MAX]);
    }

    #[test]
    fn a_ring_that_went_round_is_left_alone() {
        assert_eq!(Prefault::new(Position(64)).made, u64::MAX);
    }
}
