//! How a channel ends, seen from one side: what the peer says, what this side has settled, and who
//! has to be told.

use super::ends::Directions;
use super::link::Link;
use crate::error::{CloseReason, Violation};
use crate::layout::{CANCELLED, ENDS, RING_BY_BYTE, RX_CLOSED, TX_CLOSED};
use crate::sync::Ordering;

impl Link {
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
        self.ends.settle(CloseReason::Forked)
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
            self.peer_bell.strike();
            self.rang();
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
            None => Ok(ends & TX_CLOSED != 0 || self.ends.is_peer_gone()),
        }
    }

    /// Why receiving is over once the ring is empty. To be asked before the look at the ring.
    pub(super) fn rx_over(&self) -> Option<CloseReason> {
        let ends = self.peer_ends();
        if ends & CANCELLED != 0 {
            // A moment ago, and then it was dropped: what the ring still holds is cut off.
            Some(CloseReason::Cancelled)
        } else if ends & TX_CLOSED != 0 {
            Some(CloseReason::Peer)
        } else if self.ends.is_peer_gone() {
            Some(CloseReason::PeerDied)
        } else {
            None
        }
    }

    /// Settles what the peer's word means for us, except that the ring may still hold packets.
    pub(super) fn heed(&self, ends: u32) {
        if ends & CANCELLED != 0 {
            self.ends.end(Directions::BOTH, CloseReason::Cancelled);
        }
        if ends & RX_CLOSED != 0 {
            self.ends.end(Directions::TX, CloseReason::Peer);
        }
    }

    /// Why the channel as a whole is over, if it is.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        if let Some(settled) = self.ends.channel() {
            return Some(settled);
        }
        let ends = self.peer_ends();
        if ends & CANCELLED != 0 {
            Some(self.ends.settle(CloseReason::Cancelled))
        } else if ends & TX_CLOSED != 0 && ends & RX_CLOSED != 0 {
            Some(self.ends.settle(CloseReason::Peer))
        } else {
            self.ends.channel()
        }
    }

    /// Why one direction is over, as far as calls on it would find out; of receiving, what is left
    /// in the ring aside. A question: nothing is settled by it.
    pub(crate) fn direction_end(&self, direction: Directions) -> Option<CloseReason> {
        if direction == Directions::TX {
            self.tx_end()
        } else {
            self.rx_cut().or_else(|| self.rx_over())
        }
    }

    /// Settles why the channel is over, because a call is about to return that it is. May be called
    /// with a producer or consumer held, so those who wait for this are told by the driver.
    pub(crate) fn settle(&self, reason: CloseReason) {
        if self.ends.channel().is_some() {
            return;
        }
        self.ends.settle(reason);
        if let Some(driver) = self.driver.get() {
            driver.nudge();
        }
    }

    /// Ends both directions for a reason of our own, tells the peer and wakes everybody.
    pub(super) fn end(&self, reason: CloseReason, announcement: u32) {
        if self.forked().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, reason);
        self.ends.settle(reason);
        self.announce_end(announcement);
        self.tell_everyone();
    }

    /// An orderly end. The caller holds this end's producer, so that no send goes on behind it.
    /// What is left to do without it, because it calls wakers, is [`tell_everyone`].
    ///
    /// [`tell_everyone`]: Self::tell_everyone
    pub(crate) fn close(&self) {
        if self.forked().is_some() {
            return;
        }
        self.ends.end(Directions::BOTH, CloseReason::Local);
        self.ends.settle(CloseReason::Local);
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
    pub(super) fn violated(&self, violation: Violation) -> CloseReason {
        if let (Some(reason), Some(_)) = (self.ends.tx(), self.ends.rx()) {
            return reason;
        }
        let reason = CloseReason::Violation(violation);
        self.ends.end(Directions::BOTH, reason);
        self.ends.settle(reason);
        self.announce_end(CANCELLED);
        self.blocked.end(&self.bell);
        if let Some(driver) = self.driver.get() {
            driver.nudge();
        }
        reason
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
        // Those who wait for their turn to send would take a wake for the turn itself.
        if self.tx_end().is_some() {
            self.room.notify_all();
            self.turn.notify_all();
        }
    }

    /// The lifeline hung up: settles what that means and tells everybody.
    pub(super) fn hung_up(&self) {
        self.peer_gone();
        self.tell_everyone();
    }

    pub(super) fn peer_gone(&self) {
        let ends = self.peer_ends();
        self.heed(ends);
        self.ends.end(Directions::TX, CloseReason::PeerDied);
        self.ends.set_peer_gone();
        let reason = if ends & CANCELLED != 0 {
            CloseReason::Cancelled
        } else if ends & TX_CLOSED != 0 && ends & RX_CLOSED != 0 {
            CloseReason::Peer
        } else {
            CloseReason::PeerDied
        };
        self.ends.settle(reason);
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

    /// One half is dropped: its direction ends in order. With the second, the end is over.
    pub(super) fn leave(&self, bit: u32) {
        self.end_direction(bit);
        // ORDERING: AcqRel; of two halves dropped at once, the second sees the first.
        let left = self.left.fetch_or(bit, Ordering::AcqRel) | bit;
        if left == TX_CLOSED | RX_CLOSED {
            self.ends.settle(CloseReason::Local);
            if self.forked().is_none() {
                self.leave_driver();
            }
            let kept = self.kept.lock_or_try().and_then(|mut kept| kept.take());
            drop(kept);
            self.tell_everyone();
        }
    }
}
