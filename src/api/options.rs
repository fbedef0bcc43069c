//! Settings that the builders of both ends have.

use crate::channel::Options;
use crate::driver::Driver;
use crate::error::ShmError;

/// What an end of either kind is made with.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommonOptions {
    pub(crate) end: Options,
    pub(crate) driver: Option<Driver>,
}

impl CommonOptions {
    /// The driver that was set, or the process's own.
    pub(crate) fn driver(&self) -> Result<Driver, ShmError> {
        self.driver.clone().map_or_else(Driver::global, Ok)
    }
}

/// The methods of a builder that set [`CommonOptions`], its field `common`.
macro_rules! common_options {
    () => {
        /// How long `send` and `send_batch` wait for room (5 s unless set); `None` is for ever.
        pub fn send_timeout(mut self, timeout: Option<std::time::Duration>) -> Self {
            self.common.end.send_timeout = timeout;
            self
        }

        /// How long a call that finds no packet, or no room, may look again before it sleeps (50 us
        /// unless set; 0 is not at all, and 1 ms the most that is heeded).
        ///
        /// What comes meanwhile costs no system call on either side. Whether it is done depends on
        /// whether it has paid lately; where both sides have one and the same core it never is, nor
        /// by the face of a [pair](crate::SpscFace::pair) whose process has but one: that cannot
        /// know where its application runs. The thread serves nobody else while it spins.
        ///
        /// A task whose driver is parked in spins for 2 us at most. The rest is done in
        /// [`park`](crate::Driver::park), where the thread has nothing else to run, for up to eight
        /// channels at once.
        ///
        /// A receiver that has caught up with a sender in full flight (more than three packets a
        /// microsecond) lets 4 us pass before it looks again, or the cap if that is less: so it
        /// stays some distance behind, where both are about twice as fast. So do `try_recv` and
        /// `try_recv_ref`, which never spin otherwise.
        pub fn spin(mut self, cap: std::time::Duration) -> Self {
            self.common.end.spin = cap;
            self
        }

        /// Who does the waiting, in place of the process's own background driver.
        ///
        /// Somebody has to run it: see [`Driver`](crate::Driver).
        pub fn driver(mut self, driver: &crate::Driver) -> Self {
            self.common.driver = Some(driver.clone());
            self
        }
    };
}

pub(crate) use common_options;
