//! Counters of what a channel has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one end of a channel since it was created.
///
/// This side counts all of them itself; none comes from the peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Packets that this side published.
    pub packets_sent: u64,
    /// Bytes of the published packets, without headers.
    pub bytes_sent: u64,
    /// Packets that this side took out of the ring.
    pub packets_received: u64,
    /// Bytes of the packets taken, without headers.
    pub bytes_received: u64,
    /// How often this side woke the peer. Each wake costs a system call.
    pub wakes_sent: u64,
    /// How often this side's driver served this channel on request: after a wake by the peer, an
    /// end, or a notification of our own. Wakes may coalesce, or be counted twice. A wake that
    /// only ends the sleep of threads in blocking calls is not counted, because it bypasses
    /// the driver.
    pub wakes_received: u64,
    /// How often this side announced that it was about to sleep. A conforming peer wakes it at
    /// most that often, plus a few times for ends.
    pub parks: u64,
    /// How many of these parks were for lack of room.
    pub full_stalls: u64,
    /// How often spinning before a park found something.
    pub spins_paid: u64,
    /// How often spinning before a park found nothing.
    pub spins_unpaid: u64,
}

/// The atomic form of [`Stats`].
///
/// The counters of one direction have a single writer at a time, which holds that half of the end.
/// They are updated with a load and a store, and have cache lines of their own, because the two
/// halves of an end may run on different cores. The other counters change rarely.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: Passed,
    pub(crate) received: Passed,
    pub(crate) wakes_sent: AtomicU64,
    pub(crate) wakes_received: AtomicU64,
    pub(crate) parks: AtomicU64,
    pub(crate) full_stalls: AtomicU64,
    /// Those of the driver. The others are with their direction.
    pub(crate) spins_paid: AtomicU64,
    pub(crate) spins_unpaid: AtomicU64,
}

/// What passed in one direction. Takes two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Passed {
    packets: AtomicU64,
    bytes: AtomicU64,
    /// How often a spin found a packet, or room.
    spins_paid: AtomicU64,
}

impl Passed {
    /// Adds to both counters. There must be no other writer.
    #[inline]
    pub(crate) fn add(&self, packets: u64, bytes: u64) {
        bump(&self.packets, packets);
        bump(&self.bytes, bytes);
    }

    /// Counts a spin that has found something. There must be no other writer.
    #[inline]
    pub(crate) fn add_spin(&self) {
        bump(&self.spins_paid, 1);
    }

    #[inline]
    pub(crate) fn packets(&self) -> u64 {
        // ORDERING: Relaxed, here and below; a counter publishes nothing.
        self.packets.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Adds to a counter that has no other writer.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    // ORDERING: Relaxed, here and below; a counter publishes nothing.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// Adds one to a counter that may have other writers, and returns the new count.
pub(crate) fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}

impl Counters {
    pub(crate) fn read(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            packets_sent: get(&self.sent.packets),
            bytes_sent: get(&self.sent.bytes),
            packets_received: get(&self.received.packets),
            bytes_received: get(&self.received.bytes),
            wakes_sent: get(&self.wakes_sent),
            wakes_received: get(&self.wakes_received),
            parks: get(&self.parks),
            full_stalls: get(&self.full_stalls),
            spins_paid: [&self.spins_paid, &self.sent.spins_paid, &self.received.spins_paid]
                .into_iter()
                .fold(0, |sum, counter| sum.wrapping_add(get(counter))),
            spins_unpaid: get(&self.spins_unpaid),
        }
    }
}
