//! A `send`, `send_batch` or `reserve` under way: its place in the queue, the wait for room, and
//! deadlines.
//!
//! Senders of a whole end wait for room one at a time: the *front* one sleeps by the bell, the
//! others queue for its place. A batch keeps its place until all of it is sent. A half has one
//! sender, and no queue.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::Limit;
use super::deadline::{Deadline, earlier};
use super::ends::Directions;
use super::payload::{AsPayload, Payload};
use super::send_end::SendEnd;
use super::shared::Channel;
use super::tx::{Attempt, Tx};
use super::wait::{Task, Thread, Wait};
use crate::error::{CloseReason, ShmError};
use crate::wake::waiters::Waiting;

/// The progress of a send. That of a `Sink` outlives its polls; a [`SendFuture`] owns its own.
#[derive(Debug, Default)]
pub(crate) struct SendState {
    sent: usize,
    phase: Phase,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    New,
    /// Waits for its place, and for its own deadline.
    Queued {
        place: Waiting,
        news: Option<Waiting>,
    },
    /// Waits for room, before all others.
    Front {
        room: Option<Waiting>,
    },
    Done,
}

/// The result of a first attempt.
enum Entered {
    Done(Result<(), CloseReason>),
    Wait,
    /// The budget is used up. The send has its place, so that later senders stay after it.
    Yields,
}

