//! The driver's clock. In a model, time comes when the model says so.

use std::time::{Duration, Instant};

#[cfg(all(test, loom))]
use crate::sync::{AtomicU32, Ordering};

/// Before all times of the clock. As the end of a sleep: the driver runs, or is about to check the
/// inbox.
pub(super) const AWAKE: u64 = 0;
/// After all times of the clock: no timer.
pub(super) const NEVER: u64 = u64::MAX;

/// Counts nanoseconds since the driver's start.
#[cfg(not(all(test, loom)))]
pub(super) struct Clock {
    epoch: Instant,
}

#[cfg(not(all(test, loom)))]
impl Clock {
    pub(super) fn new() -> Self {
        Self { epoch: Instant::now() }
    }

    /// Returns `at` as a time on this clock, neither `AWAKE` nor `NEVER`.
    pub(super) fn at(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(NEVER).clamp(AWAKE + 1, NEVER - 1)
    }

    /// Returns the present time.
    pub(super) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// The reverse of [`at`](Self::at).
    pub(super) fn instant(&self, at: u64) -> Instant {
        // Fails for a time that no other clock has either.
        let instant = self.epoch.checked_add(Duration::from_nanos(at));
        instant.unwrap_or_else(|| self.epoch + Duration::from_secs(u32::MAX.into()))
    }
}

/// The clock of a model. Every time that is asked for is the same one in the future.
#[cfg(all(test, loom))]
pub(super) struct Clock {
    /// Whether that time has come.
    time: AtomicU32,
}

#[cfg(all(test, loom))]
impl Clock {
    pub(super) fn new() -> Self {
        Self { time: AtomicU32::new(0) }
    }

    pub(super) fn at(&self, _at: Instant) -> u64 {
        NEVER - 1
    }

    pub(super) fn now(&self) -> u64 {
        // ORDERING: Acquire pairs with the Release in `let_time_pass`.
        if self.time.load(Ordering::Acquire) == 0 { AWAKE + 1 } else { NEVER - 1 }
    }

    pub(super) fn instant(&self, _at: u64) -> Instant {
        Instant::now()
    }

    /// Makes the times of all timers come, including timers that are set later.
    pub(super) fn let_time_pass(&self) {
        // ORDERING: Release pairs with the Acquire in `now`.
        self.time.store(1, Ordering::Release);
    }
}

impl Clock {
    /// Returns how long it is until `at`. Zero for a time that has passed.
    pub(super) fn until(&self, at: u64) -> Duration {
        Duration::from_nanos(at.saturating_sub(self.now()))
    }
}
