//! An executor with an io_uring of its own, for an embedded driver.
//!
//! In a build without io_uring an embedded driver wants nothing but polls, and `poll(2)` takes the
//! ring's place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use wakering::{EmbeddedDriver, ShmError, Submission, Unparker};

pub use ring::Ring;

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
mod ring {
    use std::io::ErrorKind;
    use std::time::Duration;

    use io_uring::IoUring;
    use io_uring::register::Restriction;
    use io_uring::types::{SubmitArgs, Timespec};
    use rustix::io::Errno;
    use wakering::Submission;

    use super::Setup;

    pub struct Ring {
        ring: IoUring,
        /// How many submissions have not completed.
        pub in_flight: usize,
    }

    impl Ring {
        pub fn new(setup: Setup) -> Self {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(if setup == Setup::Tiny { 4 } else { 4096 });
            match setup {
                Setup::Own => _ = builder.setup_single_issuer().setup_defer_taskrun(),
                Setup::Polling => _ = builder.setup_sqpoll(10),
                Setup::Restricted(_) => _ = builder.setup_r_disabled(),
                Setup::Default | Setup::Tiny => {}
            }
            let entries = if setup == Setup::Tiny { 2 } else { 8 };
            let ring: IoUring = builder.build(entries).expect("a ring");
            if let Setup::Restricted(codes) = setup {
                let mut allowed: Vec<_> =
                    codes.iter().map(|&code| Restriction::sqe_op(code)).collect();
                ring.submitter().register_restrictions(&mut allowed).unwrap();
                ring.submitter().register_enable_rings().unwrap();
            }
            Self { ring, in_flight: 0 }
        }

        #[allow(unsafe_code, reason = "the io-uring crate cannot know what is submitted")]
        pub fn submit(&mut self, submission: Submission) {
            self.in_flight += 1;
            let entry = submission.into();
            // SAFETY: none of a driver's submissions makes the kernel write to memory.
            while unsafe { self.ring.submission().push(&entry) }.is_err() {
                self.ring.submit().unwrap();
            }
        }

        pub fn enter(&mut self, timeout: Option<Duration>) -> Vec<(u64, i32)> {
            let timespec = timeout.map(Timespec::from);
            let args =
                timespec.as_ref().map_or(SubmitArgs::new(), |t| SubmitArgs::new().timespec(t));
            if let Err(error) = self.ring.submitter().submit_with_args(1, &args) {
                let errno = Errno::from_io_error(&error);
                let is_lawful =
                    errno == Some(Errno::TIME) || error.kind() == ErrorKind::Interrupted;
                assert!(is_lawful, "{error}");
            }
            let completions = self.ring.completion();
            let completions: Vec<_> = completions.map(|c| (c.user_data(), c.result())).collect();
            self.in_flight -= completions.len();
            completions
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
mod ring {
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use wakering::{Operation, Submission};

    use super::Setup;

    pub struct Ring {
        submitted: Vec<Submission>,
        pub in_flight: usize,
    }

    impl Ring {
        pub fn new(_setup: Setup) -> Self {
            Self { submitted: Vec::new(), in_flight: 0 }
        }

        pub fn submit(&mut self, submission: Submission) {
            self.submitted.push(submission);
            self.in_flight = self.submitted.len();
        }

        #[allow(unsafe_code, reason = "the driver keeps its descriptor open")]
        pub fn enter(&mut self, timeout: Option<Duration>) -> Vec<(u64, i32)> {
            let mut completions = Vec::new();
            let submitted = std::mem::take(&mut self.submitted);
            // A cancellation ends itself and its target.
            let cancelled: Vec<_> = submitted
                .iter()
                .filter_map(|submission| match submission.operation() {
                    Operation::Cancel { user_data } => Some([user_data, submission.user_data()]),
                    _ => None,
                })
                .flatten()
                .collect();
            for submission in submitted {
                match submission.operation() {
                    _ if cancelled.contains(&submission.user_data()) => {
                        completions.push((submission.user_data(), -125));
                    }
                    Operation::PollAdd { descriptor } => {
                        // SAFETY: the driver that wants the poll keeps the descriptor open.
                        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
                        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
                        let mut set = [PollFd::new(&descriptor, PollFlags::IN)];
                        match poll(&mut set, timeout.as_ref()) {
                            Ok(1..) => completions.push((submission.user_data(), 1)),
                            _ => self.submitted.push(submission),
                        }
                    }
                    operation => panic!("{operation:?} without io_uring"),
                }
            }
            self.in_flight = self.submitted.len();
            completions
        }
    }
}
