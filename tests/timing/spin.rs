//! Spinning before going to sleep: when it pays, when it stops, and how long it holds up others.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wakering::{Driver, Endpoint, SpscFace, SpscHandle, Stats, TryRecvError};

use crate::common::child::{self, Child, test_path};
use crate::common::{self, PATIENCE, SMALL, join, on_both_backends, poll_once, unnamed_pair};

on_both_backends!(
    an_answer_that_comes_soon_costs_no_system_call,
    a_task_that_waits_for_long_does_not_spin_again_and_again,
    other_tasks_are_not_held_up_for_more_than_the_cap,
    a_cap_of_zero_turns_spinning_off,
    nobody_spins_on_a_single_core,
    processes_that_are_pinned_apart_spin,
);

/// How long the peer of [`echo`] works for an answer: longer than the looks of a receiver that does
/// not spin, which find the answer of a faster peer where the cores share a cache.
const WORK: Duration = Duration::from_micros(3);

/// Returns this driver, which runs on its own thread, and a driver of the same backend that this
/// thread parks in.
fn both_kinds(driver: &Driver) -> [Driver; 2] {
    let builder = Driver::builder().backend(driver.backend());
    [driver.clone(), builder.build().unwrap()]
}

/// Returns our end, which spins for at most `cap` and is bound to `driver`, and the peer's end on
/// another driver.
fn ends(driver: &Driver, cap: Duration) -> (Endpoint, Endpoint) {
    let handle = SpscHandle::builder().spin(cap).driver(driver);
    let (face, handle) = unnamed_pair(SpscFace::builder().ring_bytes(SMALL), handle);
    (handle.into(), face.into())
}

/// Starts a peer that is always awake and answers after [`WORK`], until the channel ends.
fn echo(end: Endpoint) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        loop {
            match end.try_recv() {
                Ok(packet) => {
                    let begun = Instant::now();
                    while begun.elapsed() < WORK {
                        std::hint::spin_loop();
                    }
                    end.try_send(packet).unwrap();
                }
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
                Err(TryRecvError::Closed(_)) => return,
            }
        }
    })
}

fn spins(stats: Stats) -> u64 {
    stats.spins_paid + stats.spins_unpaid
}

fn has_two_cores() -> bool {
    let several = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    if !several {
        eprintln!("a single core: left out");
    }
    several
}

/// Whether other processes use the cores so much that two threads are rarely awake at once.
fn is_busy() -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    load > 2.0 * std::thread::available_parallelism().unwrap().get() as f64
}

/// Makes round trips with a peer that is awake, until there were some in a row without a park on
/// our side and without a wake on either side: the answer was found by a spin, or by a look after
/// other tasks.
fn an_answer_that_comes_soon_costs_no_system_call(driver: &Driver) {
    const ROW: u64 = 50;
    if !has_two_cores() {
        return;
    }
    for driver in both_kinds(driver) {
        let (ours, peers) = ends(&driver, Duration::from_micros(200));
        let peer = echo(peers);
        let begun = Instant::now();
        // One wake, because the application of a pair introduces itself with it.
        let introduced = ours.stats().wakes_sent;
        let mut best = 0;
        driver.block_on(async {
            while best < ROW {
                if begun.elapsed() > PATIENCE {
                    assert!(is_busy(), "{best} in a row by {driver:?}");
                    return eprintln!("the machine is too busy for spins to pay: left out");
                }
                let before = ours.stats();
                let mut row = 0;
                while row < ROW && ours.stats().parks == before.parks {
                    ours.send(Bytes::from_static(b"ping")).await.unwrap();
                    assert_eq!(ours.recv().await.unwrap(), "ping");
                    row += 1;
                }
                assert_eq!(ours.stats().wakes_sent, introduced, "the peer never sleeps");
                best = best.max(row);
            }
        });
        drop(ours);
        join("the peer ends", peer);
    }
}

/// The peer delays each answer for a millisecond. Spinning does not pay then, and stops.
fn a_task_that_waits_for_long_does_not_spin_again_and_again(driver: &Driver) {
    const ROUNDS: u64 = 400;
    for driver in both_kinds(driver) {
        let (ours, peers) = ends(&driver, Duration::from_micros(50));
        let peer = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                std::thread::sleep(Duration::from_millis(1));
                peers.send_blocking(Bytes::from_static(b"late")).unwrap();
            }
        });
        driver.block_on(async {
            for _ in 0..ROUNDS {
                assert_eq!(ours.recv().await.unwrap(), "late");
            }
        });
        join("the peer ends", peer);
        let unpaid = ours.stats().spins_unpaid;
        // Each way of spinning misses a few times, then once in 2, 4, 8 … parks.
        assert!(unpaid < ROUNDS / 5, "{unpaid} of {ROUNDS} by {driver:?}");
    }
}

/// Returns how long turns take while one task waits, the shortest first.
fn turns(driver: &Driver, cap: Duration) -> Vec<Duration> {
    const TURNS: usize = 2_000;
    let (ours, _peers) = ends(driver, cap);
    let mut waiting = pin!(ours.recv());
    let turn = |_| {
        let begun = Instant::now();
        assert!(poll_once(waiting.as_mut()).is_pending());
        begun.elapsed()
    };
    let mut turns: Vec<_> = (0..TURNS).map(turn).collect();
    turns.sort_unstable();
    turns
}

