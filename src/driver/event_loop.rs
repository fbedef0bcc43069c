//! The event loop: the state that the thread that runs a driver owns, and one turn.
//!
//! A turn does what other threads asked for, sleeps in the kernel, and calls the sources for what
//! happened. The thread that runs the driver (its own thread, a parked executor) calls it again and
//! again. Sources are called with no lock held. They reach the driver only through its inbox, so
//! nothing that they do changes the table under the loop.

use std::time::{Duration, Instant};

use super::clock::{AWAKE, NEVER};
use super::entry::{Entry, Wait};
use super::inbox::{Command, Request, SleepAttempt};
use super::poller::{Failure, Found, Outcome, Poller, Wake};
use super::shared::Shared;
use super::slot::Slot;
use super::source::Source;
use super::table::{Id, Table};
use super::timers::Timers;
use crate::sync::Arc;
use crate::sys::shield::shielded;
use crate::wake::spin::Spinning;

/// How many times a turn checks the inbox before it checks the kernel again.
const ROUNDS: usize = 4;

/// How a spin ended.
enum SpinEnd {
    /// A hint was true, or the thread is wanted elsewhere.
    Wanted,
    /// Something was put into the inbox.
    InboxChanged,
    /// The time is over; nothing was found.
    TimedOut,
}

/// What [`EventLoop::sweep`] has done.
pub(super) struct Turned {
    /// The number of calls made to sources.
    pub(super) calls: usize,
    /// When the next one is due, on the driver's clock.
    pub(super) until: u64,
}

/// The part of a driver that belongs to the thread that runs it.
pub(super) struct EventLoop<P = Box<dyn Poller>> {
    shared: Arc<Shared>,
    poller: P,
    table: Table<Entry>,
    timers: Timers,
    found: Found,
    /// Empty between uses; kept for its memory.
    batch: Vec<Command>,
    /// Empty between uses; kept for its memory.
    requests: Vec<Request>,
    /// How many calls of sources were made.
    calls: usize,
    stopping: bool,
}

impl<P: Poller> EventLoop<P> {
    pub(super) fn new(shared: Arc<Shared>, poller: P) -> Self {
        Self {
            shared,
            poller,
            table: Table::new(),
            timers: Timers::default(),
            found: Found::default(),
            batch: Vec::new(),
            requests: Vec::new(),
            calls: 0,
            stopping: false,
        }
    }

    pub(super) fn poller(&mut self) -> &mut P {
        &mut self.poller
    }

    /// Whether all handles and all sources are gone, so that nothing will ever happen again.
    pub(super) fn is_done(&self) -> bool {
        self.stopping && self.table.is_empty()
    }

    /// Whether this thread may call [`turn`](Self::turn).
    pub(super) fn is_ours(&self) -> bool {
        self.poller.is_ours()
    }

    /// Waits with another poller from now on: moves all waits on bells to it and drops the former
    /// one.
    ///
    /// No wake is lost. If the former poller has taken a wake and not reported it, the bell was
    /// counted up, so the compare of the new wait fails. A wake that comes while both wait wakes
    /// both.
    pub(super) fn move_to(&mut self, poller: P) {
        // The kernel ends the waits of a dropped ring a moment later. Nothing reports that, and
        // nothing depends on it: the kernel finds sleepers by the address of their word, and does
        // not read it.
        self.poller = poller;
        let mut left = Vec::new();
        for entry in self.table.values_mut() {
            let id = entry.slot.id;
            match (entry.wait, entry.source.bell()) {
                (Wait::Armed, Some(bell)) if self.poller.arm(id, bell, entry.seen) => {}
                (Wait::Armed, _) => entry.wait = Wait::Idle,
                (Wait::Leaving, _) => left.push(id),
                (Wait::Idle, _) => {}
            }
        }
        for id in left {
            self.remove(id);
        }
    }

    /// Sleeps until something happens, at most for `timeout`, and calls the sources concerned. May
    /// return early, and does if somebody unparks or `is_wanted`. Checks the hints and the kernel
    /// once in any case.
    pub(super) fn turn(
        &mut self,
        timeout: Option<Duration>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let limit = self.settle(timeout, is_wanted);
        if self.is_done() {
            return Ok(());
        }
        let outcome = self.poller.wait(limit, &mut self.found);
        self.shared.wake_up(!self.found.is_empty());
        self.deliver();
        self.shared.end_unpark();
        outcome
    }

