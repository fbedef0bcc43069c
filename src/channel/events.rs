//! An end in the care of its driver: what the driver is asked to watch, and what it calls.

use std::os::fd::AsFd;
use std::sync::Weak;

use super::counters::count;
use super::hangup::{Hangup, HangupOf};
use super::shared::Channel;
use crate::driver::{Backend, Binding, Source};
use crate::error::{CloseReason, ShmError, Violation};
use crate::rendezvous::lifeline::Lifeline;
use crate::shm::layout::{RING_BY_BYTE, SEND};
use crate::sync::{Arc, AtomicU32, Ordering, fence};

/// Under which the driver watches the lifeline, and the peer's process.
const LIFELINE: u16 = 1;
const PROCESS: u16 = 2;

/// Wakes beyond twice what was asked for that are put up with: ends, and wakes of a former wait.
///
/// Twice, because one ring may end two waits of the driver: its count fails the compare of the one
/// that is armed next, and its wake then ends the one after that.
const SPARE_WAKES: u64 = 64;

impl Channel {
    /// Puts the channel into the driver's care, before anybody waits on it.
    pub(crate) fn bind(self: &Arc<Self>, driver: &Binding) -> Result<(), ShmError> {
        let registration = driver.register(self.clone())?;
        if registration.backend() == Backend::Epoll {
            self.announce(RING_BY_BYTE);
        }
        // Set once, here; the channel is new.
        let _ = self.driver.set(registration);
        if !driver.is_background() {
            let channel: Weak<dyn HangupOf> = Arc::downgrade(self) as _;
            let _ = self.hangup.set(Hangup::new(channel));
        }
        Ok(())
    }

    /// Takes the line that the handshake went over: from now on the peer is there.
    pub(crate) fn attach(&self, lifeline: Lifeline) -> Result<(), ShmError> {
        for spin in [&self.data_spin, &self.room_spin, &self.park_spin] {
            spin.meet(lifeline.peer().pid);
        }
        let lifeline = self.lifeline.get_or_init(|| lifeline);
        if let Some(driver) = self.driver.get() {
            match driver.watch(lifeline.as_fd(), LIFELINE) {
                Ok(()) => lifeline.watch_process(driver, PROCESS),
                Err(error) if !driver.is_cancelled() => return Err(error),
                // The end was dropped while its peer came in: that is an orderly end, not a
                // failure.
                Err(_) => lifeline.hang_up(),
            }
        }
        // A ring that came before the line was there went without its byte.
        // ORDERING: this fence, behind the store of the lifeline, and the one in `wake_by_byte`:
        // either that one finds the line, or the announcement that it saw is seen here.
        fence(Ordering::SeqCst);
        if self.wants_bytes() {
            lifeline.wake();
        }
        if let Some(hangup) = self.hangup.get() {
            hangup.connected(self);
        }
        self.news.notify_all();
        Ok(())
    }

    /// Has the engine of a pair know us by our first ring; also one whose driver nobody runs.
    pub(crate) fn introduce(&self) {
        count(&self.counters.wakes_sent);
        if let Some(lifeline) = self.lifeline.get() {
            lifeline.wake();
        }
        // The call that blocks there wakes, and finds the line's.
        self.peer_bell.wake();
    }

    /// Has the peer's process watched, once it has introduced itself.
    pub(super) fn learn_of_peer(&self, lifeline: &Lifeline) {
        if !lifeline.learn() {
            return;
        }
        if let Some(driver) = self.driver.get() {
            lifeline.watch_process(driver, PROCESS);
        }
        // ORDERING: the partner of the fence in `Hangup::watch`: either the process is found there,
        // or its driver is found here.
        fence(Ordering::SeqCst);
        if let Some(hangup) = self.hangup.get() {
            hangup.learned(lifeline);
        }
    }

    /// Whether the ends have changed since the tasks were last told.
    pub(super) fn has_news(&self) -> bool {
        let now = self.now();
        // ORDERING: Relaxed, here and below; only the driver's thread calls these.
        self.told.swap(now, Ordering::Relaxed) != now
    }

    /// As [`has_news`](Self::has_news), before they are told.
    fn will_have_news(&self) -> bool {
        self.told.load(Ordering::Relaxed) != self.now()
    }

    /// The ends.
    fn now(&self) -> u64 {
        u64::from(self.ends.state()) << 32 | u64::from(self.peer_ends() & !RING_BY_BYTE)
    }

    /// Tells the tasks of ends if there are any, else the receivers that there may be packets.
    fn tell_news_or_receivers(&self) {
        if self.has_news() {
            self.tell_tasks();
            self.mute();
        } else if self.is_split() {
            self.data.notify_all();
        } else {
            self.data.notify_one();
        }
    }

    /// A lawful peer wakes us as often as we asked, and a few times for ends.
    pub(super) fn check_flood(&self) {
        let counters = self.counters.read();
        if counters.wakes_received > 2 * counters.parks + SPARE_WAKES {
            // Changes nothing where all has ended; then only the driver is spared.
            self.violated(Violation::WakeFlood);
            self.leave_driver();
        }
    }

    /// A task asks for the next hint after it has looked for itself. By then somebody has taken the
    /// packet that the last hint was for. A header that comes and goes is no packet, and would keep
    /// the driver from sleeping for ever.
    fn check_hints(&self) {
        // ORDERING: Relaxed; only the thread that runs the driver counts them.
        let hints = self.hints.fetch_add(1, Ordering::Relaxed);
        if hints > self.counters.received.packets().saturating_add(SPARE_WAKES) {
            self.violated(Violation::WakeFlood);
            self.leave_driver();
        }
    }

    /// Takes this end out of the driver's care once it can bring no news any more but floods.
    pub(super) fn mute(&self) {
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
        if let Some(lifeline) = self.lifeline.get() {
            lifeline.unwatch(driver);
            lifeline.hang_up();
        }
    }
}

impl HangupOf for Channel {
    fn lifeline(&self) -> Option<&Lifeline> {
        Self::lifeline(self)
    }

    fn wake_threads(&self) {
        self.bell.wake();
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
        Self::lets_bell_go(self)
    }

    fn on_wake(&self) {
        count(&self.counters.wakes_received);
        self.check_flood();
        // Always the receivers: one of them may have taken the bit that another slept by, and a
        // look costs little. The sender only if it was its own bit: there is but one that waits
        // for room, and one that looks too early has its sleep cut into pieces.
        self.tell_news_or_receivers();
        // Behind news as well: one wake may stand for both. And all of them, of whom but one can
        // be awaited: the others are places of sends that were forgotten or not polled again.
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
            if drained.rings > 0 {
                // One wake for each, as if each had come by the bell.
                for _ in 1..drained.rings {
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
            // Who holds the dead peer's copy of it hears the end, too.
            lifeline.hang_up();
            self.hung_up();
        }
    }

    fn on_timer(&self) {
        self.room.notify_all();
        self.news.notify_all();
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
            // An end, or what looks like one: as if it had been rung for.
            count(&self.counters.wakes_received);
            self.check_flood();
        } else {
            self.note_spin(&self.park_spin, true);
            self.check_hints();
        }
        self.tell_news_or_receivers();
    }

    fn look_again(&self, spun: bool) {
        if spun {
            self.note_spin(&self.park_spin, false);
        }
        self.data.notify_all();
    }
}
