//! Waits with an epoll set alone, where the kernel or a sandbox does not allow io_uring.
//!
//! This poller does not wait for bells. The other side wakes this one with a byte on the lifeline,
//! which is a descriptor like any other.

use std::mem::MaybeUninit;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::poller::{Failure, Found, Poller};
use super::shared::Shared;
use super::table::Id;
use crate::sync::{Arc, AtomicU32};

/// The longest timeout that `epoll_wait` accepts: 24 days.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// Waits directly in the epoll set of a driver.
pub(super) struct EpollPoller {
    shared: Arc<Shared>,
}

impl EpollPoller {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Poller for EpollPoller {
    fn arm(&mut self, _id: Id, _bell: &AtomicU32, _seen: u32) -> bool {
        false
    }

    fn disarm(&mut self, _id: Id) {}

    fn wait(&mut self, timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
        take(&self.shared, timeout, found).map_err(|errno| Failure::Once(errno.into()))
    }

    fn close(&mut self) {}
}

/// How many events are taken at once. The kernel reports ready descriptors in turn, so a descriptor
/// that is always ready does not starve the others, and all of them together do not starve the
/// bells.
const EVENTS: usize = 64;

/// Takes the events that are in the driver's set, at most [`EVENTS`]. Events of its own descriptors
/// are only cleared: they have ended the sleep.
///
/// The timeout is rounded up to milliseconds. (`epoll_pwait2` counts nanoseconds, but some
/// sandboxes that forbid io_uring kill a process that calls it.)
pub(super) fn take(
    shared: &Shared,
    timeout: Option<Duration>,
    found: &mut Found,
) -> Result<(), Errno> {
    // Cannot fail: LONGEST is a time that the kernel can express.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout.min(LONGEST)).ok());
    let mut buffer = [const { MaybeUninit::uninit() }; EVENTS];
    let events = match epoll::wait(shared.epoll_set.descriptor(), &mut buffer, timeout.as_ref()) {
        Ok((events, _)) => events,
        Err(Errno::INTR) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for event in events {
        match Id::unpack(event.data.u64()) {
            (Id::OWN, token) => shared.epoll_set.clear(token),
            event => found.events.push(event),
        }
    }
    Ok(())
}
