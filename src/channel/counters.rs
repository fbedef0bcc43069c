//! What a channel has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one end of a channel since it was made. All from this side's own books.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Packets that this side published.
    pub packets_sent: u64,
    /// Their bytes, without headers.
    pub bytes_sent: u64,
    /// Packets that this side took out.
    pub packets_received: u64,
    /// Their bytes, without headers.
    pub bytes_received: u64,
    /// How often this side woke the other, each time at the price of a system call.
    pub wakes_sent: u64,
    /// How often this side's driver looked after this channel because somebody asked: the peer's
    /// wakes, ends, and our own notifications. Two wakes may be one look, and one wake two. Those
    /// that end the sleep of a thread in a blocking call do not count where no task waits as
    /// well: they pass the driver by.
    pub wakes_received: u64,
    /// How often this side announced that it was about to sleep. A lawful peer wakes it that often
    /// at most, and a few times more for ends.
    pub parks: u64,
    /// How many of those were for want of room.
    pub full_stalls: u64,
    /// How often spinning before a park found something.
    pub spins_paid: u64,
    /// How often it did not.
    pub spins_unpaid: u64,
}

/// The live form of [`Stats`].
///
/// Those that one end of a ring counts have a single writer at a time, which holds that end; they
/// are stored, not added to, and lie on lines of their own: the halves of an end may be at work on
/// different cores. The rest are rare.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: Passed,
    pub(crate) received: Passed,
    pub(crate) wakes_sent: AtomicU64,
    pub(crate) wakes_received: AtomicU64,
    pub(crate) parks: AtomicU64,
    pub(crate) full_stalls: AtomicU64,
    pub(crate) spins_paid: AtomicU64,
    pub(crate) spins_unpaid: AtomicU64,
}

/// What passed in one direction, on two cache lines: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Passed {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Passed {
    /// Adds for the only writer.
    #[inline]
    pub(crate) fn add(&self, packets: u64, bytes: u64) {
        bump(&self.packets, packets);
        bump(&self.bytes, bytes);
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

/// Adds for the counter's only writer.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    // ORDERING: Relaxed, here and below; a counter publishes nothing.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// Adds one, whoever else does.
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
            spins_paid: get(&self.spins_paid),
            spins_unpaid: get(&self.spins_unpaid),
        }
    }
}
