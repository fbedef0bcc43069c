//! A `send`, `send_batch` or `reserve` under way: its place in the queue, the wait for room, and
//! deadlines.
//!
//! Senders of a whole end wait for room one at a time: the *front* one sleeps by the bell, the
//! others queue for its place. A batch keeps its place until it is through. A half has one sender,
//! and no queue.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::Limit;
use super::ends::Directions;
use super::payload::{AsPayload, Payload};
use super::shared::Channel;
use super::tx::{Attempt, Tx};
use super::wait::{Task, Thread, Wait};
use crate::error::{CloseReason, ShmError, TrySendError};
use crate::sync::{Mutex, lock};
use crate::wake::waiters::Waiting;

/// What a send goes through.
pub(crate) trait SendEnd<'a> {
    fn channel(&self) -> &'a Channel;

    /// Works with the half that sends and with the queue for it. The work must be short and must
    /// not call foreign code.
    fn with<R>(&mut self, work: impl FnOnce(&mut Tx, &mut Places) -> R) -> R;

    /// Sends what has to go first.
    #[inline]
    fn poll_before<W: Wait>(
        &mut self,
        _deadline: &mut Deadline,
        _wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        Poll::Ready(Ok(()))
    }
}

/// Who may wait for room.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Some sender is at the front.
    is_taken: bool,
    /// How many queue behind it.
    queued: usize,
}

impl Places {
    #[inline]
    fn is_free(&self) -> bool {
        !self.is_taken && self.queued == 0
    }

    fn leave_queue(&mut self) {
        self.queued = self.queued.saturating_sub(1);
    }
}

/// The sending half of a whole end, and the queue for it.
#[derive(Debug)]
pub(crate) struct SharedTx {
    tx: Tx,
    places: Places,
}

impl SharedTx {
    pub(crate) fn new(tx: Tx) -> Self {
        Self { tx, places: Places::default() }
    }

    /// Sends at once or not at all, and not before those who wait for room.
    #[inline]
    pub(crate) fn try_send(&mut self, packet: Bytes) -> Result<(), TrySendError> {
        self.tx.try_send_unless(!self.places.is_free(), packet)
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    pub(crate) fn into_tx(self) -> Tx {
        self.tx
    }
}

/// A whole end, which many may send through.
#[derive(Debug)]
pub(crate) struct Whole<'a> {
    pub(crate) channel: &'a Channel,
    pub(crate) tx: &'a Mutex<SharedTx>,
}

impl<'a> SendEnd<'a> for Whole<'a> {
    #[inline]
    fn channel(&self) -> &'a Channel {
        self.channel
    }

    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut Tx, &mut Places) -> R) -> R {
        let SharedTx { tx, places } = &mut *lock(self.tx);
        work(tx, places)
    }
}

/// A half, which one sends through.
#[derive(Debug)]
pub(crate) struct Half<'a> {
    pub(super) channel: &'a Channel,
    pub(super) tx: &'a mut Tx,
}

impl<'a> SendEnd<'a> for Half<'a> {
    #[inline]
    fn channel(&self) -> &'a Channel {
        self.channel
    }

    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut Tx, &mut Places) -> R) -> R {
        work(self.tx, &mut Places::default())
    }
}

/// When a send gives up: settled when it first has to wait, so that one that does not have to
/// need not look at the clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Deadline {
    #[default]
    Unset,
    At(Option<Instant>),
}

impl Deadline {
    /// A `Sink` waits for as long as it takes.
    pub(super) fn never() -> Self {
        Self::At(None)
    }

    fn get(&mut self, channel: &Channel) -> Option<Instant> {
        if let Self::Unset = self {
            // A deadline that the clock cannot express is as good as none.
            *self =
                Self::At(channel.send_timeout.and_then(|after| Instant::now().checked_add(after)));
        }
        match self {
            Self::At(at) => *at,
            Self::Unset => None,
        }
    }

