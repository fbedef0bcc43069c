//! Waits for a descriptor of the driver's user.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::epoll::EventFlags;

use super::registration::{Binding, Registration};
use super::source::Source;
use crate::error::{CloseReason, ShmError};
use crate::sync::{Arc, AtomicU32, Ordering};
use crate::wake::waker_slot::WakerSlot;

/// What a descriptor is to be ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
}

impl Interest {
    /// Returns the events to wait for, once: the descriptor may stay ready long before the task
    /// that waits is polled, and must not keep the driver busy meanwhile. The kernel adds errors
    /// and hang-ups of both directions.
    fn flags(self) -> EventFlags {
        let events = match self {
            Self::Read => EventFlags::IN | EventFlags::RDHUP | EventFlags::PRI,
            Self::Write => EventFlags::OUT,
        };
        events | EventFlags::ONESHOT
    }
}

/// Neither of the others.
const WAITS: u32 = 0;
/// The descriptor is, or was, ready.
const READY: u32 = 1;
/// The driver has ended.
const ABANDONED: u32 = 2;

/// The task that waits, as its driver sees it.
///
/// | word | writer | reader | publishes |
/// |---|---|---|---|
/// | `state` | the driver, before it takes the waker | the task, after it has left its waker | nothing: the kernel says what can be read |
///
/// The lock of `task` orders the two: either the driver finds the waker, or the task finds the
/// state.
#[derive(Debug)]
struct Waiter {
    state: AtomicU32,
    task: WakerSlot,
}

impl Waiter {
    fn settle(&self, state: u32) {
        // ORDERING: Release pairs with the Acquire in `state`. The first state stays.
        let _ = self.state.compare_exchange(WAITS, state, Ordering::Release, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    fn state(&self) -> u32 {
        // ORDERING: Acquire pairs with the Release in `settle`.
        self.state.load(Ordering::Acquire)
    }
}

impl Source for Waiter {
    fn on_ready(&self, _token: u16) {
        self.settle(READY);
    }

    fn on_abandoned(&self) {
        self.settle(ABANDONED);
    }
}

/// Waits until a descriptor is ready: see [`Driver::readable`](super::Driver::readable).
#[must_use = "futures do nothing unless polled"]
pub(super) struct Readiness<'a> {
    binding: Binding,
    descriptor: BorrowedFd<'a>,
    interest: Interest,
    watch: Option<Watch<'a>>,
}

impl<'a> Readiness<'a> {
    pub(super) fn new(binding: Binding, descriptor: BorrowedFd<'a>, interest: Interest) -> Self {
        Self { binding, descriptor, interest, watch: None }
    }
}

impl Future for Readiness<'_> {
    type Output = Result<(), ShmError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => Watch::begin(&self.binding, self.descriptor, self.interest)?,
        };
        self.binding.shared().check_fork()?;
        watch.waiter.task.set(cx.waker());
        match watch.waiter.state() {
            READY => Poll::Ready(Ok(())),
            ABANDONED => {
                let reason = CloseReason::DriverGone;
                Poll::Ready(Err(ShmError::Closed { reason, sent: 0 }))
            }
            _ => {
                self.watch = Some(watch);
                Poll::Pending
            }
        }
    }
}

/// A descriptor in the driver's set. When dropped, it is there no more.
struct Watch<'a> {
    descriptor: Watched<'a>,
    registration: Registration,
    waiter: Arc<Waiter>,
}

/// A set has one place for each descriptor, so a second wait on the same one needs a duplicate.
enum Watched<'a> {
    Itself(BorrowedFd<'a>),
    Duplicate(OwnedFd),
}

impl AsFd for Watched<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Itself(descriptor) => *descriptor,
            Self::Duplicate(descriptor) => descriptor.as_fd(),
        }
    }
}

impl<'a> Watch<'a> {
    fn begin(
        binding: &Binding,
        descriptor: BorrowedFd<'a>,
        interest: Interest,
    ) -> Result<Self, ShmError> {
        let waiter = Arc::new(Waiter { state: AtomicU32::new(WAITS), task: WakerSlot::default() });
        let registration = binding.register(waiter.clone())?;
        let descriptor = match registration.watch_for(interest.flags(), descriptor, 0) {
            Err(ShmError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                let duplicate = descriptor
                    .try_clone_to_owned()
                    .map_err(|source| ShmError::Io { step: "duplicate a descriptor", source })?;
                registration.watch_for(interest.flags(), duplicate.as_fd(), 0)?;
                Watched::Duplicate(duplicate)
            }
            watched => watched.map(|()| Watched::Itself(descriptor))?,
        };
        Ok(Self { descriptor, registration, waiter })
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.registration.unwatch(self.descriptor.as_fd());
        // The driver keeps the waiter until its next turn. The waker may keep the executor, and the
        // executor the driver, which then nobody would run any more.
        drop(self.waiter.task.take());
    }
}
