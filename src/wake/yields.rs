//! Lets the executor's other tasks run before a receiver parks.
//!
//! A task that parks costs both sides a wake: the sender makes a system call, and the receiver's
//! driver takes a completion, wakes the task and waits on the bell again. A thread that serves a
//! thousand busy channels comes back to each of them a moment later anyway, and then finds packets.
//! So a receiver that has run dry wakes itself and looks again after the other tasks, a few times,
//! before it parks.
//!
//! Each such look costs one poll. What bounds them:
//!
//! - a dry spell has at most [`MOST`] of them, however many futures look during it. It ends when a
//!   packet is taken;
//! - a receiver does this only if it has paid lately. Otherwise it parks at once, for more and more
//!   dry spells until the next trial.
//!
//! Nothing can be lost meanwhile: the task has woken itself, so it looks again, and if it finds
//! nothing in the end, it parks as it would have done at once.

/// How many times a receiver looks again in one dry spell. Together they cost less than a park and
/// its wake.
const MOST: u32 = if cfg!(all(test, loom)) { 1 } else { 8 };

/// For how many dry spells a new receiver parks at once.
pub(crate) const FIRST_BACKOFF: u32 = 64;

/// After this many dry spells in a row in which looking again did not pay, the receiver parks at
/// once for a number of dry spells, which doubles each time.
const MAX_MISSES: u32 = 3;
/// The number of dry spells is at most 2 to the power of this.
const LONGEST_BACKOFF: u32 = 8;

/// What a receiver knows of its dry spells.
#[derive(Debug)]
pub(crate) struct Yields {
    /// How many packets had been taken when the present dry spell began.
    since: u64,
    /// How many looks are left in it.
    left: u32,
    /// It has looked again in this dry spell, and has not parked.
    is_trying: bool,
    /// How many trials in a row did not pay.
    misses: u32,
    /// For how many more dry spells not to try.
    backoff: u32,
}

impl Yields {
    /// Returns what a receiver knows that parks at once in the first `backoff` dry spells.
    pub(crate) fn new(backoff: u32) -> Self {
        Self { since: 0, left: 0, is_trying: false, misses: 0, backoff }
    }

    /// Called when the ring is empty, after `taken` packets in total. Returns whether to look again
    /// after other tasks have run.
    pub(crate) fn once_more(&mut self, taken: u64) -> bool {
        if taken != self.since {
            self.since = taken;
            self.begin();
        }
        if self.left == 0 {
            self.give_up();
            return false;
        }
        self.left -= 1;
        self.is_trying = true;
        true
    }

    /// Whether the receiver has looked again in the present dry spell, and has not parked.
    pub(crate) fn is_trying(&self, taken: u64) -> bool {
        self.is_trying && taken == self.since
    }

    /// A new dry spell begins.
    fn begin(&mut self) {
        if self.is_trying {
            // Packets came while it looked.
            self.misses = 0;
            self.is_trying = false;
        }
        if self.backoff > 0 {
            self.backoff -= 1;
            self.left = 0;
        } else {
            self.left = MOST;
        }
    }

    /// The receiver parks.
    fn give_up(&mut self) {
        if !std::mem::take(&mut self.is_trying) {
            return;
        }
        self.misses = self.misses.saturating_add(1);
        if self.misses >= MAX_MISSES {
            let exponent = (self.misses - MAX_MISSES + 1).min(LONGEST_BACKOFF);
            self.backoff = 1 << exponent;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// One dry spell, after `taken` packets. Returns how many looks there are if nothing comes.
    fn dry_spell(yields: &mut Yields, taken: u64) -> u32 {
        let looks = (0..).take_while(|_| yields.once_more(taken)).count();
        u32::try_from(looks).unwrap()
    }

    /// A receiver that has left its first dry spells behind, and how many packets it has taken.
    fn experienced() -> (Yields, u64) {
        let mut yields = Yields::new(FIRST_BACKOFF);
        for taken in 1..=u64::from(FIRST_BACKOFF) {
            assert_eq!(dry_spell(&mut yields, taken), 0);
        }
        (yields, u64::from(FIRST_BACKOFF))
    }

    #[test]
    fn a_dry_spell_without_an_end_has_a_bounded_number_of_looks() {
        let (mut yields, taken) = experienced();
        assert_eq!(dry_spell(&mut yields, taken + 1), MOST);
        for _ in 0..1_000 {
            assert!(!yields.once_more(taken + 1));
        }
    }

    #[test]
    fn a_receiver_that_has_taken_nothing_parks() {
        assert_eq!(dry_spell(&mut Yields::new(FIRST_BACKOFF), 0), 0);
    }

    #[test]
    fn looks_that_pay_go_on() {
        let (mut yields, before) = experienced();
        for taken in before + 1..before + 1_000 {
            assert!(yields.once_more(taken) && yields.is_trying(taken));
        }
    }

    #[test]
    fn looks_that_never_pay_become_rare() {
        let (mut yields, before) = experienced();
        let dry_spells = 10_000;
        let looks: u32 = (1..=dry_spells).map(|n| dry_spell(&mut yields, before + n)).sum();
        let trials = looks / MOST;
        assert!((dry_spells / 300..dry_spells / 100).contains(&trials.into()), "{trials}");
    }

    #[test]
    fn one_that_pays_after_many_that_did_not_ends_the_backoff() {
        let (mut yields, mut taken) = experienced();
        for _ in 0..100 {
            taken += 1;
            dry_spell(&mut yields, taken);
        }
        while !yields.once_more(taken) {
            taken += 1;
        }
        // Packets come after the first look, from now on each time.
        for _ in 0..100 {
            taken += 1;
            assert!(yields.once_more(taken));
        }
    }
}
