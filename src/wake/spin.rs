//! Looking again for a short while before going to sleep.
//!
//! To park and be woken costs both sides thousands of nanoseconds; an answer often comes in
//! hundreds. So an empty look may be repeated for a while, if that has paid lately:
//!
//! - a channel's own record decides whether: while spins pay it goes on, and after some that did
//!   not it sits out ever more parks until the next trial;
//! - the thread's allowance bounds all channels on it together: spins that do not pay use up at
//!   most one eighth of its time, and never more than a cap at once. A hundred idle channels on one
//!   thread thus do not spin a hundred times;
//! - where both sides have but one and the same core, nothing can come while we spin, so there is
//!   none. That is asked once: of this process at its first channel, of the peer when it connects.
//!
//! A task that spins keeps the others of its thread waiting. Where its driver is parked in, it does
//! so for a moment only ([`IN_POLL`]) and leaves the rest to `park`, where the thread has nothing
//! else to do: there all channels whose tasks wait are looked at in turn.
//!
//! Nothing here is part of the protocol: the state is this process's own, and races cost accuracy.

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};

/// How long a channel spins at most, unless its builder says otherwise.
///
/// It has to outlast one wake of the peer, or two sides that found each other asleep would never
/// find each other awake: through a driver's thread to a task on another, that is 20 to 40 us.
pub(crate) const DEFAULT_SPIN: Duration = Duration::from_micros(50);

/// How long a task spins at most whose driver goes on with it in `park`: for an answer that is
/// under way already.
pub(crate) const IN_POLL: Duration = Duration::from_micros(2);

/// The longest cap that may be set; a thread that spins serves nobody else.
const LONGEST: Duration = Duration::from_millis(1);

/// After so many spins in a row that did not pay, parks are sat out: twice as many each time.
const PATIENCE: u32 = 3;
/// At most 2 to the power of this many.
const LONGEST_BACKOFF: u32 = 8;

/// An unpaid spin is earned by so many times its length without one.
const EARNINGS: u32 = 8;

/// So many looks come without a pause, for an answer that is on its way: a pause takes up to 50 ns.
const EAGER: u32 = 32;

/// Pauses between two looks, at most: longer ones miss what comes, shorter ones tear the line that
/// the peer is about to write out of its cache each time.
const MOST_PAUSES: u32 = 64;

/// The record of one direction of a channel.
#[derive(Debug)]
pub(crate) struct Spin {
    /// Nanoseconds, as the builder has it; 0 is off.
    wanted: u32,
    /// The same, or 0 as long as nothing could come meanwhile.
    cap: AtomicU32,
    /// Unpaid in a row.
    misses: AtomicU32,
    /// Parks still to be sat out.
    backoff: AtomicU32,
}

impl Spin {
    /// A record that allows spins of up to `cap`; 0 turns it off.
    pub(crate) fn new(cap: Duration) -> Self {
        let wanted = u32::try_from(cap.min(LONGEST).as_nanos()).unwrap_or(u32::MAX);
        let cap = AtomicU32::new(if has_several_cores() { wanted } else { 0 });
        Self { wanted, cap, misses: AtomicU32::new(0), backoff: AtomicU32::new(0) }
    }

    /// The peer is there, as the process `pid`: on another core than ours, perhaps.
    pub(crate) fn meet(&self, pid: i32) {
        if !has_several_cores() && runs_elsewhere(pid) {
            self.cap.store(self.wanted, Ordering::Relaxed);
        }
    }

    /// How long it spins at most; 0 is not at all.
    pub(crate) fn cap(&self) -> Duration {
        if cfg!(all(test, loom)) {
            return Duration::ZERO;
        }
        // ORDERING: Relaxed, all in this module: a record of our own, which publishes nothing.
        Duration::from_nanos(self.cap.load(Ordering::Relaxed).into())
    }

    /// For how long it is worth while to spin now, if it is.
    pub(crate) fn wish(&self) -> Option<Duration> {
        let cap = self.cap.load(Ordering::Relaxed);
        if cap == 0 {
            return None;
        }
        let backoff = self.backoff.load(Ordering::Relaxed);
        if backoff > 0 {
            self.backoff.store(backoff - 1, Ordering::Relaxed);
            return None;
        }
        Some(Duration::from_nanos(cap.into()))
    }

    /// Enters an outcome into the books.
    pub(crate) fn note(&self, found: bool) {
        if found { self.paid() } else { self.missed() }
    }

    fn paid(&self) {
        self.misses.store(0, Ordering::Relaxed);
    }

    fn missed(&self) {
        let misses = self.misses.load(Ordering::Relaxed).saturating_add(1);
        self.misses.store(misses, Ordering::Relaxed);
        if misses >= PATIENCE {
            let exponent = (misses - PATIENCE + 1).min(LONGEST_BACKOFF);
            self.backoff.store(1 << exponent, Ordering::Relaxed);
        }
    }
}

/// A spin under way.
#[derive(Debug)]
pub(crate) struct Spinning {
    started: Instant,
    budget: Duration,
    looks: u32,
    /// How long it had taken when it last looked at the clock.
    so_far: Duration,
}

impl Spinning {
    /// Begins to spin for `wish` or for as long as the thread may, unless that is too short.
    pub(crate) fn begin(wish: Duration) -> Option<Self> {
        if cfg!(all(test, loom)) {
            // Time does not pass in a model.
            return None;
        }
        let cap = u32::try_from(wish.as_nanos()).unwrap_or(u32::MAX);
        let started = Instant::now();
        let allowed = Allowance::of_thread(started, cap);
        // A short one would miss a peer that was asleep and has to wake up first. The thread would
        // spend what it earns on such, and two sides that fell asleep would never find each other
        // awake again.
        if allowed < cap / 4 * 3 {
            return None;
        }
        Some(Self {
            started,
            budget: Duration::from_nanos(u64::from(allowed)),
            looks: 0,
            so_far: Duration::ZERO,
        })
    }

