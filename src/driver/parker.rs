//! Where a thread sits down to run a driver that has none of its own.

use std::cell::Cell;
use std::io;
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use super::event_loop::{EventLoop, Failure, Found, Poller};
use super::poller_of_this_thread;
use super::shared::Shared;
use super::table::Id;
use crate::error::{CloseReason, ShmError};
use crate::sync::{Arc, AtomicU32, Mutex, thread_local};

/// How often in a row the kernel may fail before the driver is given up.
const ATTEMPTS: u32 = 8;

/// A seat for one at a time. Dropped, it leaves a driver that nobody can run.
pub(super) struct Seat {
    shared: Arc<Shared>,
    bench: Mutex<Bench>,
}

struct Bench {
    /// `None` once the driver is given up.
    runner: Option<EventLoop>,
    /// In a row.
    failures: u32,
}

thread_local! {
    /// This thread is inside of `park` or `turn`, of any driver, or is a driver's own.
    static SEATED: Cell<bool> = Cell::new(false);
}

/// Whether this thread runs a driver just now: this is a callback.
pub(super) fn is_seated() -> bool {
    SEATED.with(Cell::get)
}

/// Notes that callbacks are called from here on.
pub(super) struct Seated {
    before: bool,
}

impl Seated {
    pub(super) fn now() -> Self {
        Self { before: SEATED.with(|seated| seated.replace(true)) }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        SEATED.with(|seated| seated.set(self.before));
    }
}

impl Seat {
    /// A seat for threads that sleep. What they sleep in is made by the first.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self::with(shared, Box::new(Unmade))
    }

    /// A seat for whoever has the means to wait.
    pub(super) fn with(shared: Arc<Shared>, waits: Box<dyn Poller>) -> Self {
        let runner = Some(EventLoop::new(shared.clone(), waits));
        Self { shared, bench: Mutex::new(Bench { runner, failures: 0 }) }
    }

    /// See [`Driver::park`](super::Driver::park). Does not sleep once `is_wanted`, which becomes
    /// true before an unpark.
    pub(super) fn park(
        &self,
        timeout: Option<Duration>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), ShmError> {
        const STEP: &str = "parking in the driver";
        self.sit(STEP, |runner| {
            if !runner.is_ours() {
                runner.move_to(poller_of_this_thread(&self.shared)?);
            }
            runner.turn(timeout, is_wanted)
        })
    }

    /// See [`PolledDriver::turn`](super::PolledDriver::turn).
    pub(super) fn turn(&self) -> Result<usize, ShmError> {
        self.sit("turning the driver", EventLoop::sweep)
    }

    /// Runs the driver for one turn, unless somebody else does.
    fn sit<T>(
        &self,
        step: &'static str,
        turn: impl FnOnce(&mut EventLoop) -> Result<T, Failure>,
    ) -> Result<T, ShmError> {
        self.shared.check_fork()?;
        let _seated = Seated::now();
        let mut bench = match self.bench.try_lock() {
            Ok(bench) => bench,
            Err(TryLockError::WouldBlock) => {
                return Err(ShmError::Io { step, source: io::ErrorKind::ResourceBusy.into() });
            }
            Err(TryLockError::Poisoned(poisoned)) => {
                // A mistake in the driver itself, which must not leave sources asleep for ever.
                let mut bench = poisoned.into_inner();
                bench.give_up();
                bench
            }
        };
        let _running = self.shared.last_run.begin();
        let gone = ShmError::Closed { reason: CloseReason::DriverGone, sent: 0 };
        let runner = bench.runner.as_mut().ok_or(gone)?;
        match turn(runner) {
            Ok(done) => {
                bench.failures = 0;
                Ok(done)
            }
            Err(Failure::Unmade(source)) => Err(ShmError::Io { step, source }),
            Err(Failure::Once(source)) if bench.failures < ATTEMPTS => {
                bench.failures += 1;
                Err(ShmError::Io { step, source })
            }
            Err(Failure::Once(source) | Failure::ForGood(source)) => {
                bench.give_up();
                Err(ShmError::Io { step, source })
            }
        }
    }
}

impl Bench {
    fn give_up(&mut self) {
        if let Some(runner) = self.runner.take() {
            runner.abandon();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _seated = Seated::now();
        let bench = self.bench.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.shared.is_forked() {
            // Closes this process's copies; nobody is told, for nobody here has lost anything.
            bench.runner = None;
        } else {
            bench.give_up();
        }
    }
}

/// What a driver that was never parked in waits by.
struct Unmade;

impl Poller for Unmade {
    fn arm(&mut self, _id: Id, _bell: &AtomicU32, _seen: u32) -> bool {
        false
    }

    fn disarm(&mut self, _id: Id) {}

    fn wait(&mut self, _timeout: Option<Duration>, _found: &mut Found) -> Result<(), Failure> {
        Err(Failure::Unmade(io::ErrorKind::Unsupported.into()))
    }

    fn close(&mut self) {}

    fn is_ours(&self) -> bool {
        false
    }
}
