//! The receiving half: takes packets out of the ring, gives room back, and parks for packets.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{Budget, Limit};
use super::ends::Directions;
use super::loan_guard::LoanGuard;
use super::shared::Channel;
use crate::error::CloseReason;
use crate::ring::{Consumer, Held};
use crate::shm::layout::{RECV, RX_CLOSED, SEND, record_bytes};
use crate::shm::region::RingMemory;
use crate::sync::{Arc, Ordering, fence};
use crate::sys::fork::Origin;
use crate::wake::pace::{Load, Pace};
use crate::wake::yields::Yields;

/// A packet, nothing at present, or the end.
pub(crate) type Taken<T> = Result<Option<T>, CloseReason>;

/// How many packets a batch takes between two looks at the ends. A look is two loads.
const LOOK_AT_ENDS: usize = 128;

/// The receiving half of an end. When dropped, it tells the peer that nobody receives any more.
#[derive(Debug)]
pub(crate) struct Rx {
    channel: Arc<Channel>,
    /// That of the channel, close at hand.
    origin: Origin,
    consumer: Consumer,
    pace: Pace,
    yields: Yields,
    budget: Budget,
}

impl Rx {
    pub(crate) fn new(channel: &Arc<Channel>) -> Self {
        Self {
            channel: channel.clone(),
            origin: channel.origin,
            consumer: Consumer::new(channel.region(), channel.side()),
            pace: Pace::new(),
            yields: Yields::new(channel.first_backoff),
            budget: Budget::new(),
        }
    }

    /// Returns the length of the next packet, if one could be taken now.
    #[inline]
    pub(crate) fn readable(&mut self) -> Option<usize> {
        if self.channel.rx_end().is_some() {
            return None;
        }
        // A violation is for the call that takes.
        self.consumer.peek().ok().flatten()
    }

    /// Takes the next packet and copies it out, in the usual case: it is there, nothing has ended,
    /// and the budget is not used up, if the call is under one. Otherwise takes nothing, and
    /// [`take`](Self::take) tells the rest.
    #[inline(always)]
    pub(crate) fn take_now(&mut self, limit: Limit) -> Option<Bytes> {
        let held = self.hold_now(limit)?;
        let Some(copy) = self.consumer.copy_small(held) else {
            let packet = self.consumer.copy_large(held);
            self.give_back_own();
            return Some(packet);
        };
        self.give_back_own();
        // The last thing of all, so that it is made where the caller has room for it.
        Some(Bytes::from(copy))
    }

    /// Like [`take_now`](Self::take_now), but leaves the packet in the ring like
    /// [`hold`](Self::hold).
    #[inline(always)]
    pub(crate) fn hold_now(&mut self, limit: Limit) -> Option<Held> {
        if !self.budget.allowance(&self.channel.counters.received, limit).is_left() {
            return None;
        }
        if !self.channel.is_rx_open() || self.consumer.holds() {
            return None;
        }
        // A violation is for the call that looks again.
        let held = self.consumer.hold().ok()??;
        self.channel.counters.received.add(1, held.len() as u64);
        Some(held)
    }