    /// Waits for a moment; `false` once the time is up.
    pub(crate) fn again(&mut self) -> bool {
        self.looks += 1;
        if self.looks < EAGER {
            return true;
        }
        for _ in 0..(self.looks - EAGER).min(MOST_PAUSES) {
            spin_loop();
        }
        self.so_far = self.started.elapsed();
        self.so_far < self.budget
    }

    /// How long it has taken, as far as it has looked at the clock.
    pub(crate) fn so_far(&self) -> Duration {
        self.so_far
    }

    /// It did not pay: the thread has less to spend.
    pub(crate) fn lost(self) {
        let spent = self.started.elapsed().as_nanos();
        Allowance::spend(u32::try_from(spent).unwrap_or(u32::MAX));
    }
}

/// What the current thread may still spend on spins that do not pay.
#[derive(Clone, Copy)]
struct Allowance {
    nanos: u32,
    /// The longest cap that was asked for: more is not saved up.
    most: u32,
    since: Instant,
}

thread_local! {
    static ALLOWANCE: Cell<Option<Allowance>> = const { Cell::new(None) };
}

impl Allowance {
    /// What there is `now`, of at most `cap`.
    fn of_thread(now: Instant, cap: u32) -> u32 {
        let Self { nanos, most, since } =
            ALLOWANCE.get().unwrap_or(Self { nanos: 0, most: 0, since: now });
        let passed = now.saturating_duration_since(since).as_nanos();
        let earned = u32::try_from(passed / u128::from(EARNINGS)).unwrap_or(u32::MAX);
        // A longer cap than ever before comes as a present.
        let earned = earned.saturating_add(cap.saturating_sub(most));
        let most = most.max(cap);
        let nanos = nanos.saturating_add(earned).min(most);
        ALLOWANCE.set(Some(Self { nanos, most, since: now }));
        nanos.min(cap)
    }

    fn spend(spent: u32) {
        let Some(Self { nanos, most, .. }) = ALLOWANCE.get() else { return };
        let nanos = nanos.saturating_sub(spent);
        ALLOWANCE.set(Some(Self { nanos, most, since: Instant::now() }));
    }
}

/// Whether the process may run on a core that we may not.
fn runs_elsewhere(pid: i32) -> bool {
    let Some(pid) = Pid::from_raw(pid) else {
        // Of another PID namespace. Spins that do not pay stop by themselves.
        return true;
    };
    match (sched_getaffinity(None), sched_getaffinity(Some(pid))) {
        (Ok(ours), Ok(theirs)) => {
            (0..CpuSet::MAX_CPU).any(|core| theirs.is_set(core) && !ours.is_set(core))
        }
        _ => false,
    }
}

/// Whether this process may run on more than one core.
fn has_several_cores() -> bool {
    // No `OnceLock`: a forked child would wait for a thread that was about to fill it.
    static CORES: AtomicUsize = AtomicUsize::new(0);
    // ORDERING: Relaxed; the number publishes nothing, and all threads find the same one.
    let mut cores = CORES.load(Ordering::Relaxed);
    if cores == 0 {
        cores = std::thread::available_parallelism().map_or(1, usize::from);
        CORES.store(cores, Ordering::Relaxed);
    }
    cores > 1
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Spins to the end without finding anything; `false` if it was not allowed to.
    fn miss(spin: &Spin) -> bool {
        let Some(mut spinning) = spin.wish().and_then(Spinning::begin) else { return false };
        while spinning.again() {}
        spinning.lost();
        spin.note(false);
        true
    }

    /// A record of a machine with several cores, whatever this one has.
    fn record(cap: Duration) -> Spin {
        let nanos = u32::try_from(cap.as_nanos()).unwrap();
        Spin { cap: nanos.into(), ..Spin::new(cap) }
    }

    #[test]
    fn a_cap_of_zero_is_off() {
        assert!(Spin::new(Duration::ZERO).wish().is_none());
    }

    #[test]
    fn a_channel_that_never_pays_is_tried_ever_more_rarely() {
        let spin = record(Duration::from_micros(5));
        let tried = (0..4_000)
            .filter(|_| {
                // A thread of its own has an allowance of its own.
                ALLOWANCE.set(None);
                miss(&spin)
            })
            .count();
        assert!((4..40).contains(&tried), "{tried}");
    }

    #[test]
    fn a_spin_that_pays_ends_the_sulk() {
        let spin = record(Duration::from_micros(5));
        for _ in 0..PATIENCE {
            ALLOWANCE.set(None);
            assert!(miss(&spin));
        }
        ALLOWANCE.set(None);
        assert!(!miss(&spin) && !miss(&spin));
        spin.note(true);
        for _ in 0..PATIENCE {
            ALLOWANCE.set(None);
            assert!(miss(&spin));
        }
        ALLOWANCE.set(None);
        assert!(!miss(&spin));
    }

    #[test]
    fn a_hundred_idle_channels_do_not_spin_a_hundred_times() {
        ALLOWANCE.set(None);
        let cap = Duration::from_micros(200);
        let channels: Vec<_> = (0..100).map(|_| record(cap)).collect();
        let started = Instant::now();
        let tried = channels.iter().filter(|spin| miss(spin)).count();
        // One allowance, and what was earned meanwhile.
        assert!(started.elapsed() < cap * 20, "{tried} in {:?}", started.elapsed());
        assert!(tried < 30, "{tried}");
    }
}
