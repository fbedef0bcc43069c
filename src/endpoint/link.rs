//! What both halves of an end share: the region's words, the bells, the ends, the waiting tasks,
//! the driver and the lifeline.

use std::fmt::Debug;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32 as StdAtomicU32, AtomicU64 as StdAtomicU64};
use std::sync::{Mutex as StdMutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::counters::{Counters, count};
use super::ends::{Directions, Ends};
use super::standby::Standby;
use crate::bell::Bell;
use crate::credentials::PeerCredentials;
use crate::driver::{Backend, Binding, Registration, Source};
use crate::error::{CloseReason, ShmError, Violation};
use crate::fork;
use crate::futex;
use crate::layout::{
    CANCELLED, ENDS, RING_BY_BYTE, RX_CLOSED, SEND, Side, SideWords, Snapshot, TX_CLOSED,
};
use crate::lifeline::Lifeline;
use crate::region::Region;
use crate::spin::{DEFAULT_SPIN, Spin};
use crate::sync::{Arc, AtomicU32, Ordering, fence};
use crate::waiters::Waiters;

/// Under which the driver watches the lifeline.
const LIFELINE: u16 = 1;

/// Wakes beyond twice what was asked for that are put up with: ends, and wakes of a former wait.
///
/// Twice, because one ring may end two waits of the driver: its count fails the compare of the one
/// that is armed next, and its wake then ends the one after that.
const SPARE_WAKES: u64 = 64;

/// What a builder lets one choose of an end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How long a send waits for room; `None` is for ever.
    pub(crate) send_timeout: Option<Duration>,
    /// How long an empty look may be repeated before the task parks.
    pub(crate) spin: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { send_timeout: Some(Duration::from_secs(5)), spin: DEFAULT_SPIN }
    }
}

/// Wakes of a blocked thread that found nothing.
///
/// Some are lawful, where several threads sleep on one bell. But the flood budget counts those of
/// the driver alone, and a peer that wakes a bare futex again and again must not have the thread
/// spin for it.
#[derive(Debug)]
pub(super) struct VainWakes {
    count: u32,
    since: Instant,
}

impl VainWakes {
    /// So many within this time are a flood.
    const MOST: u32 = 64;
    const WINDOW: Duration = Duration::from_millis(10);
    /// What each further one then has to wait.
    const PENANCE: Duration = Duration::from_millis(1);

    pub(super) fn new() -> Self {
        Self { count: 0, since: Instant::now() }
    }

    fn bear(&mut self) {
        self.count += 1;
        if self.count <= Self::MOST {
            return;
        }
        if self.since.elapsed() < Self::WINDOW + self.count * Self::PENANCE {
            std::thread::sleep(Self::PENANCE);
        } else {
            *self = Self::new();
        }
    }
}

/// One end of a channel, seen from both its halves and from the driver.
#[derive(Debug)]
pub(crate) struct Link {
    region: Arc<Region>,
    side: Side,
    /// Wakes this side.
    pub(super) bell: Bell,
    /// Wakes the other.
    pub(super) peer_bell: Bell,
    pub(super) ends: Ends,
    /// Tasks that wait for a packet.
    pub(super) data: Waiters,
    /// The one task that waits for room.
    pub(super) room: Waiters,
    /// Tasks that wait until it is their turn to wait for room.
    pub(super) turn: Waiters,
    /// Tasks that wait for a deadline, for the peer or for the end.
    pub(super) news: Waiters,
    pub(super) counters: Counters,
    pub(super) send_timeout: Option<Duration>,
    pub(super) data_spin: Spin,
    pub(super) room_spin: Spin,
    driver: OnceLock<Registration>,
    /// Where the driver may be one that nobody runs.
    standby: OnceLock<Arc<Standby>>,
    lifeline: OnceLock<Lifeline>,
    /// [`TX_CLOSED`] and [`RX_CLOSED`] of the halves that were dropped.
    left: StdAtomicU32,
    /// The ends when the tasks were last told.
    told: StdAtomicU64,
    /// The halves go their own ways: one task at a time receives, and one sends.
    split: AtomicBool,
    /// What has to live as long as this end does: the engine's socket.
    kept: StdMutex<Option<Box<dyn Debug + Send>>>,
    /// The process that it belongs to.
    generation: u32,
}

