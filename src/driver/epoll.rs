//! Waiting with an epoll set alone, where the kernel or a sandbox allows no io_uring.
//!
//! Bells are not waited for here. The other side rings by a byte on the lifeline, which is a
//! descriptor like any other.

use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::runner::{Failure, Found, Waits};
use super::shared::Shared;
use super::table::Id;
use crate::sync::{Arc, AtomicU32};

/// The longest that `epoll_wait` can be asked for: 24 days.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// The epoll set of a driver, waited in directly.
pub(super) struct EpollWaits {
    shared: Arc<Shared>,
}

impl EpollWaits {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Waits for EpollWaits {
    fn arm(&mut self, _id: Id, _bell: &AtomicU32, _seen: u32) -> bool {
        false
    }

    fn disarm(&mut self, _id: Id) {}

    fn wait(&mut self, timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
        wait(&self.shared, timeout, found).map_err(|errno| Failure::Once(errno.into()))?;
        let interrupt = epoll::EventData::new_u64(Id::OWN.pack(0));
        let all = found.events.len();
        found.events.retain(|event| { event.data } != interrupt);
        if found.events.len() < all {
            self.shared.clear_interrupt();
        }
        Ok(())
    }

    fn close(&mut self) {}
}

/// Takes events from the driver's set: as many as there are, up to the buffer's size.
///
/// The timeout is rounded up to milliseconds. (`epoll_pwait2` counts nanoseconds; sandboxes that
/// forbid io_uring have been seen to end a process for it.)
pub(super) fn wait(
    shared: &Shared,
    timeout: Option<Duration>,
    found: &mut Found,
) -> Result<(), Errno> {
    // Cannot fail: LONGEST is a time that the kernel can express.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout.min(LONGEST)).ok());
    match epoll::wait(shared.epoll(), spare_capacity(&mut found.events), timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
