//! The sending half: puts packets into the ring, wakes the peer, and parks when there is no room.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{Allowance, Budget, Limit};
use super::ends::Directions;
use super::payload::Payload;
use super::shared::Channel;
use crate::error::{CloseReason, TryReserveError, TrySendError};
use crate::ring::{Claim, LOOK_AGAIN_AFTER, Position, Producer};
use crate::shm::layout::{RECV, SEND, TX_CLOSED};
use crate::shm::region::RingMemory;
use crate::sync::{Arc, Ordering};
use crate::sys::fork::Origin;

/// The sending half of an end. When dropped, it tells the peer that nothing more will come.
#[derive(Debug)]
pub(crate) struct Tx {
    channel: Arc<Channel>,
    /// That of the channel, close at hand.
    origin: Origin,
    producer: Producer,
    /// When the parked sender looks by itself, whether or not it was woken. A wake before that
    /// which finds no room leaves this unchanged.
    look_at: Option<Instant>,
    budget: Budget,
    /// What a grant writes to in a forked child; else empty.
    scratch: Vec<u8>,
}

/// The outcome of an attempt to send.
#[derive(PartialEq, Eq)]
pub(crate) enum Attempt {
    Done(Result<(), CloseReason>),
    /// The caller sleeps until the bell is woken, but looks again after this time, if there is one.
    Parked {
        look_again: Option<Duration>,
    },
    /// The budget was used up, and is renewed. The caller has to wake itself and return `Pending`.
    Yields,
}

impl Tx {
    pub(crate) fn new(channel: &Arc<Channel>) -> Self {
        let producer = Producer::new(channel.region(), channel.side());
        Self {
            channel: channel.clone(),
            origin: channel.origin,
            producer,
            look_at: None,
            budget: Budget::new(),
            scratch: Vec::new(),
        }
    }

    /// Sends at once or not at all.
    #[inline]
    pub(crate) fn try_send(&mut self, packet: Bytes) -> Result<(), TrySendError> {
        self.try_send_unless(false, &packet).map_err(|error| error.with(packet))
    }

    /// Like [`try_send`](Self::try_send). If the room `is_taken`, other senders wait for it. Drops
    /// nothing of the caller's, who may hold a lock.
    #[inline]
    pub(super) fn try_send_unless(
        &mut self,
        is_taken: bool,
        packet: &Bytes,
    ) -> Result<(), TryReserveError> {
        if !is_taken && self.send_now(packet, Limit::None) {
            return Ok(());
        }
        let max = self.producer.max_packet();
        if packet.len() > max {
            return Err(TryReserveError::TooLarge(packet.len(), max));
        }
        self.check_open().map_err(TryReserveError::Closed)?;
        if is_taken {
            return Err(TryReserveError::Full);
        }
        let payload = Payload::Packets(std::slice::from_ref(packet));
        match self.offer_at_last(payload, 0, Limit::None) {
            Ok(0) => Err(TryReserveError::Full),
            Ok(_) => Ok(()),
            Err(reason) => Err(TryReserveError::Closed(reason)),
        }
    }

    /// Sends a packet in the usual case: the room is known, nothing has ended, and the budget is
    /// not used up, if the call is under one. Otherwise returns `false`.
    #[inline(always)]
    pub(crate) fn send_now(&mut self, packet: &[u8], limit: Limit) -> bool {
        let Some(claim) = self.claim_now(packet.len(), limit) else { return false };
        self.producer.memory().copy_in(claim.offset(), packet);
        self.send_written(claim, packet.len());
        true
    }

    /// Claims room for a packet of `len` bytes in the usual case, as [`send_now`](Self::send_now)
    /// sends one.
    #[inline(always)]
    pub(crate) fn claim_now(&self, len: usize, limit: Limit) -> Option<Claim> {
        if !self.budget.allowance(&self.channel.counters.sent, limit).is_left() {
            return None;
        }
        if self.channel.tx_end().is_some() { None } else { self.producer.claim_known(len) }
    }

