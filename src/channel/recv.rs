//! A receive under way: waiting for packets, as a task or as a thread.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::Limit;
use super::ends::Directions;
use super::rx::{Rx, Taken};
use super::shared::Channel;
use super::wait::{Task, Thread, Wait};
use super::with_mut::WithMut;
use crate::driver::Registration;
use crate::error::{CloseReason, RecvTimeoutError, TryRecvError};
use crate::wake::pace::pause_for;
use crate::wake::spin::{IN_POLL, Spinning};
use crate::wake::waiters::Waiting;

/// A receive under way. Takes with `take`, and sleeps while that finds nothing.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct RecvFuture<'a, A, F> {
    channel: &'a Channel,
    rx: A,
    take: F,
    place: Option<Waiting>,
    /// It has yielded because the budget was used up. Once is enough: another task of this end may
    /// use up the next budget as well.
    has_yielded: bool,
    /// A spin without effect that is not yet accounted to the thread.
    uncharged: Option<Spinning>,
}

impl<'a, A, F, T> RecvFuture<'a, A, F>
where
    A: WithMut<Rx>,
    F: FnMut(&mut Rx) -> Taken<T>,
{
    pub(crate) fn new(channel: &'a Channel, rx: A, take: F) -> Self {
        Self { channel, rx, take, place: None, has_yielded: false, uncharged: None }
    }

    /// Takes, or looks again for a while if that is worth it. Returns `Pending` if the budget is
    /// used up; then nothing was taken.
    #[inline(always)]
    fn look<W: Wait>(&mut self) -> Poll<Taken<T>> {
        if let Some(reason) = self.channel.forked_end(Directions::RX) {
            return Poll::Ready(Err(reason));
        }
        let may_yield = W::LIMIT == Limit::Budget && !self.has_yielded;
        let taken = self.rx.with(|rx| match may_yield && rx.must_yield() {
            true => Poll::Pending,
            false => Poll::Ready((self.take)(rx)),
        });
        match taken {
            Poll::Ready(Ok(None)) if self.channel.data_spin.is_on() => {
                Poll::Ready(self.spin::<W>())
            }
            taken => taken,
        }
    }

    /// Looks again for a while, if that is worth it.
    #[inline(never)]
    fn spin<W: Wait>(&mut self) -> Taken<T> {
        if W::LIMIT == Limit::Budget && self.rx.with(|rx| rx.is_looking_again()) {
            // Other tasks run between two looks.
            return Ok(None);
        }
        let most = if self.spins_on::<W>() { IN_POLL } else { Duration::MAX };
        let Self { channel, rx, take, .. } = self;
        if let Some(pause) = rx.with(Rx::pace) {
            pause_for(pause);
        }
        let look = || {
            rx.with(|rx| {
                let taken = take(rx).transpose();
                if taken.is_some() {
                    rx.note_paid_spin();
                }
                taken
            })
        };
        match channel.spin(&channel.data_spin, most, look) {
            Ok((taken, time)) => {
                if !time.is_zero() {
                    rx.with(|rx| rx.spend(time));
                }
                taken.map(Some)
            }
            Err(uncharged) => {
                self.uncharged = uncharged;
                Ok(None)
            }
        }
    }

    /// Accounts a spin without effect to the thread.
    fn charge_spin(&mut self) {
        if let Some(uncharged) = self.uncharged.take() {
            uncharged.charge();
        }
    }

    /// Polls like the future, with a place in the queue that belongs to the caller, who polls again
    /// later.
    pub(crate) fn poll_in(
        &mut self,
        place: &mut Option<Waiting>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, CloseReason>> {
        match ready!(self.poll_with(place, None, &mut Task(cx))) {
            Some(taken) => Poll::Ready(taken),
            // Without a deadline none passes.
            None => Poll::Pending,
        }
    }

    /// Takes, or waits. `None` if the deadline passed. The place in the queue belongs to the
    /// caller, who polls again later.
    #[inline]
    pub(crate) fn poll_with<W: Wait>(
        &mut self,
        place: &mut Option<Waiting>,
        deadline: Option<Instant>,
        wait: &mut W,
    ) -> Poll<Option<Result<T, CloseReason>>> {
        // Anything published after the looks ends the sleep.
        wait.before_looking(self.channel);
        match self.look::<W>() {
            Poll::Ready(Ok(Some(taken))) if place.is_none() => Poll::Ready(Some(Ok(taken))),
            looked => self.wait_with(looked, place, deadline, wait),
        }
    }

    /// Continues after the first look.
    #[inline(never)]
    fn wait_with<W: Wait>(
        &mut self,
        mut looked: Poll<Taken<T>>,
        place: &mut Option<Waiting>,
        deadline: Option<Instant>,
        wait: &mut W,
    ) -> Poll<Option<Result<T, CloseReason>>> {
        loop {
            match looked {
                Poll::Pending => {
                    self.has_yielded = true;
                    // Its place in the queue stays as it is, with its wake if it has one.
                    ready!(wait.yield_now());
                }
                Poll::Ready(mut taken) => {
                    if let Ok(None) = taken {
                        if W::LIMIT == Limit::Budget
                            && self.channel.data_spin.is_on()
                            && self.rx.with(Rx::looks_once_more)
                        {
                            self.charge_spin();
                            // Its place in the queue, if it has one, stays as it is.
                            ready!(wait.yield_now());
                        }
                        wait.register(self.channel, &self.channel.data, place);
                        taken = self.look_at_last::<W>();
                    }
                    if let Some(taken) = taken.transpose() {
                        if let Some(place) = place.take() {
                            // We may be the only one of several receivers that was woken, for more
                            // than one packet.
                            place.pass_on();
                        }
                        return Poll::Ready(Some(taken));
                    }
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Poll::Ready(None);
                    }
                    ready!(wait.sleep(self.channel, deadline));
                }
            }
            wait.before_looking(self.channel);
            looked = self.look::<W>();
        }
    }

    /// Whether the driver continues the spin. It does if the task's thread parks in the driver,
    /// where the spin delays nobody.
    fn spins_on<W: Wait>(&self) -> bool {
        W::LIMIT == Limit::Budget
            && self.channel.driver.get().is_some_and(Registration::is_parked_in)
    }

    /// Parks with a last look, or has the driver spin.
    fn look_at_last<W: Wait>(&mut self) -> Taken<T> {
        let spin = if self.spins_on::<W>() { self.channel.park_spin.next_spin() } else { None };
        let Self { rx, take, .. } = self;
        if let Some(taken) = spin.and_then(|spin| rx.with(|rx| rx.ask_driver_to_spin(spin, take))) {
            // The driver continues the spin: ours was the beginning of its own.
            self.uncharged = None;
            return taken;
        }
        self.charge_spin();
        self.rx.with(|rx| rx.park(&mut self.take))
    }

    /// Sleeps on the bell itself until something is taken. `None` if the deadline passed.
    pub(crate) fn block(mut self, deadline: Option<Instant>) -> Option<Result<T, CloseReason>> {
        self.channel.watch_peer();
        Thread::block(|wait| self.poll_with(&mut None, deadline, wait))
    }
}

