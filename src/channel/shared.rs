//! What both halves of an end share: the region's words, the bells, the ends, the waiting tasks,
//! the driver and the lifeline.

use std::fmt::{self, Debug};
use std::future::poll_fn;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32 as StdAtomicU32, AtomicU64 as StdAtomicU64};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::bell_wait::BellWait;
use super::block::{Blocked, Seen, at_most};
use super::counters::{Counters, Stats, count};
use super::deadline::QueueDeadline;
use super::ends::Ends;
use super::hangup::Hangup;
use super::spurious_wakes::SpuriousWakes;
use crate::driver::Registration;
use crate::error::CloseReason;
use crate::rendezvous::credentials::PeerCredentials;
use crate::rendezvous::lifeline::Lifeline;
use crate::ring::Probe;
use crate::shm::layout::{RECORD_HEADER, RING_BY_BYTE, SEND, Side, SideWords, Snapshot};
use crate::shm::region::{Region, Words};
use crate::sync::{Arc, Ordering, fence};
use crate::sys::fork::{Origin, ProcessLock};
use crate::sys::futex::Slept;
use crate::wake::bell::Bell;
use crate::wake::spin::{DEFAULT_SPIN, Spin, Spinning};
use crate::wake::waiters::Waiters;
use crate::wake::yields::FIRST_BACKOFF;

/// How long a blocked thread sleeps before it checks the peer itself, while there is no descriptor
/// or no thread for the background driver's watch.
const UNWATCHED: Duration = Duration::from_millis(20);

/// The options of an end that a builder sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How long a send waits for room; `None` means forever.
    pub(crate) send_timeout: Option<Duration>,
    /// For how long a look that finds nothing may be repeated before the task parks.
    pub(crate) spin: Duration,
    /// In how many dry spells a new receiver parks before other tasks have run.
    pub(crate) first_backoff: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            send_timeout: Some(Duration::from_secs(5)),
            spin: DEFAULT_SPIN,
            first_backoff: FIRST_BACKOFF,
        }
    }
}

/// One end of a channel, shared by its two halves and the driver.
#[derive(Debug)]
pub(crate) struct Channel {
    region: Arc<Region>,
    side: Side,
    own: Words,
    peers: Words,
    /// Wakes this side.
    pub(super) bell: Bell,
    /// Wakes the peer.
    pub(super) peer_bell: Bell,
    pub(super) ends: Ends,
    /// Threads that sleep on `bell`.
    pub(super) blocked: Blocked,
    /// Whether `bell` has to wake the driver too.
    pub(super) bell_wait: BellWait,
    /// Tasks that wait for a packet.
    pub(super) data: Waiters,
    /// The one task that waits for room.
    pub(super) room: Waiters,
    /// Tasks that wait for their place at the front, where they may wait for room.
    pub(super) place: Waiters,
    /// Tasks that wait for the peer or for the end, and those in the queue, for a deadline.
    pub(super) news: Waiters,
    pub(super) queue_deadline: QueueDeadline,
    pub(super) counters: Counters,
    pub(super) send_timeout: Option<Duration>,
    pub(super) first_backoff: u32,
    pub(super) data_spin: Spin,
    pub(super) room_spin: Spin,
    /// For the driver's spins for our packets.
    pub(super) park_spin: Spin,
    /// Where the driver looks while it spins.
    pub(super) probe: Probe,
    pub(super) driver: OnceLock<Registration>,
    /// Set if the driver may be one that no thread runs.
    pub(super) hangup: OnceLock<Arc<Hangup>>,
    pub(super) lifeline: OnceLock<Lifeline>,
    /// Who is given the region, from before that until the lifeline is there.
    admitted: ProcessLock<Option<PeerCredentials>>,
    /// `TX_CLOSED` and `RX_CLOSED` of the halves that were dropped.
    pub(super) left: StdAtomicU32,
    /// `close` was called, or the `Sink` was closed.
    pub(super) tx_closed: AtomicBool,
    /// Dropping the sender while `tx_closed` is false cancels the channel.
    pub(super) cancel_on_drop: AtomicBool,
    /// The ends when the tasks were last woken for them.
    pub(super) known_ends: StdAtomicU64,
    /// What had been received when a blocking call last had the peer watched.
    watched_at: StdAtomicU64,
    /// How often the driver has seen a record for a task.
    pub(super) hints: StdAtomicU64,
    /// The end was split into halves: one task at a time receives, and one sends.
    pub(super) split: AtomicBool,
    /// Both halves are in one value, which is dropped as a whole end is.
    joined: AtomicBool,
    /// What has to live as long as this end does: the engine's socket.
    pub(super) kept: ProcessLock<Option<Box<dyn Debug + Send>>>,
    /// The process that the end belongs to.
    pub(super) origin: Origin,
}

