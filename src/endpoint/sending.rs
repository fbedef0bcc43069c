//! Putting packets in, queueing for room, and waiting for it.
//!
//! Senders of one end wait for room one at a time: the one whose *turn* it is sleeps by the bell,
//! the others queue for the turn. A batch keeps its turn until it is through.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::access::Access;
use super::counters::bump;
use super::link::{Link, VainWakes};
use super::receiving::register;
use crate::error::{CloseReason, ShmError, TrySendError};
use crate::layout::{RECV, SEND, TX_CLOSED};
use crate::ring::{LOOK_AGAIN_AFTER, Producer};
use crate::sync::{Arc, Ordering};
use crate::waiters::Waiting;

/// The sending half of an end. Dropped, it tells the peer that nothing more will come.
#[derive(Debug)]
pub(crate) struct Tx {
    link: Arc<Link>,
    producer: Producer,
    turn: Turn,
}

/// Who may wait for room.
#[derive(Debug, Default)]
struct Turn {
    /// Some sender has the turn.
    taken: bool,
    /// So many queue for it.
    queued: usize,
}

impl Turn {
    fn is_free(&self) -> bool {
        !self.taken && self.queued == 0
    }
}

/// What became of an attempt to send.
enum Attempt {
    Done(Result<(), CloseReason>),
    /// The caller sleeps until the bell rings. `look_again`: but not longer than a moment.
    Parked {
        look_again: bool,
    },
}

impl Tx {
    pub(super) fn new(link: &Arc<Link>) -> Self {
        let producer = Producer::new(link.region(), link.side());
        Self { link: link.clone(), producer, turn: Turn::default() }
    }

    /// Forgets the turn of a send that was leaked. For a half, whose sends cannot overlap.
    pub(crate) fn reset_turn(&mut self) {
        self.turn = Turn::default();
    }

    /// Sends at once or not at all.
    pub(crate) fn try_send(&mut self, packet: Bytes) -> Result<(), TrySendError> {
        let max = self.producer.max_packet();
        if packet.len() > max {
            return Err(TrySendError::TooLarge(packet, max));
        }
        if let Some(reason) = self.link.tx_end() {
            self.link.settle(reason);
            return Err(TrySendError::Closed(packet, reason));
        }
        if !self.turn.is_free() {
            return Err(TrySendError::Full(packet));
        }
        match self.offer_at_last(std::slice::from_ref(&packet)) {
            Ok(0) => Err(TrySendError::Full(packet)),
            Ok(_) => Ok(()),
            Err(reason) => Err(TrySendError::Closed(packet, reason)),
        }
    }

    /// Bytes free for the next record, without its header.
    pub(crate) fn free_bytes(&mut self) -> usize {
        match self.producer.look_at_taken() {
            Ok(()) => self.producer.free_bytes(),
            Err(violation) => {
                self.link.violated(violation);
                0
            }
        }
    }

    /// Ends this direction in order; no send of this half goes on behind it.
    pub(crate) fn finish(&mut self) {
        self.link.end_direction(TX_CLOSED);
    }

    /// Offers what fits and tells how many packets that were. They are published, and the peer is
    /// woken if it sleeps.
    #[inline]
    fn offer(&mut self, packets: &[Bytes]) -> Result<usize, CloseReason> {
        let before = self.producer.tail();
        let mut offered = 0;
        let mut bytes = 0;
        for packet in packets {
            match self.producer.stage(packet) {
                Ok(true) => {}
                Ok(false) => break,
                Err(violation) => return Err(self.link.violated(violation)),
            }
            offered += 1;
            bytes += packet.len() as u64;
            if self.producer.staged_enough() {
                self.publish();
            }
        }
        self.publish();
        let counters = &self.link.counters;
        bump(&counters.packets_sent, offered as u64);
        bump(&counters.bytes_sent, bytes);
        if self.producer.passed_an_eighth_since(before) {
            self.note();
        }
        Ok(offered)
    }

    /// As [`offer`](Self::offer), with the last word on how much room there is.
    fn offer_at_last(&mut self, packets: &[Bytes]) -> Result<usize, CloseReason> {
        let offered = self.offer(packets)?;
        if offered == packets.len() {
            return Ok(offered);
        }
        self.producer.look_at_taken().map_err(|violation| self.link.violated(violation))?;
        Ok(offered + self.offer(&packets[offered..])?)
    }

    #[inline]
    fn publish(&mut self) {
        if self.producer.publish() {
            self.link.ring(RECV);
        }
    }

    /// Sends what is left of `packets` if that goes at once.
    fn attempt(&mut self, packets: &[Bytes], sent: &mut usize) -> Option<Result<(), CloseReason>> {
        if let Some(reason) = self.link.tx_end() {
            return Some(Err(reason));
        }
        match self.offer(&packets[*sent..]) {
            Ok(offered) => *sent += offered,
            Err(reason) => return Some(Err(reason)),
        }
        (*sent == packets.len()).then_some(Ok(()))
    }

