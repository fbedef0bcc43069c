//! An executor with an io_uring of its own, for an embedded driver.
//!
//! Without io_uring an embedded driver wants nothing but polls, and `poll(2)` takes the ring's
//! place.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wakering::{EmbeddedDriver, Operation, ShmError, Submission, Unparker};

/// How a ring is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// For a thread that alone submits and sleeps.
    Own,
    /// With default flags, which any thread may use.
    Default,
    /// A thread of the kernel takes the submissions.
    Polling,
    /// Its queues have room for a few entries.
    Tiny,
    /// It refuses all operations but these.
    Restricted(&'static [u8]),
}

/// Submits, and waits for completions.
trait Wait: Send {
    fn submit(&mut self, submission: Submission);

    fn enter(&mut self, timeout: Option<Duration>) -> Vec<(u64, i32)>;
}

/// A ring, or what takes its place.
pub struct Ring {
    wait: Box<dyn Wait>,
    /// How many submissions have not completed.
    pub in_flight: usize,
}

impl Ring {
    pub fn new(setup: Setup) -> Self {
        let ring = real::Ring::open(setup).map(|ring| Box::new(ring) as Box<dyn Wait>);
        Self { wait: ring.unwrap_or_else(|| Box::new(Polls::default())), in_flight: 0 }
    }

    pub fn submit(&mut self, submission: Submission) {
        self.in_flight += 1;
        self.wait.submit(submission);
    }

    /// Returns the user data and results of what has completed. Sleeps until there is something.
    pub fn enter(&mut self, timeout: Option<Duration>) -> Vec<(u64, i32)> {
        let completions = self.wait.enter(timeout);
        self.in_flight -= completions.len();
        completions
    }
}

/// Whether there are rings here.
pub fn has_rings() -> bool {
    let has = real::Ring::open(Setup::Default).is_some();
    if !has {
        eprintln!("no io_uring here: left out");
    }
    has
}

/// Runs one future at a time, and its driver meanwhile.
pub struct Executor {
    pub driver: EmbeddedDriver,
    pub ring: Ring,
    /// How often the executor has entered the kernel.
    pub enters: u64,
}

/// The waker of the future.
struct Ready {
    is_ready: AtomicBool,
    unparker: Unparker,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        // ORDERING: Release pairs with the Acquire of the executor.
        self.is_ready.store(true, Ordering::Release);
        self.unparker.unpark();
    }
}

impl Executor {
    pub fn new(driver: EmbeddedDriver) -> Self {
        Self::with(driver, Setup::Own)
    }

    pub fn with(driver: EmbeddedDriver, setup: Setup) -> Self {
        Self { driver, ring: Ring::new(setup), enters: 0 }
    }

    /// Puts another driver in the place of this one, which is dropped.
    pub fn replace(self, driver: EmbeddedDriver) -> Self {
        let Self { driver: former, ring, enters } = self;
        drop(former);
        Self { driver, ring, enters }
    }

    /// Runs the future to its end. Fails if the driver does.
    pub fn try_block_on<F: Future>(&mut self, future: F) -> Result<F::Output, ShmError> {
        let mut future = std::pin::pin!(future);
        let ready = Ready { is_ready: AtomicBool::new(true), unparker: self.driver.unparker() };
        let ready = Arc::new(ready);
        let waker = Waker::from(ready.clone());
        loop {
            self.driver.turn()?;
            if ready.is_ready.swap(false, Ordering::Acquire)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Ok(output);
            }
            // A future that always wakes itself must not starve the channels.
            let is_ready = ready.is_ready.load(Ordering::Acquire);
            self.enter(if is_ready { Some(Duration::ZERO) } else { self.timeout() });
        }
    }

    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.try_block_on(future).unwrap()
    }

    /// Returns how long the executor may sleep.
    pub fn timeout(&self) -> Option<Duration> {
        let deadline = self.driver.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Submits what the driver wants, sleeps until there is a completion, and passes on what there
    /// is.
    pub fn enter(&mut self, timeout: Option<Duration>) {
        while let Some(submission) = self.driver.next_submission() {
            self.ring.submit(submission);
        }
        self.enters += 1;
        for (user_data, result) in self.ring.enter(timeout) {
            // A driver that had the ring before may have left something.
            let is_known =
                self.driver.complete(user_data, result) || Submission::is_user_data(user_data);
            assert!(is_known, "{user_data:#x}");
        }
    }
}

#[cfg(all(
    feature = "io-uring",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    )
))]
mod real {
    use std::io::ErrorKind;
    use std::time::Duration;

    use io_uring::IoUring;
    use io_uring::register::Restriction;
    use io_uring::types::{SubmitArgs, Timespec};
    use rustix::io::Errno;
    use wakering::Submission;

    use super::{Setup, Wait};

    pub struct Ring(IoUring);

