//! The half that receives: takes packets out of the ring, gives room back, and parks for packets.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{Budget, Limit};
use super::ends::Directions;
use super::returning::Returning;
use super::shared::Channel;
use crate::error::CloseReason;
use crate::ring::{Consumer, Held};
use crate::shm::layout::{RECV, RX_CLOSED, SEND, record_bytes};
use crate::shm::region::RingMemory;
use crate::sync::{Arc, Ordering, fence};
use crate::wake::pace::Pace;

/// A packet, nothing at present, or the end.
pub(crate) type Taken<T> = Result<Option<T>, CloseReason>;

/// How many packets a batch takes between two looks at the ends. A look is two loads.
const LOOK_AT_ENDS: usize = 128;

/// The receiving half of an end. Dropped, it tells the peer that nobody receives any more.
#[derive(Debug)]
pub(crate) struct Rx {
    channel: Arc<Channel>,
    consumer: Consumer,
    pace: Pace,
    budget: Budget,
}

impl Rx {
    pub(crate) fn new(channel: &Arc<Channel>) -> Self {
        Self {
            channel: channel.clone(),
            consumer: Consumer::new(channel.region(), channel.side()),
            pace: Pace::new(),
            budget: Budget::new(),
        }
    }

    /// The length of the next packet, if one could be taken now.
    #[inline]
    pub(crate) fn readable(&mut self) -> Option<usize> {
        if self.channel.rx_cut().is_some() {
            return None;
        }
        // A violation is for the call that takes.
        self.consumer.peek().ok().flatten()
    }

