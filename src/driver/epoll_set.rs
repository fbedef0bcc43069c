//! The epoll set of a driver, and the descriptors in it that are the driver's own.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::clock::{Clock, NEVER};
use super::table::Id;
use crate::error::ShmError;
use crate::sync::{AtomicU64, Ordering};

/// Tokens of the driver's own descriptors.
const INTERRUPT: u16 = 0;
const TIMER: u16 = 1;

#[cfg(not(all(test, loom)))]
type Set = OwnedFd;
/// A model watches no descriptor, and explores many thousand drivers.
#[cfg(all(test, loom))]
type Set = std::sync::LazyLock<OwnedFd>;

/// The set that holds every descriptor that a driver watches.
pub(super) struct EpollSet {
    set: Set,
    /// Ends a wait on the set. A driver that sleeps in its ring has none.
    interrupt: Option<OwnedFd>,
    /// Ends the sleep of a polled driver at a time.
    timer: Option<Timer>,
}

struct Timer {
    descriptor: OwnedFd,
    /// The time that it was last set to. Only the thread that runs the driver touches this.
    at: AtomicU64,
}

impl EpollSet {
    pub(super) fn new() -> Result<Self, ShmError> {
        #[cfg(not(all(test, loom)))]
        let set =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(ShmError::io("epoll_create1"))?;
        #[cfg(all(test, loom))]
        let set = Set::new(|| epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        Ok(Self { set, interrupt: None, timer: None })
    }

    /// Returns the set's own descriptor.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.set
    }

    /// Adds the descriptor for [`interrupt`](Self::interrupt).
    pub(super) fn add_interrupt(&mut self) -> Result<(), ShmError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(ShmError::io("eventfd"))?;
        self.add(&event, INTERRUPT)?;
        self.interrupt = Some(event);
        Ok(())
    }

    /// Adds the timer for [`set_timer`](Self::set_timer).
    pub(super) fn add_timer(&mut self) -> Result<(), ShmError> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(ShmError::io("timerfd_create"))?;
        self.add(&descriptor, TIMER)?;
        self.timer = Some(Timer { descriptor, at: AtomicU64::new(NEVER) });
        Ok(())
    }

    fn add(&self, descriptor: impl AsFd, token: u16) -> Result<(), ShmError> {
        let data = epoll::EventData::new_u64(Id::OWN.pack(token));
        epoll::add(self.descriptor(), descriptor, data, epoll::EventFlags::IN)
            .map_err(ShmError::io("epoll_ctl"))
    }

    /// Ends the present wait on the set, or the next one. Returns whether the set has a descriptor
    /// for this.
    pub(super) fn interrupt(&self) -> bool {
        if let Some(event) = &self.interrupt {
            // Fails only when the counter is full, and then the descriptor is readable.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
        self.interrupt.is_some()
    }

    /// Clears one of the driver's own descriptors that is readable, until its next cause.
    pub(super) fn clear(&self, token: u16) {
        let mut count = [0; 8];
        match (token, &self.interrupt, &self.timer) {
            (INTERRUPT, Some(event), _) => {
                let _ = rustix::io::read(event, &mut count);
            }
            (TIMER, _, Some(timer)) => {
                // ORDERING: Relaxed; only the thread that runs the driver gets here.
                timer.at.store(NEVER, Ordering::Relaxed);
                let _ = rustix::io::read(&timer.descriptor, &mut count);
            }
            _ => {}
        }
    }

    /// Makes the descriptor of a polled driver readable at `at`, or earlier.
    pub(super) fn set_timer(&self, at: u64, clock: &Clock) {
        let Some(timer) = self.timer.as_ref() else { return };
        // ORDERING: Relaxed, as in `clear`.
        if timer.at.load(Ordering::Relaxed) <= at {
            return;
        }
        timer.at.store(at, Ordering::Relaxed);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Zero would disarm the timer. A time that the kernel's clock cannot express is shortened.
        let after = clock.until(at).max(Duration::from_nanos(1));
        let longest = Timespec { tv_sec: i64::from(u32::MAX), tv_nsec: 0 };
        let it_value = Timespec::try_from(after).unwrap_or(longest);
        let spec = Itimerspec { it_interval: zero, it_value };
        if timerfd_settime(&timer.descriptor, TimerfdTimerFlags::empty(), &spec).is_err() {
            // It does not fail for a timer and a valid time; but no task may sleep for ever.
            self.interrupt();
        }
    }
}
