//! A receive under way: waiting for packets, as a task or as a thread.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::Limit;
use super::ends::Directions;
use super::rx::{Rx, Taken};
use super::shared::Link;
use super::spurious_wakes::VainWakes;
use super::with_mut::Access;
use crate::driver::Registration;
use crate::error::{CloseReason, RecvTimeoutError, TryRecvError};
use crate::wake::pace::let_pass;
use crate::wake::spin::{IN_POLL, Spinning};
use crate::wake::waiters::Waiting;

/// A receive under way: takes by `take`, and sleeps while that finds nothing.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Receiving<'a, A, F> {
    link: &'a Link,
    rx: A,
    take: F,
    place: Option<Waiting>,
    /// It has let others run, for want of budget. Once is enough: another task of this end may use
    /// the next budget up as well.
    has_yielded: bool,
    /// Found nothing, and is not yet entered in the thread's books.
    vain: Option<Spinning>,
}

impl<'a, A, F, T> Receiving<'a, A, F>
where
    A: Access<Rx>,
    F: FnMut(&mut Rx) -> Taken<T>,
{
    pub(crate) fn new(link: &'a Link, rx: A, take: F) -> Self {
        Self { link, rx, take, place: None, has_yielded: false, vain: None }
    }

    /// Takes, or looks again for a while if that is worth it, and for no longer than `most`. `Pending`
    /// if `limit` is a budget that is used up; then nothing was taken.
    #[inline]
    fn look(&mut self, most: Duration, limit: Limit) -> Poll<Taken<T>> {
        if let Some(reason) = self.link.forked_end(Directions::RX) {
            return Poll::Ready(Err(reason));
        }
        let may_yield = limit == Limit::Budget && !self.has_yielded;
        let taken = self.rx.with(|rx| match may_yield && rx.ends_turn() {
            true => Poll::Pending,
            false => Poll::Ready((self.take)(rx)),
        });
        match taken {
            Poll::Ready(Ok(None)) => Poll::Ready(self.spin(most)),
            taken => taken,
        }
    }

    fn spin(&mut self, most: Duration) -> Taken<T> {
        let Self { link, rx, take, .. } = self;
        if let Some(moment) = rx.with(Rx::pace) {
            let_pass(moment);
        }
        let look = || rx.with(|rx| take(rx)).transpose();
        match link.spin(&link.data_spin, most, look) {
            Ok((taken, time)) => {
                if !time.is_zero() {
                    rx.with(|rx| rx.spend(time));
                }
                taken.map(Some)
            }
            Err(vain) => {
                self.vain = vain;
                Ok(None)
            }
        }
    }

    /// A spin that was in vain is at the thread's expense.
    fn pay(&mut self) {
        if let Some(vain) = self.vain.take() {
            vain.lost();
        }
    }

    /// As the future does, but the place in the queue is the caller's, who polls again later.
    pub(crate) fn poll_in(
        &mut self,
        place: &mut Option<Waiting>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, CloseReason>> {
        // A driver that is parked in spins on, where that keeps nobody waiting.
        let is_parked_in = self.link.driver.get().is_some_and(Registration::is_parked_in);
        let most = if is_parked_in { IN_POLL } else { Duration::MAX };
        let Poll::Ready(mut taken) = self.look(most, Limit::Budget) else {
            self.has_yielded = true;
            // A place in the queue stays as it is, with its wake if it has one.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        if let Ok(None) = taken {
            self.link.data.register(place, cx);
            self.link.rely_on_driver();
            let Self { rx, take, .. } = self;
            let wish = if is_parked_in { self.link.park_spin.wish() } else { None };
            let asked = wish.and_then(|spin| rx.with(|rx| rx.ask_driver_to_spin(spin, take)));
            taken = match asked {
                Some(taken) => {
                    // The driver spins on: ours was the beginning of its own.
                    self.vain = None;
                    taken
                }
                None => {
                    self.pay();
                    self.rx.with(|rx| rx.park(&mut self.take))
                }
            };
        }
        let Some(taken) = taken.transpose() else { return Poll::Pending };
        if place.take().is_some() && self.link.forked().is_none() {
            // We may have been the one of several that was woken, for more than one packet.
            self.link.data.notify_one();
        }
        Poll::Ready(taken)
    }

    /// Sleeps on the bell itself until something is taken. `None` if the deadline passed.
    pub(crate) fn block(mut self, deadline: Option<Instant>) -> Option<Result<T, CloseReason>> {
        let mut vain = VainWakes::new();
        self.link.watch_peer();
        loop {
            // Read before the looks: whatever is published behind them changes it.
            let seen = self.link.before_looking();
            let Poll::Ready(mut taken) = self.look(Duration::MAX, Limit::None) else { continue };
            self.pay();
            if let Ok(None) = taken {
                taken = self.rx.with(|rx| rx.park(&mut self.take));
            }
            if let Some(taken) = taken.transpose() {
                return Some(taken);
            }
            let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
            let timeout = deadline.map(left);
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return None;
            }
            self.link.sleep(seen, timeout, &mut vain);
        }
    }
}

impl<A, F, T> Future for Receiving<'_, A, F>
where
    A: Access<Rx> + Unpin,
    F: FnMut(&mut Rx) -> Taken<T> + Unpin,
{
    type Output = Result<T, CloseReason>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut place = self.place.take();
        let polled = self.poll_in(&mut place, cx);
        self.place = place;
        polled
    }
}

/// Takes what is there. Where a stream has just run dry, that is looked at once more a moment later.
#[inline(always)]
pub(crate) fn take_at_once<T>(
    mut rx: impl Access<Rx>,
    mut take: impl FnMut(&mut Rx) -> Taken<T>,
) -> Taken<T> {
    let taken = rx.with(&mut take)?;
    match taken.is_some() {
        true => Ok(taken),
        false => take_in_a_moment(rx, take),
    }
}

#[cold]
fn take_in_a_moment<T>(mut rx: impl Access<Rx>, take: impl FnMut(&mut Rx) -> Taken<T>) -> Taken<T> {
    let Some(moment) = rx.with(Rx::pace) else { return Ok(None) };
    let_pass(moment);
    rx.with(take)
}

/// A packet or the error of `try_recv`.
#[inline]
pub(crate) fn from_taken<T>(taken: Taken<T>) -> Result<T, TryRecvError> {
    match taken {
        Ok(Some(packet)) => Ok(packet),
        Ok(None) => Err(TryRecvError::Empty),
        Err(reason) => Err(TryRecvError::Closed(reason)),
    }
}

/// A packet or the error of `recv_timeout`.
pub(crate) fn from_timed(
    taken: Option<Result<Bytes, CloseReason>>,
) -> Result<Bytes, RecvTimeoutError> {
    taken.ok_or(RecvTimeoutError::Timeout)?.map_err(RecvTimeoutError::Closed)
}

/// A deadline that the clock cannot express is as good as none.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}
