//! A sleep that ends in time whatever signals the thread takes.

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Sleeps for `time`, however often a signal's handler runs meanwhile.
///
/// `std::thread::sleep` sleeps again for what the kernel says is left. Each time that is up to the
/// timer slack (50 us) too much, so it never ends in a program with a signal every 50 us, such as
/// one that is profiled.
pub(crate) fn pause(time: Duration) {
    let time = Timespec::try_from(time).ok();
    let until = time.and_then(|time| clock_gettime(ClockId::Monotonic).checked_add(time));
    let Some(until) = until else { return };
    while clock_nanosleep_absolute(ClockId::Monotonic, &until) == Err(Errno::INTR) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_pause_is_as_long_as_it_says() {
        for time in [Duration::ZERO, Duration::from_millis(20)] {
            let begun = Instant::now();
            pause(time);
            assert!(begun.elapsed() >= time);
        }
    }
}