    /// Takes the next packet and copies it out. At the end, settles the reason.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Taken<Bytes> {
        let Some(held) = self.hold()? else { return Ok(None) };
        let packet = self.consumer.copy(held);
        self.give_back();
        Ok(Some(packet))
    }

    /// Takes the next packet and leaves it in the ring until [`give_back`](Self::give_back), or the
    /// next take. At the end, settles the reason.
    #[inline(always)]
    pub(crate) fn hold(&mut self) -> Taken<Held> {
        let held = match self.channel.rx_state() {
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
        held.map_err(|reason| self.note_end(reason))
    }

    /// Notes that a call is about to return the end.
    #[cold]
    fn note_end(&self, reason: CloseReason) -> CloseReason {
        self.channel.note_returned(Directions::RX, reason);
        reason
    }

    /// Called after the ring was empty: takes what came before the end, if there is an end.
    #[cold]
    fn hold_last(&mut self) -> Taken<Held> {
        let Some(reason) = self.channel.rx_over() else { return Ok(None) };
        if let Some(reason) = self.channel.ends.rx() {
            // Cut off a moment ago.
            return Err(reason);
        }
        // ORDERING: the flag was loaded with Acquire before this second look, so the look sees
        // everything that was published before the end.
        if let Some(held) = self.hold_published()? {
            return Ok(Some(held));
        }
        self.channel.ends.end(Directions::RX, reason);
        Err(self.channel.ends.rx().unwrap_or(reason))
    }

    #[inline(always)]
    fn hold_published(&mut self) -> Taken<Held> {
        if self.consumer.holds() {
            // A held packet that was leaked.
            self.give_back();
        }
        let held = self.consumer.hold().map_err(|violation| self.channel.violated_rx(violation))?;
        if let Some(held) = &held {
            self.channel.counters.received.add(1, held.len() as u64);
        } else {
            self.check_parked_sender();
        }
        Ok(held)
    }

    /// Gives back the room of the packet that is held.
    #[inline(always)]
    pub(crate) fn give_back(&mut self) {
        // In a forked child the ring belongs to the parent, as does what is held there.
        if !self.is_forked() {
            self.give_back_own();
        }
    }

    /// Like [`give_back`](Self::give_back), in the process that owns the ring.
    #[inline(always)]
    fn give_back_own(&mut self) {
        if self.consumer.give_back() {
            self.note();
        }
        self.check_parked_sender();
    }

    /// Returns for how long not to look again, after a look that found nothing. `None` if the end
    /// does not spin.
    #[inline]
    pub(super) fn pace(&mut self) -> Option<Duration> {
        let cap = self.channel.data_spin.cap();
        if cap.is_zero() {
            return None;
        }
        let received = &self.channel.counters.received;
        #[allow(clippy::cast_possible_truncation, reason = "only differences count")]
        let taken = Load { packets: received.packets() as u32, bytes: received.bytes() };
        let pause = self.pace.at_empty(taken, Instant::now)?.min(cap);
        self.spend(pause);
        Some(pause)
    }

    /// Whether a future has to wake itself and return `Pending` now, before it takes anything.
    #[inline]
    pub(super) fn must_yield(&mut self) -> bool {
        self.budget.must_yield(&self.channel.counters.received)
    }

    /// Whether a future that found nothing wakes itself and looks again after other tasks have run,
    /// before it parks.
    pub(super) fn looks_once_more(&mut self) -> bool {
        let taken = self.channel.counters.received.packets();
        let looks = self.yields.once_more(taken);
        if looks {
            // Meanwhile a parked sender may find room here.
            self.consumer.release();
            self.budget.renew(&self.channel.counters.received);
        }
        looks
    }

    /// Whether this is a look of that kind.
    pub(super) fn is_looking_again(&self) -> bool {
        self.yields.is_trying(self.channel.counters.received.packets())
    }

    /// Counts the `time` that a call has spun.
    pub(super) fn spend(&mut self, time: Duration) {
        self.budget.spend(time);
    }

    /// Counts a spin that has found something.
    #[inline]
    pub(super) fn note_paid_spin(&self) {
        self.channel.counters.received.add_spin();
    }

    /// Copies out the packet that is held.
    #[inline]
    pub(crate) fn copy(&self, held: Held) -> Bytes {
        self.consumer.copy(held)
    }

    /// Returns the bytes of the ring, to read the packet that is held.
    #[inline]
    pub(crate) fn memory(&self) -> &RingMemory {
        self.consumer.memory()
    }

    /// Wakes a parked sender, if its bit is seen. There is no fence, so a bit that was set just now
    /// may be missed: the parked sender looks again by itself after `LOOK_AGAIN_AFTER`.
    #[inline]
    fn check_parked_sender(&mut self) {
        if self.channel.peer_bell.is_armed(SEND) {
            self.give_room();
        }
    }

    /// Gives back what was taken, because a sender is parked, and wakes it if that is what it
    /// wants.
    #[cold]
    fn give_room(&mut self) {
        self.consumer.release();
        if self.consumer.has_what_it_wants() {
            self.channel.wake_if_waiting(SEND);
        }
    }

    /// Wakes a parked sender. The ring was empty when we looked, so it can have any room it wants,
    /// unless some is lent; then the return of the loan wakes it. (A sender woken too early would
    /// park again, and wake us for that, and so on.) Everything was released, and the caller has
    /// fenced since.
    fn serve_parked_sender(&self) {
        let has_it = || self.channel.peer_bell.is_armed(SEND) && self.consumer.has_what_it_wants();
        if !self.consumer.lends() || has_it() {
            self.channel.wake_if_waiting_fenced(SEND);
        }
    }

    /// Whether this process is a forked child of the one that receives.
    #[inline(always)]
    pub(crate) fn is_forked(&self) -> bool {
        self.origin.has_left()
    }

    /// Lends the packet that is held, until the returned value is dropped.
    pub(crate) fn lend(&mut self, held: Held) -> LoanGuard {
        LoanGuard::new(self.consumer.lend(held), Arc::downgrade(&self.channel))
    }

    /// Takes up to `max` packets into `packets` and returns their number. What was unread at the
    /// start fits into the ring, so it stops after as many bytes as the ring has, or when its
    /// budget is used up.
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
        // The other packets are published as well, whatever ends there are by now, and their room
        // goes back together.
        let (mut taken, mut bytes) = (1, 0);
        let mut records = record_bytes(first.len());
        while taken < max && records < self.consumer.ring_bytes() && allowance.is_left() {
            if self.consumer.has_share_to_return() {
                self.give_back();
            }
            // What was taken comes first; the next call meets the end or the violation again.
            if taken.is_multiple_of(LOOK_AT_ENDS) {
                match self.channel.rx_state() {
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
        // Before the last of them goes back, which may write a snapshot.
        self.channel.counters.received.add(taken as u64 - 1, bytes);
        self.give_back();
        Ok(Some(taken))
    }

    /// Announces that the caller sleeps here until packets come, and looks a last time. The caller
    /// has registered its task, or is a thread.
    pub(super) fn park<T>(&mut self, take: &mut impl FnMut(&mut Self) -> Taken<T>) -> Taken<T> {
        self.consumer.release();
        let newly = self.channel.bell.arm(RECV);
        if newly {
            self.channel.parked(RECV);
        }
        let taken = self.look_at_last(take);
        if newly && !matches!(taken, Ok(None)) {
            // A call that has armed the bell since and sleeps would have held the consumer, but the
            // caller holds it.
            self.channel.bell.disarm(RECV);
        }
        taken
    }

    /// Asks the driver to spin for up to `spin`, and looks a last time. Returns `None` if the
    /// driver cannot spin. The caller has registered a task. Before the driver sleeps, it wakes
    /// that task, which then calls [`park`](Self::park).
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
        // ORDERING: replaces the fence in `Bell::arm`, between the store of `head` and the load of
        // the peer's bit; partner of the one where the sender armed it.
        fence(Ordering::SeqCst);
        Some(self.look_at_last(take))
    }

    /// Takes the last look, after a fence by the caller.
    fn look_at_last<T>(&mut self, take: &mut impl FnMut(&mut Self) -> Taken<T>) -> Taken<T> {
        self.serve_parked_sender();
        let taken = take(self);
        if let Ok(None) = taken {
            self.note();
            self.budget.renew(&self.channel.counters.received);
        }
        taken
    }

    /// Writes the statistics to the snapshot that tools read.
    #[cold]
    fn note(&self) {
        if cfg!(all(test, loom)) {
            return;
        }
        let (snapshot, stats) = self.channel.note();
        // ORDERING: Relaxed for all; nothing acts on a snapshot.
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
