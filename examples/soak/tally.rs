//! Counts of what happened.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use wakering::CloseReason;

/// The names of the counters, by their places in a [`Tally`].
const NAMES: [&str; 11] = [
    "sessions",
    "packets sent",
    "packets received",
    "futures dropped",
    "ended by this side",
    "ended by the peer",
    "cancelled",
    "peers that died",
    "left open",
    "other ends",
    "connects repeated",
];

/// Counters of a process. Those of another process can be added.
#[derive(Debug, Default)]
pub(crate) struct Tally([AtomicU64; NAMES.len()]);

impl Tally {
    fn add(&self, place: usize, count: u64) {
        self.0[place].fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self, place: usize) -> u64 {
        self.0[place].load(Ordering::Relaxed)
    }

    pub(crate) fn session(&self) {
        self.add(0, 1);
    }

    /// Returns how many packets were sent and received.
    pub(crate) fn passed(&self) -> u64 {
        self.get(1) + self.get(2)
    }

    pub(crate) fn sent(&self, packets: u64) {
        self.add(1, packets);
    }

    pub(crate) fn received(&self, packets: u64) {
        self.add(2, packets);
    }

    pub(crate) fn dropped(&self, was_dropped: bool) {
        self.add(3, u64::from(was_dropped));
    }

    pub(crate) fn end(&self, reason: Option<CloseReason>) {
        self.add(
            match reason {
                Some(CloseReason::Local) => 4,
                Some(CloseReason::Peer) => 5,
                Some(CloseReason::Cancelled) => 6,
                Some(CloseReason::PeerDied) => 7,
                None => 8,
                Some(_) => 9,
            },
            1,
        );
    }

    pub(crate) fn connect_repeated(&self) {
        self.add(10, 1);
    }

    /// Returns a line that [`add_line`](Self::add_line) can read.
    pub(crate) fn line(&self) -> String {
        let counts = (0..NAMES.len()).map(|place| self.get(place).to_string());
        counts.collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn add_line(&self, line: &str) {
        for (place, count) in line.split(' ').take(NAMES.len()).enumerate() {
            self.add(place, count.parse().unwrap_or(0));
        }
    }

    pub(crate) fn add_all(&self, other: &Self) {
        (0..NAMES.len()).for_each(|place| self.add(place, other.get(place)));
    }

    /// Returns a line for each counter, with the counts of `other` next to these.
    pub(crate) fn table(&self, other: &Self) -> String {
        NAMES.iter().enumerate().fold(String::new(), |mut table, (place, name)| {
            let (here, there) = (self.get(place), other.get(place));
            let _ = writeln!(table, "{name:<22}{here:>14}{there:>14}");
            table
        })
    }
}
