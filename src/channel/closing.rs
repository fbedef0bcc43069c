//! How a channel ends, seen from one side: what the peer says, what this side has settled, and who
//! has to be told.

use super::ends::Directions;
use super::shared::Channel;
use crate::error::{CloseReason, Violation};
use crate::shm::layout::{CANCELLED, ENDS, RING_BY_BYTE, RX_CLOSED, TX_CLOSED};
use crate::sync::Ordering;

impl Channel {
    /// Why nothing can be done here, if this process is a child of the one that the end belongs to:
    /// then the region, the lifeline and the driver are the parent's, and a lock may be held by a
    /// thread that does not exist here.
    #[inline]
    pub(crate) fn forked(&self) -> Option<CloseReason> {
        self.origin.has_left().then(|| self.disown())
    }

    #[cold]
    pub(super) fn disown(&self) -> CloseReason {
        // Private memory: the parent has its own.
        self.ends.end(Directions::BOTH, CloseReason::Forked);
        CloseReason::Forked
    }

    /// As [`forked`](Self::forked), for a call that is about to return the end of `direction`: with
    /// that direction's reason, which may be older than the fork.
    #[inline]
    pub(crate) fn forked_end(&self, direction: Directions) -> Option<CloseReason> {
        let forked = self.forked()?;
        self.ends.tell(direction);
        let ended = if direction == Directions::TX { self.ends.tx() } else { self.ends.rx() };
        Some(ended.unwrap_or(forked))
    }

    /// What the peer says of its ends.
    ///
    /// PEER: loaded once for each question; unknown bits end the channel.
    #[inline]
    pub(super) fn peer_ends(&self) -> u32 {
        if self.forked().is_some() {
            // Every call comes by here, and finds its answer in our own ends.
            return 0;
        }
        // ORDERING: Acquire pairs with the Release in the peer's `announce`: all that it published
        // before an end is seen by who sees the end.
        let ends = self.peer_words().ends.0.load(Ordering::Acquire);
        if ends & !ENDS != 0 {
            self.violated(Violation::UnknownEnds(ends));
        }
        ends
    }

    /// Adds bits to what the other side sees of ours; they are never taken back. `true` if one of
    /// them is new.
    pub(super) fn announce(&self, bits: u32) -> bool {
        // ORDERING: Release orders all packets published before it; pairs with `peer_ends`.
        self.own_words().ends.0.fetch_or(bits, Ordering::Release) & bits != bits
    }

    /// Tells the peer of an end, whether or not it sleeps. The flag comes before the ring.
    pub(super) fn announce_end(&self, bits: u32) {
        if self.announce(bits) {
            self.peer_bell.wake();
            self.woke_peer();
        }
    }

    /// Why sending is over, if it is. Looks at the peer's word each time.
    #[inline(always)]
    pub(crate) fn tx_end(&self) -> Option<CloseReason> {
        // Nearly always open, and asked twice for a packet that is written in place.
        // ORDERING: Acquire as in `peer_ends`.
        let ends = self.peer_words().ends.0.load(Ordering::Acquire);
        let is_open = ends & !(TX_CLOSED | RING_BY_BYTE) == 0 && self.ends.tx().is_none();
        if is_open && !self.origin.has_left() { None } else { self.why_tx_ended() }
    }

    #[cold]
    fn why_tx_ended(&self) -> Option<CloseReason> {
        let ends = self.peer_ends();
        if ends & (CANCELLED | RX_CLOSED) != 0 {
            self.heed(ends);
        }
        self.ends.tx()
    }

    /// Why receiving is cut off, whatever the ring still holds.
    #[inline]
    pub(super) fn rx_cut(&self) -> Option<CloseReason> {
        let ends = self.peer_ends();
        if ends & CANCELLED != 0 {
            self.heed(ends);
        }
        self.ends.rx()
    }

