//! Whether it pays to spin here: how long a cache line takes to another core, and how long a wake.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::section::Section;
use crate::json::Value;
use crate::text;
use crate::times::nanoseconds;

/// Round trips that are measured together.
const ROUNDS: u32 = 50;

/// How long each of the two is measured.
const TIME: Duration = Duration::from_millis(100);

/// Spinning pays if the other side may answer several times while a wake is under way.
const ANSWERS: f64 = 4.0;

pub(super) fn look() -> Section {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let section = Section::new("spin").fact("cores", cores);
    let hop =
        if cores > 1 { two_cores().and_then(|cores| measure(cores, Way::Spin)) } else { None };
    let wake = two_cores().or_else(one_core).and_then(|cores| measure(cores, Way::Sleep));
    let pays = match hop.zip(wake) {
        Some((hop, wake)) => Some(hop * ANSWERS < wake),
        None => (cores == 1).then_some(false),
    };
    let section = section
        .fact("hop_ns", hop.map(|hop| Value::fixed(hop, 1)))
        .fact("wake_ns", wake.map(|wake| Value::fixed(wake, 1)))
        .fact("pays", pays);
    let shown = |time: f64| text::time(nanoseconds(Duration::from_secs_f64(time / 1e9)));
    let measured = |hop, wake| {
        format!(
            "{cores} cores; a cache line reaches the other core in {}, a wake takes {}",
            shown(hop),
            shown(wake)
        )
    };
    match (hop, wake, pays) {
        (Some(hop), Some(wake), Some(true)) => section
            .ok(format!("{}: spinning pays, and ends do it by themselves", measured(hop, wake))),
        (Some(hop), Some(wake), _) => section.note(format!(
            "{}: spinning hardly pays, and ends do it less and less; `spin` turns it off",
            measured(hop, wake)
        )),
        _ if cores == 1 => section.note(format!(
            "one core: ends never spin, and each packet for one that sleeps costs a wake{}",
            wake.map(|wake| format!(" of {}", shown(wake))).unwrap_or_default()
        )),
        _ if two_cores().is_some() => section.note(format!(
            "{cores} cores, which are too busy to measure whether spinning pays: ends find out"
        )),
        _ => section.note(format!("{cores} cores, and this process may choose none of them")),
    }
}

/// How a side waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Spin,
    Sleep,
}

impl Way {
    /// Returns the time that counts of those that were measured.
    fn typical(self, mut times: Vec<f64>) -> Option<f64> {
        times.sort_unstable_by(f64::total_cmp);
        match self {
            // Others use the cores, too, and both threads have to run at once for so long.
            Self::Spin => times.first().copied(),
            // The fastest are those in which a side was still awake.
            Self::Sleep => times.get(times.len() / 2).copied(),
        }
    }
}

/// Two cores on which this process may run.
fn two_cores() -> Option<[usize; 2]> {
    let cores = sched_getaffinity(None).ok()?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| cores.is_set(*core));
    Some([cores.next()?, cores.next()?])
}

/// The same core twice.
fn one_core() -> Option<[usize; 2]> {
    let cores = sched_getaffinity(None).ok()?;
    (0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core)).map(|core| [core; 2])
}

/// Has this thread run on one core from now on.
fn pin(core: usize) -> bool {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).is_ok()
}

/// A word that two threads count up in turn: the asker when it is even, the answerer when it is
/// odd.
#[repr(align(128))]
struct Turn(AtomicU32);

/// The last turn: nobody waits any more.
const OVER: u32 = u32::MAX;

/// A ping-pong of two threads.
struct Game {
    turn: Turn,
    way: Way,
    /// The asker and the answerer, once they are on their cores.
    players: [OnceLock<Thread>; 2],
}

