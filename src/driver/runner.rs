//! The loop's body: what the one who runs a driver owns, and one turn of it.
//!
//! A turn does what other threads asked for, sleeps in the kernel, and calls the sources for what
//! happened. Whoever runs the driver (its own thread, a parked executor) calls it again and again.
//! Sources are called with no lock held; they reach the driver through its inbox alone, so nothing
//! that they do changes the table under the loop.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::alarms::Alarms;
use super::link::{Link, NEVER};
use super::shared::{Attended, Command, Rest, Shared};
use super::source::Source;
use super::table::{Id, Table};
use crate::spin::Spinning;
use crate::sync::{Arc, AtomicU32, Ordering};

/// How often a turn looks into the inbox before it looks at the kernel again.
const ROUNDS: usize = 4;

/// How a driver waits in the kernel: with a ring, or with an epoll set alone.
pub(super) trait Waits: Send {
    /// Waits for a wake on `bell`, from now on or since it held `seen`. The answer is one
    /// [`Wake`] with this identity, some day; or false, where bells are not waited for.
    fn arm(&mut self, id: Id, bell: &AtomicU32, seen: u32) -> bool;

    /// Hastens the answer to [`arm`](Self::arm).
    fn disarm(&mut self, id: Id);

    /// Sleeps until something happens, at most for `timeout`, and appends all of it to `found`.
    /// May return early.
    fn wait(&mut self, timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure>;

    /// Appends to `found` what can be seen without a system call, if anything can.
    fn glean(&mut self, _found: &mut Found) {}

    /// Takes back what was armed for the driver itself, once no registration is left.
    fn close(&mut self);

    /// Whether the calling thread may use this. A ring of the sleeping kind belongs to the thread
    /// that made it.
    fn is_ours(&self) -> bool {
        true
    }
}

/// What happened during one wait.
#[derive(Default)]
pub(super) struct Found {
    pub(super) wakes: Vec<Wake>,
    /// Of descriptors: whose, and under which token.
    pub(super) events: Vec<(Id, u16)>,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.wakes.is_empty() && self.events.is_empty()
    }
}

/// A wait on a bell is over.
pub(super) struct Wake {
    pub(super) id: Id,
    pub(super) outcome: Outcome,
}

/// How a wait on a bell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Somebody woke it, or the bell had been counted up before it began.
    Woken,
    /// The kernel ended it, for reasons of its own or because we asked for that.
    Cancelled,
    /// The kernel cannot wait on this word, and never will.
    Poisoned,
}

/// Why the kernel could not be waited in.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is nothing to wait by yet; nothing was tried.
    Unmade(io::Error),
    /// It may work the next time.
    Once(io::Error),
    /// Completions were lost: some waits would never end.
    ForGood(io::Error),
}

/// A registration, as the driver knows it.
struct Entry {
    link: Arc<Link>,
    /// Kept until the wait on its bell is over, so that the word stays mapped as long.
    source: Arc<dyn Source>,
    wait: Wait,
    /// What the bell held before the source last looked, with which its wait compares.
    seen: u32,
}

/// The wait on a source's bell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// None is armed: no bell, a poisoned one, one that this backend does not wait for, or one that
    /// the source let go.
    Idle,
    Armed,
    /// Armed, and the entry goes when it is over.
    Leaving,
}

/// The part of a driver that belongs to whoever runs it.
pub(super) struct Runner {
    shared: Arc<Shared>,
    waits: Box<dyn Waits>,
    table: Table<Entry>,
    alarms: Alarms,
    found: Found,
    /// Empty between uses; kept for its memory.
    batch: Vec<Command>,
    /// Empty between uses; kept for its memory.
    attended: Vec<Attended>,
    /// How many calls of sources there were.
    calls: usize,
    stopping: bool,
}

impl Runner {
    pub(super) fn new(shared: Arc<Shared>, waits: Box<dyn Waits>) -> Self {
        Self {
            shared,
            waits,
            table: Table::new(),
            alarms: Alarms::default(),
            found: Found::default(),
            batch: Vec::new(),
            attended: Vec::new(),
            calls: 0,
            stopping: false,
        }
    }