    /// Why receiving is cut off; or else, whether it is over once the ring is empty. To be asked
    /// before the look at the ring.
    #[inline(always)]
    pub(super) fn rx_standing(&self) -> Result<bool, CloseReason> {
        let ends = self.peer_ends();
        if ends & CANCELLED != 0 {
            self.heed(ends);
        }
        match self.ends.rx() {
            Some(reason) => Err(reason),
            // PEER: a flag that was seen and is taken back changes nothing.
            None => Ok(ends & TX_CLOSED != 0 || self.ends.is_rx_over()),
        }
    }

    /// Why receiving is over, if it is, whatever the ring still holds. To be asked before the look
    /// at the ring.
    pub(super) fn rx_over(&self) -> Option<CloseReason> {
        self.heed(self.peer_ends());
        self.ends.rx_over()
    }

    /// Settles what the peer's word means for us.
    pub(super) fn heed(&self, ends: u32) {
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

    /// Why the channel as a whole is over, if it is. Once told, the answer stays.
    ///
    /// It is over when nothing more can go or come. What is left in the ring aside: if that is cut
    /// off after this was told, the receiver's own reason says so, and this one does not change.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.heed(self.peer_ends());
        self.ends.settle()
    }

    /// Why the channel would be over, if it is, without settling the answer.
    pub(crate) fn close_reason_so_far(&self) -> Option<CloseReason> {
        self.heed(self.peer_ends());
        self.ends.channel()
    }

    /// Why one direction is over, as far as calls on it would find out; of receiving, what is left
    /// in the ring aside.
    pub(crate) fn direction_end(&self, direction: Directions) -> Option<CloseReason> {
        if direction == Directions::TX { self.tx_end() } else { self.rx_over() }
    }

    /// Why receiving has ended, if so: nothing will be received, whatever the ring holds.
    pub(crate) fn rx_end(&self) -> Option<CloseReason> {
        self.rx_cut()
    }

    /// Whether all that the peer sent has come, once a call has returned the end.
    pub(crate) fn finished(&self) -> Option<Result<(), CloseReason>> {
        let reason = self.ends.rx_told()?;
        Some(if reason == CloseReason::Peer { Ok(()) } else { Err(reason) })
    }

    /// A call is about to return that `direction` has ended, for `reason`. May be called with a
    /// producer or consumer held, so those who wait for this are told by the driver.
    pub(crate) fn tell(&self, direction: Directions, reason: CloseReason) {
        if !self.ends.tell(direction) || self.forked().is_some() {
            return;
        }
        // Found in the peer's word, which may have to ring yet. The others have told everybody.
        let is_news = matches!(reason, CloseReason::Peer | CloseReason::Cancelled);
        if let (true, Some(driver)) = (is_news, self.driver.get()) {
            driver.notify();
        }
    }

