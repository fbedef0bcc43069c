//! The two halves of a channel as the protocol defines them, in blocking forms.
//!
//! The endpoint does the same steps around its locks, tasks and deadlines.

use std::task::Poll;

use bytes::Bytes;

use crate::ring::{Consumer, Position, Producer};
use crate::shm::layout::{CANCELLED, RECV, RX_CLOSED, SEND, Side, TX_CLOSED};
use crate::shm::region::Region;
use crate::sync::{Arc, Ordering};
use crate::sys::futex;
use crate::wake::bell::Bell;

/// Sets `flags` for `side` and wakes the other side whatever its bits say.
pub(super) fn end(region: &Arc<Region>, side: Side, flags: u32) {
    // ORDERING: Release publishes what was sent before; pairs with the Acquire in `ends`.
    region.side(side).ends.0.fetch_or(flags, Ordering::Release);
    Bell::new(region, side.peer()).wake();
}

fn ends(region: &Arc<Region>, side: Side) -> u32 {
    region.side(side).ends.0.load(Ordering::Acquire)
}

/// The half that sends.
pub(super) struct Tx {
    pub(super) producer: Producer,
    pub(super) own: Bell,
    pub(super) peer: Bell,
    region: Arc<Region>,
    side: Side,
}

impl Tx {
    pub(super) fn new(region: &Arc<Region>, side: Side) -> Self {
        Self::starting_at(region, side, Position::START)
    }

    pub(super) fn starting_at(region: &Arc<Region>, side: Side, start: Position) -> Self {
        Self {
            producer: Producer::starting_at(region, side, start),
            own: Bell::new(region, side),
            peer: Bell::new(region, side.peer()),
            region: region.clone(),
            side,
        }
    }

    /// Sends if there is room at once, and wakes nobody.
    pub(super) fn fill(&mut self, packet: &[u8]) -> bool {
        let sent = self.producer.stage(packet).unwrap();
        self.producer.publish();
        sent
    }

    /// Sends, and sleeps until there is room. Returns `false` if the peer receives no more.
    pub(super) fn send(&mut self, packet: &[u8]) -> bool {
        self.send_batch(&[packet])
    }

    /// Publishes all packets at once, if they fit; sleeps for room as often as necessary.
    pub(super) fn send_batch(&mut self, packets: &[&[u8]]) -> bool {
        for packet in packets {
            if !self.stage(packet) {
                return false;
            }
        }
        self.producer.publish();
        self.peer.wake_if_waiting_fenced(RECV);
        true
    }

    /// Looks for room, or the end of the peer's receiver.
    fn look(&mut self, packet: &[u8]) -> Poll<bool> {
        if ends(&self.region, self.side.peer()) & (RX_CLOSED | CANCELLED) != 0 {
            return Poll::Ready(false);
        }
        if self.producer.stage(packet).unwrap() {
            return Poll::Ready(true);
        }
        self.producer.look_at_taken().unwrap();
        match self.producer.stage(packet).unwrap() {
            true => Poll::Ready(true),
            false => Poll::Pending,
        }
    }

    fn stage(&mut self, packet: &[u8]) -> bool {
        loop {
            if let Poll::Ready(staged) = self.look(packet) {
                return staged;
            }
            // Before it sleeps: it publishes its packets, and wakes the peer for them below.
            self.producer.publish();
            let count = self.own.count();
            self.producer.announce(packet.len());
            let first = self.own.arm(SEND);
            self.peer.wake_if_waiting_fenced(RECV);
            if let Poll::Ready(staged) = self.look(packet) {
                if first {
                    self.own.disarm(SEND);
                }
                return staged;
            }
            futex::wait(self.own.word(), count, None);
        }
    }
}

/// The half that receives.
pub(super) struct Rx {
    pub(super) consumer: Consumer,
    pub(super) own: Bell,
    pub(super) peer: Bell,
    region: Arc<Region>,
    side: Side,
}

impl Rx {
    pub(super) fn new(region: &Arc<Region>, side: Side) -> Self {
        Self::starting_at(region, side, Position::START)
    }

    pub(super) fn starting_at(region: &Arc<Region>, side: Side, start: Position) -> Self {
        Self {
            consumer: Consumer::starting_at(region, side, start),
            own: Bell::new(region, side),
            peer: Bell::new(region, side.peer()),
            region: region.clone(),
            side,
        }
    }

    /// Takes a packet, and wakes the peer's sender if that is seen to wait and now has what it
    /// wants.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        let packet = self.consumer.take().unwrap()?;
        if self.peer.is_armed(SEND) {
            self.consumer.release();
            if self.consumer.has_what_it_wants() {
                self.peer.wake_if_waiting(SEND);
            }
        }
        Some(packet)
    }

    /// Does what must be done before the receiver sleeps or goes away for good: the fence in `arm`
    /// and the check after it make up for the check in `take`, which is not fenced. Returns what
    /// `arm` returns.
    pub(super) fn settle(&mut self) -> bool {
        self.consumer.release();
        let first = self.own.arm(RECV);
        self.peer.wake_if_waiting_fenced(SEND);
        first
    }

    /// Receives, and sleeps until there is a packet. Returns `None` once the peer's sender has
    /// ended.
    pub(super) fn recv(&mut self) -> Option<Bytes> {
        loop {
            if let Poll::Ready(packet) = self.look() {
                return packet;
            }
            let count = self.own.count();
            let first = self.settle();
            if let Poll::Ready(packet) = self.look() {
                if first {
                    self.own.disarm(RECV);
                }
                return packet;
            }
            futex::wait(self.own.word(), count, None);
        }
    }

    /// Checks the flags, then the ring, then the end: what was sent before the end is not lost.
    fn look(&mut self) -> Poll<Option<Bytes>> {
        let ends = ends(&self.region, self.side.peer());
        if ends & CANCELLED != 0 {
            return Poll::Ready(None);
        }
        match self.take() {
            Some(packet) => Poll::Ready(Some(packet)),
            None if ends & TX_CLOSED != 0 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
