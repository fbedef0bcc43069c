//! Repeats a look for a short while before going to sleep.
//!
//! Parking and waking costs both sides thousands of nanoseconds; an answer often comes in hundreds.
//! So a look that finds nothing may be repeated for a while, if that has paid lately:
//!
//! - a channel's own record decides whether it spins. As long as spins pay, it continues. After
//!   some that did not pay, it backs off for more and more parks until the next trial;
//! - the thread's allowance bounds all channels on it together: spins that do not pay use up at
//!   most one eighth of its time, and never more than a cap at once. So a hundred idle channels on
//!   one thread do not spin a hundred times;
//! - if both sides run on one and the same core, nothing can come while we spin, so there is no
//!   spinning. This is checked once: for this process at its first channel, for the peer when it
//!   connects.
//!
//! A task that spins delays the other tasks of its thread. If that thread parks in the driver, the
//! task spins only briefly ([`IN_POLL`]) and leaves the rest to `park`, where the thread has
//! nothing else to do: there the driver looks at all channels whose tasks wait in turn.
//!
//! Nothing here is part of the protocol: the state belongs to this process, and races only cost
//! accuracy.

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};

/// How long a channel spins at most, unless its builder says otherwise.
///
/// It has to be longer than one wake of the peer. Otherwise two sides that found each other asleep
/// would never find each other awake. Through a driver's thread to a task on another, a wake takes
/// 20 to 40 us.
pub(crate) const DEFAULT_SPIN: Duration = Duration::from_micros(50);

/// How long a task spins at most if its driver continues the spin in `park`: for an answer that is
/// already under way.
pub(crate) const IN_POLL: Duration = Duration::from_micros(2);

/// The longest cap that may be set; a thread that spins serves nothing else.
const LONGEST: Duration = Duration::from_millis(1);

/// After this many spins in a row that did not pay, the channel backs off for a number of parks,
/// which doubles each time.
const MAX_MISSES: u32 = 3;
/// The number of parks is at most 2 to the power of this.
const LONGEST_BACKOFF: u32 = 8;

/// A thread earns a spin that does not pay by this many times its length without one.
const EARNING_RATIO: u32 = 8;

/// How many looks come without a pause, for an answer that is on its way: a pause takes up to 50
/// ns.
const LOOKS_WITHOUT_PAUSE: u32 = 32;

/// The most pauses between two looks. Longer pauses miss what comes; shorter ones take the line
/// that the peer is about to write out of its cache each time.
const MAX_PAUSES: u32 = 64;

/// The spin record of one direction of a channel.
#[derive(Debug)]
pub(crate) struct Spin {
    /// The cap that the builder set, in nanoseconds; 0 is off.
    wanted: u32,
    /// The same, or 0 as long as nothing can come during a spin.
    cap: AtomicU32,
    /// How many spins in a row did not pay.
    misses: AtomicU32,
    /// For how many more parks to back off.
    backoff: AtomicU32,
}

impl Spin {
    /// Returns a record that allows spins of up to `cap`; 0 turns spinning off.
    pub(crate) fn new(cap: Duration) -> Self {
        let wanted = u32::try_from(cap.min(LONGEST).as_nanos()).unwrap_or(u32::MAX);
        let cap = AtomicU32::new(if has_several_cores() { wanted } else { 0 });
        Self { wanted, cap, misses: AtomicU32::new(0), backoff: AtomicU32::new(0) }
    }

    /// Notes that the peer is the process `pid`, which may run on another core than this process.
    pub(crate) fn set_peer(&self, pid: i32) {
        if !has_several_cores() && runs_elsewhere(pid) {
            self.cap.store(self.wanted, Ordering::Relaxed);
        }
    }

    /// Returns how long it spins at most; 0 is not at all.
    pub(crate) fn cap(&self) -> Duration {
        if cfg!(all(test, loom)) {
            return Duration::ZERO;
        }
        // ORDERING: Relaxed for all in this module: a record of our own, which publishes nothing.
        Duration::from_nanos(self.cap.load(Ordering::Relaxed).into())
    }

    /// Whether a look may be repeated at all: the builder has not turned it off, and something can
    /// come meanwhile.
    pub(crate) fn is_on(&self) -> bool {
        cfg!(all(test, loom)) || self.cap.load(Ordering::Relaxed) != 0
    }

