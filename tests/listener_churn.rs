//! A thousand applications come and go, in all ways, and leave nothing behind.
//!
//! This file has one test, because it counts what the whole process holds.

mod common;

use std::sync::mpsc::Receiver;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use common::child::{self, Child, test_path};
use common::held::Held;
use common::{Dir, PATIENCE, SMALL, number, packet, wait, watched};
use futures::channel::oneshot;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, select};
use wakering::{Backend, CloseReason, Driver, SpscFace, SpscHandle, SpscListener};

/// The number of processes, and how many applications each of them is.
const PROCESSES: usize = 500;
const APPLICATIONS: usize = 2;
/// How many processes run at a time.
const AT_ONCE: usize = 3;

/// The ways in which applications go, in turn.
const WAYS: [Way; 5] = [Way::Drop, Way::Kill, Way::Exit, Way::KillAtAnyTime, Way::Abort];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Drops its ends.
    Drop,
    /// Is killed while its channels are in use.
    Kill,
    /// Is killed, perhaps before its channels exist.
    KillAtAnyTime,
    /// Exits without dropping its ends.
    Exit,
    Abort,
}

#[test]
fn a_thousand_applications_leave_nothing_behind() {
    // This makes async-io start its thread.
    wait("nothing", async {});
    for backend in [Backend::IoUring, Backend::Epoll] {
        let (begin, held) = (Instant::now(), Held::now());
        let Some(driver) = common::driver(backend) else { continue };
        watched(move || churn(&driver));
        // The driver must be gone too before the next one is measured.
        expect_level(&held, None, || true);
        eprintln!("{backend}: {:.1?}", begin.elapsed());
    }
}

fn expect_level(held: &Held, spare: Option<usize>, holds: impl FnMut() -> bool) {
    if let Err(now) = held.wait_until_level(PATIENCE, spare, holds) {
        panic!("{held:?} has become {now:?}");
    }
}

fn churn(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let builder = SpscListener::builder().ring_bytes(SMALL).driver(driver);
    let mut listener = builder.bind(&name).unwrap();
    let mut held = Held::now();
    // The first processes bring the allocator and the kernel's caches to their final size.
    for (round, processes) in [50, PROCESSES].into_iter().enumerate() {
        let before = listener.stats();
        let ends = serve(&mut listener, &orders(driver, &name, processes));
        check(&ends, processes);
        // A thousand channels that leak would be two megabytes or more.
        let spare = (round > 0).then_some(1 << 20);
        expect_level(&held, spare, || {
            // Applications that were killed during the handshake.
            let late = listener.next().now_or_never();
            drop(late);
            listener.stats().waiting == 0
        });
        let stats = listener.stats();
        assert!(stats.accepted - before.accepted >= ends.len() as u64);
        assert_eq!((stats.refused, stats.hostile), (0, 0));
        held = Held::now();
    }
    // The listener serves the next one as it did the first.
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    let face = wait("accept", listener.accept()).unwrap();
    handle.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));
}

/// What to start.
struct Orders {
    backend: String,
    name: String,
    ways: Mutex<Receiver<(usize, Way)>>,
}

fn orders(driver: &Driver, name: &str, processes: usize) -> Orders {
    let (sender, ways) = mpsc::channel();
    for (n, way) in WAYS.into_iter().cycle().take(processes).enumerate() {
        sender.send((n, way)).unwrap();
    }
    let (backend, name) = (driver.backend().to_string(), name.to_owned());
    Orders { backend, name, ways: Mutex::new(ways) }
}

impl Orders {
    /// Starts one process after the other, and waits until each has ended.
    fn work(&self) {
        loop {
            let next = self.ways.lock().unwrap().recv();
            let Ok((n, way)) = next else { return };
            let arguments = [self.backend.as_str(), &self.name, &format!("{way:?}")];
            let mut child = Child::start(test_path!(child_that_comes_and_goes), &arguments);
            match way {
                Way::Kill => {
                    child.expect("ready");
                    child.kill();
                }
                Way::KillAtAnyTime => {
                    // Any time will do: no outcome depends on it.
                    std::thread::sleep(Duration::from_micros(n as u64 * 7919 % 12_000));
                    child.kill();
                }
                Way::Drop | Way::Exit | Way::Abort => child.expect("ready"),
            }
            child.wait();
        }
    }
}

/// Serves all applications, and returns how each channel ended.
fn serve(listener: &mut SpscListener, orders: &Orders) -> Vec<CloseReason> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| orders.work())).collect();
        let (all_gone, gone) = oneshot::channel();
        scope.spawn(move || {
            for worker in workers {
                worker.join().unwrap();
            }
            let _ = all_gone.send(());
        });
        pollster::block_on(async {
            let (mut faces, mut gone) = (FuturesUnordered::new(), gone.fuse());
            let (mut ends, mut is_over) = (Vec::new(), false);
            while !is_over || !faces.is_empty() {
                select! {
                    face = listener.select_next_some() => faces.push(echo(face.unwrap())),
                    end = faces.select_next_some() => ends.push(end),
                    told = gone => {
                        told.expect("every process was seen to its end");
                        is_over = true;
                    }
                }
            }
            ends
        })
    })
}

async fn echo(face: SpscFace) -> CloseReason {
    while let Some(packet) = face.recv().await {
        // The application may be gone by now.
        let _ = face.send(packet).await;
    }
    face.closed().await
}

fn check(ends: &[CloseReason], processes: usize) {
    let each = processes / WAYS.len() * APPLICATIONS;
    let count = |reason| ends.iter().filter(|end| **end == reason).count();
    assert_eq!(count(CloseReason::Peer), each, "those who dropped their ends: {ends:?}");
    let died = count(CloseReason::PeerDied);
    assert!((3 * each..=4 * each).contains(&died), "{died} of {each} have died");
    assert_eq!(ends.len(), each + died, "{ends:?}");
}

/// Connects some times, uses the channels, and goes.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_comes_and_goes() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name, way] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let builder = SpscHandle::builder().driver(&driver);
    let connect = |_| builder.clone().connect(name).unwrap();
    let handles: Vec<_> = (0..APPLICATIONS).map(connect).collect();
    for (n, handle) in handles.iter().enumerate() {
        handle.try_send(packet(n as u64, 500)).unwrap();
        assert_eq!(number(&wait("the echo", handle.recv()).unwrap()), n as u64);
    }
    child::say("ready");
    match way.as_str() {
        "Drop" => drop(handles),
        "Exit" => std::process::exit(0),
        "Abort" => std::process::abort(),
        _ => drop(child::listen()),
    }
}