    /// Does what was asked for, and returns how long the driver may sleep then. From here on, a
    /// thread that asks for something earlier interrupts the driver.
    fn settle(
        &mut self,
        timeout: Option<Duration>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Option<Duration> {
        if timeout == Some(Duration::ZERO) {
            self.look();
            // Not marked asleep, so that nobody interrupts it needlessly.
            return Some(Duration::ZERO);
        }
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let end = end.map_or(NEVER, |end| self.shared.clock.at(end));
        for _ in 0..ROUNDS {
            let until = self.timers.next().unwrap_or(NEVER).min(end);
            match self.shared.fall_asleep(until, &mut self.batch, is_wanted) {
                SleepAttempt::Asleep => {
                    return (until != NEVER).then(|| self.shared.clock.until(until));
                }
                SleepAttempt::Busy => self.run_batch(),
                SleepAttempt::Unparked => break,
                SleepAttempt::Requested => match self.spin(until, is_wanted) {
                    (SpinEnd::Wanted, _) => return Some(Duration::ZERO),
                    (SpinEnd::InboxChanged, _) => {}
                    (SpinEnd::TimedOut, spun) => {
                        // They arm their bells before the caller comes back to sleep.
                        self.have_tasks_look(spun);
                        return Some(Duration::ZERO);
                    }
                },
            }
        }
        self.look();
        Some(Duration::ZERO)
    }

    /// Does what was asked for, and checks once the hints of the sources that have asked for a
    /// spin. Returns whether one was true, or a request was over.
    fn look(&mut self) -> bool {
        self.shared.read_requests(&mut self.batch, &mut self.requests);
        self.run_batch();
        self.look_at_hints()
    }

    /// Looks, and then spins on the hints. Returns how that ended, and whether there was time for a
    /// whole spin.
    fn spin(&mut self, until: u64, is_wanted: &dyn Fn() -> bool) -> (SpinEnd, bool) {
        if self.look() {
            return (SpinEnd::Wanted, false);
        }
        let longest = self.requests.iter().map(|request| request.spin).max().unwrap_or_default();
        let time =
            if until == NEVER { longest } else { longest.min(self.shared.clock.until(until)) };
        let Some(mut spinning) = Spinning::begin(time) else { return (SpinEnd::TimedOut, false) };
        let mut ended = SpinEnd::TimedOut;
        while spinning.again() {
            if self.look_at_hints() {
                return (SpinEnd::Wanted, true);
            }
            if self.shared.is_unparked() || is_wanted() || self.poller.is_due() {
                ended = SpinEnd::Wanted;
                break;
            }
            if self.shared.has_inbox_changed() {
                ended = SpinEnd::InboxChanged;
                break;
            }
        }
        // No hint was true, so the spin did not pay, whatever ended it. But it says nothing about
        // the channels if a timer has cut it short.
        spinning.charge();
        (ended, time == longest)
    }

    /// The driver is about to sleep: wakes the tasks that have asked it to spin. Each checks for
    /// itself and arms its bell, so the hints need not be right.
    fn have_tasks_look(&mut self, spun: bool) {
        self.shared.take_requests(&mut self.batch, &mut self.requests);
        self.run_batch();
        for request in self.requests.drain(..) {
            if let Some(entry) = self.table.get(request.id) {
                self.calls += entry.call(|source| source.look_again(spun));
            }
        }
    }

    /// Checks each hint once. Returns whether one was true, or a request was over.
    fn look_at_hints(&mut self) -> bool {
        let Self { shared, table, requests, calls, .. } = self;
        let mut is_news = false;
        requests.retain(|request| {
            let Some(entry) = table.get(request.id) else {
                // Its source has left, and nothing else would remove the request.
                shared.end_request(request.id);
                return false;
            };
            let is_hinted = entry.ask(|source| source.hint());
            if !is_hinted && !request.is_over() {
                return true;
            }
            // Before the task is woken: it may run at once and ask again.
            shared.end_request(request.id);
            *calls += entry.call(|source| match is_hinted {
                true => source.on_hint(),
                false => source.look_again(false),
            });
            is_news = true;
            false
        });
        is_news
    }

    /// Does everything that is due, without sleeping, until nothing is. For a polled driver, which
    /// sleeps between its turns: its descriptor is readable if something is left to do.
    pub(super) fn sweep(&mut self) -> Result<Turned, Failure> {
        let before = self.calls;
        self.shared.wake_up_and_take(&mut self.batch);
        for _ in 0..ROUNDS {
            self.run_batch();
            // First deliver what is ready. Then one wait submits the resulting requests, and finds
            // nothing.
            self.poller.reap_ready(&mut self.found);
            self.deliver_wakes();
            let outcome = self.poller.wait(Some(Duration::ZERO), &mut self.found);
            let nothing = self.found.is_empty();
            self.deliver();
            if let Err(failure) = outcome {
                self.shared.interrupt();
                return Err(failure);
            }
            // This turn is what the unparks were for.
            self.shared.end_unpark();
            if !nothing {
                self.shared.take(&mut self.batch);
                continue;
            }
            let until = self.timers.next().unwrap_or(NEVER);
            let attempt = self.shared.fall_asleep(until, &mut self.batch, &|| false);
            if attempt == SleepAttempt::Asleep {
                self.shared.epoll_set.set_timer(until, &self.shared.clock);
                return Ok(Turned { calls: self.calls.wrapping_sub(before), until });
            }
        }
        self.run_batch();
        self.shared.interrupt();
        Ok(Turned { calls: self.calls.wrapping_sub(before), until: AWAKE })
    }

    /// Returns the registrations that have a wait on their bell.
    pub(super) fn armed(&mut self) -> Vec<Id> {
        let armed = self.table.values_mut().filter(|entry| entry.wait != Wait::Idle);
        armed.map(|entry| entry.slot.id).collect()
    }

    fn deliver(&mut self) {
        self.deliver_wakes();
        self.deliver_events();
        self.deliver_timers();
    }

    fn run_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        for command in batch.drain(..) {
            self.run(command);
        }
        self.batch = batch;
    }