impl Link {
    pub(crate) fn new(region: Arc<Region>, side: Side, options: Options) -> Self {
        Self {
            bell: Bell::new(&region, side),
            peer_bell: Bell::new(&region, side.peer()),
            region,
            side,
            ends: Ends::new(),
            data: Waiters::default(),
            room: Waiters::default(),
            turn: Waiters::default(),
            news: Waiters::default(),
            counters: Counters::default(),
            send_timeout: options.send_timeout,
            data_spin: Spin::new(options.spin),
            room_spin: Spin::new(options.spin),
            driver: OnceLock::new(),
            standby: OnceLock::new(),
            lifeline: OnceLock::new(),
            left: StdAtomicU32::new(0),
            told: StdAtomicU64::new(0),
            split: AtomicBool::new(false),
            kept: StdMutex::new(None),
            generation: fork::generation(),
        }
    }

    /// Puts the link into the driver's care, before anybody waits on it.
    pub(super) fn bind(self: &Arc<Self>, driver: &Binding) -> Result<(), ShmError> {
        let registration = driver.register(self.clone())?;
        if registration.backend() == Backend::Epoll {
            self.announce(RING_BY_BYTE);
        }
        // Set once, here; the link is new.
        let _ = self.driver.set(registration);
        if !driver.is_background() {
            let _ = self.standby.set(Standby::new(self));
        }
        Ok(())
    }

    /// Takes the socket that the handshake went over: from now on the peer is there.
    pub(crate) fn attach(&self, socket: OwnedFd, peer: PeerCredentials) -> Result<(), ShmError> {
        let lifeline = self.lifeline.get_or_init(|| Lifeline::new(socket, peer));
        if let Some(driver) = self.driver.get()
            && let Err(error) = driver.watch(lifeline.as_fd(), LIFELINE)
        {
            if !driver.is_cancelled() {
                return Err(error);
            }
            // The end was dropped while its peer came in: that is an orderly end, not a failure.
            lifeline.hang_up();
        }
        // A ring that came before the line was there went without its byte.
        // ORDERING: this fence, behind the store of the lifeline, and the one in `ring_by_byte`:
        // either that one finds the line, or the announcement that it saw is seen here.
        fence(Ordering::SeqCst);
        if self.wants_bytes() {
            lifeline.ring();
        }
        if let Some(standby) = self.standby.get() {
            standby.connected(self);
        }
        self.news.notify_all();
        Ok(())
    }

    /// Keeps `thing` until this end is over.
    pub(crate) fn keep(&self, thing: Box<dyn Debug + Send>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(thing);
    }

    /// From now on each half is used by one caller at a time, so that whoever waits on it besides
    /// the last caller (a stream's place, a future that was forgotten) must not swallow its wake.
    pub(crate) fn split(&self) {
        // ORDERING: Relaxed; who waits from now on was given its half behind this.
        self.split.store(true, Ordering::Relaxed);
    }

