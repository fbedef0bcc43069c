//! `kill -9` at any moment: what the survivor receives, when it learns of the death, and what is
//! left.
//!
//! `WAKERING_KILLS=10000 cargo test --release --test kills -- --nocapture` runs longer.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use common::child::{self, Child, test_path};
use common::raw_peer::Memory;
use common::roles::{beside, open};
use common::{Dir, SMALL, eventually, join, length, number, on_both_backends, packet, wait};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use wakering::{
    Backend, CloseReason, Driver, Endpoint, Grant, ShmError, SpscFace, SpscHandle, TrySendError,
};

on_both_backends!(
    by crate::run_alone:
    the_survivor_of_a_kill_receives_all_that_was_sent_and_learns_of_it,
    a_kill_in_the_handshake_leaves_a_whole_channel_or_none,
);

/// The tests of this file count descriptors and measure times, so only one runs at a time. While it
/// waits for its turn, it has no driver, and no limit to its time.
fn run_alone(backend: Backend, test: fn(&Driver)) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    common::run(backend, test);
}

/// Returns how many processes each test kills.
fn kills(usually: u64) -> u64 {
    std::env::var("WAKERING_KILLS").map_or(usually, |kills| child::parsed::<u64>(&kills))
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Pseudo-random numbers that differ in each process.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let clock = Instant::now();
        let address = std::ptr::from_ref(&clock).addr() as u64;
        let seed = address ^ u64::from(std::process::id()) << 32 ^ now();
        eprintln!("seed {seed:#x}");
        Self(seed | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::from(since.subsec_nanos())
}

/// What the victim does when it dies.
///
/// In "full", neither side receives, and both senders sleep.
const LOADS: [&str; 6] = ["stream", "batches", "grants", "batches of grants", "full", "idle"];

/// How far the victim has come, in memory that outlives it.
struct Progress(Memory);

impl Progress {
    fn at(path: &Path) -> Self {
        let options =
            || fs::File::options().read(true).write(true).create(true).truncate(false).clone();
        let file = options().open(path).unwrap();
        file.set_len(4096).unwrap();
        Self(Memory::map(&file).unwrap())
    }

    /// Packets that the victim has begun to send. [`sent`](Self::sent) counts those whose send has
    /// returned.
    fn begun(&self) -> &AtomicU64 {
        self.0.word64(0)
    }

    fn sent(&self) -> &AtomicU64 {
        self.0.word64(64)
    }
}

/// Sends, and receives, until it is killed.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_is_killed() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, role, name, load, progress] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let progress = Progress::at(Path::new(progress));
    let end = open(&driver, role, name);
    child::say("open");
    pollster::block_on(end.connected()).unwrap();
    let (mut tx, mut rx) = end.into_split();
    let reads = load != "full";
    std::thread::spawn(move || {
        pollster::block_on(async {
            let mut next = 0;
            while reads && let Some(packet) = rx.recv().await {
                assert_eq!(number(&packet), next);
                next += 1;
            }
            // The thread still keeps its half.
            std::future::pending::<()>().await;
            drop(rx);
        });
    });
    child::say("ready");
    pollster::block_on(async {
        let mut next = 0;
        loop {
            let count = if load.starts_with("batches") { 1 + next % 17 } else { 1 };
            progress.begun().store(next + count, Ordering::Release);
            match load.as_str() {
                "batches" => {
                    let batch: Vec<Bytes> =
                        (next..next + count).map(|n| packet(n, length(n))).collect();
                    tx.send_batch(&batch).await.unwrap();
                }
                "grants" => write(tx.reserve(length(next)).await.unwrap(), next),
                "batches of grants" => {
                    let mut batch = tx.batch();
                    for n in next..next + count {
                        write(batch.reserve(length(n)).await.unwrap(), n);
                    }
                    batch.publish().unwrap();
                }
                "idle" if next == 3 => std::future::pending::<()>().await,
                _ => tx.send(packet(next, length(next))).await.unwrap(),
            }
            next += count;
            progress.sent().store(next, Ordering::Release);
        }
    });
}

/// Writes the packet in pieces, so that the process may die between them.
fn write(mut grant: Grant<'_>, n: u64) {
    packet(n, length(n)).chunks(100).for_each(|piece| grant.put_slice(piece));
    grant.commit().unwrap();
}