    impl Ring {
        /// Returns `None` where there is no io_uring.
        pub fn open(setup: Setup) -> Option<Self> {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(if setup == Setup::Tiny { 4 } else { 4096 });
            match setup {
                Setup::Own => _ = builder.setup_single_issuer().setup_defer_taskrun(),
                Setup::Polling => _ = builder.setup_sqpoll(10),
                Setup::Restricted(_) => _ = builder.setup_r_disabled(),
                Setup::Default | Setup::Tiny => {}
            }
            let ring: IoUring = builder.build(if setup == Setup::Tiny { 2 } else { 8 }).ok()?;
            if let Setup::Restricted(codes) = setup {
                let mut allowed: Vec<_> =
                    codes.iter().map(|&code| Restriction::sqe_op(code)).collect();
                ring.submitter().register_restrictions(&mut allowed).unwrap();
                ring.submitter().register_enable_rings().unwrap();
            }
            // A sandbox may allow making a ring but forbid entering it.
            let args = SubmitArgs::new();
            ring.submitter().submit_with_args(0, &args).is_ok().then_some(Self(ring))
        }
    }

    impl Wait for Ring {
        #[allow(unsafe_code, reason = "the io-uring crate cannot know what is submitted")]
        fn submit(&mut self, submission: Submission) {
            let entry = submission.into();
            // SAFETY: none of a driver's submissions makes the kernel write to memory.
            while unsafe { self.0.submission().push(&entry) }.is_err() {
                self.0.submit().unwrap();
            }
        }

        fn enter(&mut self, timeout: Option<Duration>) -> Vec<(u64, i32)> {
            let timespec = timeout.map(Timespec::from);
            let args =
                timespec.as_ref().map_or(SubmitArgs::new(), |t| SubmitArgs::new().timespec(t));
            if let Err(error) = self.0.submitter().submit_with_args(1, &args) {
                let errno = Errno::from_io_error(&error);
                // BUSY: the completions, which are taken next, have filled the queue.
                let is_lawful = matches!(errno, Some(Errno::TIME | Errno::BUSY))
                    || error.kind() == ErrorKind::Interrupted;
                assert!(is_lawful, "{error}");
            }
            self.0.completion().map(|c| (c.user_data(), c.result())).collect()
        }
    }
}

#[cfg(not(all(
    feature = "io-uring",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    )
)))]
mod real {
    use std::time::Duration;

    use wakering::Submission;

    use super::{Setup, Wait};

    pub enum Ring {}

    impl Ring {
        pub fn open(_setup: Setup) -> Option<Self> {
            None
        }
    }

    impl Wait for Ring {
        fn submit(&mut self, _submission: Submission) {
            match *self {}
        }

        fn enter(&mut self, _timeout: Option<Duration>) -> Vec<(u64, i32)> {
            match *self {}
        }
    }
}

/// Takes the place of a ring where there is none.
#[derive(Default)]
struct Polls {
    submitted: Vec<Submission>,
}

impl Wait for Polls {
    fn submit(&mut self, submission: Submission) {
        self.submitted.push(submission);
    }

    fn enter(&mut self, timeout: Option<Duration>) -> Vec<(u64, i32)> {
        let submitted = std::mem::take(&mut self.submitted);
        // A cancellation ends itself and its target.
        let cancelled = |user_data: u64| {
            submitted
                .iter()
                .any(|submission| submission.operation() == Operation::Cancel { user_data })
        };
        let mut completions = Vec::new();
        for submission in &submitted {
            let user_data = submission.user_data();
            match submission.operation() {
                Operation::Cancel { .. } => completions.push((user_data, 0)),
                Operation::PollAdd { .. } if cancelled(user_data) => {
                    completions.push((user_data, Errno::CANCELED.raw_os_error().wrapping_neg()));
                }
                Operation::PollAdd { .. } => self.submitted.push(*submission),
                operation => panic!("{operation:?} without io_uring"),
            }
        }
        let timeout = if completions.is_empty() { timeout } else { Some(Duration::ZERO) };
        let ready = poll_all(&self.submitted, timeout);
        let mut ready = ready.into_iter();
        self.submitted.retain(|submission| {
            let is_ready = ready.next().unwrap_or(false);
            if is_ready {
                completions.push((submission.user_data(), 1));
            }
            !is_ready
        });
        completions
    }
}

/// Returns for each poll whether its descriptor is readable.
#[allow(unsafe_code, reason = "the driver keeps its descriptor open")]
fn poll_all(polls: &[Submission], timeout: Option<Duration>) -> Vec<bool> {
    let descriptors: Vec<_> = polls
        .iter()
        .map(|submission| match submission.operation() {
            // SAFETY: the driver that wants the poll keeps the descriptor open. Of one that is
            // gone, a number that is not open is reported as such.
            Operation::PollAdd { descriptor } => unsafe { BorrowedFd::borrow_raw(descriptor) },
            operation => unreachable!("{operation:?}"),
        })
        .collect();
    let mut set: Vec<_> =
        descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let polled = poll(&mut set, timeout.as_ref());
    set.iter().map(|entry| polled.is_ok() && !entry.revents().is_empty()).collect()
}
