//! Slows down spurious wakes of blocked threads.

use std::time::{Duration, Instant};

use crate::sys::pause::pause;

/// Counts the wakes of a blocked thread that no wake of the bell explains.
///
/// A wake of the bell wakes all threads that sleep on it, and all but one of them find nothing.
/// That is lawful: the peer is judged by how often it woke the bell, not by how many threads each
/// wake reached. But the flood check counts only the wakes of the driver. A peer that wakes the
/// bare futex again and again, or wakes the bell more often than it was asked to, must not make the
/// thread spin.
#[derive(Debug)]
pub(super) struct SpuriousWakes {
    /// Sleeps so far.
    sleeps: u32,
    /// The state at the second sleep. The first sleep follows no wake, and should not read the
    /// clock.
    since: Option<Since>,
}

#[derive(Debug)]
struct Since {
    time: Instant,
    wakes: u32,
    asked: u64,
}

impl SpuriousWakes {
    /// More than this number within `WINDOW` are a flood.
    const MAX: u32 = 64;
    const WINDOW: Duration = Duration::from_millis(10);
    /// How long the thread waits for each further one.
    const PAUSE: Duration = Duration::from_millis(1);

    pub(super) fn new() -> Self {
        Self { sleeps: 0, since: None }
    }

    /// Called before each sleep, with how often the bell was woken, and how often this side has
    /// asked for that.
    ///
    /// PEER: `wakes` is theirs. Wakes beyond those that were asked for explain nothing.
    pub(super) fn note_sleep(&mut self, wakes: u32, asked: u64) {
        self.sleeps += 1;
        if self.sleeps == 1 {
            return;
        }
        let since = self.since.get_or_insert_with(|| Since { time: Instant::now(), wakes, asked });
        if self.sleeps <= Self::MAX {
            return;
        }
        let woken = u64::from(wakes.wrapping_sub(since.wakes)).min(asked.wrapping_sub(since.asked));
        // One wake of the bell may end two sleeps of a thread: its count ends one, its futex wake
        // the next.
        let explained = u32::try_from(2 * woken).unwrap_or(u32::MAX);
        let spurious = self.sleeps.saturating_sub(explained);
        let elapsed = since.time.elapsed();
        if spurious > Self::MAX && elapsed < Self::WINDOW + spurious * Self::PAUSE {
            pause(Self::PAUSE);
        } else if elapsed >= Self::WINDOW {
            *self = Self::new();
        }
    }

    /// Called after a sleep that a signal has ended, which the peer has no part in.
    pub(super) fn forget_sleep(&mut self) {
        self.sleeps = self.sleeps.saturating_sub(1);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Returns how long `sleeps` sleeps take. Before each, `woken` says how often the bell was
    /// woken, and how often it was asked for.
    fn time_of(sleeps: u32, woken: impl Fn(u32) -> (u32, u64)) -> Duration {
        let (mut spurious, begun) = (SpuriousWakes::new(), Instant::now());
        for sleep in 0..sleeps {
            let (wakes, asked) = woken(sleep);
            spurious.note_sleep(wakes, asked);
        }
        begun.elapsed()
    }

    #[test]
    fn futex_wakes_without_a_bell_wake_become_slow() {
        let time = time_of(SpuriousWakes::MAX + 100, |_| (5, 7));
        assert!(time >= 100 * SpuriousWakes::PAUSE, "{time:?}");
    }

    #[test]
    fn wakes_that_nobody_asked_for_become_slow() {
        let time = time_of(SpuriousWakes::MAX + 100, |sleep| (u32::MAX.wrapping_add(sleep), 7));
        assert!(time >= 100 * SpuriousWakes::PAUSE, "{time:?}");
    }

    #[test]
    fn wakes_that_were_asked_for_cost_nothing() {
        const SLEEPS: u32 = 10_000;
        let time = time_of(SLEEPS, |sleep| (u32::MAX.wrapping_add(sleep), sleep.into()));
        assert!(time < SLEEPS / 10 * SpuriousWakes::PAUSE, "{time:?}");
    }

    #[test]
    fn one_wake_may_end_two_sleeps() {
        const SLEEPS: u32 = 10_000;
        let time = time_of(SLEEPS, |sleep| (sleep / 2, u64::from(sleep) / 2));
        assert!(time < SLEEPS / 10 * SpuriousWakes::PAUSE, "{time:?}");
    }

    #[test]
    fn signals_cost_nothing() {
        let (mut spurious, begun) = (SpuriousWakes::new(), Instant::now());
        for _ in 0..10_000 {
            spurious.note_sleep(5, 7);
            spurious.forget_sleep();
        }
        assert!(begun.elapsed() < 1_000 * SpuriousWakes::PAUSE);
    }

    /// What was explained in one window is no credit for the next.
    #[test]
    fn a_flood_after_lawful_wakes_becomes_slow() {
        let mut spurious = SpuriousWakes::new();
        (0..10_000_u32).for_each(|sleep| spurious.note_sleep(sleep, sleep.into()));
        std::thread::sleep(SpuriousWakes::WINDOW);
        spurious.note_sleep(10_000, 10_000);
        let begun = Instant::now();
        (0..SpuriousWakes::MAX + 100).for_each(|_| spurious.note_sleep(10_000, 10_000));
        assert!(begun.elapsed() >= 99 * SpuriousWakes::PAUSE, "{:?}", begun.elapsed());
    }
}
