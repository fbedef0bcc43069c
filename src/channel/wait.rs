//! How a call waits: as a task, which returns `Pending`, or as a thread, which sleeps.
//!
//! Sending and receiving have one loop each, which takes the way to wait as a parameter.

use std::task::{Context, Poll};
use std::time::Instant;

use super::block::Seen;
use super::budget::Limit;
use super::shared::Channel;
use super::spurious_wakes::SpuriousWakes;
use crate::wake::waiters::{Waiters, Waiting};

/// A way to wait.
pub(crate) trait Wait {
    /// Whether the call has a budget.
    const LIMIT: Limit;

    /// Called before the caller looks for what it waits for. Anything that comes after this ends
    /// [`sleep`](Self::sleep).
    fn before_looking(&mut self, channel: &Channel);

    /// Adds the caller to `waiters`, before a last look.
    fn register(&mut self, channel: &Channel, waiters: &Waiters, place: &mut Option<Waiting>);

    /// Waits for the caller's place in the queue of senders; `false` if the deadline passed.
    fn wait_for_place(
        &mut self,
        channel: &Channel,
        place: &mut Waiting,
        deadline: Option<Instant>,
    ) -> Poll<bool>;

    /// Lets others run, because the budget is used up.
    fn yield_now(&mut self) -> Poll<()>;

    /// Sleeps after a look that found nothing, until a wake or `at`. `Ready` means to look again.
    fn sleep(&mut self, channel: &Channel, at: Option<Instant>) -> Poll<()>;
}

/// Waits as a task.
#[derive(Debug)]
pub(crate) struct Task<'a, 'b>(pub(crate) &'a mut Context<'b>);

impl Wait for Task<'_, '_> {
    const LIMIT: Limit = Limit::Budget;

    #[inline]
    fn before_looking(&mut self, _channel: &Channel) {}

    fn register(&mut self, channel: &Channel, waiters: &Waiters, place: &mut Option<Waiting>) {
        waiters.register(place, self.0);
        channel.rely_on_driver();
    }

    fn wait_for_place(
        &mut self,
        _channel: &Channel,
        place: &mut Waiting,
        _deadline: Option<Instant>,
    ) -> Poll<bool> {
        place.poll(self.0).map(|()| true)
    }

    fn yield_now(&mut self) -> Poll<()> {
        self.0.waker().wake_by_ref();
        Poll::Pending
    }

    fn sleep(&mut self, channel: &Channel, at: Option<Instant>) -> Poll<()> {
        if let Some(at) = at {
            channel.wake_at(at);
        }
        Poll::Pending
    }
}

/// Waits as a thread, which sleeps on the bell itself.
#[derive(Debug)]
pub(crate) struct Thread {
    seen: Option<Seen>,
    spurious: SpuriousWakes,
}

impl Thread {
    pub(crate) fn new() -> Self {
        Self { seen: None, spurious: SpuriousWakes::new() }
    }

    /// Returns the outcome of a call that waits by this, which is never pending.
    #[inline(always)]
    pub(crate) fn block<T>(mut call: impl FnMut(&mut Self) -> Poll<T>) -> T {
        let mut wait = Self::new();
        loop {
            if let Poll::Ready(outcome) = call(&mut wait) {
                return outcome;
            }
        }
    }
}

impl Wait for Thread {
    const LIMIT: Limit = Limit::None;

    #[inline]
    fn before_looking(&mut self, channel: &Channel) {
        self.seen = Some(channel.blocked.before_looking(&channel.bell));
    }

    #[inline]
    fn register(&mut self, _channel: &Channel, _waiters: &Waiters, _place: &mut Option<Waiting>) {}

    fn wait_for_place(
        &mut self,
        channel: &Channel,
        place: &mut Waiting,
        deadline: Option<Instant>,
    ) -> Poll<bool> {
        channel.prepare_to_block();
        Poll::Ready(place.wait_until(deadline))
    }

    fn yield_now(&mut self) -> Poll<()> {
        Poll::Ready(())
    }

    fn sleep(&mut self, channel: &Channel, at: Option<Instant>) -> Poll<()> {
        // Without a look before it there is no count to compare with.
        if let Some(seen) = self.seen.take() {
            let timeout = at.map(|at| at.saturating_duration_since(Instant::now()));
            channel.sleep(seen, timeout, &mut self.spurious);
        }
        Poll::Ready(())
    }
}
