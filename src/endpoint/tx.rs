//! The half that sends: puts packets into the ring, wakes the peer, and parks for want of room.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::counters::bump;
use super::link::Link;
use super::receiving::register;
use crate::error::{CloseReason, TrySendError};
use crate::layout::{RECV, SEND, TX_CLOSED};
use crate::ring::{LOOK_AGAIN_AFTER, Producer};
use crate::sync::{Arc, Ordering};
use crate::waiters::Waiting;

/// The sending half of an end. Dropped, it tells the peer that nothing more will come.
#[derive(Debug)]
pub(crate) struct Tx {
    link: Arc<Link>,
    producer: Producer,
    pub(super) turn: Turn,
}

/// Who may wait for room.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Some sender has the turn.
    pub(super) taken: bool,
    /// So many queue for it.
    pub(super) queued: usize,
}

impl Turn {
    pub(super) fn is_free(&self) -> bool {
        !self.taken && self.queued == 0
    }
}

/// What became of an attempt to send.
pub(super) enum Attempt {
    Done(Result<(), CloseReason>),
    /// The caller sleeps until the bell rings, but looks again after this time, if there is one.
    Parked {
        look_again: Option<Duration>,
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
    pub(super) fn attempt(
        &mut self,
        packets: &[Bytes],
        sent: &mut usize,
    ) -> Option<Result<(), CloseReason>> {
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
    pub(super) fn park(&mut self, packets: &[Bytes], sent: &mut usize) -> Attempt {
        // Before anything is offered: an async sender registers without the lock, and `close` may
        // have returned meanwhile.
        if let Some(reason) = self.link.tx_end() {
            return Attempt::Done(Err(reason));
        }
        loop {
            let mut look_again = self.producer.announce(packets[*sent].len());
            let newly = self.link.bell.arm(SEND);
            if newly {
                self.link.parked(SEND);
                look_again = look_again.or(Some(LOOK_AGAIN_AFTER));
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
                return Attempt::Parked { look_again };
            }
        }
    }

    /// Nobody waits for room any more. The bit may still stand, where something else than the bell
    /// ended the wait.
    pub(super) fn stop_waiting(&self) {
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
                        if let Some(after) = look_again {
                            self.link.alarm(Instant::now() + after);
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