    /// Says that the caller sleeps until there is room, and looks a last time. The caller has
    /// registered and has the turn.
    fn park(&mut self, packets: &[Bytes], sent: &mut usize) -> Attempt {
        // Before anything is offered: an async sender registers without the lock, and `close` may
        // have returned meanwhile.
        if let Some(reason) = self.link.tx_end() {
            return Attempt::Done(Err(reason));
        }
        loop {
            let changed = self.producer.announce(packets[*sent].len());
            let newly = self.link.bell.arm(SEND);
            if newly {
                self.link.parked(SEND);
            }
            // All is published and rung for; but nobody sleeps over published data while we do.
            self.link.ring_fenced(RECV);
            let offered = match self.offer_at_last(&packets[*sent..]) {
                Ok(offered) => offered,
                Err(reason) => return Attempt::Done(Err(reason)),
            };
            *sent += offered;
            if *sent == packets.len() {
                if newly {
                    self.link.bell.disarm(SEND);
                }
                return Attempt::Done(Ok(()));
            }
            if let Some(reason) = self.link.tx_end() {
                return Attempt::Done(Err(reason));
            }
            if offered == 0 {
                self.note();
                return Attempt::Parked { look_again: newly || changed };
            }
        }
    }

    /// Nobody waits for room any more. The bit may still stand, where something else than the bell
    /// ended the wait.
    fn stop_waiting(&self) {
        if self.link.bell.is_armed(SEND) {
            self.link.bell.disarm(SEND);
        }
    }

    /// Leaves the books where tools can read them.
    fn note(&self) {
        if cfg!(all(test, loom)) {
            return;
        }
        let (snapshot, stats) = (self.link.snapshot(), self.link.counters.read());
        // ORDERING: Relaxed, all; nobody acts on a snapshot.
        snapshot.tail.store(self.producer.tail().get(), Ordering::Relaxed);
        snapshot.packets_sent.store(stats.packets_sent, Ordering::Relaxed);
        snapshot.bytes_sent.store(stats.bytes_sent, Ordering::Relaxed);
        snapshot.wakes_sent.store(stats.wakes_sent, Ordering::Relaxed);
        snapshot.parks.store(stats.parks, Ordering::Relaxed);
    }

    /// Sends `packets` without a deadline, for a half's `Sink`: its place is kept by the caller.
    pub(crate) fn poll_send(
        &mut self,
        packets: &[Bytes],
        place: &mut Option<Waiting>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        let mut sent = 0;
        let done = match self.attempt(packets, &mut sent) {
            Some(done) => done,
            None => {
                register(&self.link.room, place, cx);
                match self.park(packets, &mut sent) {
                    Attempt::Done(done) => done,
                    Attempt::Parked { look_again } => {
                        if look_again {
                            self.link.alarm(Instant::now() + LOOK_AGAIN_AFTER);
                        }
                        return Poll::Pending;
                    }
                }
            }
        };
        if place.take().is_some() {
            self.stop_waiting();
        }
        Poll::Ready(done)
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        self.link.leave(TX_CLOSED);
    }
}

/// A `send` or `send_batch` under way.
///
/// Dropped before it is done, it gives its turn or its place in the queue on.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Sending<'a, A: Access<Tx>, P> {
    link: &'a Link,
    tx: A,
    packets: P,
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
enum Deadline {
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
}

impl<'a, A: Access<Tx>, P: AsRef<[Bytes]>> Sending<'a, A, P> {
    pub(crate) fn new(link: &'a Link, tx: A, packets: P) -> Self {
        Self { link, tx, packets, sent: 0, standing: Standing::New, deadline: Deadline::Unset }
    }

    fn too_large(&self) -> Option<ShmError> {
        let max = self.link.region().geometry().max_packet();
        let len = self.packets.as_ref().iter().map(Bytes::len).find(|len| *len > max)?;
        Some(ShmError::PacketTooLarge { len, max })
    }

    /// The first attempt; joins the queue or takes the turn if that is not enough.
    fn enter(&mut self) -> Entered {
        if let Some(reason) = self.link.forked() {
            return Entered::Done(Err(reason));
        }
        let Self { link, tx, packets, sent, standing, .. } = self;
        tx.with(|tx| {
            if !tx.turn.is_free() {
                tx.turn.queued += 1;
                *standing = Standing::Queued { turn: link.turn.join(), news: None };
                return Entered::Wait;
            }
            match tx.attempt(packets.as_ref(), sent) {
                Some(done) => Entered::Done(done),
                None => {
                    tx.turn.taken = true;
                    *standing = Standing::Turn { room: None };
                    Entered::Wait
                }
            }
        })
    }

    /// From the queue to the turn, after the queue's notification came.
    fn take_turn(&mut self) {
        self.tx.with(|tx| {
            tx.turn.queued = tx.turn.queued.saturating_sub(1);
            tx.turn.taken = true;
        });
        self.standing = Standing::Turn { room: None };
    }