    fn is_split(&self) -> bool {
        // ORDERING: Relaxed; a wake that finds the old answer came before anybody waited anew.
        self.split.load(Ordering::Relaxed)
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    pub(crate) fn peer(&self) -> Option<PeerCredentials> {
        self.lifeline.get().map(Lifeline::peer)
    }

    pub(super) fn lifeline(&self) -> Option<&Lifeline> {
        self.lifeline.get()
    }

    /// A call is about to block the thread, whoever runs the driver or not. It has read the bell: a
    /// death from now on, or before, counts that up.
    pub(super) fn prepare_to_block(&self) {
        if let Some(standby) = self.standby.get() {
            standby.want(self);
        }
    }

    /// Why nothing can be done here, if this process is a child of the one that the end belongs to:
    /// then the region, the lifeline and the driver are the parent's, and a lock may be held by a
    /// thread that does not exist here.
    #[inline]
    pub(crate) fn forked(&self) -> Option<CloseReason> {
        fork::has_left(self.generation).then(|| self.disown())
    }

    #[cold]
    fn disown(&self) -> CloseReason {
        // Private memory: the parent has its own.
        self.ends.end(Directions::BOTH, CloseReason::Forked);
        self.ends.settle(CloseReason::Forked)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.forked().is_none() && self.lifeline.get().is_some() && !self.ends.is_peer_gone()
    }

    fn own_words(&self) -> &SideWords {
        self.region.side(self.side)
    }

    fn peer_words(&self) -> &SideWords {
        self.region.side(self.side.peer())
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.own_words().snapshot.0
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
    fn announce(&self, bits: u32) -> bool {
        // ORDERING: Release orders all packets published before it; pairs with `peer_ends`.
        self.own_words().ends.0.fetch_or(bits, Ordering::Release) & bits != bits
    }

    /// Wakes the peer, if it sleeps for `bit`, after something was published for it.
    #[inline]
    pub(super) fn ring(&self, bit: u32) {
        if self.peer_bell.ring(bit) {
            self.rang();
        }
    }

    /// As [`ring`](Self::ring), behind a fence of the caller's.
    pub(super) fn ring_fenced(&self, bit: u32) {
        if self.peer_bell.ring_fenced(bit) {
            self.rang();
        }
    }

    #[cold]
    fn rang(&self) {
        count(&self.counters.wakes_sent);
        self.ring_by_byte();
    }

    /// The part of a wake that reaches a driver without io_uring.
    fn ring_by_byte(&self) {
        if !self.wants_bytes() {
            return;
        }
        // ORDERING: partner of the fence in `attach`.
        fence(Ordering::SeqCst);
        if let Some(lifeline) = self.lifeline.get() {
            lifeline.ring();
        }
    }

    fn wants_bytes(&self) -> bool {
        // ORDERING: Relaxed; the peer announced how it likes to be rung before it first parked, and
        // the fence behind its bit carries that to whoever saw the bit.
        self.peer_words().ends.0.load(Ordering::Relaxed) & RING_BY_BYTE != 0
    }

    /// Tells the peer of an end, whether or not it sleeps. The flag comes before the ring.
    fn announce_end(&self, bits: u32) {
        if self.announce(bits) {
            self.peer_bell.strike();
            self.rang();
        }
    }

    /// Asks the driver for a look at `at`.
    pub(super) fn alarm(&self, at: Instant) {
        if let Some(driver) = self.driver.get() {
            driver.alarm(at);
        }
    }

    /// Looks again and again, as long as `spin` allows, until `look` finds something.
    pub(super) fn spin<T>(&self, spin: &Spin, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut spinning = spin.begin()?;
        let mut found = None;
        while found.is_none() && spinning.again() {
            found = look();
        }
        spinning.end(found.is_some());
        let counters = &self.counters;
        count(if found.is_some() { &counters.spins_paid } else { &counters.spins_unpaid });
        found
    }

    /// Sleeps on this side's bell, as long as it holds `seen`.
    pub(super) fn sleep(&self, seen: u32, timeout: Option<Duration>, vain: &mut VainWakes) {
        self.prepare_to_block();
        vain.bear();
        futex::wait(self.bell.word(), seen, timeout);
    }

    /// Counts a newly set bit of ours, for the books and for the flood budget.
    pub(super) fn parked(&self, bit: u32) {
        count(&self.counters.parks);
        if bit == SEND {
            count(&self.counters.full_stalls);
        }
    }

    /// Why sending is over, if it is. Looks at the peer's word each time.
    #[inline]
    pub(crate) fn tx_end(&self) -> Option<CloseReason> {
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

    /// Why receiving is over once the ring is empty. To be asked before the look at the ring.
    pub(super) fn rx_over(&self) -> Option<CloseReason> {
        if self.peer_ends() & TX_CLOSED != 0 {
            Some(CloseReason::Peer)
        } else if self.ends.is_peer_gone() {
            Some(CloseReason::PeerDied)
        } else {
            None
        }
    }

    /// Settles what the peer's word means for us, except that the ring may still hold packets.
    fn heed(&self, ends: u32) {
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

    /// Tasks that wait for news of this end.
    pub(super) fn news(&self) -> &Waiters {
        &self.news
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends both directions for a reason of our own, tells the peer and wakes everybody.
    fn end(&self, reason: CloseReason, announcement: u32) {
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
        self.bell.strike();
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
        self.bell.strike();
        self.tell_tasks();
    }

    fn tell_tasks(&self) {
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

    fn peer_gone(&self) {
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

    /// Whether the ends have changed since the tasks were last told.
    fn has_news(&self) -> bool {
        let now = u64::from(self.ends.state()) << 32 | u64::from(self.peer_ends() & !RING_BY_BYTE);
        // ORDERING: Relaxed; only the driver's thread calls this.
        self.told.swap(now, Ordering::Relaxed) != now
    }

    /// A lawful peer wakes us as often as we asked, and a few times for ends.
    fn check_flood(&self) {
        let counters = self.counters.read();
        if counters.wakes_received > 2 * counters.parks + SPARE_WAKES {
            // Changes nothing where all has ended; then only the driver is spared.
            self.violated(Violation::WakeFlood);
            self.leave_driver();
        }
    }

    /// Takes this end out of the driver's care once it can bring no news any more but floods.
    fn mute(&self) {
        let ends = [self.ends.tx(), self.ends.rx(), self.ends.channel()];
        if ends.iter().any(|end| matches!(end, Some(CloseReason::Violation(_)))) {
            self.leave_driver();
        }
    }

    fn leave_driver(&self) {
        if let Some(standby) = self.standby.get() {
            standby.leave(self.lifeline());
        }
        let Some(driver) = self.driver.get() else { return };
        if let Some(lifeline) = self.lifeline.get() {
            driver.unwatch(lifeline.as_fd());
            lifeline.hang_up();
        }
        driver.cancel();
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
            drop(self.kept.lock().unwrap_or_else(PoisonError::into_inner).take());
            self.tell_everyone();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Again, for one that was connected while it left.
        if let Some(standby) = self.standby.get() {
            standby.leave(self.lifeline());
        }
    }
}

impl Source for Link {
    fn bell(&self) -> Option<&AtomicU32> {
        Some(self.bell.word())
    }

    fn rung(&self) {
        count(&self.counters.wakes_received);
        self.check_flood();
        // Always the receivers: one of them may have taken the bit that another slept by, and a
        // look costs little. The sender only if it was its own bit: there is but one that waits
        // for room, and one that looks too early has its sleep cut into pieces.
        if self.has_news() {
            self.tell_tasks();
            self.mute();
        } else if self.is_split() {
            self.data.notify_all();
        } else {
            self.data.notify_one();
        }
        // Behind news as well: one wake may stand for both. And all of them, of whom but one can
        // be awaited: the others are places of sends that were forgotten or not polled again.
        if !self.bell.is_armed(SEND) {
            self.room.notify_all();
        }
    }

    fn ready(&self, _token: u16) {
        let Some(lifeline) = self.lifeline.get() else { return };
        let drained = lifeline.drain();
        if drained.rings > 0 {
            // One wake for each, as if each had come by the bell.
            for _ in 1..drained.rings {
                count(&self.counters.wakes_received);
            }
            self.rung();
        }
        if drained.hung_up {
            if let Some(driver) = self.driver.get() {
                driver.unwatch(lifeline.as_fd());
            }
            self.hung_up();
        }
    }

    fn alarm(&self) {
        self.room.notify_all();
        self.news.notify_all();
    }

    fn abandoned(&self) {
        self.end(CloseReason::DriverGone, CANCELLED);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn vain_wakes_of_a_blocked_thread_become_slow() {
        let mut vain = VainWakes::new();
        let begun = Instant::now();
        (0..VainWakes::MOST + 100).for_each(|_| vain.bear());
        assert!(begun.elapsed() >= 100 * VainWakes::PENANCE, "{:?}", begun.elapsed());
    }
}
