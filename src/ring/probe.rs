//! Lets another thread look where a consumer found nothing.

use super::Consumer;
use crate::shm::layout::Side;
use crate::shm::region::{Region, RingMemory};
use crate::sync::{Arc, AtomicU64, Ordering};

/// Reports whether a record has come where the consumer of a ring last found none.
///
/// It takes and judges nothing, and the consumer may have moved on: the answer is a hint. At worst,
/// the peer makes the consumer look at a packet, or at what it passes off as one.
#[derive(Debug)]
pub(crate) struct Probe {
    memory: RingMemory,
    /// Written by the thread that holds the consumer, read by the thread that looks.
    at: AtomicU64,
}

impl Probe {
    /// Returns a probe of the ring that `side` reads.
    pub(crate) fn new(region: &Arc<Region>, side: Side) -> Self {
        let memory = region.ring(side.peer());
        Self { memory, at: AtomicU64::new(0) }
    }

    /// Points the probe at the place where `consumer` found nothing.
    pub(crate) fn point_at(&self, consumer: &Consumer) {
        // ORDERING: Relaxed; the request to look carries this store to the thread that looks. A
        // thread that looks at an old place sees an old header, and its hint is without effect.
        self.at.store(consumer.position().get(), Ordering::Relaxed);
    }

    /// Whether a record is there.
    pub(crate) fn has_record(&self) -> bool {
        // ORDERING: Relaxed, as in `point_at`.
        let position = self.at.load(Ordering::Relaxed);
        // ORDERING: Acquire pairs with the Release in `Producer::store_publication`; the consumer
        // loads the word again in any case.
        // PEER: only compared with 0.
        self.memory.header(position).load(Ordering::Acquire) != 0
    }
}
