//! A `send`, `send_batch` or `reserve` under way: queueing for the turn, waiting for room and for
//! deadlines.
//!
//! Senders of one end wait for room one at a time: the one whose *turn* it is sleeps by the bell,
//! the others queue for the turn. A batch keeps its turn until it is through.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::budget::Limit;
use super::ends::Directions;
use super::payload::Cargo;
use super::shared::Link;
use super::spurious_wakes::VainWakes;
use super::tx::{Attempt, Tx};
use super::with_mut::Access;
use crate::error::{CloseReason, ShmError};
use crate::wake::waiters::Waiting;

/// A `send`, `send_batch` or `reserve` under way.
///
/// Dropped before it is done, it gives its turn or its place in the queue on.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Sending<'a, A: Access<Tx>, P> {
    link: &'a Link,
    tx: A,
    cargo: P,
    sent: usize,
    standing: Standing,
    deadline: Deadline,
}

/// Where a send stands.
enum Standing {
    New,
    /// Waits for the turn, and for its own deadline.
    Queued {
        turn: Waiting,
        news: Option<Waiting>,
    },
    /// Has the turn and waits for room.
    Turn {
        room: Option<Waiting>,
    },
    Done,
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
    fn get(&mut self, link: &Link) -> Option<Instant> {
        if let Self::Unset = self {
            // A deadline that the clock cannot express is as good as none.
            *self = Self::At(link.send_timeout.and_then(|after| Instant::now().checked_add(after)));
        }
        match self {
            Self::At(at) => *at,
            Self::Unset => None,
        }
    }
}

/// What the lock was held for.
enum Entered {
    Done(Result<(), CloseReason>),
    Wait,
    /// The budget is used up. It has the turn, so that those who come after it stay behind it.
    Yields,
}

impl<'a, A: Access<Tx>, P: Cargo> Sending<'a, A, P> {
    pub(crate) fn new(link: &'a Link, tx: A, cargo: P) -> Self {
        Self::before(Deadline::Unset, link, tx, cargo)
    }

    /// As [`new`](Self::new), as a part of something that has a deadline already.
    pub(crate) fn before(deadline: Deadline, link: &'a Link, tx: A, cargo: P) -> Self {
        Self { link, tx, cargo, sent: 0, standing: Standing::New, deadline }
    }

