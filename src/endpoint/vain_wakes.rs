//! Wakes that came to nothing.

use std::time::{Duration, Instant};

/// Wakes of a blocked thread that found nothing.
///
/// Some are lawful, where several threads sleep on one bell. But the flood budget counts those of
/// the driver alone, and a peer that wakes a bare futex again and again must not have the thread
/// spin for it.
#[derive(Debug)]
pub(super) struct VainWakes {
    /// Sleeps so far.
    count: u32,
    /// The second of them: the first one follows no wake, and should cost no look at the clock.
    since: Option<Instant>,
}

impl VainWakes {
    /// So many within this time are a flood.
    const MOST: u32 = 64;
    const WINDOW: Duration = Duration::from_millis(10);
    /// What each further one then has to wait.
    const PENANCE: Duration = Duration::from_millis(1);

    pub(super) fn new() -> Self {
        Self { count: 0, since: None }
    }

    /// Before each sleep.
    pub(super) fn bear(&mut self) {
        self.count += 1;
        if self.count == 1 {
            return;
        }
        let since = self.since.get_or_insert_with(Instant::now);
        if self.count <= Self::MOST {
            return;
        }
        if since.elapsed() < Self::WINDOW + self.count * Self::PENANCE {
            std::thread::sleep(Self::PENANCE);
        } else {
            *self = Self::new();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn vain_wakes_of_a_blocked_thread_become_slow() {
        let mut vain = VainWakes::new();
        let begun = Instant::now();
        (0..VainWakes::MOST + 100).for_each(|_| vain.bear());
        assert!(begun.elapsed() >= 100 * VainWakes::PENANCE, "{:?}", begun.elapsed());
    }
}
