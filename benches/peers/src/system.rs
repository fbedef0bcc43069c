//! What there is to say of a system.

use crate::Result;
use crate::outcome::Outcome;
use crate::row::{Measure, Pin, Row};
use crate::stage::Stage;

/// What a system is to the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// What the machine gives without any channel around it.
    Limit,
    Wakering,
    /// Carries packets between two processes.
    Rival,
    /// Does not leave its process: threads instead.
    Yardstick,
}

/// How a side waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Looks again until it is there; of no use where the other needs the same core.
    Spinning,
    /// Sleeps in the kernel, perhaps after looking for a while.
    Sleeping,
}

/// What a way of wakering's does with its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Copies them from `Bytes` and to `Bytes`.
    Bytes,
    /// Writes them where they will lie, and reads them there.
    InPlace,
    /// Fills each with many items.
    Items,
}

#[derive(Debug)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    /// `None` if it is not wakering.
    pub(crate) way: Option<Way>,
    pub(crate) waits: Waits,
    /// In a few words: which calls are made, and what comes out.
    pub(crate) about: &'static str,
    pub(crate) measures: &'static [Measure],
    /// Packets of these lengths; empty is all of them.
    pub(crate) sizes: &'static [usize],
    /// The names of the limits that it is compared with, each in the rows that it can be measured
    /// in. The first that there is in a row is of its own kind.
    pub(crate) limits: &'static [&'static str],
    pub(crate) perform: fn(&mut Stage) -> Result<Outcome>,
}

pub(crate) const BOTH: &[Measure] = &[Measure::RoundTrip, Measure::Stream];
pub(crate) const ROUND_TRIP: &[Measure] = &[Measure::RoundTrip];
pub(crate) const STREAM: &[Measure] = &[Measure::Stream];

impl System {
    /// What rivals have in common that spin, and, but for `waits`, those that sleep.
    pub(crate) const RIVAL: Self = Self {
        name: "",
        family: Family::Rival,
        way: None,
        waits: Waits::Spinning,
        about: "",
        measures: BOTH,
        sizes: &[],
        limits: &["bare ring, in place", "futex"],
        perform: |_| Err("each system has its own".into()),
    };

    pub(crate) fn is_in_one_process(&self) -> bool {
        self.family == Family::Yardstick
    }

    /// Whether it can be measured in this row.
    pub(crate) fn is_in(&self, row: Row) -> bool {
        self.measures.contains(&row.measure)
            && (self.sizes.is_empty() || self.sizes.contains(&row.bytes))
            // Two that spin on one core wait for the scheduler: milliseconds a round trip, of no
            // meaning. And a limit that sleeps is none where both sides are awake.
            && match row.pin {
                Pin::One => self.waits == Waits::Sleeping,
                Pin::Two | Pin::None => self.family != Family::Limit || self.waits == Waits::Spinning,
            }
    }
}
