//! How a channel ends, seen from one side: what the peer announces, what this side has settled, and
//! who must be woken.

use super::counters::count;
use super::ends::Directions;
use super::shared::Channel;
use crate::error::{CloseReason, Violation};
use crate::shm::layout::{CANCELLED, ENDS, RING_BY_BYTE, RX_CLOSED, TX_CLOSED};
use crate::sync::Ordering;

impl Channel {
    /// Returns a reason if this process is a forked child of the one that owns the end. The region,
    /// the lifeline and the driver then belong to the parent, and a lock may be held by a thread
    /// that does not exist here.
    #[inline]
    pub(crate) fn forked(&self) -> Option<CloseReason> {
        self.origin.has_left().then(|| self.end_forked())
    }

    #[cold]
    pub(super) fn end_forked(&self) -> CloseReason {
        // Private memory: the parent has its own copy.
        self.ends.end(Directions::BOTH, CloseReason::Forked);
        CloseReason::Forked
    }

    /// Like [`forked`](Self::forked), for a call that is about to return the end of `direction`:
    /// returns that direction's reason, which may be older than the fork.
    #[inline]
    pub(crate) fn forked_end(&self, direction: Directions) -> Option<CloseReason> {
        let forked = self.forked()?;
        self.ends.note_returned(direction);
        let ended = if direction == Directions::TX { self.ends.tx() } else { self.ends.rx() };
        Some(ended.unwrap_or(forked))
    }

    /// Returns what the peer announces of its ends.
    ///
    /// PEER: loaded once for each question; an unknown bit ends the channel.
    #[inline]
    pub(super) fn peer_ends(&self) -> u32 {
        if self.forked().is_some() {
            // Every call comes through here, and finds its answer in our own `ends`.
            return 0;
        }
        // ORDERING: Acquire pairs with the Release in the peer's `announce`: if we see the end, we
        // see everything that the peer published before it.
        let ends = self.peer_words().ends.0.load(Ordering::Acquire);
        if ends & !ENDS != 0 {
            self.violated(Violation::UnknownEnds(ends));
        }
        ends
    }

    /// Adds bits to the ends that the peer sees of ours. Bits are never taken back. Returns `true`
    /// if at least one of them is new.
    pub(super) fn announce(&self, bits: u32) -> bool {
        // ORDERING: Release orders all packets published before it; pairs with `peer_ends`.
        self.own_words().ends.0.fetch_or(bits, Ordering::Release) & bits != bits
    }

    /// Announces an end to the peer, whether or not it sleeps. The flag is set before the wake.
    pub(super) fn announce_end(&self, bits: u32) {
        if self.announce(bits) {
            self.peer_bell.wake();
            count(&self.counters.wakes_sent);
            self.wake_by_byte();
        }
    }

    /// Returns why sending is over, if it is. Loads the peer's word each time.
    #[inline(always)]
    pub(crate) fn tx_end(&self) -> Option<CloseReason> {
        // The channel is nearly always open, and a packet written in place asks twice.
        // ORDERING: Acquire as in `peer_ends`.
        let ends = self.peer_words().ends.0.load(Ordering::Acquire);
        let is_open = ends & !(TX_CLOSED | RING_BY_BYTE) == 0 && self.ends.is_tx_open();
        if is_open { None } else { self.why_tx_ended() }
    }

    #[cold]
    fn why_tx_ended(&self) -> Option<CloseReason> {
        let ends = self.peer_ends();
        if ends & (CANCELLED | RX_CLOSED) != 0 {
            self.settle_ends(ends);
        }
        self.ends.tx()
    }

    /// Returns why receiving has ended, if it has: nothing more will be received, whatever the ring
    /// holds.
    #[inline]
    pub(crate) fn rx_end(&self) -> Option<CloseReason> {
        let ends = self.peer_ends();
        if ends & CANCELLED != 0 {
            self.settle_ends(ends);
        }
        self.ends.rx()
    }

    /// Whether nothing has ended receiving, nor announced to. A process that was forked off does
    /// not receive.
    #[inline(always)]
    pub(super) fn is_rx_open(&self) -> bool {
        // ORDERING: Acquire as in `peer_ends`.
        let ends = self.peer_words().ends.0.load(Ordering::Acquire);
        ends & !(RX_CLOSED | RING_BY_BYTE) == 0 && self.ends.is_rx_open()
    }

