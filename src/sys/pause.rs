//! A sleep that ends in time whatever signals the thread takes.

use std::time::{Duration, Instant};

use rustix::thread::clock_nanosleep_relative;
use rustix::time::{ClockId, Timespec};

/// Sleeps for `time`, however often a signal's handler runs meanwhile.
///
/// `std::thread::sleep` sleeps again for what the kernel says is left. Each time that is up to the
/// timer slack (50 us) too much, so it never ends in a program with a signal every 50 us, such as
/// one that is profiled. Here the clock says what is left, also where a sandbox forbids the call.
/// (The call with an absolute time would need no loop, but for 32-bit targets, rustix 1.1 makes a
/// relative one of it where the kernel does not know 64-bit times.)
pub(crate) fn pause(time: Duration) {
    let begun = Instant::now();
    while let Some(left) = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        let Ok(left) = Timespec::try_from(left) else { return };
        let _ = clock_nanosleep_relative(ClockId::Monotonic, &left);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
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