    /// Claims room for a packet of `len` bytes at once or not at all.
    pub(crate) fn try_reserve(&mut self, len: usize) -> Result<Claim, TryReserveError> {
        let max = self.producer.max_packet();
        if len > max {
            return Err(TryReserveError::TooLarge(len, max));
        }
        self.check_open().map_err(TryReserveError::Closed)?;
        match self.claim(len) {
            Ok(Some(claim)) => Ok(claim),
            Ok(None) => self.claim_at_last(len),
            Err(reason) => Err(TryReserveError::Closed(reason)),
        }
    }

    fn claim_at_last(&mut self, len: usize) -> Result<Claim, TryReserveError> {
        self.publish();
        match self.offer_at_last(Payload::Room(len), 0, Limit::None).and_then(|_| self.claim(len)) {
            Ok(Some(claim)) => Ok(claim),
            Ok(None) => Err(TryReserveError::Full),
            Err(reason) => Err(TryReserveError::Closed(reason)),
        }
    }

    /// Claims room for a packet of `len` bytes, if the room is known. `len` must not exceed the
    /// longest packet.
    #[inline]
    pub(crate) fn claim(&mut self, len: usize) -> Result<Option<Claim>, CloseReason> {
        self.producer.claim(len).map_err(|violation| self.channel.violated_tx(violation))
    }

    /// Whether this process is a forked child of the one that sends.
    #[inline(always)]
    pub(crate) fn is_forked(&self) -> bool {
        self.origin.has_left()
    }

    /// Returns private memory in place of the ring's, for a forked child.
    #[cold]
    pub(crate) fn scratch(&mut self, len: usize) -> &mut [u8] {
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        &mut self.scratch[..len]
    }

    /// Returns the bytes of the ring, to write a claimed packet to.
    #[inline]
    pub(crate) fn memory(&self) -> &RingMemory {
        self.producer.memory()
    }

    /// Makes a packet of the first `len` bytes of `claim`. The packet is published at once, and the
    /// peer is woken if it sleeps. If `withheld`, it is published later with others; at most a
    /// share of the ring, an eighth or 128 KiB, is withheld.
    #[inline(always)]
    pub(crate) fn commit(
        &mut self,
        claim: Claim,
        len: usize,
        withheld: bool,
    ) -> Result<(), CloseReason> {
        self.check_open()?;
        if withheld {
            self.withhold_written(claim, len);
        } else {
            self.send_written(claim, len);
        }
        Ok(())
    }

    /// Sends the first `len` bytes of `claim` as a packet. Sending has not ended.
    #[inline(always)]
    fn send_written(&mut self, claim: Claim, len: usize) {
        let before = self.producer.tail();
        self.producer.publish_written(claim, len);
        self.channel.wake_if_waiting_fenced(RECV);
        self.count_sent(before, 1, len as u64);
    }

    /// Like [`send_written`](Self::send_written), but withholds the packet, unless a share of the
    /// ring is withheld by then.
    #[inline(always)]
    fn withhold_written(&mut self, claim: Claim, len: usize) {
        let before = self.producer.tail();
        self.producer.stage_written(claim, len);
        if self.producer.staged_enough() {
            self.publish();
        }
        self.count_sent(before, 1, len as u64);
    }

    /// Checks that sending has not ended.
    #[inline(always)]
    fn check_open(&self) -> Result<(), CloseReason> {
        match self.channel.tx_end() {
            None => Ok(()),
            Some(reason) => Err(self.note_end(reason)),
        }
    }

    /// Notes that a call is about to return the end.
    #[cold]
    fn note_end(&self, reason: CloseReason) -> CloseReason {
        self.channel.note_returned(Directions::TX, reason);
        reason
    }

    /// Publishes what was withheld, unless sending has ended.
    pub(crate) fn publish_withheld(&mut self) -> Result<(), CloseReason> {
        if !self.producer.has_staged() {
            return Ok(());
        }
        self.check_open()?;
        self.publish();
        Ok(())
    }

    /// Returns the bytes free for the next record, without its header.
    pub(crate) fn free_bytes(&mut self) -> usize {
        self.looked().map_or(0, Producer::free_bytes)
    }