    /// Returns for how long it is worth spinning now, if it is.
    pub(crate) fn next_spin(&self) -> Option<Duration> {
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

    /// Records whether a spin found something.
    pub(crate) fn note(&self, found: bool) {
        if found { self.paid() } else { self.missed() }
    }

    fn paid(&self) {
        self.misses.store(0, Ordering::Relaxed);
    }

    fn missed(&self) {
        let misses = self.misses.load(Ordering::Relaxed).saturating_add(1);
        self.misses.store(misses, Ordering::Relaxed);
        if misses >= MAX_MISSES {
            let exponent = (misses - MAX_MISSES + 1).min(LONGEST_BACKOFF);
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
    /// How long it had taken when it last read the clock.
    so_far: Duration,
}

impl Spinning {
    /// Begins to spin for `longest`, or for as long as the thread may, unless that is too short.
    pub(crate) fn begin(longest: Duration) -> Option<Self> {
        if cfg!(all(test, loom)) {
            // Time does not pass in a model.
            return None;
        }
        let cap = u32::try_from(longest.as_nanos()).unwrap_or(u32::MAX);
        let started = Instant::now();
        let allowed = Allowance::of_thread(started, cap);
        // A short spin would miss a peer that was asleep and has to wake up first. The thread would
        // spend what it earns on such spins, and two sides that fell asleep would never find each
        // other awake again.
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

    /// Pauses before the next look. Returns `false` once the time is up.
    pub(crate) fn again(&mut self) -> bool {
        self.looks += 1;
        if self.looks < LOOKS_WITHOUT_PAUSE {
            return true;
        }
        for _ in 0..(self.looks - LOOKS_WITHOUT_PAUSE).min(MAX_PAUSES) {
            spin_loop();
        }
        self.so_far = self.started.elapsed();
        self.so_far < self.budget
    }

    /// Returns how long it had taken when it last read the clock.
    pub(crate) fn so_far(&self) -> Duration {
        self.so_far
    }

    /// Charges the spin, which did not pay, to the thread.
    pub(crate) fn charge(self) {
        let spent = self.started.elapsed().as_nanos();
        Allowance::spend(u32::try_from(spent).unwrap_or(u32::MAX));
    }
}

/// What the current thread may still spend on spins that do not pay.
#[derive(Clone, Copy)]
struct Allowance {
    nanos: u32,
    /// The longest cap that was asked for. No more than this is saved.
    most: u32,
    since: Instant,
}

thread_local! {
    static ALLOWANCE: Cell<Option<Allowance>> = const { Cell::new(None) };
}

impl Allowance {
    /// Returns what the thread may spend `now`, at most `cap`.
    fn of_thread(now: Instant, cap: u32) -> u32 {
        let Self { nanos, most, since } =
            ALLOWANCE.get().unwrap_or(Self { nanos: 0, most: 0, since: now });
        let passed = now.saturating_duration_since(since).as_nanos();
        let earned = u32::try_from(passed / u128::from(EARNING_RATIO)).unwrap_or(u32::MAX);
        // A cap that is longer than any before adds the difference at once.
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

/// Whether the process may run on a core that this process may not run on.
fn runs_elsewhere(pid: i32) -> bool {
    let Some(pid) = Pid::from_raw(pid) else {
        // It is in another PID namespace. Spins that do not pay stop by themselves.
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
    // Not a `OnceLock`: a forked child would wait for a thread that was about to fill it.
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
        let Some(mut spinning) = spin.next_spin().and_then(Spinning::begin) else { return false };
        while spinning.again() {}
        spinning.charge();
        spin.note(false);
        true
    }

    /// A record as on a machine with several cores, however many this one has.
    fn record(cap: Duration) -> Spin {
        let nanos = u32::try_from(cap.as_nanos()).unwrap();
        Spin { cap: nanos.into(), ..Spin::new(cap) }
    }

    #[test]
    fn a_cap_of_zero_is_off() {
        assert!(Spin::new(Duration::ZERO).next_spin().is_none());
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
    fn a_spin_that_pays_ends_the_backoff() {
        let spin = record(Duration::from_micros(5));
        for _ in 0..MAX_MISSES {
            ALLOWANCE.set(None);
            assert!(miss(&spin));
        }
        ALLOWANCE.set(None);
        assert!(!miss(&spin) && !miss(&spin));
        spin.note(true);
        for _ in 0..MAX_MISSES {
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
        // One allowance, and what was earned meanwhile, at three quarters of the cap or more each.
        let elapsed = started.elapsed();
        let most = (cap + elapsed / EARNING_RATIO).as_nanos() / (cap / 4 * 3).as_nanos();
        assert!((1..=most).contains(&(tried as u128)), "{tried} in {elapsed:?}");
    }
}
