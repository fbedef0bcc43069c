//! Wakes that no ring explains.

use std::time::{Duration, Instant};

/// Wakes of a blocked thread that no ring explains.
///
/// A ring wakes all threads that sleep on the bell, and all but one of them find nothing. That is
/// lawful: rings are judged by how many there were, not by how many threads each of them wakes. But
/// the flood budget counts the wakes of the driver alone, and a peer that wakes a bare futex again
/// and again, or rings more often than it was asked to, must not have the thread spin for it.
#[derive(Debug)]
pub(super) struct SpuriousWakes {
    /// Sleeps so far.
    sleeps: u32,
    /// As it was at the second of them: the first one follows no wake, and should cost no look at
    /// the clock.
    since: Option<Since>,
}

#[derive(Debug)]
struct Since {
    time: Instant,
    rung: u32,
    asked: u64,
}

impl SpuriousWakes {
    /// So many within this time are a flood.
    const MOST: u32 = 64;
    const WINDOW: Duration = Duration::from_millis(10);
    /// What each further one then has to wait.
    const PENANCE: Duration = Duration::from_millis(1);

    pub(super) fn new() -> Self {
        Self { sleeps: 0, since: None }
    }

    /// Before each sleep: how often the bell has rung, and how often this side has asked for that.
    ///
    /// PEER: `rung` is theirs. Wakes beyond those that were asked for explain nothing.
    pub(super) fn bear(&mut self, rung: u32, asked: u64) {
        self.sleeps += 1;
        if self.sleeps == 1 {
            return;
        }
        let since = self.since.get_or_insert_with(|| Since { time: Instant::now(), rung, asked });
        if self.sleeps <= Self::MOST {
            return;
        }
        let rings = u64::from(rung.wrapping_sub(since.rung)).min(asked.wrapping_sub(since.asked));
        // One ring may end two sleeps of a thread: its count the one, its wake the next.
        let explained = u32::try_from(2 * rings).unwrap_or(u32::MAX);
        let vain = self.sleeps.saturating_sub(explained);
        let elapsed = since.time.elapsed();
        if vain > Self::MOST && elapsed < Self::WINDOW + vain * Self::PENANCE {
            std::thread::sleep(Self::PENANCE);
        } else if elapsed >= Self::WINDOW {
            *self = Self::new();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// How long so many sleeps are kept up, before each of which the bell has rung, and was asked
    /// to ring, so often.
    fn kept_up(sleeps: u32, rings: impl Fn(u32) -> (u32, u64)) -> Duration {
        let (mut vain, begun) = (SpuriousWakes::new(), Instant::now());
        for sleep in 0..sleeps {
            let (rung, asked) = rings(sleep);
            vain.bear(rung, asked);
        }
        begun.elapsed()
    }

    #[test]
    fn wakes_without_a_ring_become_slow() {
        let time = kept_up(SpuriousWakes::MOST + 100, |_| (5, 7));
        assert!(time >= 100 * SpuriousWakes::PENANCE, "{time:?}");
    }

    #[test]
    fn rings_that_nobody_asked_for_become_slow() {
        let time = kept_up(SpuriousWakes::MOST + 100, |sleep| (u32::MAX.wrapping_add(sleep), 7));
        assert!(time >= 100 * SpuriousWakes::PENANCE, "{time:?}");
    }

    #[test]
    fn rings_that_were_asked_for_cost_nothing() {
        const SLEEPS: u32 = 10_000;
        let time = kept_up(SLEEPS, |sleep| (u32::MAX.wrapping_add(sleep), sleep.into()));
        assert!(time < SLEEPS / 10 * SpuriousWakes::PENANCE, "{time:?}");
    }

    #[test]
    fn one_ring_may_end_two_sleeps() {
        const SLEEPS: u32 = 10_000;
        let time = kept_up(SLEEPS, |sleep| (sleep / 2, u64::from(sleep) / 2));
        assert!(time < SLEEPS / 10 * SpuriousWakes::PENANCE, "{time:?}");
    }

    /// What was explained in one window is no credit for the next.
    #[test]
    fn a_flood_behind_lawful_rings_becomes_slow() {
        let mut vain = SpuriousWakes::new();
        (0..10_000_u32).for_each(|sleep| vain.bear(sleep, sleep.into()));
        std::thread::sleep(SpuriousWakes::WINDOW);
        vain.bear(10_000, 10_000);
        let begun = Instant::now();
        (0..SpuriousWakes::MOST + 100).for_each(|_| vain.bear(10_000, 10_000));
        assert!(begun.elapsed() >= 99 * SpuriousWakes::PENANCE, "{:?}", begun.elapsed());
    }
}
