//! The ways to wait, on one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use wakering::{Driver, DriverBuilder, PolledDriver};

use super::measurement::Way;
use crate::failure::Failure;

/// A driver, and how this thread runs it.
#[derive(Debug)]
pub(crate) enum Runner {
    /// The thread parks in it, or sleeps while the driver's own thread runs it.
    Driver(Driver),
    Polled(Box<PolledDriver>),
}

impl Runner {
    /// Makes the driver for this way to wait. Threads that block need one for their peer's death.
    pub(crate) fn new(way: Way, builder: DriverBuilder) -> Result<Self, Failure> {
        Ok(match way {
            Way::Parked => Self::Driver(builder.build()?),
            Way::Polled => Self::Polled(Box::new(builder.polled()?)),
            Way::Background | Way::Blocking => Self::Driver(builder.background()?),
        })
    }

    pub(crate) fn driver(&self) -> &Driver {
        match self {
            Self::Driver(driver) => driver,
            Self::Polled(driver) => driver,
        }
    }

    /// Runs a future to its end.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> Result<F::Output, Failure> {
        match self {
            Self::Driver(driver) => Ok(driver.block_on(future)),
            Self::Polled(driver) => poll(driver, future),
        }
    }
}

/// A reactor that knows of nothing but one driver, and an executor with one task.
fn poll<F: Future>(driver: &PolledDriver, future: F) -> Result<F::Output, Failure> {
    let mut future = std::pin::pin!(future);
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    loop {
        driver.turn()?;
        // ORDERING: Relaxed; the task is woken on this thread, by the turn or by itself.
        if woken.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Ok(output);
            }
        } else {
            let mut descriptor = [PollFd::new(driver, PollFlags::IN)];
            match rustix::event::poll(&mut descriptor, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Failure::io("polling the driver")(errno.into())),
            }
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        // ORDERING: Relaxed; see the swap in `poll`.
        self.0.store(true, Ordering::Relaxed);
    }
}