    /// Whether all handles and all sources are gone, so that nothing will ever happen again.
    pub(super) fn is_done(&self) -> bool {
        self.stopping && self.table.is_empty()
    }

    /// Whether this thread may call [`turn`](Self::turn).
    pub(super) fn is_ours(&self) -> bool {
        self.waits.is_ours()
    }

    /// Waits by other means from now on: has every bell that was waited for waited for there, and
    /// gives the former means up.
    ///
    /// No wake is lost. One that the former means has taken and not told of has counted the bell
    /// up, so it fails the compare of the new wait; and one that comes while both wait wakes both.
    pub(super) fn move_to(&mut self, waits: Box<dyn Waits>) {
        // The kernel ends the waits of a ring that was dropped a moment later. Nobody learns of it,
        // and nothing depends on it: it finds sleepers by where their word is, and reads no word.
        self.waits = waits;
        let mut left = Vec::new();
        for entry in self.table.values_mut() {
            let id = entry.link.id;
            match (entry.wait, entry.source.bell()) {
                (Wait::Armed, Some(bell)) if self.waits.arm(id, bell, entry.seen) => {}
                (Wait::Armed, _) => entry.wait = Wait::Idle,
                (Wait::Leaving, _) => left.push(id),
                (Wait::Idle, _) => {}
            }
        }
        for id in left {
            self.remove(id);
        }
    }

    /// Sleeps until something happens, at most for `timeout`, and calls the sources that it is for.
    /// May return early, and does if somebody unparks.
    pub(super) fn turn(&mut self, timeout: Option<Duration>) -> Result<(), Failure> {
        let limit = self.settle(timeout);
        if self.is_done() {
            return Ok(());
        }
        let outcome = self.waits.wait(limit, &mut self.found);
        self.shared.wake_up();
        self.deliver();
        self.shared.end_unpark();
        outcome
    }

    /// Does what was asked for, and says how long the driver may sleep then. From here on whoever
    /// asks for something earlier than that interrupts it.
    fn settle(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        if timeout == Some(Duration::ZERO) {
            // Never asleep, so that nobody interrupts in vain.
            self.glance();
            return timeout;
        }
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let end = end.map_or(NEVER, |end| self.shared.clock(end));
        for _ in 0..ROUNDS {
            let until = self.alarms.next().unwrap_or(NEVER).min(end);
            match self.shared.fall_asleep(until, &mut self.batch) {
                Rest::Asleep => return (until != NEVER).then(|| self.shared.until(until)),
                Rest::Busy => self.run_batch(),
                Rest::Unparked => break,
                Rest::Attending if self.attend(until) => break,
                Rest::Attending => {}
            }
        }
        Some(Duration::ZERO)
    }

    /// Spins on behalf of the sources that were left to it, then has them arm their bells. Says
    /// whether the runner is wanted back by now.
    fn attend(&mut self, until: u64) -> bool {
        let mut attended = self.take_attended();
        let wish = attended.iter().map(|attended| attended.spin).max().unwrap_or_default();
        let wish = if until == NEVER { wish } else { wish.min(self.shared.until(until)) };
        let mut spinning = Spinning::begin(wish);
        let mut wanted = self.look_at(&mut attended);
        while !wanted && spinning.as_mut().is_some_and(Spinning::again) {
            wanted = self.look_at(&mut attended) || self.shared.is_unparked();
        }
        if !wanted {
            wanted = self.arm(&mut attended, spinning.is_some());
            if let Some(spinning) = spinning {
                spinning.lost();
            }
        }
        self.keep_attended(attended);
        wanted
    }

    /// As [`attend`](Self::attend), for a runner that is not to sleep.
    fn glance(&mut self) {
        let mut attended = self.take_attended();
        self.look_at(&mut attended);
        self.keep_attended(attended);
    }

