//! Runs a driver that has no thread of its own, on a thread that parks in it.

use std::cell::Cell;
use std::io;
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use super::event_loop::{EventLoop, Turned};
use super::poller::{ATTEMPTS, Failure, Found, Poller};
use super::poller_of_this_thread;
use super::shared::Shared;
use super::table::Id;
use crate::error::{CloseReason, ShmError};
use crate::sync::{Arc, AtomicU32, Mutex, thread_local};
use crate::sys::fork::LeakyLock;

/// Runs the driver for one thread at a time. After its drop nobody can run the driver.
pub(super) struct Parker<P: Poller = Box<dyn Poller>> {
    shared: Arc<Shared>,
    parked: LeakyLock<Mutex<Parked<P>>>,
}

struct Parked<P: Poller> {
    /// `None` once the driver is given up.
    event_loop: Option<EventLoop<P>>,
    /// How many runs have failed in a row.
    failures: u32,
}

thread_local! {
    /// Whether this thread is inside of `park` or `turn` of any driver, or is a driver's own.
    static INSIDE: Cell<bool> = Cell::new(false);
}

/// Whether this thread is running a driver now, so that the caller is inside of a callback.
pub(super) fn is_inside() -> bool {
    INSIDE.with(Cell::get)
}

/// Marks that this thread runs a driver, until it is dropped.
pub(super) struct Inside {
    before: bool,
}

impl Inside {
    pub(super) fn now() -> Self {
        Self { before: INSIDE.with(|inside| inside.replace(true)) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(self.before));
    }
}

impl Parker {
    /// Makes a parker for threads that sleep. The first of them makes its poller.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self::with(shared, Box::new(NoPoller))
    }

    /// See [`Driver::park`](super::Driver::park). Does not sleep once `is_wanted`, which becomes
    /// true before an unpark.
    pub(super) fn park(
        &self,
        timeout: Option<Duration>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), ShmError> {
        const STEP: &str = "parking in the driver";
        self.run(STEP, |event_loop| {
            if !event_loop.is_ours() {
                event_loop.move_to(poller_of_this_thread(&self.shared)?);
            }
            event_loop.turn(timeout, is_wanted)
        })
    }
}

impl<P: Poller> Parker<P> {
    /// Makes a parker with an existing poller.
    pub(super) fn with(shared: Arc<Shared>, poller: P) -> Self {
        let event_loop = Some(EventLoop::new(shared.clone(), poller));
        let parked = Mutex::new(Parked { event_loop, failures: 0 });
        Self { shared, parked: LeakyLock::new(parked) }
    }

    /// See [`PolledDriver::turn`](super::PolledDriver::turn).
    pub(super) fn turn(&self) -> Result<Turned, ShmError> {
        self.turn_with(EventLoop::sweep)
    }

    /// As [`turn`](Self::turn), with what the caller does before and after it.
    pub(super) fn turn_with(
        &self,
        turn: impl FnOnce(&mut EventLoop<P>) -> Result<Turned, Failure>,
    ) -> Result<Turned, ShmError> {
        self.run("turning the driver", turn)
    }

    /// Returns the registrations that have a wait in the kernel. None if the driver cannot be run.
    pub(super) fn armed(&self) -> Vec<Id> {
        self.run("closing the driver", |event_loop| Ok(event_loop.armed())).unwrap_or_default()
    }

    /// Runs the driver for one turn, unless another thread runs it.
    fn run<T>(
        &self,
        step: &'static str,
        turn: impl FnOnce(&mut EventLoop<P>) -> Result<T, Failure>,
    ) -> Result<T, ShmError> {
        self.shared.check_fork()?;
        let _inside = Inside::now();
        let mut parked = match self.parked.try_lock() {
            Ok(parked) => parked,
            Err(TryLockError::WouldBlock) => {
                return Err(ShmError::Io { step, source: io::ErrorKind::ResourceBusy.into() });
            }
            Err(TryLockError::Poisoned(poisoned)) => {
                // The driver itself has panicked, which is a bug. No source may sleep for ever.
                let mut parked = poisoned.into_inner();
                parked.give_up();
                parked
            }
        };
        let _running = self.shared.last_run.begin();
        let gone = || ShmError::Closed { reason: CloseReason::DriverGone, sent: 0 };
        let event_loop = parked.event_loop.as_mut().ok_or_else(gone)?;
        match turn(event_loop) {
            Ok(done) => {
                parked.failures = 0;
                Ok(done)
            }
            Err(Failure::NoPoller(source)) => Err(ShmError::Io { step, source }),
            Err(Failure::Once(source)) if parked.failures < ATTEMPTS => {
                parked.failures += 1;
                Err(ShmError::Io { step, source })
            }
            Err(Failure::Once(source) | Failure::ForGood(source)) => {
                parked.give_up();
                Err(ShmError::Io { step, source })
            }
        }
    }
}

impl<P: Poller> Parked<P> {
    fn give_up(&mut self) {
        if let Some(event_loop) = self.event_loop.take() {
            event_loop.abandon();
        }
    }
}

impl<P: Poller> Drop for Parker<P> {
    fn drop(&mut self) {
        let _inside = Inside::now();
        if self.parked.is_held_by_parent() {
            // A thread of the parent was running the driver at the fork.
            return;
        }
        let parked = self.parked.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.shared.is_forked() {
            // Closes this process's copies. The sources are the parent's, so none is called.
            parked.event_loop = None;
        } else {
            parked.give_up();
        }
    }
}

/// The poller of a driver until a thread first parks in it.
struct NoPoller;

impl Poller for NoPoller {
    fn arm(&mut self, _id: Id, _bell: &AtomicU32, _seen: u32) -> bool {
        false
    }

    fn disarm(&mut self, _id: Id) {}

    fn wait(&mut self, _timeout: Option<Duration>, _found: &mut Found) -> Result<(), Failure> {
        Err(Failure::NoPoller(io::ErrorKind::Unsupported.into()))
    }

    fn close(&mut self) {}

    fn is_ours(&self) -> bool {
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::driver::Backend;
    use crate::sys::fork::in_child;

    #[test]
    fn a_child_leaks_an_event_loop_that_a_thread_used_at_the_fork() {
        for is_used in [false, true] {
            let shared = Shared::parked_in(Backend::Epoll).unwrap();
            let parker = Parker::new(shared.clone());
            if is_used {
                std::mem::forget(parker.parked.lock().unwrap());
            }
            in_child(move || {
                drop(parker);
                // The event loop holds the other reference.
                assert_eq!(Arc::strong_count(&shared), 1 + usize::from(is_used));
            });
        }
    }
}