    /// Returns the bytes of the records that the peer has not given back, with their headers.
    pub(crate) fn queued_bytes(&mut self) -> usize {
        self.looked().map_or(0, Producer::queued_bytes)
    }

    /// Returns the producer after a look at the peer's exact position, or `None` if that is not to
    /// be believed.
    fn looked(&mut self) -> Option<&Producer> {
        if self.channel.forked().is_some() {
            // What the parent and its peer have done since is not a violation.
            return None;
        }
        if let Err(violation) = self.producer.look_at_taken() {
            self.channel.violated(violation);
            return None;
        }
        Some(&self.producer)
    }

    /// Ends this direction in order. No send of this half continues after that.
    pub(crate) fn finish(&mut self) {
        // Packets of a batch that was leaked.
        let _ = self.publish_withheld();
        self.channel.set_tx_closed();
        self.channel.end_direction(TX_CLOSED);
    }

    /// Puts the packets that fit and are allowed into the ring, and returns their number. They are
    /// published, and the peer is woken if it sleeps.
    #[inline(always)]
    pub(super) fn offer(
        &mut self,
        packets: &[Bytes],
        mut most: Allowance,
    ) -> Result<usize, CloseReason> {
        let before = self.producer.tail();
        let mut offered = 0;
        let mut bytes = 0;
        for packet in packets {
            if !most.is_left() {
                break;
            }
            match self.producer.stage(packet) {
                Ok(true) => {}
                Ok(false) => break,
                Err(violation) => {
                    let reason = self.channel.violated_tx(violation);
                    if offered == 0 {
                        return Err(reason);
                    }
                    // The packets before it count as sent. The next attempt returns the end.
                    break;
                }
            }
            offered += 1;
            bytes += packet.len() as u64;
            most.spend(packet.len());
            if self.producer.staged_enough() {
                self.publish();
            }
        }
        self.publish();
        self.count_sent(before, offered as u64, bytes);
        Ok(offered)
    }

    /// Counts what was published since the tail was at `before`.
    #[inline]
    fn count_sent(&mut self, before: Position, packets: u64, bytes: u64) {
        self.channel.counters.sent.add(packets, bytes);
        if self.producer.passed_a_share_since(before) {
            self.note();
        }
    }

    /// Like [`offer_from`](Self::offer_from), but reads how much the peer has taken if the known
    /// room does not suffice.
    fn offer_at_last(
        &mut self,
        payload: Payload<'_>,
        next: usize,
        limit: Limit,
    ) -> Result<usize, CloseReason> {
        let offered = self.offer_from(payload, next, limit)?;
        if next + offered == payload.count() {
            return Ok(offered);
        }
        let looked = self.producer.look_at_taken();
        let more = match looked.map_err(|violation| self.channel.violated_tx(violation)) {
            Ok(()) => self.offer_from(payload, next + offered, limit),
            Err(reason) => Err(reason),
        };
        match more {
            Ok(more) => Ok(offered + more),
            // As in `offer`.
            Err(_) if offered > 0 => Ok(offered),
            Err(reason) => Err(reason),
        }
    }

    /// Whether a future has to wake itself and return `Pending` now, before it sends anything more.
    #[inline]
    pub(crate) fn must_yield(&mut self, limit: Limit) -> bool {
        limit == Limit::Budget && self.budget.must_yield(&self.channel.counters.sent)
    }

    /// Counts a spin that has found room, and the `time` that it took.
    pub(super) fn note_paid_spin(&mut self, time: Duration) {
        self.channel.counters.sent.add_spin();
        self.budget.spend(time);
    }

    #[inline]
    fn publish(&mut self) {
        if self.producer.publish() {
            self.channel.wake_if_waiting_fenced(RECV);
        }
    }

    /// Puts as many packets as fit and are allowed into the ring, from the packet `next` on.
    #[inline(always)]
    fn offer_from(
        &mut self,
        payload: Payload<'_>,
        next: usize,
        limit: Limit,
    ) -> Result<usize, CloseReason> {
        match payload {
            Payload::Packets(packets) => {
                let allowance = self.budget.allowance(&self.channel.counters.sent, limit);
                self.offer(packets.get(next..).unwrap_or_default(), allowance)
            }
            Payload::Room(len) => self.claim(len).map(|claim| usize::from(claim.is_some())),
        }
    }

