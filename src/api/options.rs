//! Settings that the builders of both ends share.

use crate::channel::Options;
use crate::driver::Driver;
use crate::error::ShmError;

/// The settings that ends of both kinds share.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommonOptions {
    pub(crate) end: Options,
    pub(crate) driver: Option<Driver>,
}

impl CommonOptions {
    /// Returns the driver that was set, or the process's own.
    pub(crate) fn driver(&self) -> Result<Driver, ShmError> {
        self.driver.clone().map_or_else(Driver::global, Ok)
    }
}

/// Defines the methods of a builder that set [`CommonOptions`], its field `common`.
macro_rules! common_options {
    () => {
        /// Sets how long `send` and `send_batch` wait for room (5 s unless set); `None` is for
        /// ever.
        pub fn send_timeout(mut self, timeout: Option<std::time::Duration>) -> Self {
            self.common.end.send_timeout = timeout;
            self
        }

        /// Sets for how long a call that finds no packet, or no room, may spin before it sleeps (50
        /// us unless set). 0 turns spinning off; more than 1 ms counts as 1 ms.
        ///
        /// If a packet or room comes while the call spins, neither side makes a system call. An end
        /// spins only if spinning has paid off lately. It never spins if both sides are limited to
        /// the same single core, or if it is the face of a [pair](crate::SpscFace::pair) whose
        /// process has only one core and so cannot know where its application runs. While a thread
        /// spins, it runs nothing else.
        ///
        /// If the driver is run by [`park`](crate::Driver::park), a task spins for 2 us at most.
        /// `park` does the rest, for up to eight channels at once, because its thread then has
        /// nothing else to run.
        ///
        /// A receiver that has caught up with a sender in full flight (more than three short
        /// packets a microsecond, or more than 1.2 of 4 KiB) waits 4 us, or the cap if that is
        /// less, before it checks again. So it stays some distance behind, which makes streams of
        /// short packets about twice as fast. `try_recv` and `try_recv_ref` do this too, but never
        /// spin otherwise.
        ///
        /// A task that has received packets and finds no more may also wake itself and return
        /// `Pending`, up to eight times, and check again after the other tasks of its thread. So a
        /// thread that serves a thousand busy channels need not be woken for each. An end does this
        /// only if it has paid off lately, and not in its first 64 waits. 0 turns this off as well.
        pub fn spin(mut self, cap: std::time::Duration) -> Self {
            self.common.end.spin = cap;
            self
        }

        /// Sets the driver that waits for this end, in place of the process's own background
        /// driver.
        ///
        /// Some thread must run the driver: see [`Driver`](crate::Driver).
        pub fn driver(mut self, driver: &crate::Driver) -> Self {
            self.common.driver = Some(driver.clone());
            self
        }
    };
}

pub(crate) use common_options;