impl Channel {
    pub(crate) fn new(region: Arc<Region>, side: Side, options: Options) -> Self {
        Self {
            own: region.words(side),
            peers: region.words(side.peer()),
            bell: Bell::new(&region, side),
            peer_bell: Bell::new(&region, side.peer()),
            probe: Probe::new(&region, side),
            region,
            side,
            ends: Ends::new(),
            blocked: Blocked::default(),
            bell_wait: BellWait::new(),
            data: Waiters::default(),
            room: Waiters::default(),
            place: Waiters::default(),
            news: Waiters::default(),
            queue_deadline: QueueDeadline::default(),
            counters: Counters::default(),
            send_timeout: options.send_timeout,
            first_backoff: options.first_backoff,
            data_spin: Spin::new(options.spin),
            room_spin: Spin::new(options.spin),
            park_spin: Spin::new(options.spin),
            driver: OnceLock::new(),
            hangup: OnceLock::new(),
            lifeline: OnceLock::new(),
            admitted: ProcessLock::default(),
            left: StdAtomicU32::new(0),
            tx_closed: AtomicBool::new(false),
            cancel_on_drop: AtomicBool::new(false),
            known_ends: StdAtomicU64::new(0),
            watched_at: StdAtomicU64::new(0),
            hints: StdAtomicU64::new(0),
            split: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            kept: ProcessLock::default(),
            origin: Origin::here(),
        }
    }

    /// Keeps `thing` until this end is over.
    pub(crate) fn keep(&self, thing: Box<dyn Debug + Send>) {
        if let Some(mut kept) = self.kept.lock() {
            *kept = Some(thing);
        }
    }