    /// Returns why receiving is cut off as an error, otherwise whether it is over once the ring is
    /// empty. Must be called before the look at the ring.
    #[inline(always)]
    pub(super) fn rx_state(&self) -> Result<bool, CloseReason> {
        let ends = self.peer_ends();
        if ends & CANCELLED != 0 {
            self.settle_ends(ends);
        }
        match self.ends.rx() {
            Some(reason) => Err(reason),
            // PEER: a flag that we have seen stays in effect if the peer takes it back.
            None => Ok(ends & TX_CLOSED != 0 || self.ends.is_rx_over()),
        }
    }

    /// Returns why receiving is over, if it is, whatever the ring still holds. Must be called
    /// before the look at the ring.
    pub(super) fn rx_over(&self) -> Option<CloseReason> {
        self.settle_ends(self.peer_ends());
        self.ends.rx_over()
    }

    /// Settles what the peer's word means for us.
    pub(super) fn settle_ends(&self, ends: u32) {
        if ends & CANCELLED != 0 {
            self.ends.end(Directions::BOTH, CloseReason::Cancelled);
        }
        if ends & RX_CLOSED != 0 {
            self.ends.end(Directions::TX, CloseReason::Peer);
        }
        if ends & TX_CLOSED != 0 {
            self.ends.end_rx_when_empty(CloseReason::Peer);
        }
    }