/// What one kill showed.
struct Outcome {
    noticed: Duration,
    received: u64,
}

fn kill_one(driver: &Driver, role: &str, load: &str, delay: Duration) -> Outcome {
    let dir = Dir::new();
    let name = dir.name("face");
    let progress_path = dir.path().join("progress");
    let progress = Progress::at(&progress_path);
    let more = [load, progress_path.to_str().unwrap()];
    let (end, mut child) = beside(driver, role, &name, test_path!(child_that_is_killed), &more);
    wait("connected", end.connected()).unwrap();
    let end = Arc::new(end);
    let watching = end.clone();
    let watcher = std::thread::spawn(move || {
        let reason = pollster::block_on(watching.closed());
        (reason, Instant::now())
    });
    // Sends all the time, and returns how that ended.
    let sending = end.clone();
    let sender = std::thread::spawn(move || {
        pollster::block_on(async {
            for n in 0.. {
                if let Err(error) = sending.send(packet(n, length(n))).await {
                    return error;
                }
            }
            unreachable!("it ends with the peer");
        })
    });
    if role == "engine" {
        child.expect("open");
    }
    child.expect("ready");
    let dies = std::thread::spawn(death_of(&child));
    let (killed, received) = if load == "full" {
        eventually("it is in full flight", || progress.sent().load(Ordering::Acquire) > 3);
        std::thread::sleep(delay);
        (child.kill(), receive_all(&end))
    } else {
        let receiving = end.clone();
        let receiver = std::thread::spawn(move || receive_all(&receiving));
        std::thread::sleep(delay);
        (child.kill(), join("the receiver", receiver))
    };
    let (reason, noticed) = join("the watcher", watcher);
    assert_eq!(reason, CloseReason::PeerDied, "{load}");
    match join("the sender", sender) {
        ShmError::Closed { reason: CloseReason::PeerDied, .. } => {}
        other => panic!("{load}: {other:?}"),
    }
    let (begun, sent) = (progress.begun(), progress.sent());
    let (begun, sent) = (begun.load(Ordering::Acquire), sent.load(Ordering::Acquire));
    assert!((sent..=begun).contains(&received), "{load}: {received} of {sent} to {begun}");
    assert_eq!(end.close_reason(), Some(CloseReason::PeerDied));
    assert!(matches!(
        end.try_send(packet(0, 8)),
        Err(TrySendError::Closed(_, CloseReason::PeerDied))
    ));
    let died = join("its death", dies);
    let noticed = noticed.saturating_duration_since(killed);
    if noticed > Duration::from_millis(100) {
        let died = died.saturating_duration_since(killed);
        eprintln!(
            "late: {role}, {load}, {delay:?}: dead after {died:?}, noticed after {noticed:?}"
        );
    }
    child.wait();
    drop((end, progress));
    check_what_is_left(driver, &dir, &name, role);
    Outcome { noticed, received }
}

/// Returns a function that waits until the kernel reports the child's death, and returns when that
/// was.
fn death_of(child: &Child) -> impl FnOnce() -> Instant + Send + 'static {
    let pid = Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    move || {
        rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
        Instant::now()
    }
}

/// Checks that all packets arrive in order, whole and once, and returns how many.
fn receive_all(end: &Endpoint) -> u64 {
    let mut next = 0;
    while let Some(packet) = wait("recv", end.recv()) {
        assert_eq!((number(&packet), packet.len()), (next, length(next)));
        next += 1;
    }
    next
}

/// Checks that only the killed engine's socket and the lock file are left, and that the name is
/// free.
fn check_what_is_left(driver: &Driver, dir: &Dir, name: &str, survivor: &str) {
    let left = || {
        let entries = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = entries.filter(|name| name != "progress").collect();
        left.sort();
        left
    };
    if survivor == "engine" {
        assert_eq!(left(), [".lock"]);
    } else {
        assert_eq!(left(), [".lock", "face"]);
    }
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(name).unwrap();
    drop(face);
    assert_eq!(left(), [".lock"]);
}

/// Prints the median, the 99th percentile and the maximum, and returns the median.
fn print_times(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let (count, max) = (times.len(), times[times.len() - 1]);
    let (p50, p99) = (times[count / 2], times[count * 99 / 100]);
    eprintln!("{what}: {count} kills, noticed after p50 {p50:?} p99 {p99:?} max {max:?}");
    p50
}

