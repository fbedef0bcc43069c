//! An end as a source of its driver: what the driver watches for it, and what the driver calls.

use std::os::fd::AsFd;
use std::sync::Weak;
use std::time::Instant;

use super::counters::count;
use super::deadline::QueueTimer;
use super::hangup::{Hangup, HangupTarget};
use super::shared::Channel;
use crate::driver::{Backend, Binding, Source};
use crate::error::{CloseReason, ShmError, Violation};
use crate::rendezvous::lifeline::Lifeline;
use crate::shm::layout::{RING_BY_BYTE, SEND};
use crate::sync::{Arc, AtomicU32, Ordering, fence};

/// The tokens of the lifeline and of the peer's process in the driver.
const LIFELINE: u16 = 1;
const PROCESS: u16 = 2;

/// How many wakes are tolerated beyond twice the number of parks: ends, and wakes of a former wait.
///
/// Twice, because one wake of the bell may end two waits of the driver: its count fails the compare
/// of the wait that is armed next, and the futex wake then ends the wait after that.
const SPARE_WAKES: u64 = 64;

impl Channel {
    /// Registers the channel with the driver, before anybody waits on it.
    pub(crate) fn bind(self: &Arc<Self>, driver: &Binding) -> Result<(), ShmError> {
        let registration = driver.register(self.clone())?;
        if registration.backend() == Backend::Epoll {
            self.announce(RING_BY_BYTE);
        }
        // Set once, here; the channel is new.
        let _ = self.driver.set(registration);
        if !driver.is_background() {
            let channel: Weak<dyn HangupTarget> = Arc::downgrade(self) as _;
            let _ = self.hangup.set(Hangup::new(channel));
        }
        Ok(())
    }

    /// Takes the socket that carried the handshake as the lifeline: from now on the peer is
    /// connected.
    pub(crate) fn attach(&self, lifeline: Lifeline) -> Result<(), ShmError> {
        for spin in [&self.data_spin, &self.room_spin, &self.park_spin] {
            spin.set_peer(lifeline.peer().pid);
        }
        let lifeline = self.lifeline.get_or_init(|| lifeline);
        let (peer, side) = (lifeline.peer(), self.side().name());
        self.ends.told().connected(side, lifeline.place(), peer.pid, peer.uid);
        self.ends.tell(self.ends.state());
        if let Some(driver) = self.driver.get() {
            match driver.watch(lifeline.as_fd(), LIFELINE) {
                Ok(()) => lifeline.watch_process(driver, PROCESS),
                Err(error) if !driver.is_cancelled() => return Err(error),
                // The end was dropped while its peer connected: that is an orderly end, not a
                // failure.
                Err(_) => lifeline.hang_up(),
            }
        }
        // A wake that came before the lifeline was set could not send its byte.
        // ORDERING: this fence, after the store of the lifeline, pairs with the one in
        // `wake_by_byte`: either that call finds the lifeline, or we see here the announcement that
        // it saw.
        fence(Ordering::SeqCst);
        if self.wants_bytes() {
            lifeline.wake();
        }
        // ORDERING: that fence pairs with the one in `leave_driver`, too: either the end that was
        // dropped meanwhile finds the lifeline, or we see here that it has left.
        if let Some(driver) = self.driver.get()
            && driver.is_cancelled()
        {
            lifeline.unwatch(driver);
            lifeline.hang_up();
        }
        if let Some(hangup) = self.hangup.get() {
            hangup.connected(self);
        }
        self.news.notify_all();
        Ok(())
    }

    /// Wakes the peer of a pair for the first time, so that its engine learns of us; also an engine
    /// whose driver no thread runs.
    pub(crate) fn introduce(&self) {
        count(&self.counters.wakes_sent);
        if let Some(lifeline) = self.lifeline.get() {
            lifeline.wake();
        }
        // A call that blocks there wakes, and finds the byte in the lifeline.
        self.peer_bell.wake();
    }

    /// Has the peer's process watched, once the peer has introduced itself.
    pub(super) fn learn_of_peer(&self, lifeline: &Lifeline) {
        if !lifeline.learn() {
            return;
        }
        if let Some(driver) = self.driver.get() {
            lifeline.watch_process(driver, PROCESS);
        }
        // ORDERING: the partner of the fence in `Hangup::watch`: either that call finds the
        // process, or we find its driver here.
        fence(Ordering::SeqCst);
        if let Some(hangup) = self.hangup.get() {
            hangup.learned(lifeline);
        }
    }

    /// Whether the ends have changed since the tasks were last woken for that. Notes the new state.
    pub(super) fn has_news(&self) -> bool {
        let now = self.now();
        // ORDERING: Relaxed, here and below; only the driver's thread calls these.
        let is_news = self.known_ends.load(Ordering::Relaxed) != now;
        if is_news {
            self.known_ends.store(now, Ordering::Relaxed);
        }
        is_news
    }

    /// Like [`has_news`](Self::has_news), but notes nothing.
    fn will_have_news(&self) -> bool {
        self.known_ends.load(Ordering::Relaxed) != self.now()
    }

    /// Returns the present state of the ends, ours and the peer's.
    fn now(&self) -> u64 {
        u64::from(self.ends.state()) << 32 | u64::from(self.peer_ends() & !RING_BY_BYTE)
    }