    fn has_passed(&mut self, channel: &Channel) -> bool {
        self.get(channel).is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Where a send stands. It outlives the polls of a `Sink`; a [`SendFuture`] owns one.
#[derive(Debug, Default)]
pub(crate) struct SendState {
    sent: usize,
    standing: Standing,
}

#[derive(Debug, Default)]
enum Standing {
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

/// What the lock was held for.
enum Entered {
    Done(Result<(), CloseReason>),
    Wait,
    /// The budget is used up. It has its place, so that those who come after it stay after it.
    Yields,
}

impl SendState {
    /// Sends all of `payload`; waits for room if there is none.
    #[inline(always)]
    pub(super) fn poll<'a, E: SendEnd<'a>, W: Wait>(
        &mut self,
        end: &mut E,
        payload: Payload<'_>,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        if let Standing::New = self.standing {
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

    /// Goes on after the first attempt.
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

    /// The first attempt; queues or goes to the front if that is not enough.
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
        let Self { sent, standing } = self;
        let channel = end.channel();
        end.with(|tx, places| {
            if !places.is_free() {
                places.queued += 1;
                *standing = Standing::Queued { place: channel.place.join(), news: None };
                return Entered::Wait;
            }
            let entered = if tx.ends_turn(limit) {
                Entered::Yields
            } else {
                match tx.attempt(payload, sent, limit) {
                    Some(done) => {
                        // It was new, which has nothing to drop.
                        std::mem::forget(std::mem::replace(standing, Standing::Done));
                        return Entered::Done(done);
                    }
                    None if tx.ends_turn(limit) => Entered::Yields,
                    None => Entered::Wait,
                }
            };
            places.is_taken = true;
            *standing = Standing::Front { room: None };
            entered
        })
    }

    /// Ready at the front with `None`, or with the end of it all.
    fn poll_place<'a, E: SendEnd<'a>, W: Wait>(
        &mut self,
        end: &mut E,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Option<Result<(), ShmError>>> {
        while let Standing::Queued { place, news } = &mut self.standing {
            let channel = end.channel();
            wait.register(channel, &channel.news, news);
            // Also for threads: of an end that the peer makes, the driver tells those who queue.
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
                    ready!(wait.sleep(channel, deadline.get(channel)));
                }
            }
        }
        Poll::Ready(None)
    }

    /// From the queue to the front, after the notification came; or back into the queue, if
    /// somebody who came just before is at the front, whose end notifies again.
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
        // The former place is dropped here, outside of the lock.
        match (again, &mut self.standing) {
            (Some(again), Standing::Queued { place, .. }) => *place = again,
            (_, standing) => *standing = Standing::Front { room: None },
        }
    }

    /// Attempts at the front, asleep by the bell in between.
    fn poll_room<'a, E: SendEnd<'a>, W: Wait>(
        &mut self,
        end: &mut E,
        payload: Payload<'_>,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        loop {
            let Self { sent, standing: Standing::Front { room } } = self else {
                panic!("a send was polled after it had returned");
            };
            // Whatever happens after the looks ends the sleep.
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
                // With its place among those who wait for room, if it has one, and the wake of
                // that.
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
            end.channel().tell(Directions::TX, reason);
            ShmError::Closed { reason, sent: self.sent }
        })
    }

    fn time_out<'a, E: SendEnd<'a>>(&mut self, end: &mut E) -> Result<(), ShmError> {
        self.leave(end);
        Err(ShmError::TimedOut { sent: self.sent })
    }

    /// Gives the place at the front, or in the queue, to the next.
    #[inline]
    pub(super) fn leave<'a, E: SendEnd<'a>>(&mut self, end: &mut E) {
        if !matches!(self.standing, Standing::New | Standing::Done) {
            self.give_place(end);
        }
    }

    fn give_place<'a, E: SendEnd<'a>>(&mut self, end: &mut E) {
        let standing = std::mem::replace(&mut self.standing, Standing::Done);
        if end.channel().forked().is_some() {
            // The bit and the place are the parent's.
            return;
        }
        match standing {
            Standing::New | Standing::Done => {}
            Standing::Queued { place, .. } => {
                end.with(|_, places| places.leave_queue());
                // Outside of the lock: if it was notified, the next one's waker is called.
                drop(place);
            }
            Standing::Front { room } => {
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

/// A `send`, `send_batch` or `reserve` under way.
///
/// Dropped before it is done, it gives its place to the next.
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

    #[inline(always)]
    pub(super) fn poll_with<W: Wait>(&mut self, wait: &mut W) -> Poll<Result<(), ShmError>> {
        let Self { end, payload, state, deadline, .. } = self;
        ready!(end.poll_before(deadline, wait))?;
        state.poll(end, payload.as_payload(), deadline, wait)
    }

    /// What it goes through.
    pub(super) fn end(&mut self) -> &mut E {
        &mut self.end
    }

    /// It was ready. Sends the same once more, within the same deadline.
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

/// Attempts to send what is left, and again as long as that makes headway or spinning is worth it,
/// and `limit` allows it.
fn attempt_for_a_while<'a, E: SendEnd<'a>>(
    end: &mut E,
    payload: Payload<'_>,
    sent: &mut usize,
    limit: Limit,
) -> Option<Attempt> {
    // `Err` with what was sent so far if that is not all.
    let attempt = |tx: &mut Tx, sent: &mut usize| match tx.attempt(payload, sent, limit) {
        Some(done) => Ok(Attempt::Done(done)),
        None if tx.ends_turn(limit) => Ok(Attempt::Yields),
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
                end.with(|tx, _| tx.spend(time));
                match attempted {
                    Ok(attempted) => return Some(attempted),
                    Err(sent) => before = sent,
                }
            }
            Err(vain) => {
                if let Some(vain) = vain {
                    vain.lost();
                }
                return None;
            }
        }
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