    /// When it gives up, or gave up.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn too_large(&self) -> Option<ShmError> {
        let max = self.link.region().geometry().max_packet();
        let mut lengths = (0..self.cargo.count()).map(|packet| self.cargo.len_of(packet));
        let len = lengths.find(|len| *len > max)?;
        Some(ShmError::PacketTooLarge { len, max })
    }

    /// The first attempt; joins the queue or takes the turn if that is not enough.
    fn enter(&mut self, limit: Limit) -> Entered {
        if let Some(reason) = self.link.forked_end(Directions::TX) {
            return Entered::Done(Err(reason));
        }
        let Self { link, tx, cargo, sent, standing, .. } = self;
        tx.with(|tx| {
            if !tx.turn.is_free() {
                tx.turn.queued += 1;
                *standing = Standing::Queued { turn: link.turn.join(), news: None };
                return Entered::Wait;
            }
            let entered = if tx.ends_turn(limit) {
                Entered::Yields
            } else {
                match tx.attempt(cargo, sent, limit) {
                    Some(done) => return Entered::Done(done),
                    None if tx.ends_turn(limit) => Entered::Yields,
                    None => Entered::Wait,
                }
            };
            tx.turn.taken = true;
            *standing = Standing::Turn { room: None };
            entered
        })
    }

    /// From the queue to the turn, after the queue's notification came. `false` if somebody who came
    /// just before it has the turn, whose end notifies again.
    fn take_turn(&mut self) -> bool {
        let Self { link, tx, standing, .. } = self;
        let again = tx.with(|tx| {
            if tx.turn.taken {
                return Some(link.turn.join());
            }
            tx.turn.queued = tx.turn.queued.saturating_sub(1);
            tx.turn.taken = true;
            None
        });
        let is_ours = again.is_none();
        // The former place is dropped here, outside of the lock.
        match (again, standing) {
            (Some(again), Standing::Queued { turn, .. }) => *turn = again,
            (_, standing) => *standing = Standing::Turn { room: None },
        }
        is_ours
    }

    fn finish(&mut self, done: Result<(), CloseReason>) -> Result<(), ShmError> {
        self.leave();
        done.map_err(|reason| {
            self.link.tell(Directions::TX, reason);
            ShmError::Closed { reason, sent: self.sent }
        })
    }

    fn time_out(&mut self) -> Result<(), ShmError> {
        self.leave();
        Err(ShmError::TimedOut { sent: self.sent })
    }

    fn is_late(&mut self) -> bool {
        self.deadline.get(self.link).is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        if let Standing::New = self.standing {
            if let Some(error) = self.too_large() {
                return Poll::Ready(Err(error));
            }
            match self.enter(Limit::Budget) {
                Entered::Done(done) => return Poll::Ready(self.finish(done)),
                Entered::Yields => return wake_again(cx),
                Entered::Wait => {}
            }
        }
        if let Some(reason) = self.link.forked_end(Directions::TX) {
            return Poll::Ready(self.finish(Err(reason)));
        }
        if self.poll_turn(cx).is_pending() {
            return self.pend(None);
        }
        match self.poll_room(cx) {
            Attempt::Done(done) => Poll::Ready(self.finish(done)),
            Attempt::Parked { look_again } => self.pend(look_again),
            // With its place among those who wait for room, if it has one, and the wake of that.
            Attempt::Yields => wake_again(cx),
        }
    }

    /// Ready with the turn, or when the channel has ended.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Standing::Queued { news, .. } = &mut self.standing else { return Poll::Ready(()) };
        self.link.news.register(news, cx);
        while let Standing::Queued { turn, .. } = &mut self.standing
            && turn.poll(cx).is_ready()
        {
            if self.take_turn() {
                return Poll::Ready(());
            }
        }
        self.link.rely_on_driver();
        // Joined before this look, so an end that comes behind it notifies us.
        if self.link.tx_end().is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// One attempt with the turn; asleep by the bell if it fails.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Attempt {
        let Self { link, tx, cargo, sent, standing, .. } = self;
        let room = match standing {
            Standing::Turn { room } => room,
            Standing::New | Standing::Queued { .. } => return ended_in_queue(link),
            Standing::Done => panic!("a send was polled after it had returned"),
        };
        if let Some(attempt) = attempt_for_a_while(link, tx, cargo, sent, Limit::Budget) {
            return attempt;
        }
        link.room.register(room, cx);
        link.rely_on_driver();
        tx.with(|tx| tx.park(cargo, sent, Limit::Budget))
    }

    /// Asks the driver for what this send has to be woken for besides the bell.
    fn pend(&mut self, look_again: Option<Duration>) -> Poll<Result<(), ShmError>> {
        if self.is_late() {
            return Poll::Ready(self.time_out());
        }
        let deadline = self.deadline.get(self.link);
        let look = look_again.map(|after| Instant::now() + after);
        if let Some(at) = earlier(deadline, look) {
            self.link.alarm(at);
        }
        Poll::Pending
    }

    /// Sends on this thread, which sleeps on the bell itself.
    pub(crate) fn block(mut self) -> Result<(), ShmError> {
        self.block_on()
    }

    /// As [`block`](Self::block), for a caller that has a question afterwards.
    pub(crate) fn block_on(&mut self) -> Result<(), ShmError> {
        if let Some(error) = self.too_large() {
            return Err(error);
        }
        if let Entered::Done(done) = self.enter(Limit::None) {
            return self.finish(done);
        }
        if !self.block_for_turn() {
            return self.time_out();
        }
        let mut vain = VainWakes::new();
        loop {
            // Read before the looks: whatever happens behind them changes it.
            let seen = self.link.before_looking();
            let look_again = match self.attempt_or_park() {
                Attempt::Done(done) => return self.finish(done),
                Attempt::Parked { look_again } => look_again,
                Attempt::Yields => continue,
            };
            if self.is_late() {
                return self.time_out();
            }
            let now = Instant::now();
            let look = look_again.map(|after| now + after);
            let until = earlier(self.deadline.get(self.link), look);
            let timeout = until.map(|until| until.saturating_duration_since(now));
            self.link.sleep(seen, timeout, &mut vain);
        }
    }

    /// `false` if the deadline passed.
    fn block_for_turn(&mut self) -> bool {
        let deadline = self.deadline.get(self.link);
        while let Standing::Queued { turn, .. } = &mut self.standing {
            // Of an end that the peer makes, the driver tells those who wait for their turn.
            self.link.rely_on_driver();
            if self.link.tx_end().is_some() {
                return true;
            }
            self.link.prepare_to_block();
            if !turn.wait_until(deadline) {
                return false;
            }
            if self.take_turn() {
                break;
            }
        }
        true
    }

    fn attempt_or_park(&mut self) -> Attempt {
        let Self { link, tx, cargo, sent, standing, .. } = self;
        if let Standing::Queued { .. } = standing {
            return ended_in_queue(link);
        }
        if let Some(attempt) = attempt_for_a_while(link, tx, cargo, sent, Limit::None) {
            return attempt;
        }
        tx.with(|tx| tx.park(cargo, sent, Limit::None))
    }
}