    fn finish(&mut self, done: Result<(), CloseReason>) -> Result<(), ShmError> {
        self.leave();
        done.map_err(|reason| {
            self.link.settle(reason);
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
            if let Entered::Done(done) = self.enter() {
                return Poll::Ready(self.finish(done));
            }
        }
        if let Some(reason) = self.link.forked() {
            return Poll::Ready(self.finish(Err(reason)));
        }
        if self.poll_turn(cx).is_pending() {
            return self.pend(false);
        }
        match self.poll_room(cx) {
            Attempt::Done(done) => Poll::Ready(self.finish(done)),
            Attempt::Parked { look_again } => self.pend(look_again),
        }
    }

    /// Ready with the turn, or when the channel has ended.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Standing::Queued { turn, news } = &mut self.standing else { return Poll::Ready(()) };
        register(&self.link.news, news, cx);
        if turn.poll(cx).is_ready() {
            self.take_turn();
            return Poll::Ready(());
        }
        // Joined before this look, so an end that comes behind it notifies us.
        if self.link.tx_end().is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// One attempt with the turn; asleep by the bell if it fails.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Attempt {
        let Self { link, tx, packets, sent, standing, .. } = self;
        let Standing::Turn { room } = standing else {
            // The channel ended while we queued.
            return Attempt::Done(link.tx_end().map_or(Ok(()), Err));
        };
        if let Some(done) = attempt_for_a_while(link, tx, packets.as_ref(), sent) {
            return Attempt::Done(done);
        }
        register(&link.room, room, cx);
        tx.with(|tx| tx.park(packets.as_ref(), sent))
    }

    /// Asks the driver for what this send has to be woken for besides the bell.
    fn pend(&mut self, look_again: bool) -> Poll<Result<(), ShmError>> {
        if self.is_late() {
            return Poll::Ready(self.time_out());
        }
        let deadline = self.deadline.get(self.link);
        let look = look_again.then(|| Instant::now() + LOOK_AGAIN_AFTER);
        if let Some(at) = earlier(deadline, look) {
            self.link.alarm(at);
        }
        Poll::Pending
    }

    /// Sends on this thread, which sleeps on the bell itself.
    pub(crate) fn block(mut self) -> Result<(), ShmError> {
        if let Some(error) = self.too_large() {
            return Err(error);
        }
        if let Entered::Done(done) = self.enter() {
            return self.finish(done);
        }
        if !self.block_for_turn() {
            return self.time_out();
        }
        let mut vain = VainWakes::new();
        loop {
            // Read before the looks: whatever happens behind them changes it.
            let count = self.link.bell.count();
            let look_again = match self.attempt_or_park() {
                Attempt::Done(done) => return self.finish(done),
                Attempt::Parked { look_again } => look_again,
            };
            if self.is_late() {
                return self.time_out();
            }
            let now = Instant::now();
            let look = look_again.then(|| now + LOOK_AGAIN_AFTER);
            let until = earlier(self.deadline.get(self.link), look);
            let timeout = until.map(|until| until.saturating_duration_since(now));
            self.link.sleep(count, timeout, &mut vain);
        }
    }

    /// `false` if the deadline passed.
    fn block_for_turn(&mut self) -> bool {
        let deadline = self.deadline.get(self.link);
        let Standing::Queued { turn, .. } = &mut self.standing else { return true };
        if self.link.tx_end().is_some() {
            return true;
        }
        self.link.prepare_to_block();
        if turn.wait_until(deadline) {
            self.take_turn();
            return true;
        }
        false
    }

    fn attempt_or_park(&mut self) -> Attempt {
        let Self { link, tx, packets, sent, standing, .. } = self;
        if let Standing::Queued { .. } = standing {
            return Attempt::Done(link.tx_end().map_or(Ok(()), Err));
        }
        if let Some(done) = attempt_for_a_while(link, tx, packets.as_ref(), sent) {
            return Attempt::Done(done);
        }
        tx.with(|tx| tx.park(packets.as_ref(), sent))
    }
}

impl<A: Access<Tx> + Unpin, P: AsRef<[Bytes]> + Unpin> Future for Sending<'_, A, P> {
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

/// Attempts to send what is left, and again as long as that makes headway or spinning is worth it.
fn attempt_for_a_while(
    link: &Link,
    tx: &mut impl Access<Tx>,
    packets: &[Bytes],
    sent: &mut usize,
) -> Option<Result<(), CloseReason>> {
    let mut attempt = || tx.with(|tx| tx.attempt(packets, sent).ok_or(*sent));
    let mut before = match attempt() {
        Ok(done) => return Some(done),
        Err(sent) => sent,
    };
    loop {
        let headway = |attempted: &Result<_, usize>| *attempted != Err(before);
        match link.spin(&link.room_spin, || Some(attempt()).filter(headway))? {
            Ok(done) => return Some(done),
            Err(sent) => before = sent,
        }
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