    /// Sends what is left of `payload` if that is possible at once, and `limit` allows it.
    #[inline(always)]
    pub(crate) fn attempt(
        &mut self,
        payload: Payload<'_>,
        sent: &mut usize,
        limit: Limit,
    ) -> Option<Result<(), CloseReason>> {
        if let Some(reason) = self.channel.tx_end() {
            return Some(Err(reason));
        }
        match self.offer_from(payload, *sent, limit) {
            Ok(offered) => *sent += offered,
            Err(reason) => return Some(Err(reason)),
        }
        (*sent == payload.count()).then_some(Ok(()))
    }

    /// Announces that the caller sleeps until there is room, and looks a last time. The caller has
    /// registered and is at the front.
    pub(crate) fn park(&mut self, payload: Payload<'_>, sent: &mut usize, limit: Limit) -> Attempt {
        // Before anything is offered: an async sender registers without the lock, and `close` may
        // have returned meanwhile.
        if let Some(reason) = self.channel.tx_end() {
            return Attempt::Done(Err(reason));
        }
        // In a model, time passes only for the driver, whatever the clock says.
        let is_over = |at: Instant| !cfg!(all(test, loom)) && at <= Instant::now();
        if self.look_at.is_some_and(is_over) {
            // The look that follows is the one that was due.
            self.look_at = None;
        }
        loop {
            let mut look_after = self.producer.announce(payload.len_of(*sent));
            let newly = self.channel.bell.arm(SEND);
            if newly {
                self.channel.parked(SEND);
                look_after = look_after.or(Some(LOOK_AGAIN_AFTER));
            }
            if let Some(after) = look_after {
                self.look_at = Instant::now().checked_add(after);
            }
            // Everything is published and the peer was woken for it, but the peer must not sleep
            // over published data while we do.
            self.channel.wake_if_waiting_fenced(RECV);
            let offered = match self.offer_at_last(payload, *sent, limit) {
                Ok(offered) => offered,
                Err(reason) => return Attempt::Done(Err(reason)),
            };
            *sent += offered;
            if *sent == payload.count() {
                if newly {
                    self.channel.bell.disarm(SEND);
                }
                return Attempt::Done(Ok(()));
            }
            if let Some(reason) = self.channel.tx_end() {
                return Attempt::Done(Err(reason));
            }
            if self.must_yield(limit) {
                if newly {
                    self.channel.bell.disarm(SEND);
                }
                return Attempt::Yields;
            }
            if offered == 0 {
                self.note();
                self.budget.renew(&self.channel.counters.sent);
                let left = |at: Instant| at.saturating_duration_since(Instant::now());
                return Attempt::Parked { look_again: self.look_at.map(left) };
            }
        }
    }

    /// Notes that no sender waits for room any more. The bit may still be set if the wait was ended
    /// by something other than the bell.
    pub(super) fn stop_waiting(&mut self) {
        self.look_at = None;
        if self.channel.bell.is_armed(SEND) {
            self.channel.bell.disarm(SEND);
        }
    }

    /// Writes the statistics to the snapshot that tools read.
    #[cold]
    fn note(&self) {
        if cfg!(all(test, loom)) {
            return;
        }
        let (snapshot, stats) = self.channel.note();
        // ORDERING: Relaxed for all; nothing acts on a snapshot.
        snapshot.tail.store(self.producer.tail().get(), Ordering::Relaxed);
        snapshot.packets_sent.store(stats.packets_sent, Ordering::Relaxed);
        snapshot.bytes_sent.store(stats.bytes_sent, Ordering::Relaxed);
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.channel.is_cut_off_by_drop() {
            self.channel.cancel();
        } else {
            // Packets of a batch that was leaked.
            let _ = self.publish_withheld();
        }
        if self.channel.ends_as_one() {
            // Both directions of a whole end end at once: the peer must not take this for a
            // half-close. `Rx` is dropped next.
            self.channel.end_both();
        }
        self.channel.leave(TX_CLOSED);
    }
}