impl SendState {
    /// Sends all of `payload`. Waits for room if there is none.
    #[inline(always)]
    pub(super) fn poll<'a, E: SendEnd<'a>, W: Wait>(
        &mut self,
        end: &mut E,
        payload: Payload<'_>,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        if let Phase::New = self.phase {
            let max = end.channel().region().geometry().max_packet();
            if let Some(len) = payload.longer_than(max) {
                return Poll::Ready(Err(ShmError::PacketTooLarge { len, max }));
            }
            match self.enter(end, payload, W::LIMIT) {
                Entered::Done(done) => return Poll::Ready(self.finish(end, done)),
                Entered::Yields => ready!(wait.yield_now()),
                Entered::Wait => {}
            }
        }
        self.poll_waiting(end, payload, deadline, wait)
    }

    /// Continues after the first attempt.
    #[inline(never)]
    fn poll_waiting<'a, E: SendEnd<'a>, W: Wait>(
        &mut self,
        end: &mut E,
        payload: Payload<'_>,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        if let Some(reason) = end.channel().forked_end(Directions::TX) {
            return Poll::Ready(self.finish(end, Err(reason)));
        }
        if let Some(done) = ready!(self.poll_place(end, deadline, wait)) {
            return Poll::Ready(done);
        }
        self.poll_room(end, payload, deadline, wait)
    }

    /// Makes the first attempt. If that does not send everything, queues or goes to the front.
    #[inline]
    fn enter<'a, E: SendEnd<'a>>(
        &mut self,
        end: &mut E,
        payload: Payload<'_>,
        limit: Limit,
    ) -> Entered {
        if let Some(reason) = end.channel().forked_end(Directions::TX) {
            return Entered::Done(Err(reason));
        }
        let Self { sent, phase } = self;
        let channel = end.channel();
        end.with(|tx, places| {
            if !places.is_free() {
                places.queued += 1;
                *phase = Phase::Queued { place: channel.place.join(), news: None };
                return Entered::Wait;
            }
            let entered = if tx.must_yield(limit) {
                Entered::Yields
            } else {
                match tx.attempt(payload, sent, limit) {
                    Some(done) => {
                        // It was `New`, which has nothing to drop.
                        std::mem::forget(std::mem::replace(phase, Phase::Done));
                        return Entered::Done(done);
                    }
                    None if tx.must_yield(limit) => Entered::Yields,
                    None => Entered::Wait,
                }
            };
            places.is_taken = true;
            *phase = Phase::Front { room: None };
            entered
        })
    }

    /// Waits for the place at the front. Ready with `None` there, or with the outcome of the send
    /// if that ends first.
    fn poll_place<'a, E: SendEnd<'a>, W: Wait>(
        &mut self,
        end: &mut E,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Option<Result<(), ShmError>>> {
        while let Phase::Queued { place, news } = &mut self.phase {
            let channel = end.channel();
            wait.register(channel, &channel.news, news);
            // Also for threads: if the peer causes the end, the driver wakes those who queue.
            channel.rely_on_driver();
            // Registered before this look, so that an end after it wakes the caller.
            if let Some(reason) = channel.tx_end() {
                return Poll::Ready(Some(self.finish(end, Err(reason))));
            }
            match wait.wait_for_place(channel, place, deadline.get(channel)) {
                Poll::Ready(true) => self.take_place(end),
                Poll::Ready(false) => return Poll::Ready(Some(self.time_out(end))),
                Poll::Pending if deadline.has_passed(channel) => {
                    return Poll::Ready(Some(self.time_out(end)));
                }
                Poll::Pending => {
                    let at = deadline.get(channel);
                    if let Some(at) = at {
                        // Before the driver is asked: its timer then finds the deadline.
                        channel.queue_deadline.note(at);
                    }
                    ready!(wait.sleep(channel, at));
                }
            }
        }
        Poll::Ready(None)
    }

    /// Goes from the queue to the front after a notification. Queues again if a sender that came
    /// just before is at the front; when that leaves the front, it notifies again.
    fn take_place<'a, E: SendEnd<'a>>(&mut self, end: &mut E) {
        let channel = end.channel();
        let again = end.with(|_, places| {
            if places.is_taken {
                return Some(channel.place.join());
            }
            places.leave_queue();
            places.is_taken = true;
            None
        });
        // The former place is dropped here, outside the lock.
        match (again, &mut self.phase) {
            (Some(again), Phase::Queued { place, .. }) => *place = again,
            (_, phase) => *phase = Phase::Front { room: None },
        }
    }

    /// Attempts to send at the front, and sleeps by the bell in between.
    fn poll_room<'a, E: SendEnd<'a>, W: Wait>(
        &mut self,
        end: &mut E,
        payload: Payload<'_>,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        loop {
            let Self { sent, phase: Phase::Front { room } } = self else {
                panic!("a send was polled after it had returned");
            };
            // Anything that happens after the looks ends the sleep.
            wait.before_looking(end.channel());
            let attempt = match attempt_for_a_while(end, payload, sent, W::LIMIT) {
                Some(attempt) => attempt,
                None => {
                    wait.register(end.channel(), &end.channel().room, room);
                    end.with(|tx, _| tx.park(payload, sent, W::LIMIT))
                }
            };
            match attempt {
                Attempt::Done(done) => return Poll::Ready(self.finish(end, done)),
                // It keeps its place among those that wait for room, if it has one, and the wake of
                // that place.
                Attempt::Yields => ready!(wait.yield_now()),
                Attempt::Parked { look_again } => {
                    let channel = end.channel();
                    if deadline.has_passed(channel) {
                        return Poll::Ready(self.time_out(end));
                    }
                    let look = look_again.map(|after| Instant::now() + after);
                    ready!(wait.sleep(channel, earlier(deadline.get(channel), look)));
                }
            }
        }
    }

    #[inline]
    fn finish<'a, E: SendEnd<'a>>(
        &mut self,
        end: &mut E,
        done: Result<(), CloseReason>,
    ) -> Result<(), ShmError> {
        self.leave(end);
        done.map_err(|reason| {
            end.channel().note_returned(Directions::TX, reason);
            ShmError::Closed { reason, sent: self.sent }
        })
    }

    fn time_out<'a, E: SendEnd<'a>>(&mut self, end: &mut E) -> Result<(), ShmError> {
        self.leave(end);
        Err(ShmError::TimedOut { sent: self.sent })
    }

    /// Gives the place at the front, or in the queue, to the next sender.
    #[inline]
    pub(super) fn leave<'a, E: SendEnd<'a>>(&mut self, end: &mut E) {
        if !matches!(self.phase, Phase::New | Phase::Done) {
            self.give_place(end);
        }
    }

    fn give_place<'a, E: SendEnd<'a>>(&mut self, end: &mut E) {
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        if end.channel().forked().is_some() {
            // The bit and the place are the parent's.
            return;
        }
        match phase {
            Phase::New | Phase::Done => {}
            Phase::Queued { place, .. } => {
                end.with(|_, places| places.leave_queue());
                // Outside the lock: if it was notified, the next sender's waker is called.
                drop(place);
            }
            Phase::Front { room } => {
                end.with(|tx, places| {
                    tx.stop_waiting();
                    places.is_taken = false;
                });
                drop(room);
                end.channel().place.notify_one();
            }
        }
    }
}

