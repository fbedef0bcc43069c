//! How much the futures of one direction do before they let other tasks run.
//!
//! A channel in full flight always has a packet, or room for one. Futures that are `Ready` as long
//! as that is so never return to their executor, and the other tasks of the thread starve. So each
//! direction of an end has a budget, as runtimes give one to their tasks. It counts packets and
//! bytes since the direction was last `Pending`. When it is used up, the next future wakes itself
//! and is `Pending` once. It has taken and sent nothing by that.
//!
//! There is no look at the clock: the counters that an end keeps anyway say how much has passed.
//! Time that a call has spun, and has measured, counts as well.
//!
//! `try_` and blocking calls count and are never stopped.

use std::time::Duration;

use super::counters::Passed;

/// What a packet counts, in bytes: its copy aside, a packet of a stream costs about what 1 KiB
/// costs to copy, 50 to 100 ns.
const PACKET: u64 = 1 << 10;

/// What a nanosecond of spinning counts.
const NANOSECOND: u64 = 8;

/// When a future lets others run: 256 packets of up to 64 bytes, or 272 KiB less 1 KiB for each
/// packet, or 34 us of spinning.
///
/// An executor may run a few hundred tasks between two looks at its timers (smol's runs 200), and
/// each of them may use up a budget. With this one such a round is over in 5 to 10 ms. To be polled
/// anew costs 30 to 300 ns, once for each budget.
const BUDGET: u64 = 256 * (PACKET + 64);

/// Whether a call may be stopped by its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// It is a future.
    Budget,
    /// It is a `try_` or blocking call.
    None,
}

/// The budget of one direction. Whoever holds the producer or the consumer holds this.
#[derive(Debug)]
pub(super) struct Budget {
    /// The measure of what had passed when it was renewed; earlier by what was spent on spinning.
    since: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { since: 0 }
    }

    /// How much may pass under `limit`.
    #[inline]
    pub(super) fn allowance(&self, passed: &Passed, limit: Limit) -> Allowance {
        match limit {
            Limit::Budget => Allowance(BUDGET.saturating_sub(self.used(passed))),
            Limit::None => Allowance::UNLIMITED,
        }
    }

    /// Whether anything may pass.
    #[inline]
    pub(super) fn is_left(&self, passed: &Passed) -> bool {
        self.used(passed) < BUDGET
    }

    /// Whether it is used up, and the caller has to wake itself and be `Pending`: it is renewed
    /// then.
    #[inline]
    pub(super) fn ends_turn(&mut self, passed: &Passed) -> bool {
        let is_over = !self.is_left(passed);
        if is_over {
            self.renew(passed);
        }
        is_over
    }

    /// The task is `Pending`.
    pub(super) fn renew(&mut self, passed: &Passed) {
        self.since = measure(passed);
    }

    /// A call has spun for so long.
    pub(super) fn spend(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.since = self.since.wrapping_sub(nanos.saturating_mul(NANOSECOND).min(BUDGET));
    }

    #[inline]
    fn used(&self, passed: &Passed) -> u64 {
        measure(passed).wrapping_sub(self.since)
    }
}

/// Packets and bytes as one number, which grows.
#[inline]
fn measure(passed: &Passed) -> u64 {
    passed.packets().wrapping_mul(PACKET).wrapping_add(passed.bytes())
}

/// How much one call may still pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance(u64);

impl Allowance {
    pub(crate) const UNLIMITED: Self = Self(u64::MAX);

    /// Whether another packet may pass. One that is longer than what is left may.
    #[inline]
    pub(crate) fn is_left(self) -> bool {
        self.0 > 0
    }

    /// A packet of `len` bytes has passed.
    #[inline]
    pub(crate) fn spend(&mut self, len: usize) {
        self.0 = self.0.saturating_sub(PACKET.saturating_add(len as u64));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn packets_bytes_and_spinning_use_it_up() {
        for (packets, bytes, time) in [(256, 16 << 10, 0), (1, 272 << 10, 0), (128, 64 << 10, 12)] {
            let (passed, mut budget) = (Passed::default(), Budget::new());
            passed.add(packets, bytes);
            budget.spend(Duration::from_micros(time));
            assert!(budget.ends_turn(&passed) && !budget.ends_turn(&passed));
            passed.add(255, 255 * 64);
            assert!(!budget.ends_turn(&passed) && budget.is_left(&passed));
            passed.add(1, 64);
            assert!(!budget.is_left(&passed) && budget.ends_turn(&passed));
        }
    }

    #[test]
    fn an_allowance_is_what_is_left_of_it() {
        let (passed, budget) = (Passed::default(), Budget::new());
        passed.add(250, 256 * 64);
        let mut allowance = budget.allowance(&passed, Limit::Budget);
        let packets = std::iter::from_fn(|| allowance.is_left().then(|| allowance.spend(0)));
        assert_eq!(packets.count(), 6);
        let mut unlimited = budget.allowance(&passed, Limit::None);
        (0..1000).for_each(|_| unlimited.spend(1 << 30));
        assert!(unlimited.is_left());
    }

    #[test]
    fn time_without_end_is_one_budget() {
        let (passed, mut budget) = (Passed::default(), Budget::new());
        budget.spend(Duration::MAX);
        assert!(budget.ends_turn(&passed));
        assert!(budget.is_left(&passed));
    }
}
