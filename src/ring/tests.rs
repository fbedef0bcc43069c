//! Tests of one ring on a real region: against a plain queue, under load, and with a peer that
//! lies.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "the tests compute the protocol's numbers a second time, the plain way"
)]

mod hostile;
mod jumps;
mod oracle;
mod room;
mod stress;

use super::{Consumer, Position, Producer};
use crate::shm::layout::{Geometry, Side, SideWords};
use crate::shm::region::{Region, RingMemory};
use crate::sync::{Arc, Ordering};

/// The smallest ring, and the largest packet that it may carry.
const RING: u64 = 4096;
const LARGEST: usize = 1016;
/// From here, positions pass 2^64 after half a ring.
const NEARLY_WRAPPED: u64 = 0_u64.wrapping_sub(RING / 2);

fn region(max_packet: usize, start: u64) -> Arc<Region> {
    let geometry = Geometry::new(Some(4096), Some(max_packet)).unwrap();
    let region = Arc::new(Region::create(geometry, false, None).unwrap().0);
    let words = consumer_words(&region);
    words.head.0.store(start, Ordering::Relaxed);
    words.taken.0.store(start, Ordering::Relaxed);
    region
}

/// Returns both ends of the face's ring, through which `start` bytes went before.
fn ends(region: &Arc<Region>, start: u64) -> (Producer, Consumer) {
    let start = Position::at(start);
    (
        Producer::starting_at(region, Side::Face, start),
        Consumer::starting_at(region, Side::Handle, start),
    )
}

fn consumer_words(region: &Region) -> &SideWords {
    region.side(Side::Handle)
}

fn memory(region: &Arc<Region>) -> RingMemory {
    region.ring(Side::Face)
}
