//! How long do 64 bytes take to another thread and back, if both sleep until they come?
//!
//! For each way to sleep, with both threads on one core, where the cost of the wakes themselves
//! shows, and as the scheduler places them.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use wakering::{Backend, Driver, SpscFace, SpscHandle};

use crate::{packet, pair};

const BACKENDS: [Backend; 2] = [Backend::IoUring, Backend::Epoll];

pub(crate) fn wakes(criterion: &mut Criterion) {
    let ours = sched_getaffinity(None).expect("our own");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|&core| ours.is_set(core)).expect("we run on one"));
    for (name, cores) in [("one core", &one), ("any core", &ours)] {
        // Threads that are spawned from now on inherit this, including those of drivers.
        sched_setaffinity(None, cores).expect("some of our own");
        let mut group = criterion.benchmark_group(format!("wakes, {name}"));
        unparks(&mut group);
        blocking(&mut group);
        parked_in(&mut group);
        background(&mut group);
        group.finish();
    }
    sched_setaffinity(None, &ours).expect("as it was");
}

/// For comparison: what two threads pay that have only a futex each.
fn unparks(group: &mut BenchmarkGroup<'_, WallTime>) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let (ping, pong) = (AtomicU64::new(0), AtomicU64::new(0));
    let caller = thread::current();
    let await_value = |word: &AtomicU64, value| {
        // ORDERING: Acquire pairs with the Release stores below; nothing else is published.
        while word.load(Ordering::Acquire) != value {
            thread::park();
        }
    };
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            for round in 1.. {
                // ORDERING: as in `await_value`.
                let mut seen = ping.load(Ordering::Acquire);
                while seen < round {
                    thread::park();
                    seen = ping.load(Ordering::Acquire);
                }
                if seen == u64::MAX {
                    return;
                }
                pong.store(round, Ordering::Release);
                caller.unpark();
            }
        });
        let mut round = 0;
        let mut trip = || {
            round += 1;
            ping.store(round, Ordering::Release);
            echo.thread().unpark();
            await_value(&pong, round);
        };
        trip();
        group.bench_function("park and unpark, no channel", |bench| bench.iter(&mut trip));
        ping.store(u64::MAX, Ordering::Release);
        echo.thread().unpark();
    });
}

fn blocking(group: &mut BenchmarkGroup<'_, WallTime>) {
    let driver = Driver::builder().background().expect("a driver");
    let (face, handle) = pair(&driver, &driver);
    let packet = packet(64);
    let echo = thread::spawn(move || {
        while let Some(packet) = handle.recv_blocking() {
            handle.send_blocking(packet).expect("the face is there");
        }
    });
    let trip = || {
        face.send_blocking(packet.clone()).expect("the handle is there");
        face.recv_blocking()
    };
    assert_eq!(trip().as_ref(), Some(&packet));
    group.bench_function("blocking calls", |bench| bench.iter(trip));
    drop(face);
    echo.join().expect("it ends with the face");
}

fn parked_in(group: &mut BenchmarkGroup<'_, WallTime>) {
    for backend in BACKENDS {
        let make = || Driver::builder().backend(backend).build();
        let (Ok(here), Ok(there)) = (make(), make()) else { continue };
        let (face, handle) = pair(&here, &there);
        let echo = thread::spawn(move || there.block_on(echo(handle)));
        let name = format!("parked-in driver, {backend}");
        group.bench_function(name, |bench| {
            bench.iter_custom(|trips| here.block_on(round_trips(&face, trips)));
        });
        drop(face);
        echo.join().expect("it ends with the face");
    }
}

fn background(group: &mut BenchmarkGroup<'_, WallTime>) {
    use futures::executor::block_on;
    for backend in BACKENDS {
        // One driver for each side, as two processes have.
        let make = || Driver::builder().backend(backend).background();
        let (Ok(here), Ok(there)) = (make(), make()) else { continue };
        let (face, handle) = pair(&here, &there);
        let echo = thread::spawn(move || block_on(echo(handle)));
        let name = format!("background driver and unpark, {backend}");
        group.bench_function(name, |bench| {
            bench.iter_custom(|trips| block_on(round_trips(&face, trips)));
        });
        drop(face);
        echo.join().expect("it ends with the face");
    }
}

async fn echo(handle: SpscHandle) {
    while let Some(packet) = handle.recv().await {
        handle.send(packet).await.expect("the face is there");
    }
}

async fn round_trips(face: &SpscFace, trips: u64) -> Duration {
    let packet = packet(64);
    let trip = async |packet: Bytes| {
        face.send(packet).await.expect("the handle is there");
        face.recv().await
    };
    assert_eq!(trip(packet.clone()).await.as_ref(), Some(&packet));
    let begin = Instant::now();
    for _ in 0..trips {
        trip(packet.clone()).await;
    }
    begin.elapsed()
}