    /// Those that were left to the runner; what was to be done before is done.
    fn take_attended(&mut self) -> Vec<Attended> {
        let mut attended = std::mem::take(&mut self.attended);
        self.shared.take_attended(&mut attended, &mut self.batch);
        self.run_batch();
        attended
    }

    /// Looks again, the next time, for those that are left.
    fn keep_attended(&mut self, mut attended: Vec<Attended>) {
        self.shared.keep_attended(&mut attended);
        self.attended = attended;
    }

    /// One look for each of those that were left to the runner. Says whether one found something,
    /// and strikes it off.
    fn look_at(&mut self, attended: &mut Vec<Attended>) -> bool {
        let (table, calls) = (&self.table, &mut self.calls);
        let before = attended.len();
        attended.retain(|attended| {
            let Some(entry) = table.get(attended.id) else { return false };
            if !entry.ask(|source| source.look()) {
                return true;
            }
            // Before the task is woken, which may run at once and come back.
            entry.link.end_attendance();
            *calls += entry.call(|source| source.found());
            false
        });
        attended.len() < before
    }

    /// Has those that were left to the runner arm their bells; says whether one found something.
    fn arm(&mut self, attended: &mut Vec<Attended>, spun: bool) -> bool {
        let mut found = false;
        for Attended { id, .. } in attended.drain(..) {
            if let Some(entry) = self.table.get(id) {
                // Before the last look, which sees what was written before an attendance that
                // found this one going on.
                entry.link.end_attendance();
                found |= entry.ask(|source| source.arm(spun));
            }
        }
        found
    }

    /// Does everything that is due, without sleeping, until nothing is. For a polled driver, which
    /// sleeps between its turns: its descriptor is readable if something was left undone.
    pub(super) fn sweep(&mut self) -> Result<usize, Failure> {
        let before = self.calls;
        self.shared.wake_up();
        for _ in 0..ROUNDS {
            self.shared.take(&mut self.batch);
            self.run_batch();
            // First what is there already: then one wait submits what comes of it, and finds nothing.
            self.waits.glean(&mut self.found);
            self.deliver_wakes();
            let outcome = self.waits.wait(Some(Duration::ZERO), &mut self.found);
            let nothing = self.found.is_empty();
            self.deliver();
            if let Err(failure) = outcome {
                self.shared.poke();
                return Err(failure);
            }
            // This turn is what the unparks were for.
            self.shared.end_unpark();
            let until = self.alarms.next().unwrap_or(NEVER);
            if nothing && self.shared.fall_asleep(until, &mut self.batch) == Rest::Asleep {
                self.shared.set_timer(until);
                return Ok(self.calls.wrapping_sub(before));
            }
            self.run_batch();
        }
        self.shared.poke();
        Ok(self.calls.wrapping_sub(before))
    }

    fn deliver(&mut self) {
        self.deliver_wakes();
        self.deliver_events();
        self.deliver_alarms();
    }

