//! A process that connects as it should and then follows the test's script: it breaks one rule at a
//! time. And an honest channel next to it, which must notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use rustix::net::RecvFlags;
use rustix::thread::futex;
use wakering::{Driver, Endpoint, SpscFace, SpscHandle};

use super::crowd;
use crate::common::child::{self, Child, test_path};
use crate::common::raw_peer::{self, Raw};
use crate::common::{self, Dir, PATIENCE, SMALL, number, packet, wait};

/// The other process.
#[derive(Debug)]
pub(super) struct Attacker {
    child: Child,
    dir: Dir,
    turn: u32,
}

/// The end that the library has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ours {
    Face,
    Handle,
}

pub(super) const BOTH: [Ours; 2] = [Ours::Face, Ours::Handle];

impl Ours {
    /// Returns where our words are in the region, and where the attacker's are.
    pub(super) fn words(self) -> (usize, usize) {
        match self {
            Self::Face => (raw_peer::FACE, raw_peer::HANDLE),
            Self::Handle => (raw_peer::HANDLE, raw_peer::FACE),
        }
    }
}

impl Attacker {
    pub(super) fn start() -> Self {
        let child = Child::start(test_path!(child_that_attacks), &[]);
        Self { child, dir: Dir::new(), turn: 0 }
    }

    /// Returns a name for a new socket.
    pub(super) fn next_name(&mut self) -> String {
        self.turn += 1;
        self.dir.name(&self.turn.to_string())
    }

    /// Connects the attacker to an end of ours, with small rings.
    pub(super) fn meet(&mut self, driver: &Driver, ours: Ours) -> Endpoint {
        let name = self.next_name();
        if ours == Ours::Face {
            let builder = SpscFace::builder().ring_bytes(SMALL).send_timeout(None);
            let face = builder.driver(driver).create(&name).unwrap();
            self.say(&format!("connect {name}"));
            wait("it connects", face.connected()).unwrap();
            face.into()
        } else {
            self.child.tell(&format!("serve {name}"));
            self.child.expect("open");
            let builder = SpscHandle::builder().send_timeout(None);
            let handle = builder.driver(driver).connect(&name).unwrap();
            self.child.expect("ok");
            handle.into()
        }
    }

    /// Has the attacker do something, and waits until it is done.
    pub(super) fn say(&mut self, order: &str) {
        self.order(order);
        self.done();
    }

    /// Has the attacker do something.
    pub(super) fn order(&mut self, order: &str) {
        self.child.tell(order);
    }

    pub(super) fn kill(&mut self) {
        self.child.kill();
    }

    /// Waits until the attacker is done.
    pub(super) fn done(&mut self) {
        self.child.expect("ok");
    }
}

/// Follows orders, one a line. A line has steps between semicolons.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_attacks() {
    if child::arguments().is_none() {
        return;
    }
    let mut raw = None;
    while let Some(line) = child::listen() {
        for step in line.split(';') {
            let words: Vec<_> = step.split_whitespace().collect();
            match words[..] {
                ["connect", path] => raw = Some(Raw::connect(path, false)),
                ["serve", path] => {
                    let listener = raw_peer::listen(path);
                    child::say("open");
                    raw = Some(Raw::serve(&listener, &raw_peer::region(4096, 1016), false));
                }
                ["leave"] => raw = None,
                _ => take_step(raw.as_mut().unwrap(), &words),
            }
        }
        child::say("ok");
    }
}

