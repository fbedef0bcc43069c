//! An executor that owns an io_uring, with wakering's driver in it.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use io_uring::IoUring;
use io_uring::types::{SubmitArgs, Timespec};
use wakering::{Backend, Driver, EmbeddedDriver, Unparker};

use super::open::{Halves, Runner, SLEEPING, open};
use super::{bytes, in_place};
use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::stage::Stage;
use crate::system::{ROUND_TRIP, System, Way};

const SYSTEM: System = System { measures: ROUND_TRIP, sizes: &[64], ..SLEEPING };

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "wakering, embedded",
        about: "send, recv; driver in the io_uring of an executor for one task",
        way: Some(Way::Bytes),
        limits: &["bare ring, Bytes", "futex, in a ring", "bare ring, Bytes, asleep", "futex"],
        perform: |stage| perform(stage, bytes::Single::new),
        ..SYSTEM
    },
    System {
        name: "wakering, in place, embedded",
        about: "reserve, recv_ref; driver in the io_uring of an executor for one task",
        way: Some(Way::InPlace),
        limits: &["bare ring, in place", "futex, in a ring", "futex"],
        perform: |stage| perform(stage, |(tx, rx)| in_place::Single { tx, rx }),
        ..SYSTEM
    },
];

fn perform<L: Loops<64>>(stage: &mut Stage, with: impl FnOnce(Halves) -> L) -> Result<Outcome> {
    let driver = Driver::builder().backend(Backend::IoUring).embedded()?;
    let executor = RefCell::new(Executor::new(driver)?);
    let loops = with(open(stage, Runner::Embedded(&executor))?);
    executor.into_inner().block_on(stage.run_sized::<64>(loops))?
}

/// Runs one task, in a ring of its own.
pub(super) struct Executor {
    ring: IoUring,
    pub(super) driver: EmbeddedDriver,
    ready: Arc<Ready>,
}

/// Whether the task can run.
struct Ready {
    is_ready: AtomicBool,
    unparker: Unparker,
    thread: ThreadId,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_ready.store(true, Ordering::Release);
        if thread::current().id() != self.thread {
            self.unparker.unpark();
        }
    }
}

impl Executor {
    fn new(driver: EmbeddedDriver) -> Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(64)?;
        let (unparker, thread) = (driver.unparker(), thread::current().id());
        let ready = Arc::new(Ready { is_ready: AtomicBool::new(true), unparker, thread });
        Ok(Self { ring, driver, ready })
    }

    fn block_on<F: Future>(&mut self, future: F) -> Result<F::Output> {
        let mut future = pin!(future);
        let waker = Waker::from(self.ready.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            self.driver.turn()?;
            if self.ready.is_ready.swap(false, Ordering::Acquire)
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return Ok(output);
            }
            let is_ready = self.ready.is_ready.load(Ordering::Relaxed);
            self.enter(is_ready.then_some(Duration::ZERO))?;
        }
    }

    /// Turns the driver once, and sleeps for at most this time.
    pub(super) fn run_for(&mut self, most: Duration) -> Result<()> {
        self.driver.turn()?;
        self.enter(Some(most))
    }

    fn enter(&mut self, most: Option<Duration>) -> Result<()> {
        while let Some(submission) = self.driver.next_submission() {
            // SAFETY: none of a driver's submissions makes the kernel write to memory.
            while unsafe { self.ring.submission().push(&submission.into()) }.is_err() {
                self.ring.submit()?;
            }
        }
        let due = self.driver.deadline().map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = most.into_iter().chain(due).min().map(Timespec::from);
        let args = SubmitArgs::new();
        let args = timeout.as_ref().map_or(args, |timeout| args.timespec(timeout));
        // It may fail because the time is over, or because of a signal.
        let _ = self.ring.submitter().submit_with_args(1, &args);
        for completion in self.ring.completion() {
            self.driver.complete(completion.user_data(), completion.result());
        }
        Ok(())
    }
}
