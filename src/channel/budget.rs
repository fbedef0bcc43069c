//! How much the futures of one direction do before they let other tasks run.
//!
//! A busy channel always has a packet, or room for one. Futures that are `Ready` as long as that is
//! so never return to their executor, and the other tasks of the thread starve. So each direction
//! of an end has a budget, like the one that runtimes give their tasks. It counts packets and bytes
//! since the direction was last `Pending`. When it is used up, the next future wakes itself and
//! returns `Pending` once, without taking or sending anything.
//!
//! The budget never reads the clock: it uses the counters that an end keeps anyway. Time that a
//! call has spun, which the call has measured, counts as well.
//!
//! `try_` and blocking calls use up the budget, but are never stopped by it.

use std::time::Duration;

use super::counters::Passed;

/// What a packet counts, in bytes. Without its copy, a packet of a stream costs about as much as
/// copying 1 KiB, 50 to 100 ns.
const PACKET: u64 = 1 << 10;

/// What a nanosecond of spinning counts, in bytes.
const NANOSECOND: u64 = 8;

/// When a future lets others run: after 256 packets of up to 64 bytes, or after 272 KiB less 1 KiB
/// for each packet, or after 34 us of spinning.
///
/// An executor may run a few hundred tasks between two checks of its timers (smol runs 200), and
/// each of them may use up a budget. With this one such a round takes 5 to 10 ms. Being polled
/// again costs 30 to 300 ns, once for each budget.
const BUDGET: u64 = 256 * (PACKET + 64);

/// Whether a call may be stopped by its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The call is a future.
    Budget,
    /// The call is a `try_` or blocking call.
    None,
}

/// The budget of one direction, held together with its producer or consumer.
#[derive(Debug)]
pub(super) struct Budget {
    /// The measure of what had passed at the last renewal, minus what was spent on spinning since.
    since: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { since: 0 }
    }

    /// Returns how much may pass under `limit`.
    #[inline]
    pub(super) fn allowance(&self, passed: &Passed, limit: Limit) -> Allowance {
        match limit {
            Limit::Budget => Allowance(BUDGET.saturating_sub(self.used(passed))),
            Limit::None => Allowance::UNLIMITED,
        }
    }

    /// Whether anything may pass.
    #[inline]
    fn is_left(&self, passed: &Passed) -> bool {
        self.used(passed) < BUDGET
    }

    /// Whether the budget is used up, so that the caller has to wake itself and return `Pending`.
    /// If so, renews the budget.
    #[inline]
    pub(super) fn must_yield(&mut self, passed: &Passed) -> bool {
        let is_over = !self.is_left(passed);
        if is_over {
            self.renew(passed);
        }
        is_over
    }

    /// Renews the budget, because the task is `Pending`.
    pub(super) fn renew(&mut self, passed: &Passed) {
        self.since = measure(passed);
    }

    /// Counts the `time` that a call has spun.
    pub(super) fn spend(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.since = self.since.wrapping_sub(nanos.saturating_mul(NANOSECOND).min(BUDGET));
    }

    #[inline]
    fn used(&self, passed: &Passed) -> u64 {
        measure(passed).wrapping_sub(self.since)
    }
}

/// Returns packets and bytes as one number, which grows.
#[inline]
fn measure(passed: &Passed) -> u64 {
    passed.packets().wrapping_mul(PACKET).wrapping_add(passed.bytes())
}

/// How much one call may still pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance(u64);

impl Allowance {
    pub(crate) const UNLIMITED: Self = Self(u64::MAX);

    /// Whether another packet may pass. It may be longer than what is left.
    #[inline]
    pub(crate) fn is_left(self) -> bool {
        self.0 > 0
    }

    /// Counts a packet of `len` bytes that has passed.
    #[inline]
    pub(crate) fn spend(&mut self, len: usize) {
        // A packet is shorter than 1 GiB.
        self.0 = self.0.saturating_sub(PACKET + len as u64);
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
            assert!(budget.must_yield(&passed) && !budget.must_yield(&passed));
            passed.add(255, 255 * 64);
            assert!(!budget.must_yield(&passed) && budget.is_left(&passed));
            passed.add(1, 64);
            assert!(!budget.is_left(&passed) && budget.must_yield(&passed));
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
        assert!(budget.must_yield(&passed));
        assert!(budget.is_left(&passed));
    }
}