    fn run_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        for command in batch.drain(..) {
            self.run(command);
        }
        self.batch = batch;
    }

    fn run(&mut self, command: Command) {
        match command {
            Command::Admit { link, source, seen } => self.admit(link, source, seen),
            Command::Arm(id, seen) => {
                if let Some(entry) = self.table.get_mut(id) {
                    entry.arm(&mut *self.waits, seen);
                }
            }
            Command::Nudge(id) => {
                if let Some(entry) = self.table.get_mut(id) {
                    entry.link.end_nudge();
                    self.calls += entry.call(|source| source.rung());
                }
            }
            Command::Alarm(id, at) => {
                if self.table.get_mut(id).is_some() {
                    self.alarms.set(id, at);
                }
            }
            Command::Retire(id) => self.retire(id),
            Command::Stop => self.stopping = true,
        }
    }

    fn admit(&mut self, link: Arc<Link>, source: Arc<dyn Source>, seen: u32) {
        let id = link.id;
        let armed = source.bell().is_some_and(|bell| self.waits.arm(id, bell, seen));
        let wait = if armed { Wait::Armed } else { Wait::Idle };
        self.table.insert(id, Entry { link, source, wait, seen });
    }

    fn retire(&mut self, id: Id) {
        let Some(entry) = self.table.get_mut(id) else { return };
        match entry.wait {
            Wait::Idle => self.remove(id),
            Wait::Armed => {
                entry.wait = Wait::Leaving;
                self.waits.disarm(id);
                self.alarms.remove(id);
            }
            Wait::Leaving => {}
        }
    }

    fn remove(&mut self, id: Id) {
        self.alarms.remove(id);
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
            self.calls += entry.call(|source| source.abandoned());
            return;
        }
        let Some(bell) = entry.source.bell() else { return };
        // ORDERING: Acquire pairs with the Release of whoever counts the bell up. It is read before
        // the source looks, and the next wait compares with this value: a bell that rings after
        // this line either is seen by the source or ends the next wait at once.
        let seen = bell.load(Ordering::Acquire);
        let is_let_go = entry.ask(|source| source.lets_bell_go());
        // What was only cancelled is no news: a source counts how often it is woken.
        if wake.outcome == Outcome::Woken || seen != entry.seen {
            self.calls += entry.call(|source| source.rung());
        }
        if !is_let_go {
            entry.arm(&mut *self.waits, seen);
        }
    }

    fn deliver_events(&mut self) {
        if self.found.events.is_empty() {
            return;
        }
        // A descriptor is watched at once, its registration may still lie in the inbox.
        self.shared.take(&mut self.batch);
        self.run_batch();
        let mut events = std::mem::take(&mut self.found.events);
        for (id, token) in events.drain(..) {
            if let Some(entry) = self.table.get_mut(id) {
                self.calls += entry.call(|source| source.ready(token));
            }
        }
        self.found.events = events;
    }

    fn deliver_alarms(&mut self) {
        if self.alarms.next().is_none() {
            return;
        }
        let now = self.shared.clock(Instant::now());
        // Ends: a source that asks again does so through the inbox.
        while let Some(id) = self.alarms.take_due(now) {
            if let Some(entry) = self.table.get_mut(id) {
                entry.link.clear_alarm();
                self.calls += entry.call(|source| source.alarm());
            }
        }
    }

    /// Ends the driver in good order: every source has left.
    pub(super) fn close(mut self) {
        drop(self.shared.close());
        self.waits.close();
    }

    /// Ends the driver because it cannot go on: tells every source so, and lets go of all.
    pub(super) fn abandon(mut self) {
        let waiting = self.shared.close().into_iter().filter_map(|command| match command {
            Command::Admit { link, source, .. } => {
                Some(Entry { link, source, wait: Wait::Idle, seen: 0 })
            }
            _ => None,
        });
        for entry in self.table.drain().into_iter().chain(waiting) {
            entry.call(|source| source.abandoned());
            shielded(|| drop(entry));
        }
    }
}

impl Entry {
    /// Waits on the bell since it held `seen`, unless it is waited on or nobody is to be called.
    fn arm(&mut self, waits: &mut dyn Waits, seen: u32) {
        let Some(bell) = self.source.bell() else { return };
        if self.wait == Wait::Idle
            && !self.link.is_cancelled()
            && waits.arm(self.link.id, bell, seen)
        {
            self.wait = Wait::Armed;
            self.seen = seen;
        }
    }

    /// Calls the source, unless it was cancelled; says how many calls that were.
    fn call(&self, f: impl FnOnce(&dyn Source)) -> usize {
        let called = !self.link.is_cancelled();
        if called {
            shielded(|| f(&*self.source));
        }
        usize::from(called)
    }

    /// Asks the source, unless it was cancelled; a panic in it is a no.
    fn ask(&self, f: impl FnOnce(&dyn Source) -> bool) -> bool {
        let mut answer = false;
        self.call(|source| answer = f(source));
        answer
    }
}

/// Runs foreign code; a panic of it ends here.
fn shielded(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        discard(payload);
    }
}

/// Drops what was thrown, which may throw again.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Two are enough; the memory of the third is the price.
        std::mem::forget(another);
    }
}