    /// Returns why the channel as a whole is over, if it is. Once returned, the answer stays.
    ///
    /// The channel is over when nothing more can be sent and nothing more can come, even if the
    /// ring still holds packets. If these are cut off after this call, the receiver's own reason
    /// says so, but this answer does not change.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.settle_ends(self.peer_ends());
        self.ends.settle()
    }

    /// Returns why the channel would be over, if it is, without settling the answer.
    pub(crate) fn close_reason_so_far(&self) -> Option<CloseReason> {
        self.settle_ends(self.peer_ends());
        self.ends.channel()
    }

    /// Returns why one direction is over, as calls on it would find out. Packets left in the ring
    /// do not keep receiving from being over.
    pub(crate) fn direction_end(&self, direction: Directions) -> Option<CloseReason> {
        if direction == Directions::TX { self.tx_end() } else { self.rx_over() }
    }

    /// Whether everything that the peer sent has arrived. `None` until a call has returned the end.
    pub(crate) fn finished(&self) -> Option<Result<(), CloseReason>> {
        let reason = self.ends.rx_returned()?;
        Some(if reason == CloseReason::Peer { Ok(()) } else { Err(reason) })
    }

    /// Notes that a call is about to return that `direction` has ended, for `reason`. May be called
    /// while a producer or consumer is held, so the driver wakes those who wait for this.
    pub(crate) fn note_returned(&self, direction: Directions, reason: CloseReason) {
        if !self.ends.note_returned(direction) || self.forked().is_some() {
            return;
        }
        // These two come from the peer's word, and the peer's wake may still be on its way. For all
        // other reasons, everybody has been woken already.
        let is_news = matches!(reason, CloseReason::Peer | CloseReason::Cancelled);
        if let (true, Some(driver)) = (is_news, self.driver.get()) {
            driver.notify();
        }
    }

    /// Ends both directions for a reason of our own, announces that and wakes everybody.
    pub(super) fn end(&self, reason: CloseReason, announcement: u32) {
        if self.forked().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, reason);
        self.announce_end(announcement);
        self.wake_everyone();
    }

    /// Ends both directions for a reason of our own. If sending has already ended in order, the
    /// peer still receives what was sent.
    pub(super) fn end_unless_closed(&self, reason: CloseReason) {
        if self.forked().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, reason);
        let was_closed = self.ends.tx() == Some(CloseReason::Local);
        self.announce_end(if was_closed { RX_CLOSED } else { CANCELLED });
        self.wake_everyone();
    }

    /// Closes the end in order. The caller holds this end's producer, so that no send continues
    /// after the close. The caller then calls [`wake_everyone`] without the producer, because that
    /// calls wakers.
    ///
    /// [`wake_everyone`]: Self::wake_everyone
    pub(crate) fn close(&self) {
        self.set_tx_closed();
        self.end_both();
    }

    /// Ends both directions in order by one store, so that nobody sees one end without the other.
    pub(super) fn end_both(&self) {
        if self.forked().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, CloseReason::Local);
        self.announce_end(TX_CLOSED | RX_CLOSED);
    }

    /// Cuts the channel off. Takes no lock.
    ///
    /// Does nothing once both halves were dropped, which a canceller can meet while the driver
    /// still holds the channel: otherwise it would be chance whether packets sent before an orderly
    /// end are lost.
    pub(crate) fn cancel(&self) {
        // ORDERING: Acquire pairs with the AcqRel in `leave`.
        if self.left.load(Ordering::Acquire) != TX_CLOSED | RX_CLOSED {
            self.end(CloseReason::Cancelled, CANCELLED);
        }
    }

    /// Ends the channel because the peer broke a rule. May be called while a producer or consumer
    /// is held, so the driver wakes the tasks.
    #[cold]
    pub(super) fn violated(&self, violation: Violation) {
        if self.ends.tx().is_some() && self.ends.rx().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, CloseReason::Violation(violation));
        self.announce_end(CANCELLED);
        self.blocked.wake(&self.bell);
        if let Some(driver) = self.driver.get() {
            driver.notify();
        }
    }

    /// Like [`violated`](Self::violated), for a call that sends: returns the reason of that
    /// direction, which may have ended before.
    #[cold]
    pub(super) fn violated_tx(&self, violation: Violation) -> CloseReason {
        self.violated(violation);
        self.ends.tx().unwrap_or(CloseReason::Violation(violation))
    }

    /// Like [`violated_tx`](Self::violated_tx), for a call that receives.
    #[cold]
    pub(super) fn violated_rx(&self, violation: Violation) -> CloseReason {
        self.violated(violation);
        self.ends.rx().unwrap_or(CloseReason::Violation(violation))
    }

    /// Wakes every task and thread of this process that waits on this end, whatever the bits say.
    pub(crate) fn wake_everyone(&self) {
        if self.forked().is_some() {
            return;
        }
        self.blocked.wake(&self.bell);
        self.wake_tasks();
    }

    pub(super) fn wake_tasks(&self) {
        self.data.notify_all();
        self.news.notify_all();
        // Not unless sending is over: a sender that waits for its place would take the wake for the
        // place itself.
        if self.tx_end().is_some() {
            self.room.notify_all();
            self.place.notify_all();
        }
    }

    /// Handles the hang-up of the lifeline: settles what it means and wakes everybody.
    pub(super) fn hung_up(&self) {
        self.peer_gone();
        self.wake_everyone();
    }

    pub(super) fn peer_gone(&self) {
        // What the peer announced of its ends comes first: those ends were in order.
        self.settle_ends(self.peer_ends());
        self.ends.end_without_peer();
    }

    /// Ends one direction in order. The caller holds that half.
    pub(super) fn end_direction(&self, bit: u32) {
        if self.forked().is_some() {
            return;
        }
        let direction = if bit == TX_CLOSED { Directions::TX } else { Directions::RX };
        self.ends.end(direction, CloseReason::Local);
        self.announce_end(bit);
    }

    /// Notes that this side has announced the end of sending: from now on, dropping the sender is
    /// not an accident.
    pub(super) fn set_tx_closed(&self) {
        // ORDERING: Relaxed, here and below. A drop comes after all calls on the dropped value, and
        // the hand-over to the dropping thread orders them.
        self.tx_closed.store(true, Ordering::Relaxed);
    }

    /// Sets whether dropping the sender without a close always cancels the channel.
    pub(crate) fn cancel_on_drop(&self, cancel: bool) {
        self.cancel_on_drop.store(cancel, Ordering::Relaxed);
    }

    /// Whether the drop of the sender, which is under way, may come in the middle of a stream.
    pub(crate) fn is_cut_off_by_drop(&self) -> bool {
        let is_unwanted =
            || std::thread::panicking() || self.cancel_on_drop.load(Ordering::Relaxed);
        !self.tx_closed.load(Ordering::Relaxed) && is_unwanted()
    }

    /// Ends the direction of a dropped half in order. After the second half, the whole end is over.
    pub(super) fn leave(&self, bit: u32) {
        self.end_direction(bit);
        // ORDERING: AcqRel; if both halves are dropped at once, the second sees the first.
        let left = self.left.fetch_or(bit, Ordering::AcqRel) | bit;
        if left == TX_CLOSED | RX_CLOSED {
            if self.forked().is_none() {
                self.leave_driver();
            }
            let kept = self.kept.lock_or_try().and_then(|mut kept| kept.take());
            drop(kept);
            self.wake_everyone();
        }
    }
}