fn the_survivor_of_a_kill_receives_all_that_was_sent_and_learns_of_it(driver: &Driver) {
    let mut dice = Dice::new();
    let (mut times, mut received) = (Vec::new(), 0);
    // Descriptors that the process opens once stay open.
    kill_one(driver, "engine", "stream", Duration::ZERO);
    let before = descriptors();
    for n in 0..kills(200) {
        let role = ["engine", "application"][usize::try_from(n % 2).unwrap()];
        let load = LOADS[usize::try_from(n / 2).unwrap() % LOADS.len()];
        let most = if dice.below(4) == 0 { 20_000 } else { 2000 };
        let delay = Duration::from_micros(dice.below(most));
        let outcome = kill_one(driver, role, load, delay);
        times.push(outcome.noticed);
        received += outcome.received;
    }
    eventually("all descriptors are closed", || descriptors() <= before);
    assert!(received > 0);
    let median = print_times(&format!("under load on {}", driver.backend()), times);
    // The machine may be busy. The figure above is the promise.
    assert!(median < Duration::from_millis(20), "{median:?}");
}

/// Goes through the handshake, and then waits.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_in_the_handshake() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, role, name] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    child::say("ready");
    let end = open(&driver, role, name);
    let _ = end.try_send(packet(0, 8));
    common::stay()
}

fn a_kill_in_the_handshake_leaves_a_whole_channel_or_none(driver: &Driver) {
    let (mut dice, backend) = (Dice::new(), driver.backend().to_string());
    let (mut whole, mut none) = (0, 0);
    let mut before = None;
    for n in 0..kills(120) {
        let dir = Dir::new();
        let name = dir.name("face");
        let delay = Duration::from_micros(dice.below(1500));
        let theirs = ["application", "engine"][usize::try_from(n % 2).unwrap()];
        let arguments = [backend.as_str(), theirs, &name];
        let kill = |child: &mut Child| {
            child.expect("ready");
            std::thread::sleep(delay);
            child.kill();
        };
        let connects = SpscHandle::builder().driver(driver).connect_timeout(common::PATIENCE);
        let survivor: Option<Endpoint> = if theirs == "application" {
            let face = open(driver, "engine", &name);
            let mut child = Child::start(test_path!(child_in_the_handshake), &arguments);
            kill(&mut child);
            child.wait();
            // If the application did not get in, the face is still free.
            match connects.connect(&name) {
                Ok(handle) => {
                    handle.try_send(packet(7, 8)).unwrap();
                    assert_eq!(wait("recv", face.recv()), Some(packet(7, 8)));
                    none += 1;
                    None
                }
                Err(ShmError::Busy | ShmError::NotFound { .. }) => Some(face),
                Err(error) => panic!("{error:?}"),
            }
        } else {
            let mut child = Child::start(test_path!(child_in_the_handshake), &arguments);
            std::thread::scope(|scope| {
                let connecting = scope.spawn(|| {
                    loop {
                        match connects.clone().connect(&name) {
                            Ok(handle) => return Some(handle.into()),
                            // Not found before the engine was there. Any other failure: it was
                            // there and has hung up.
                            Err(ShmError::NotFound { .. }) if !Path::new(&name).exists() => {}
                            Err(ShmError::NotFound { .. } | ShmError::HungUp) => {
                                return None;
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                        if dir.path().join("over").exists() && !Path::new(&name).exists() {
                            return None;
                        }
                        std::thread::yield_now();
                    }
                });
                kill(&mut child);
                child.wait();
                fs::write(dir.path().join("over"), "").unwrap();
                connecting.join().unwrap()
            })
        };
        if let Some(end) = survivor {
            whole += 1;
            assert_eq!(wait("closed", end.closed()), CloseReason::PeerDied);
            match wait("recv", end.recv()) {
                None => {}
                Some(first) => {
                    assert_eq!(number(&first), 0);
                    assert_eq!(wait("recv", end.recv()), None);
                }
            }
        }
        // Whatever happened, the name can be taken.
        drop(SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap());
        // The driver closes these a moment later.
        match before {
            None => before = Some(descriptors() + 4),
            Some(most) => eventually("descriptors are closed", || descriptors() <= most),
        }
    }
    eprintln!("killed in the handshake on {backend}: {whole} channels, {none} times none");
}