    /// Notes that from now on one caller at a time uses each half. Other waiters of a half (a
    /// stream's place, a future that was leaked) must then not swallow the wake of its last caller.
    pub(crate) fn split(&self) {
        // ORDERING: Relaxed; a caller that waits from now on was given its half after this store.
        self.split.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_split(&self) -> bool {
        // ORDERING: Relaxed; a wake that loads the old value came before any new wait.
        self.split.load(Ordering::Relaxed)
    }

    /// Notes whether the halves are in one value. The caller has both.
    pub(crate) fn set_joined(&self, joined: bool) {
        // ORDERING: Relaxed; whoever drops the halves was given them after this store.
        self.joined.store(joined, Ordering::Relaxed);
    }

    /// Whether the drop of the sending half is that of a whole end: the receiving half is dropped
    /// next.
    pub(super) fn ends_as_one(&self) -> bool {
        // ORDERING: Relaxed, as in `set_joined`.
        !self.is_split() || self.joined.load(Ordering::Relaxed)
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    pub(crate) fn peer(&self) -> Option<PeerCredentials> {
        self.lifeline.get().map(Lifeline::peer).or_else(|| self.peer_that_was_faster())
    }

    /// Notes who is about to be given the region, or that it was not delivered.
    pub(crate) fn set_admitted(&self, peer: Option<PeerCredentials>) {
        if let Some(mut admitted) = self.admitted.lock() {
            *admitted = peer;
        }
    }

    /// Returns who the peer is if it was faster than our driver: it uses the region already, while
    /// the driver still comes back from giving it the region. The driver
    /// [`attach`](Self::attach)es it next.
    #[cold]
    fn peer_that_was_faster(&self) -> Option<PeerCredentials> {
        // PEER: whatever is written there, who has written it has the region.
        // ORDERING: Relaxed; a caller that knows of the peer has loaded what the peer published
        // with Acquire, and the lock orders the rest.
        let is_here = self.counters.received.packets() > 0
            || self.peer_words().ends.0.load(Ordering::Relaxed) != 0
            || self.peer_words().taken.0.load(Ordering::Relaxed) != 0;
        if is_here { *self.admitted.lock()? } else { None }
    }

    /// Whether the peer was faster than our driver: it has the region, and has even ended the
    /// channel for this `reason`, while the driver still comes back from giving it the region. The
    /// driver [`attach`](Self::attach)es it next.
    pub(crate) fn is_about_to_know_peer(&self, reason: CloseReason) -> bool {
        let may_be_theirs = matches!(reason, CloseReason::Peer | CloseReason::Cancelled);
        // PEER: whatever is written there, who has written it has the region.
        // ORDERING: Relaxed; the reason was read before with Acquire, if it is theirs.
        may_be_theirs && self.peer_words().ends.0.load(Ordering::Relaxed) != 0
    }

    pub(super) fn lifeline(&self) -> Option<&Lifeline> {
        self.lifeline.get()
    }

    /// Prepares for a call that is about to block the thread, whether or not a thread runs the
    /// driver. The call has read the bell: the peer's death, before or from now on, counts it up.
    /// Returns `false` if nothing would detect the death.
    pub(super) fn prepare_to_block(&self) -> bool {
        let Some(hangup) = self.hangup.get() else { return true };
        if let Some(lifeline) = self.lifeline() {
            self.learn_of_peer(lifeline);
        }
        hangup.ensure_watched(self)
    }

    /// Called by a blocking call that is about to receive. Has the peer watched once for each
    /// ring's length of records, even if the call never sleeps: no thread may run the driver, and a
    /// peer that has left a cycle of records would feed the receiver forever.
    #[inline]
    pub(crate) fn watch_peer(&self) {
        if self.hangup.get().is_none() {
            return;
        }
        let received = &self.counters.received;
        let records = received.packets().wrapping_mul(RECORD_HEADER as u64 * 2);
        let passed = records.wrapping_add(received.bytes());
        // ORDERING: Relaxed, here and below; it only says when to check again.
        let since = passed.wrapping_sub(self.watched_at.load(Ordering::Relaxed));
        if since >= self.region.geometry().ring_bytes() as u64 {
            self.watched_at.store(passed, Ordering::Relaxed);
            self.watch_peer_now();
        }
    }

    #[cold]
    fn watch_peer_now(&self) {
        if !self.prepare_to_block() && self.lifeline().is_some_and(Lifeline::is_hung_up) {
            self.hung_up();
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        // Once the channel is over, the driver may watch the lifeline no more.
        let is_gone = || {
            self.ends.is_peer_gone()
                || self.ends.channel().is_some()
                    && self.lifeline().is_some_and(Lifeline::is_hung_up)
        };
        self.forked().is_none() && self.peer().is_some() && !is_gone()
    }

    #[inline]
    pub(super) fn own_words(&self) -> &SideWords {
        &self.own
    }

    #[inline]
    pub(super) fn peer_words(&self) -> &SideWords {
        &self.peers
    }

    /// Writes the statistics of both halves to the snapshot that tools read. The caller adds those
    /// of its own half.
    pub(super) fn note(&self) -> (&Snapshot, Stats) {
        let (snapshot, stats) = (&self.own_words().snapshot.0, self.counters.read());
        // ORDERING: Relaxed for all; nothing acts on a snapshot.
        snapshot.wakes_sent.store(stats.wakes_sent, Ordering::Relaxed);
        snapshot.parks.store(stats.parks, Ordering::Relaxed);
        snapshot.wakes_received.store(stats.wakes_received, Ordering::Relaxed);
        snapshot.full_stalls.store(stats.full_stalls, Ordering::Relaxed);
        snapshot.spins_paid.store(stats.spins_paid, Ordering::Relaxed);
        snapshot.spins_unpaid.store(stats.spins_unpaid, Ordering::Relaxed);
        (snapshot, stats)
    }

    /// Wakes the peer, if it sleeps with `bit` set, after something was published for it.
    #[inline]
    pub(super) fn wake_if_waiting(&self, bit: u32) {
        if self.peer_bell.wake_if_waiting(bit) {
            self.woke_peer();
        }
    }

    /// Like [`wake_if_waiting`](Self::wake_if_waiting), after a fence by the caller.
    #[inline]
    pub(super) fn wake_if_waiting_fenced(&self, bit: u32) {
        if self.peer_bell.wake_if_waiting_fenced(bit) {
            self.woke_peer();
        }
    }

    /// Does the rest of a wake, after the bell was woken for a bit of the peer's.
    #[cold]
    fn woke_peer(&self) {
        count(&self.counters.wakes_sent);
        // Without a fence: the bit was taken with Acquire, and came after the announcement.
        if self.wants_bytes() {
            self.wake_by_byte();
        }
    }

    /// Sends the part of a wake that reaches a driver without io_uring.
    pub(super) fn wake_by_byte(&self) {
        // ORDERING: partner of the fence in `attach`. Also between an end's flag and the load of
        // whether the peer wants bytes, which the peer announces before it looks at the flag;
        // partner of the peer's in `Bell::arm` and `BellWait::task_waits`.
        fence(Ordering::SeqCst);
        if !self.wants_bytes() {
            return;
        }
        if let Some(lifeline) = self.lifeline.get() {
            lifeline.wake();
        }
    }

    pub(super) fn wants_bytes(&self) -> bool {
        // ORDERING: Relaxed; the peer announced that it wants bytes before it first armed its bell,
        // and the Release of that bit carries the announcement to any thread that took the bit.
        self.peer_words().ends.0.load(Ordering::Relaxed) & RING_BY_BYTE != 0
    }

    /// Asks the driver to wake this end's tasks at `at`, so that they look again.
    pub(super) fn wake_at(&self, at: Instant) {
        if let Some(driver) = self.driver.get() {
            driver.wake_at(at);
        }
    }

    /// Calls `look` repeatedly, as long as `spin` allows, until it finds something. Returns that
    /// and how long it took; the caller counts it, with its half in hand, because a counter that
    /// others write too would delay what has just come. After a spin without effect, the caller has
    /// it accounted to the thread, by [`Spinning::charge`].
    pub(super) fn spin<T>(
        &self,
        spin: &Spin,
        most: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<(T, Duration), Option<Spinning>> {
        let longest = spin.next_spin().ok_or(None)?;
        let mut spinning = Spinning::begin(longest.min(most)).ok_or(None)?;
        let mut found = None;
        while found.is_none() && spinning.again() {
            found = look();
        }
        let Some(found) = found else {
            self.note_spin(spin, false);
            return Err(Some(spinning));
        };
        spin.note(true);
        Ok((found, spinning.so_far()))
    }

    /// Leaves this end as threads do that have slept on the bell and were woken: the driver may let
    /// the bell go at its next turn.
    #[cfg(all(test, loom))]
    pub(crate) fn leave_as_threads_do(&self) {
        self.bell_wait.thread_sleeps();
        self.bell.wake();
    }

    pub(super) fn note_spin(&self, spin: &Spin, found: bool) {
        spin.note(found);
        let counters = &self.counters;
        count(if found { &counters.spins_paid } else { &counters.spins_unpaid });
    }

    /// Sleeps on this side's bell, unless it was woken since `seen`, or an end has come.
    pub(super) fn sleep(
        &self,
        seen: Seen,
        timeout: Option<Duration>,
        spurious: &mut SpuriousWakes,
    ) {
        let is_watched = self.prepare_to_block();
        self.bell_wait.thread_sleeps();
        // ORDERING: Relaxed; a count, which publishes nothing.
        let parks = self.counters.parks.load(Ordering::Relaxed);
        spurious.note_sleep(self.bell.count(), parks);
        let timeout = if is_watched { timeout } else { Some(at_most(timeout, UNWATCHED)) };
        if self.blocked.sleep(&self.bell, seen, timeout) == Slept::Interrupted {
            spurious.forget_sleep();
        }
        if !is_watched && self.lifeline().is_some_and(Lifeline::is_hung_up) {
            self.hung_up();
        }
    }

    /// Has the driver wait on the bell for the caller. The caller has joined a queue of tasks (or
    /// of threads that are woken when they get their place, not by the bell), and looks for what it
    /// waits for after this.
    pub(super) fn rely_on_driver(&self) {
        if let Some(seen) = self.bell_wait.task_waits(|| self.bell.count())
            && let Some(driver) = self.driver.get()
        {
            driver.wait_again(seen);
        }
    }

    /// Counts a newly set bit of ours, for the statistics and for the flood check.
    pub(super) fn parked(&self, bit: u32) {
        count(&self.counters.parks);
        if bit == SEND {
            count(&self.counters.full_stalls);
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Waits until `look` finds something. Calls it whenever there is news.
    pub(crate) fn wait_for<T>(
        &self,
        mut look: impl FnMut(&Self) -> Option<T> + Send,
    ) -> impl Future<Output = T> + Send {
        let mut place = None;
        poll_fn(move |cx| {
            if let Some(found) = look(self) {
                return Poll::Ready(found);
            }
            self.news.register(&mut place, cx);
            self.rely_on_driver();
            // What happens from now on notifies us.
            look(self).map_or(Poll::Pending, Poll::Ready)
        })
    }

    /// Formats any type that is one end of a channel, for its `Debug`.
    pub(crate) fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("side", &self.side())
            .field("peer", &self.peer())
            .field("ring_bytes", &self.region().geometry().ring_bytes())
            .field("max_packet", &self.region().geometry().max_packet())
            .field("close_reason", &self.close_reason_so_far())
            .finish_non_exhaustive()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Again, for a channel that was connected while it left.
        if let Some(hangup) = self.hangup.get() {
            hangup.leave(self.lifeline());
        }
    }
}
