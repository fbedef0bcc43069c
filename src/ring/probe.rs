//! A look at the place where a consumer found nothing, for another thread.

use super::Consumer;
use crate::shm::layout::Side;
use crate::shm::region::{Region, RingMemory};
use crate::sync::{Arc, AtomicU64, Ordering};

/// Tells whether a record has come to where the consumer of a ring last found none.
///
/// It takes nothing and judges nothing, and the consumer may have moved on: the answer is a hint.
/// The worst that a peer does by it is to have its packet, or what it passes for one, looked at by
/// the consumer.
#[derive(Debug)]
pub(crate) struct Probe {
    memory: RingMemory,
    /// Written by whoever holds the consumer, read by the one who looks.
    at: AtomicU64,
}

impl Probe {
    /// A look into the ring that `side` reads.
    pub(crate) fn new(region: &Arc<Region>, side: Side) -> Self {
        let memory = region.ring(side.peer());
        Self { memory, at: AtomicU64::new(0) }
    }

    /// Look where this consumer found nothing.
    pub(crate) fn point_at(&self, consumer: &Consumer) {
        // ORDERING: Relaxed; whoever is asked to look from now on is asked by something that
        // carries this. One who looks at an old place sees an old header and asks in vain.
        self.at.store(consumer.position().get(), Ordering::Relaxed);
    }

    /// Whether a record is there.
    pub(crate) fn has_record(&self) -> bool {
        // ORDERING: Relaxed, as in `point_at`.
        let position = self.at.load(Ordering::Relaxed);
        // ORDERING: Acquire pairs with the Release in `Producer::publish`; the consumer loads the
        // word again all the same.
        // PEER: looked at for whether it is 0, and no further.
        self.memory.header(position).load(Ordering::Acquire) != 0
    }
}