    /// Ends both directions for a reason of our own, tells the peer and wakes everybody.
    pub(super) fn end(&self, reason: CloseReason, announcement: u32) {
        if self.forked().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, reason);
        self.announce_end(announcement);
        self.tell_everyone();
    }

    /// Ends both directions for a reason of our own. If sending has ended in order before, the peer
    /// still receives what was sent.
    pub(super) fn end_unless_closed(&self, reason: CloseReason) {
        if self.forked().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, reason);
        let was_closed = self.ends.tx() == Some(CloseReason::Local);
        self.announce_end(if was_closed { RX_CLOSED } else { CANCELLED });
        self.tell_everyone();
    }

    /// An orderly end. The caller holds this end's producer, so that no send goes on behind it.
    /// What is left to do without it, because it calls wakers, is [`tell_everyone`].
    ///
    /// [`tell_everyone`]: Self::tell_everyone
    pub(crate) fn close(&self) {
        self.set_tx_closed();
        self.end_both();
    }

    /// An orderly end of both directions, by one store: nobody sees one without the other.
    pub(super) fn end_both(&self) {
        if self.forked().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, CloseReason::Local);
        self.announce_end(TX_CLOSED | RX_CLOSED);
    }

    /// Cuts the channel off. Takes no lock.
    ///
    /// Not once the end was dropped, as far as a canceller still finds it in the driver's hands:
    /// what was sent before an orderly end would be lost or not by chance.
    pub(crate) fn cancel(&self) {
        // ORDERING: Acquire pairs with the AcqRel in `leave`.
        if self.left.load(Ordering::Acquire) != TX_CLOSED | RX_CLOSED {
            self.end(CloseReason::Cancelled, CANCELLED);
        }
    }

    /// The peer broke a rule. May be called with a producer or consumer held, so the tasks are
    /// told by the driver.
    #[cold]
    pub(super) fn violated(&self, violation: Violation) {
        if self.ends.tx().is_some() && self.ends.rx().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, CloseReason::Violation(violation));
        self.announce_end(CANCELLED);
        self.blocked.end(&self.bell);
        if let Some(driver) = self.driver.get() {
            driver.notify();
        }
    }

    /// As [`violated`](Self::violated), for a call that sends: the reason of that direction, which
    /// may have ended before.
    #[cold]
    pub(super) fn violated_tx(&self, violation: Violation) -> CloseReason {
        self.violated(violation);
        self.ends.tx().unwrap_or(CloseReason::Violation(violation))
    }

    /// As [`violated_tx`](Self::violated_tx), for a call that receives.
    #[cold]
    pub(super) fn violated_rx(&self, violation: Violation) -> CloseReason {
        self.violated(violation);
        self.ends.rx().unwrap_or(CloseReason::Violation(violation))
    }

    /// Wakes every task and thread of this process that waits on this end, whatever the bits say.
    pub(crate) fn tell_everyone(&self) {
        if self.forked().is_some() {
            return;
        }
        self.blocked.end(&self.bell);
        self.tell_tasks();
    }

    pub(super) fn tell_tasks(&self) {
        self.data.notify_all();
        self.news.notify_all();
        // Those who wait for their place would take a wake for the place itself.
        if self.tx_end().is_some() {
            self.room.notify_all();
            self.place.notify_all();
        }
    }

    /// The lifeline hung up: settles what that means and tells everybody.
    pub(super) fn hung_up(&self) {
        self.peer_gone();
        self.tell_everyone();
    }

    pub(super) fn peer_gone(&self) {
        // What it said of its ends comes first: those were in order.
        self.heed(self.peer_ends());
        self.ends.end(Directions::TX, CloseReason::PeerDied);
        self.ends.end_rx_when_empty(CloseReason::PeerDied);
        self.ends.set_peer_gone();
    }

    /// An orderly end of one direction. The caller holds the half of it.
    pub(super) fn end_direction(&self, bit: u32) {
        if self.forked().is_some() {
            return;
        }
        let direction = if bit == TX_CLOSED { Directions::TX } else { Directions::RX };
        self.ends.end(direction, CloseReason::Local);
        self.announce_end(bit);
    }

    /// This side has said that all was sent: dropping the sender is no accident any more.
    pub(super) fn set_tx_closed(&self) {
        // ORDERING: Relaxed, here and below. A drop comes after all calls on what is dropped, and
        // what brought it to the dropping thread orders them.
        self.tx_closed.store(true, Ordering::Relaxed);
    }

    /// Whether dropping the sender without a close cancels the channel in any case.
    pub(crate) fn cancel_on_drop(&self, cancel: bool) {
        self.cancel_on_drop.store(cancel, Ordering::Relaxed);
    }

    /// The sender is being dropped. Whether that may be in the middle of a stream.
    pub(crate) fn is_cut_off_by_drop(&self) -> bool {
        let is_unwanted =
            || std::thread::panicking() || self.cancel_on_drop.load(Ordering::Relaxed);
        !self.tx_closed.load(Ordering::Relaxed) && is_unwanted()
    }

    /// One half is dropped: its direction ends in order. With the second, the end is over.
    pub(super) fn leave(&self, bit: u32) {
        self.end_direction(bit);
        // ORDERING: AcqRel; of two halves dropped at once, the second sees the first.
        let left = self.left.fetch_or(bit, Ordering::AcqRel) | bit;
        if left == TX_CLOSED | RX_CLOSED {
            if self.forked().is_none() {
                self.leave_driver();
            }
            let kept = self.kept.lock_or_try().and_then(|mut kept| kept.take());
            drop(kept);
            self.tell_everyone();
        }
    }
}