/// Sends a packet, and waits for room if there is none. In the usual case, it makes no
/// [`SendFuture`].
#[inline]
pub(crate) fn send<'a>(
    mut end: impl SendEnd<'a> + Unpin,
    packet: Bytes,
    deadline: Deadline,
) -> impl Future<Output = Result<(), ShmError>> {
    // Not an `async fn`, which would move its arguments once more.
    async move {
        if end.send_now(&packet, Limit::Budget) {
            return Ok(());
        }
        SendFuture::new(end, [packet]).until(deadline).await
    }
}

/// Like [`send`], but blocks the thread.
pub(crate) fn send_blocking<'a>(
    mut end: impl SendEnd<'a>,
    packet: Bytes,
    deadline: Deadline,
) -> Result<(), ShmError> {
    if end.send_now(&packet, Limit::None) {
        return Ok(());
    }
    SendFuture::new(end, [packet]).until(deadline).block()
}

/// A `send`, `send_batch` or `reserve` under way.
///
/// If it is dropped before it is done, it gives its place to the next sender.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub(crate) struct SendFuture<'a, E: SendEnd<'a>, P> {
    end: E,
    payload: P,
    state: SendState,
    deadline: Deadline,
    channel: PhantomData<&'a Channel>,
}

impl<'a, E: SendEnd<'a>, P: AsPayload> SendFuture<'a, E, P> {
    pub(crate) fn new(end: E, payload: P) -> Self {
        let (state, deadline) = (SendState::default(), Deadline::Unset);
        Self { end, payload, state, deadline, channel: PhantomData }
    }

    /// Sets when it gives up.
    fn until(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline;
        self
    }

    #[inline(always)]
    pub(super) fn poll_with<W: Wait>(&mut self, wait: &mut W) -> Poll<Result<(), ShmError>> {
        let Self { end, payload, state, deadline, .. } = self;
        ready!(end.poll_before(deadline, wait))?;
        state.poll(end, payload.as_payload(), deadline, wait)
    }

    /// Returns what it sends through.
    pub(super) fn end(&mut self) -> &mut E {
        &mut self.end
    }

    /// Resets a future that was ready, to send the same again within the same deadline.
    pub(super) fn begin_again(&mut self) {
        self.state = SendState::default();
    }

    /// Sends on this thread, which sleeps on the bell itself.
    pub(crate) fn block(mut self) -> Result<(), ShmError> {
        Thread::block(|wait| self.poll_with(wait))
    }
}

impl<'a, E: SendEnd<'a> + Unpin, P: AsPayload + Unpin> Future for SendFuture<'a, E, P> {
    type Output = Result<(), ShmError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(&mut Task(cx))
    }
}

impl<'a, E: SendEnd<'a>, P> Drop for SendFuture<'a, E, P> {
    fn drop(&mut self) {
        self.state.leave(&mut self.end);
    }
}

/// Attempts to send what is left, and repeats that as long as it makes progress or spinning is
/// worth it, and `limit` allows it.
fn attempt_for_a_while<'a, E: SendEnd<'a>>(
    end: &mut E,
    payload: Payload<'_>,
    sent: &mut usize,
    limit: Limit,
) -> Option<Attempt> {
    // `Err` holds what was sent so far, if that is not everything.
    let attempt = |tx: &mut Tx, sent: &mut usize| match tx.attempt(payload, sent, limit) {
        Some(done) => Ok(Attempt::Done(done)),
        None if tx.must_yield(limit) => Ok(Attempt::Yields),
        None => Err(*sent),
    };
    let mut before = match end.with(|tx, _| attempt(tx, sent)) {
        Ok(attempted) => return Some(attempted),
        Err(sent) => sent,
    };
    let channel = end.channel();
    loop {
        let headway = |attempted: &Result<_, usize>| *attempted != Err(before);
        let mut look = || Some(end.with(|tx, _| attempt(tx, sent))).filter(headway);
        match channel.spin(&channel.room_spin, Duration::MAX, &mut look) {
            Ok((attempted, time)) => {
                end.with(|tx, _| tx.note_paid_spin(time));
                match attempted {
                    Ok(attempted) => return Some(attempted),
                    Err(sent) => before = sent,
                }
            }
            Err(uncharged) => {
                if let Some(uncharged) = uncharged {
                    uncharged.charge();
                }
                return None;
            }
        }
    }
}