/// Returns the time one way in nanoseconds, if it can be measured on these cores.
fn measure(cores: [usize; 2], way: Way) -> Option<f64> {
    let game = &Game { turn: Turn(AtomicU32::new(0)), way, players: Default::default() };
    thread::scope(|scope| {
        // Both on threads of their own, so that this one keeps its cores.
        let start = |play: fn(&Game, usize) -> Option<f64>, core| {
            thread::Builder::new().spawn_scoped(scope, move || play(game, core)).ok()
        };
        let (asker, answerer) = (|| start(Game::ask, cores[0]), || start(Game::answer, cores[1]));
        let answerer = answerer()?;
        let time = asker().and_then(|asker| asker.join().ok()?);
        // ORDERING: Relaxed; nothing is published by it.
        game.turn.0.store(OVER, Ordering::Relaxed);
        answerer.thread().unpark();
        time
    })
}

impl Game {
    /// Returns the time one way.
    fn ask(&self, core: usize) -> Option<f64> {
        self.join(0, core)?;
        let begin = Instant::now();
        let is_late = || begin.elapsed() > 2 * TIME;
        while self.players[1].get().is_none() {
            if is_late() {
                return None;
            }
            thread::yield_now();
        }
        let mut times = Vec::new();
        let mut turn = 0;
        while begin.elapsed() < TIME {
            let before = Instant::now();
            for _ in 0..ROUNDS {
                self.pass(0, turn + 1);
                turn += 2;
                if !self.wait(turn, is_late) {
                    return self.way.typical(times);
                }
            }
            times.push(before.elapsed().as_secs_f64() * 1e9 / f64::from(2 * ROUNDS));
        }
        self.way.typical(times)
    }

    fn answer(&self, core: usize) -> Option<f64> {
        self.join(1, core)?;
        let mut turn = 1;
        while self.wait(turn, || false) {
            self.pass(1, turn + 1);
            turn += 2;
        }
        None
    }

    /// Goes to its core, and says so.
    fn join(&self, player: usize, core: usize) -> Option<()> {
        pin(core).then(|| drop(self.players[player].set(thread::current())))
    }

    /// Makes it the other player's turn.
    fn pass(&self, player: usize, turn: u32) {
        // ORDERING: Release; pairs with the Acquire in `wait`. What it publishes is the asker's
        // name in `players`. An exchange, because the game may be over since this player has
        // looked: a store would undo that, and the answerer would wait for ever.
        let _ = self.turn.0.compare_exchange(turn - 1, turn, Ordering::Release, Ordering::Relaxed);
        if self.way == Way::Sleep {
            self.players[1 - player].get().into_iter().for_each(Thread::unpark);
        }
    }

    /// Waits for this turn; `false` if the game is over before.
    fn wait(&self, turn: u32, is_late: impl Fn() -> bool) -> bool {
        for look in 1_u64.. {
            if self.way == Way::Sleep {
                // Before the look: otherwise the wake for a turn that was seen without it would end
                // the next sleep as it begins, and so on.
                thread::park_timeout(TIME);
            }
            // ORDERING: Acquire; pairs with the Release in `pass`.
            match self.turn.0.load(Ordering::Acquire) {
                OVER => return false,
                now if now == turn => return true,
                _ => std::hint::spin_loop(),
            }
            // Seldom, for the clock takes longer than a look.
            let is_time = self.way == Way::Sleep || look.is_multiple_of(4096);
            if is_time && is_late() {
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_pass_does_not_undo_the_end() {
        let game =
            Game { turn: Turn(AtomicU32::new(1)), way: Way::Spin, players: Default::default() };
        game.turn.0.store(OVER, Ordering::Relaxed);
        game.pass(1, 2);
        assert_eq!(game.turn.0.load(Ordering::Relaxed), OVER);
    }

    #[test]
    fn a_side_that_found_the_other_awake_does_not_count() {
        assert_eq!(Way::Sleep.typical(vec![140.0, 11_000.0, 12_000.0]), Some(11_000.0));
        assert_eq!(Way::Spin.typical(vec![90.0, 80.0, 7_000.0]), Some(80.0));
        assert_eq!(Way::Spin.typical(Vec::new()), None);
    }
}