impl<A, F, T> Future for RecvFuture<'_, A, F>
where
    A: WithMut<Rx> + Unpin,
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

/// Takes what is there. If a stream has just run dry, looks once more a moment later.
#[inline(always)]
pub(crate) fn take_at_once<T>(
    mut rx: impl WithMut<Rx>,
    mut take: impl FnMut(&mut Rx) -> Taken<T>,
) -> Taken<T> {
    let taken = rx.with(&mut take)?;
    match taken.is_some() {
        true => Ok(taken),
        false => take_in_a_moment(rx, take),
    }
}

#[cold]
fn take_in_a_moment<T>(
    mut rx: impl WithMut<Rx>,
    take: impl FnMut(&mut Rx) -> Taken<T>,
) -> Taken<T> {
    let Some(pause) = rx.with(Rx::pace) else { return Ok(None) };
    pause_for(pause);
    rx.with(take)
}

/// Returns a packet or the error of `try_recv`.
#[inline]
pub(crate) fn from_taken<T>(taken: Taken<T>) -> Result<T, TryRecvError> {
    match taken {
        Ok(Some(packet)) => Ok(packet),
        Ok(None) => Err(TryRecvError::Empty),
        Err(reason) => Err(TryRecvError::Closed(reason)),
    }
}

/// Returns a packet or the error of `recv_timeout`.
pub(crate) fn from_timed(
    taken: Option<Result<Bytes, CloseReason>>,
) -> Result<Bytes, RecvTimeoutError> {
    taken.ok_or(RecvTimeoutError::Timeout)?.map_err(RecvTimeoutError::Closed)
}
