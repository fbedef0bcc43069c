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

use rustix::event::epoll;

use super::alarms::Alarms;
use super::shared::{Command, Link, NEVER, Shared};
use super::source::Source;
use super::table::{Id, Table};
use crate::sync::{Arc, AtomicU32, Ordering};

/// How many events of the epoll set are taken at once. The kernel hands ready descriptors out in
/// turn, so that one that is always ready does not starve the others, nor do all of them the bells.
const EVENTS: usize = 64;

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

    /// Takes back what was armed for the driver itself, once no registration is left.
    fn close(&mut self);
}

/// What happened during one wait.
pub(super) struct Found {
    pub(super) wakes: Vec<Wake>,
    pub(super) events: Vec<epoll::Event>,
}

impl Default for Found {
    fn default() -> Self {
        Self { wakes: Vec::new(), events: Vec::with_capacity(EVENTS) }
    }
}

/// A wait on a bell is over.
pub(super) struct Wake {
    pub(super) id: Id,
    /// The kernel cannot wait on this word, and never will.
    pub(super) poisoned: bool,
}

/// Why the kernel could not be waited in.
#[derive(Debug)]
pub(super) enum Failure {
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
}

/// The wait on a source's bell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// None is armed: no bell, a poisoned one, or one that this backend does not wait for.
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
            stopping: false,
        }
    }

    /// Whether all handles and all sources are gone, so that nothing will ever happen again.
    pub(super) fn is_done(&self) -> bool {
        self.stopping && self.table.is_empty()
    }

    /// Sleeps until something happens, at most for `timeout`, and calls the sources that it is for.
    /// May return early.
    pub(super) fn turn(&mut self, timeout: Option<Duration>) -> Result<(), Failure> {
        let sleep = self.settle();
        if self.is_done() {
            return Ok(());
        }
        let limit = match (sleep, timeout) {
            (Some(sleep), Some(timeout)) => Some(sleep.min(timeout)),
            (sleep, timeout) => sleep.or(timeout),
        };
        let outcome = self.waits.wait(limit, &mut self.found);
        self.shared.wake_up();
        self.deliver_wakes();
        self.deliver_events();
        self.deliver_alarms();
        outcome
    }

    /// Does what was asked for, and says how long the driver may sleep then. From here on whoever
    /// asks for something earlier than that interrupts it.
    fn settle(&mut self) -> Option<Duration> {
        for _ in 0..ROUNDS {
            let next = self.alarms.next();
            if self.shared.fall_asleep(next.unwrap_or(NEVER), &mut self.batch) {
                return next.map(|at| self.shared.until(at));
            }
            self.run_batch();
        }
        Some(Duration::ZERO)
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
            Command::Nudge(id) => {
                if let Some(entry) = self.table.get_mut(id) {
                    entry.link.end_nudge();
                    entry.call(|source| source.rung());
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
        self.table.insert(id, Entry { link, source, wait });
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
        if wake.poisoned {
            return entry.call(|source| source.abandoned());
        }
        let Some(bell) = entry.source.bell() else { return };
        // ORDERING: Acquire pairs with the Release of whoever counts the bell up. It is read before
        // the source looks, and the next wait compares with this value: a bell that rings after
        // this line either is seen by the source or ends the next wait at once.
        let seen = bell.load(Ordering::Acquire);
        entry.call(|source| source.rung());
        if !entry.link.is_cancelled() && self.waits.arm(wake.id, bell, seen) {
            entry.wait = Wait::Armed;
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
        for event in events.drain(..) {
            let (id, token) = Id::unpack(event.data.u64());
            if let Some(entry) = self.table.get_mut(id) {
                entry.call(|source| source.ready(token));
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
                entry.call(|source| source.alarm());
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
            Command::Admit { link, source, .. } => Some(Entry { link, source, wait: Wait::Idle }),
            _ => None,
        });
        for entry in self.table.drain().into_iter().chain(waiting) {
            entry.call(|source| source.abandoned());
            shielded(|| drop(entry));
        }
    }
}

impl Entry {
    /// Calls the source, unless it was cancelled.
    fn call(&self, f: impl FnOnce(&dyn Source)) {
        if !self.link.is_cancelled() {
            shielded(|| f(&*self.source));
        }
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