/// Another task of the thread goes on while a task waits that may spin, and each of its turns is
/// delayed by no more than the cap. The test uses the median, because the machine has other work.
/// The limit allows for what a turn takes without spins, which may be long on an emulated machine.
fn other_tasks_are_not_held_up_for_more_than_the_cap(driver: &Driver) {
    const CAP: Duration = Duration::from_micros(400);
    let median = |turns: &[Duration]| turns[turns.len() / 2];
    let total = |turns: &[Duration]| turns[..turns.len() * 9 / 10].iter().sum::<Duration>();
    for driver in both_kinds(driver) {
        let (plain, spinning) = (turns(&driver, Duration::ZERO), turns(&driver, CAP));
        let (without, with) = (median(&plain), median(&spinning));
        assert!(with < without * 2 + CAP, "{with:?}, and {without:?} without spins, by {driver:?}");
        // At most an eighth of the time, and almost none once it has not paid.
        let (without, with) = (total(&plain), total(&spinning));
        let most = without * 2 + CAP * 40;
        assert!(with < most, "{with:?}, and {without:?} without spins, by {driver:?}");
    }
}

fn ping_without_spins(driver: &Driver, ours: Endpoint) {
    driver.block_on(async {
        for _ in 0..100 {
            ours.send(Bytes::from_static(b"ping")).await.unwrap();
            assert_eq!(ours.recv().await.unwrap(), "ping");
        }
    });
    assert_eq!(spins(ours.stats()), 0);
}

fn a_cap_of_zero_turns_spinning_off(driver: &Driver) {
    for driver in both_kinds(driver) {
        let (ours, peers) = ends(&driver, Duration::ZERO);
        let peer = echo(peers);
        ping_without_spins(&driver, ours);
        join("the peer ends", peer);
    }
}

fn nobody_spins_on_a_single_core(driver: &Driver) {
    let mut child = Child::start(test_path!(on_one_core), &[&driver.backend().to_string()]);
    child.expect("done");
}

#[test]
#[ignore = "run by nobody_spins_on_a_single_core"]
fn on_one_core() {
    let Some(arguments) = child::arguments() else { return };
    pin(cores()[0]);
    // The driver is made only now, so that the library finds a single core.
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    for driver in both_kinds(&driver) {
        let (ours, peers) = ends(&driver, Duration::from_millis(1));
        let peer = std::thread::spawn(move || {
            while let Some(packet) = peers.recv_blocking() {
                peers.send_blocking(packet).unwrap();
            }
            spins(peers.stats())
        });
        ping_without_spins(&driver, ours);
        assert_eq!(join("the peer ends", peer), 0);
    }
    child::say("done");
}

/// Two processes with a core each. Neither can know by itself that there are two cores; both learn
/// it when they connect.
fn processes_that_are_pinned_apart_spin(driver: &Driver) {
    let cores = cores();
    if cores.len() < 2 {
        eprintln!("a single core: left out");
        return;
    }
    let (dir, backend) = (common::Dir::new(), driver.backend().to_string());
    let name = dir.name("face");
    let mut children: Vec<_> = ["engine", "application"]
        .iter()
        .zip(&cores)
        .map(|(role, core)| {
            let arguments = [backend.as_str(), role, &name, &core.to_string()];
            let mut child = Child::start(test_path!(on_a_core_of_its_own), &arguments);
            child.expect("open");
            child
        })
        .collect();
    for child in &mut children {
        child.expect("spun");
    }
}

#[test]
#[ignore = "run by processes_that_are_pinned_apart_spin"]
fn on_a_core_of_its_own() {
    let Some(arguments) = child::arguments() else { return };
    pin(child::parsed(&arguments[3]));
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let (is_engine, name) = (arguments[1] == "engine", arguments[2].as_str());
    let end: Endpoint = if is_engine {
        SpscFace::builder().driver(&driver).create(name).unwrap().into()
    } else {
        SpscHandle::builder().driver(&driver).connect(name).unwrap().into()
    };
    child::say("open");
    pollster::block_on(async {
        end.connected().await.unwrap();
        if is_engine {
            end.send(Bytes::from_static(b"ping")).await.unwrap();
        }
        // The other side spins too. This one serves it until it has seen that.
        let mut has_spun = false;
        while let Some(packet) = end.recv().await {
            if spins(end.stats()) > 0 && !has_spun {
                has_spun = true;
                child::say("spun");
            }
            if end.send(packet).await.is_err() {
                break;
            }
        }
    });
}

fn cores() -> Vec<usize> {
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| all.is_set(core)).collect()
}

/// Restricts this thread, those that it starts, and the process's first thread to this core.
fn pin(core: usize) {
    let mut one = rustix::thread::CpuSet::new();
    one.set(core);
    for thread in [None, Some(rustix::process::getpid())] {
        rustix::thread::sched_setaffinity(thread, &one).unwrap();
    }
}