/// Takes a step. Numbers are hexadecimal. Offsets are those of the region, or of the ring that the
/// attacker writes.
fn take_step(raw: &mut Raw, words: &[&str]) {
    let hex = |word: &str| u64::from_str_radix(word, 16).unwrap();
    let at = |word: &str| usize::try_from(hex(word)).unwrap();
    match words {
        // Writes a header.
        ["put", offset, value] => {
            raw.memory.word64(raw.tx + at(offset)).store(hex(value), Ordering::Release);
        }
        // Writes the same header at all places of the ring, the first place last.
        ["fill", value] => {
            for offset in (0..4096).step_by(8).rev() {
                raw.memory.word64(raw.tx + offset).store(hex(value), Ordering::Release);
            }
        }
        // Writes a word.
        ["set", offset, value] => {
            raw.memory.word64(at(offset)).store(hex(value), Ordering::Release)
        }
        ["set32", offset, value] => {
            let value = u32::try_from(hex(value)).unwrap();
            raw.memory.word32(at(offset)).store(value, Ordering::Release);
        }
        ["or32", offset, value] => {
            let value = u32::try_from(hex(value)).unwrap();
            raw.memory.word32(at(offset)).fetch_or(value, Ordering::Release);
        }
        ["noise", from, to] => noise(raw, at(from), at(to)),
        ["until", offset, value] => {
            let begin = Instant::now();
            while raw.memory.word64(at(offset)).load(Ordering::Acquire) != hex(value) {
                assert!(begin.elapsed() < PATIENCE, "never {words:?}");
                std::thread::yield_now();
            }
        }
        // Punches a hole into the file: zeros, and no pages.
        ["hole", from, len] => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&raw.file, flags, hex(from), hex(len)).unwrap();
        }
        ["ring"] => raw.ring(),
        ["send", count] => {
            for n in 0..hex(count) {
                raw.send(&packet(n, 20)).unwrap();
            }
        }
        ["receive", count] => {
            for n in 0..hex(count) {
                assert_eq!(number(&raw.recv().unwrap()), n);
            }
        }
        ["echo", count] => {
            for _ in 0..hex(count) {
                let packet = raw.recv().unwrap();
                raw.send(&packet).unwrap();
            }
        }
        // From now on the attacker always says that it sleeps, whatever else it does.
        ["insist"] => {
            let (memory, at) = (raw.memory.clone(), raw.own + raw_peer::WAITING);
            std::thread::spawn(move || {
                loop {
                    memory.word32(at).fetch_or(3, Ordering::Release);
                }
            });
        }
        // Moves all that sleep on the other side's bell to a word of the attacker's.
        ["steal", time] => {
            let (begin, all) = (Instant::now(), i32::MAX.unsigned_abs());
            let (from, to) = (raw.their32(raw_peer::BELL), raw.memory.word32(SPARE));
            while begin.elapsed() < millis(time) {
                futex::requeue(from, futex::Flags::empty(), 0, all, to).unwrap();
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        // Puts a lock in place of the other side's bell. It is never released, and a thread waits
        // for it.
        ["lock"] => {
            let (memory, at) = (raw.memory.clone(), raw.theirs + raw_peer::BELL);
            let owner = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            memory.word32(at).store(owner, Ordering::Release);
            let waiter = memory.clone();
            let waits = std::thread::spawn(move || {
                futex::lock_pi(waiter.word32(at), futex::Flags::empty(), None)
            });
            // The kernel marks the word as waited for, or finds other sleepers there that do not
            // want the lock.
            while memory.word32(at).load(Ordering::Acquire) == owner && !waits.is_finished() {
                std::thread::yield_now();
            }
        }
        ["crowd", count] => {
            crowd::gather(raw, hex(count));
            raw.own32(raw_peer::WAITING).fetch_or(1, Ordering::Release);
        }
        ["woken", most] => crowd::expect_woken(at(most)),
        ["flicker", one, other, time] => flicker(raw, hex(one), hex(other), millis(time)),
        ["flood", how, time] => flood(raw, how, millis(time)),
        other => panic!("unknown order {other:?}"),
    }
}

fn millis(word: &str) -> Duration {
    Duration::from_millis(word.parse().unwrap())
}

/// An unused word.
const SPARE: usize = 0x700;

/// Writes random numbers into every word.
fn noise(raw: &Raw, from: usize, to: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (from..to).step_by(8) {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(23) | 1;
        raw.memory.word64(at).store(state, Ordering::Relaxed);
    }
}