    /// Takes the next packet and copies it out. At the end, the reason is settled.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Taken<Bytes> {
        let Some(held) = self.hold()? else { return Ok(None) };
        let packet = self.consumer.copy(held);
        self.give_back();
        Ok(Some(packet))
    }

    /// Takes the next packet and leaves it in the ring until [`give_back`](Self::give_back), or the
    /// next take. At the end, the reason is settled.
    #[inline(always)]
    pub(crate) fn hold(&mut self) -> Taken<Held> {
        let held = match self.channel.rx_standing() {
            Ok(is_over) => {
                if is_over {
                    self.consumer.expect_no_more();
                }
                match self.hold_published() {
                    Ok(None) if is_over => self.hold_last(),
                    held => held,
                }
            }
            Err(reason) => Err(reason),
        };
        held.map_err(|reason| self.told(reason))
    }

    /// A call is about to return the end.
    #[cold]
    fn told(&self, reason: CloseReason) -> CloseReason {
        self.channel.tell(Directions::RX, reason);
        reason
    }

    /// The ring was empty: takes what came before the end, if there is one.
    #[cold]
    fn hold_last(&mut self) -> Taken<Held> {
        let Some(reason) = self.channel.rx_over() else { return Ok(None) };
        if let Some(reason) = self.channel.ends.rx() {
            // Cut off a moment ago.
            return Err(reason);
        }
        // ORDERING: the flag was loaded, with Acquire, before this second look; so what was
        // published before the end is seen here.
        if let Some(held) = self.hold_published()? {
            return Ok(Some(held));
        }
        self.channel.ends.end(Directions::RX, reason);
        Err(self.channel.ends.rx().unwrap_or(reason))
    }

    #[inline(always)]
    fn hold_published(&mut self) -> Taken<Held> {
        if self.consumer.holds() {
            // One that was forgotten.
            self.give_back();
        }
        let held = self.consumer.hold().map_err(|violation| self.channel.violated_rx(violation))?;
        if let Some(held) = &held {
            self.channel.counters.received.add(1, held.len() as u64);
        } else {
            self.heed_parked_sender();
        }
        Ok(held)
    }

    /// Gives back the room of what is held.
    #[inline(always)]
    pub(crate) fn give_back(&mut self) {
        if self.channel.forked().is_some() {
            // The ring is the parent's, and so is what it holds there.
            return;
        }
        self.consumer.give_back();
        self.heed_parked_sender();
        if self.consumer.is_released() {
            self.note();
        }
    }

    /// For how long not to look again, after a look that found nothing. Never where the end does
    /// not spin.
    #[inline]
    pub(super) fn pace(&mut self) -> Option<Duration> {
        let cap = self.channel.data_spin.cap();
        if cap.is_zero() {
            return None;
        }
        let taken = self.channel.counters.received.packets();
        let moment = self.pace.at_empty(taken, Instant::now)?.min(cap);
        self.spend(moment);
        Some(moment)
    }

    /// Whether a future may take another packet before it is `Pending`.
    #[inline]
    pub(crate) fn has_budget(&self) -> bool {
        self.budget.is_left(&self.channel.counters.received)
    }

    /// Whether a future has to wake itself and be `Pending` now, before it takes anything.
    #[inline]
    pub(super) fn ends_turn(&mut self) -> bool {
        self.budget.ends_turn(&self.channel.counters.received)
    }

    /// A call has spun for so long.
    pub(super) fn spend(&mut self, time: Duration) {
        self.budget.spend(time);
    }

    /// Copies out what is held.
    #[inline]
    pub(crate) fn copy(&self, held: Held) -> Bytes {
        self.consumer.copy(held)
    }

    /// The bytes of the ring, to read what is held.
    #[inline]
    pub(crate) fn memory(&self) -> &RingMemory {
        self.consumer.memory()
    }

    /// Unfenced, so a bit that was set just now may be missed: the parked sender looks again by
    /// itself after `LOOK_AGAIN_AFTER`.
    #[inline]
    fn heed_parked_sender(&mut self) {
        if self.channel.peer_bell.is_armed(SEND) {
            self.give_room();
        }
    }

    /// A sender is parked: hands back what was taken, and wakes it if that is what it wants.
    #[cold]
    fn give_room(&mut self) {
        self.consumer.release();
        if self.consumer.has_what_it_wants() {
            self.channel.wake_if_waiting(SEND);
        }
    }

    /// The ring is empty as far as we saw, so whatever a parked sender wants, it can have; unless
    /// some of it is lent, whose return wakes it then. (Woken for nothing it would park again,
    /// and wake us for that, and so on.) All was released, and the caller has fenced since.
    fn serve_parked_sender(&self) {
        let has_it = || self.channel.peer_bell.is_armed(SEND) && self.consumer.has_what_it_wants();
        if !self.consumer.lends() || has_it() {
            self.channel.wake_if_waiting_fenced(SEND);
        }
    }

    /// Whether this process is a child of the one that receives.
    pub(crate) fn is_forked(&self) -> bool {
        self.channel.forked().is_some()
    }

    /// Lends what is held, until the answer is dropped.
    pub(crate) fn lend(&mut self, held: Held) -> Returning {
        Returning::new(self.consumer.lend(held), Arc::downgrade(&self.channel))
    }

    /// Takes up to `max` packets into `packets` and tells how many. What was unread when it began
    /// fits into the ring once, so it stops after as many bytes; or where its budget does.
    pub(crate) fn take_batch(
        &mut self,
        packets: &mut Vec<Bytes>,
        max: usize,
        limit: Limit,
    ) -> Taken<usize> {
        if max == 0 {
            return Ok(Some(0));
        }
        let mut allowance = self.budget.allowance(&self.channel.counters.received, limit);
        let Some(first) = self.hold()? else { return Ok(None) };
        allowance.spend(first.len());
        self.consumer.gather(first, packets);
        // The others are published as well, whatever ends there are by now; and their room goes
        // back together.
        let (mut taken, mut bytes) = (1, 0);
        let mut records = record_bytes(first.len());
        while taken < max && records < self.consumer.ring_bytes() && allowance.is_left() {
            if self.consumer.owes_enough() {
                self.give_back();
            }
            // What was taken comes first; the next call meets an end or a violation again.
            if taken.is_multiple_of(LOOK_AT_ENDS) {
                match self.channel.rx_standing() {
                    Ok(true) => self.consumer.expect_no_more(),
                    Ok(false) => {}
                    Err(_) => break,
                }
            }
            let Ok(Some(held)) = self.consumer.hold() else { break };
            records += record_bytes(held.len());
            allowance.spend(held.len());
            self.consumer.gather(held, packets);
            taken += 1;
            bytes += held.len() as u64;
        }
        self.consumer.hand_over(packets);
        // Before the last of them goes back, which may leave a snapshot.
        self.channel.counters.received.add(taken as u64 - 1, bytes);
        self.give_back();
        Ok(Some(taken))
    }

    /// Says that somebody sleeps here until packets come, and looks a last time. The caller has
    /// registered whoever it is.
    pub(super) fn park<T>(&mut self, take: &mut impl FnMut(&mut Self) -> Taken<T>) -> Taken<T> {
        self.consumer.release();
        let newly = self.channel.bell.arm(RECV);
        if newly {
            self.channel.parked(RECV);
        }
        let taken = self.look_at_last(take);
        if newly && !matches!(taken, Ok(None)) {
            // Whoever has armed the bell since and sleeps would have held the consumer meanwhile,
            // which the caller holds.
            self.channel.bell.disarm(RECV);
        }
        taken
    }

    /// Asks the driver to spin for up to `spin`, and looks a last time; `None` if the driver
    /// cannot. The caller has registered a task. Before it sleeps, the driver wakes it to call
    /// [`park`](Self::park).
    pub(super) fn ask_driver_to_spin<T>(
        &mut self,
        spin: Duration,
        take: &mut impl FnMut(&mut Self) -> Taken<T>,
    ) -> Option<Taken<T>> {
        self.consumer.release();
        self.channel.probe.point_at(&self.consumer);
        if !self.channel.driver.get().is_some_and(|driver| driver.ask_to_spin(spin)) {
            return None;
        }
        // ORDERING: in place of the fence in `Bell::arm`, between the store of `head` and the look
        // at the peer's bit; partner of the one where the sender armed it.
        fence(Ordering::SeqCst);
        Some(self.look_at_last(take))
    }

    /// The last look, after the caller has fenced.
    fn look_at_last<T>(&mut self, take: &mut impl FnMut(&mut Self) -> Taken<T>) -> Taken<T> {
        self.serve_parked_sender();
        let taken = take(self);
        if let Ok(None) = taken {
            self.note();
            self.budget.renew(&self.channel.counters.received);
        }
        taken
    }

    /// Leaves the books where tools can read them.
    fn note(&self) {
        if cfg!(all(test, loom)) {
            return;
        }
        let (snapshot, stats) = self.channel.note();
        // ORDERING: Relaxed, all; nobody acts on a snapshot.
        snapshot.head.store(self.consumer.position().get(), Ordering::Relaxed);
        snapshot.packets_received.store(stats.packets_received, Ordering::Relaxed);
        snapshot.bytes_received.store(stats.bytes_received, Ordering::Relaxed);
    }
}

impl Drop for Rx {
    fn drop(&mut self) {
        self.channel.leave(RX_CLOSED);
    }
}