    /// Wakes all tasks if there are new ends, otherwise the receivers, for which there may be
    /// packets.
    fn wake_for_news_or_packets(&self) {
        if self.has_news() {
            self.wake_tasks();
            self.leave_after_violation();
        } else if self.is_split() {
            self.data.notify_all();
        } else {
            self.data.notify_one();
        }
    }

    /// Checks for a flood of wakes: a conforming peer wakes us as often as we parked, plus a few
    /// times for ends.
    pub(super) fn check_flood(&self) {
        // ORDERING: Relaxed; counts, which publish nothing.
        let wakes = self.counters.wakes_received.load(Ordering::Relaxed);
        if wakes > 2 * self.counters.parks.load(Ordering::Relaxed) + SPARE_WAKES {
            // Changes nothing if both directions have ended; leaving then only spares the driver.
            self.violated(Violation::WakeFlood);
            self.leave_driver();
        }
    }

    /// Checks for a flood of hints. A task asks for the next hint after it has looked for itself.
    /// By then a receiver has taken the packet of the last hint. A header that comes and goes is
    /// not a packet, and would keep the driver from ever sleeping.
    fn check_hints(&self) {
        // ORDERING: Relaxed; only the thread that runs the driver counts them.
        let hints = self.hints.fetch_add(1, Ordering::Relaxed);
        if hints > self.counters.received.packets().saturating_add(SPARE_WAKES) {
            self.violated(Violation::WakeFlood);
            self.leave_driver();
        }
    }

    /// Removes this end from the driver after a violation: from then on it can bring only floods.
    pub(super) fn leave_after_violation(&self) {
        let ends = [self.ends.tx(), self.ends.rx()];
        if ends.iter().any(|end| matches!(end, Some(CloseReason::Violation(_)))) {
            self.leave_driver();
        }
    }

    pub(super) fn leave_driver(&self) {
        if let Some(hangup) = self.hangup.get() {
            hangup.leave(self.lifeline());
        }
        let Some(driver) = self.driver.get() else { return };
        driver.cancel();
        // ORDERING: partner of the fence in `attach`.
        fence(Ordering::SeqCst);
        if let Some(lifeline) = self.lifeline.get() {
            lifeline.unwatch(driver);
            lifeline.hang_up();
        }
    }
}

impl HangupTarget for Channel {
    fn lifeline(&self) -> Option<&Lifeline> {
        Self::lifeline(self)
    }

    fn wake_threads(&self) {
        self.blocked.wake(&self.bell);
    }

    fn hung_up(&self) {
        Self::hung_up(self);
    }
}

impl Source for Channel {
    fn bell(&self) -> Option<&AtomicU32> {
        Some(self.bell.word())
    }

    fn lets_bell_go(&self) -> bool {
        let queues = [&self.data, &self.room, &self.place, &self.news];
        self.bell_wait.lapse(|| queues.iter().any(|queue| !queue.is_empty()))
    }

    fn on_wake(&self) {
        count(&self.counters.wakes_received);
        self.check_flood();
        // Always the receivers: one of them may have cleared the bit that another slept with, and a
        // look costs little. The sender only if the wake was for its own bit: only one sender waits
        // for room, and a look too early cuts its sleep into pieces.
        self.wake_for_news_or_packets();
        // Also after news, because one wake may stand for both. All entries are woken, although
        // only one of them can be awaited: the others are places of sends that were leaked or are
        // not polled again.
        // ORDERING: a stale "still armed" would lose the sender's wake. The caller has loaded the
        // bell's count with Acquire, or received the byte that follows it, and the bit was cleared
        // before the count.
        if !self.bell.is_armed(SEND) {
            self.room.notify_all();
        }
    }

    fn on_ready(&self, token: u16) {
        let Some(lifeline) = self.lifeline.get() else { return };
        let is_over = if token == PROCESS {
            lifeline.is_orphaned()
        } else {
            self.learn_of_peer(lifeline);
            let drained = lifeline.drain();
            if drained.wakes > 0 {
                // Count one wake for each byte, as if each had come through the bell.
                for _ in 1..drained.wakes {
                    count(&self.counters.wakes_received);
                }
                self.on_wake();
            }
            drained.hung_up
        };
        if is_over {
            if let Some(driver) = self.driver.get() {
                lifeline.unwatch(driver);
            }
            // A process that holds a copy of the dead peer's socket sees the hang-up, too.
            lifeline.hang_up();
            self.hung_up();
        }
    }

    fn on_timer(&self) {
        self.room.notify_all();
        match self.queue_deadline.on_timer(Instant::now()) {
            QueueTimer::Idle => {}
            QueueTimer::Due => self.news.notify_all(),
            QueueTimer::Later(at) => self.wake_at(at),
        }
    }

    fn on_abandoned(&self) {
        // An orderly end stays one: the peer receives what was sent before it.
        self.end_unless_closed(CloseReason::DriverGone);
    }

    fn hint(&self) -> bool {
        self.probe.has_record() || self.will_have_news()
    }

    fn on_hint(&self) {
        if self.will_have_news() {
            // An end, or what looks like one: counts as if the peer had woken us for it.
            count(&self.counters.wakes_received);
            self.check_flood();
        } else {
            self.note_spin(&self.park_spin, true);
            self.check_hints();
        }
        self.wake_for_news_or_packets();
    }

    fn look_again(&self, spun: bool) {
        if spun {
            self.note_spin(&self.park_spin, false);
        }
        self.data.notify_all();
    }
}
