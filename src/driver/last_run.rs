//! When a driver was last run, for its `Debug` form: a driver that no thread runs wakes no task.

use std::fmt;
// Not `crate::sync`'s: it orders nothing, so the models need not explore it.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// No thread has run it yet.
const NEVER: u64 = 0;
/// A thread is running it.
const NOW: u64 = u64::MAX;

/// Written by the thread that runs the driver, read by its `Debug` form.
pub(super) struct LastRun(AtomicU64);

impl LastRun {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(NEVER))
    }

    /// Marks the driver as running until the returned guard is dropped.
    pub(super) fn begin(&self) -> Running<'_> {
        // ORDERING: Relaxed, here and below; a time to display, which publishes nothing.
        self.0.store(NOW, Ordering::Relaxed);
        Running(self)
    }
}

/// A thread is running the driver.
pub(super) struct Running<'a>(&'a LastRun);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.0.store(clock(), Ordering::Relaxed);
    }
}

/// Returns the time in nanoseconds, between [`NEVER`] and [`NOW`]. This clock is right to a few
/// milliseconds and costs less than an exact one.
fn clock() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::MonotonicCoarse)).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(NOW).clamp(NEVER + 1, NOW - 1)
}

impl fmt::Debug for LastRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.load(Ordering::Relaxed) {
            NEVER => f.write_str("never"),
            NOW => f.write_str("now"),
            at => write!(f, "{:?} ago", Duration::from_nanos(clock().saturating_sub(at))),
        }
    }
}