    fn run(&mut self, command: Command) {
        match command {
            Command::Admit { slot, source, seen } => self.admit(slot, source, seen),
            Command::Arm(id, seen) => {
                if let Some(entry) = self.table.get_mut(id) {
                    entry.arm(&mut self.poller, seen);
                }
            }
            Command::Notify(id) => {
                if let Some(entry) = self.table.get_mut(id) {
                    entry.slot.end_notify();
                    self.calls += entry.call(|source| source.on_wake());
                }
            }
            Command::Timer(id, at) => {
                if self.table.get_mut(id).is_some() {
                    self.timers.set(id, at);
                }
            }
            Command::Retire(id) => self.retire(id),
            Command::Stop => self.stopping = true,
        }
    }

    fn admit(&mut self, slot: Arc<Slot>, source: Arc<dyn Source>, seen: u32) {
        let id = slot.id;
        let armed = source.bell().is_some_and(|bell| self.poller.arm(id, bell, seen));
        let wait = if armed { Wait::Armed } else { Wait::Idle };
        self.table.insert(id, Entry { slot, source, wait, seen });
    }

    fn retire(&mut self, id: Id) {
        let Some(entry) = self.table.get_mut(id) else { return };
        match entry.wait {
            Wait::Idle => self.remove(id),
            Wait::Armed => {
                entry.wait = Wait::Leaving;
                self.poller.disarm(id);
                self.timers.remove(id);
            }
            Wait::Leaving => {}
        }
    }

    fn remove(&mut self, id: Id) {
        self.timers.remove(id);
        if let Some(entry) = self.table.remove(id) {
            self.shared.release(id);
            shielded(|| drop(entry));
        }
    }

    fn deliver_wakes(&mut self) {
        let mut wakes = std::mem::take(&mut self.found.wakes);
        for wake in wakes.drain(..) {
            self.deliver_wake(&wake);
        }
        self.found.wakes = wakes;
    }

    /// The wait on a bell is over: calls the source, and waits again.
    fn deliver_wake(&mut self, wake: &Wake) {
        let Some(entry) = self.table.get_mut(wake.id) else { return };
        if entry.wait == Wait::Leaving {
            return self.remove(wake.id);
        }
        entry.wait = Wait::Idle;
        if wake.outcome == Outcome::Poisoned {
            self.calls += entry.call(|source| source.on_abandoned());
            return;
        }
        // Before the source looks, and the next wait compares with this value: if the bell is
        // counted up after this line, either the source sees it or the next wait ends at once.
        let is_counted_up = entry.is_counted_up();
        let seen = entry.seen;
        let is_let_go = entry.ask(|source| source.lets_bell_go());
        // A wait that has only lapsed is no news: a source counts how often it is woken.
        if wake.outcome == Outcome::Woken || is_counted_up {
            self.calls += entry.call(|source| source.on_wake());
        }
        if !is_let_go {
            entry.arm(&mut self.poller, seen);
        }
    }

    fn deliver_events(&mut self) {
        if self.found.events.is_empty() {
            return;
        }
        // A descriptor is watched at once; its registration may still be in the inbox.
        self.shared.take(&mut self.batch);
        self.run_batch();
        let mut events = std::mem::take(&mut self.found.events);
        for (id, token) in events.drain(..) {
            if let Some(entry) = self.table.get_mut(id) {
                self.calls += entry.call(|source| source.on_ready(token));
            }
        }
        self.found.events = events;
    }

    fn deliver_timers(&mut self) {
        if self.timers.next().is_none() {
            return;
        }
        let now = self.shared.clock.now();
        // This loop ends: a source that asks for another time does so through the inbox.
        while let Some(id) = self.timers.take_due(now) {
            if let Some(entry) = self.table.get_mut(id) {
                entry.slot.clear_timer();
                self.calls += entry.call(|source| source.on_timer());
            }
        }
    }

    /// Ends the driver in the regular way: every source has left.
    pub(super) fn close(mut self) {
        drop(self.shared.close());
        self.poller.close();
    }

    /// Ends the driver because it cannot continue: abandons every source and drops them all.
    pub(super) fn abandon(mut self) {
        let waiting = self.shared.close().into_iter().filter_map(|command| match command {
            Command::Admit { slot, source, .. } => {
                Some(Entry { slot, source, wait: Wait::Idle, seen: 0 })
            }
            _ => None,
        });
        for entry in self.table.drain().into_iter().chain(waiting) {
            entry.call(|source| source.on_abandoned());
            shielded(|| drop(entry));
        }
    }
}