/// Sets every header to `one`, then to `other`, and so on.
fn flicker(raw: &Raw, one: u64, other: u64, time: Duration) {
    let begin = Instant::now();
    let mut turns = 0_u64;
    while begin.elapsed() < time {
        for value in [one, other] {
            for offset in (0..4096).step_by(8) {
                raw.memory.word64(raw.tx + offset).store(value, Ordering::Release);
            }
        }
        turns += 1;
        if turns.is_multiple_of(64) {
            raw.wake_for(raw_peer::RECV);
        }
    }
    // On a busy machine the time may be over before the first wake.
    raw.wake_for(raw_peer::RECV);
}

/// Sends wakes that were not asked for, for this time, whether or not the other side still listens.
fn flood(raw: &Raw, how: &str, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        for _ in 0..32 {
            match how {
                "bells" => raw.ring(),
                "wakes" => raw.wake(),
                "bytes" => raw.send_byte(),
                "longs" => {
                    let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
                    let _ = rustix::net::send(&*raw.line, &[7; 60_000], flags);
                }
                // Makes no system call.
                "counts" => drop(raw.their32(raw_peer::BELL).fetch_add(1, Ordering::Release)),
                other => panic!("flood of {other}?"),
            }
        }
        let mut byte = [0; 64];
        let _ = rustix::net::recv(&*raw.line, &mut byte, RecvFlags::DONTWAIT);
    }
}

/// Round trips on another channel of the same driver.
#[derive(Debug)]
pub(super) struct Honest {
    over: Arc<AtomicBool>,
    pings: JoinHandle<Vec<Duration>>,
    echo: JoinHandle<()>,
}

impl Honest {
    pub(super) fn start(driver: &Driver) -> Self {
        let (face, handle) = common::pair(driver, SMALL);
        let over = Arc::new(AtomicBool::new(false));
        let echo = std::thread::spawn(move || {
            while let Some(packet) = pollster::block_on(handle.recv()) {
                pollster::block_on(handle.send(packet)).unwrap();
            }
        });
        let stop = over.clone();
        let pings = std::thread::spawn(move || {
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let (begin, n) = (Instant::now(), times.len() as u64);
                wait("honest send", face.send(packet(n, 64))).unwrap();
                assert_eq!(number(&wait("honest recv", face.recv()).unwrap()), n);
                times.push(begin.elapsed());
                // Both sides sleep, so the driver has to wake them for each packet.
                std::thread::sleep(Duration::from_micros(500));
            }
            times
        });
        Self { over, pings, echo }
    }

    /// Ends the channel, and fails if a round trip took long. `what` went on meanwhile.
    pub(super) fn finish(self, what: &str) {
        self.over.store(true, Ordering::Relaxed);
        let mut times = common::join("the honest channel", self.pings);
        common::join("the honest echo", self.echo);
        times.sort_unstable();
        let count = times.len();
        let (median, p99, max) = (times[count / 2], times[count * 99 / 100], times[count - 1]);
        eprintln!("{what}: {count} round trips next to it, {median:?} p99 {p99:?} max {max:?}");
        // The machine has two processors, which it shares with whatever else runs here.
        assert!(median < Duration::from_millis(20), "{what}: median {median:?}");
        assert!(max < Duration::from_secs(2), "{what}: {max:?}");
    }
}

/// Runs `test` with a new attacker against a new end of ours, in each role, next to an honest
/// channel. `what` names the attack.
pub(super) fn against_each(
    driver: &Driver,
    what: &str,
    test: impl Fn(&mut Attacker, Endpoint, Ours),
) {
    let honest = Honest::start(driver);
    for ours in BOTH {
        let mut attacker = Attacker::start();
        let end = attacker.meet(driver, ours);
        test(&mut attacker, end, ours);
    }
    honest.finish(what);
}
