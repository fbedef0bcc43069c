//! Replaces the module `uring` in builds without io_uring: no ring can be made.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::Backend;
use super::poller::{Failure, Found, Poller};
use super::shared::Shared;
use super::table::Id;
use crate::error::ShmError;
use crate::sync::{Arc, AtomicU32};
use crate::sys::trace;

const WITHOUT: &str = "this build of wakering is without io_uring";

fn unsupported() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

/// Fails.
pub(super) fn probe() -> io::Result<()> {
    Err(unsupported())
}

/// Returns the backend to use instead of a ring.
pub(super) fn fallback(requested: Backend, _error: io::Error) -> Result<Backend, ShmError> {
    match requested {
        Backend::IoUring => Err(ShmError::Unsupported { reason: WITHOUT }),
        Backend::Auto | Backend::Epoll => {
            trace::fallback(WITHOUT);
            Ok(Backend::Epoll)
        }
    }
}

/// Returns the failure of a driver with io_uring for whose thread no ring could be made. There is
/// no such driver.
pub(super) fn failure(error: io::Error) -> Failure {
    Failure::ForGood(error)
}

/// Types of rings that have no values.
macro_rules! no_rings {
    ($($ring:ident),+) => {$(
        pub(super) enum $ring {}

        impl Poller for $ring {
            fn arm(&mut self, _id: Id, _bell: &AtomicU32, _seen: u32) -> bool {
                match *self {}
            }

            fn disarm(&mut self, _id: Id) {
                match *self {}
            }

            fn wait(&mut self, _: Option<Duration>, _: &mut Found) -> Result<(), Failure> {
                match *self {}
            }

            fn close(&mut self) {
                match *self {}
            }
        }
    )+};
}

no_rings!(RingPoller, PolledRing);

impl RingPoller {
    /// Fails.
    pub(super) fn open(_shared: &Arc<Shared>) -> io::Result<Self> {
        Err(unsupported())
    }
}

impl PolledRing {
    /// Fails.
    pub(super) fn open(_shared: &Arc<Shared>) -> Result<(Self, OwnedFd), ShmError> {
        Err(ShmError::io("io_uring_setup")(unsupported()))
    }
}