impl<A: Access<Tx> + Unpin, P: Cargo + Unpin> Future for Sending<'_, A, P> {
    type Output = Result<(), ShmError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_send(cx)
    }
}

impl<A: Access<Tx>, P> Sending<'_, A, P> {
    /// Gives the turn, or the place in the queue, to the next.
    fn leave(&mut self) {
        if matches!(self.standing, Standing::New | Standing::Done) {
            return;
        }
        if self.link.forked().is_some() {
            // The bit and the turn are the parent's.
            self.standing = Standing::Done;
            return;
        }
        match std::mem::replace(&mut self.standing, Standing::Done) {
            Standing::New | Standing::Done => {}
            Standing::Queued { turn, .. } => {
                self.tx.with(|tx| tx.turn.queued = tx.turn.queued.saturating_sub(1));
                // Outside of the lock: if it was notified, the next one's waker is called.
                drop(turn);
            }
            Standing::Turn { room } => {
                self.tx.with(|tx| {
                    tx.stop_waiting();
                    tx.turn.taken = false;
                });
                drop(room);
                self.link.turn.notify_one();
            }
        }
    }
}

impl<A: Access<Tx>, P> Drop for Sending<'_, A, P> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The channel ended while the caller queued. An end that was seen stays.
fn ended_in_queue(link: &Link) -> Attempt {
    Attempt::Done(Err(link.tx_end().unwrap_or(CloseReason::Local)))
}

/// A future that could go on lets others run: it is polled again as soon as they have.
fn wake_again<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Attempts to send what is left, and again as long as that makes headway or spinning is worth it, and
/// `limit` allows it.
fn attempt_for_a_while(
    link: &Link,
    tx: &mut impl Access<Tx>,
    cargo: &impl Cargo,
    sent: &mut usize,
    limit: Limit,
) -> Option<Attempt> {
    // `Err` with what was sent so far if that is not all.
    let attempt = |tx: &mut Tx, sent: &mut usize| match tx.attempt(cargo, sent, limit) {
        Some(done) => Ok(Attempt::Done(done)),
        None if tx.ends_turn(limit) => Ok(Attempt::Yields),
        None => Err(*sent),
    };
    let mut before = match tx.with(|tx| attempt(tx, sent)) {
        Ok(attempted) => return Some(attempted),
        Err(sent) => sent,
    };
    loop {
        let headway = |attempted: &Result<_, usize>| *attempted != Err(before);
        let mut look = || Some(tx.with(|tx| attempt(tx, sent))).filter(headway);
        match link.spin(&link.room_spin, Duration::MAX, &mut look) {
            Ok((attempted, time)) => {
                tx.with(|tx| tx.spend(time));
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
