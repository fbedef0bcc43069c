//! Timers and round trips next to channels in full flight.

use std::pin::Pin;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use futures::{StreamExt, stream};
use wakering::{Driver, Endpoint, Receiver, Sender, SpscFace, SpscHandle};

use crate::common::{self, number, on_both_backends, packet};

on_both_backends!(
    no_way_to_receive_starves_a_timer,
    no_way_to_send_starves_a_timer,
    a_flood_does_not_hold_up_the_round_trips_of_another_channel,
);

/// What an executor's thread runs when it is idle.
#[derive(Debug, Clone, Copy)]
enum Runs {
    /// Its own reactor. The driver has its own thread.
    Background,
    /// The driver: the thread parks in it.
    Parked,
    /// Its own reactor, which has the driver in it.
    Driven,
}

const RUNS: [Runs; 3] = [Runs::Background, Runs::Parked, Runs::Driven];

/// Runs the future that `begin` makes for a driver on this thread.
fn run_on<T, F: Future<Output = T>>(
    runs: Runs,
    backend: &Driver,
    begin: impl FnOnce(Driver) -> F,
) -> T {
    let builder = Driver::builder().backend(backend.backend());
    let executor = smol::LocalExecutor::new();
    match runs {
        Runs::Background => smol::block_on(executor.run(begin(backend.clone()))),
        Runs::Parked => {
            let driver = builder.build().unwrap();
            driver.block_on(executor.run(begin(driver.clone())))
        }
        Runs::Driven => {
            let polled = smol::Async::new(builder.polled().unwrap()).unwrap();
            let driver = polled.get_ref();
            let all = driver.drive(|| polled.readable(), begin(Driver::clone(driver)));
            smol::block_on(executor.run(all)).unwrap()
        }
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

/// How late something may be that has nothing to do with a channel in full flight. (Without budgets
/// it is late by up to 4 s, and by 31 s in a debug build. With them it is 1 to 10 ms on an idle
/// machine, and about ten times that in a debug build. All of these were measured by the clock, and
/// the tests count the thread's own time.)
const LATE: Duration = Duration::from_millis(1000);

/// Returns this thread's time on a processor. Nothing here is late because the machine is busy.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap()
}

/// A task in full flight, and the thread at the other end. `end` ends both.
struct Flight {
    task: Pin<Box<dyn Future<Output = ()>>>,
    end: Box<dyn Fn()>,
    other: JoinHandle<()>,
}

impl Flight {
    fn new<F: Future<Output = ()> + 'static>(
        driver: &Driver,
        task: impl FnOnce(Sender, Receiver) -> F,
        other: fn(SpscHandle),
    ) -> Self {
        let (face, descriptor) = SpscFace::builder().driver(driver).pair().unwrap();
        let handle = SpscHandle::from_fd(descriptor).unwrap();
        let canceller = face.canceller();
        let (tx, rx) = Endpoint::from(face).into_split();
        Self {
            task: Box::pin(task(tx, rx)),
            end: Box::new(move || canceller.cancel()),
            other: std::thread::spawn(move || other(handle)),
        }
    }

    /// Runs next to a timer of 1 ms, and returns by how much that was late at most.
    async fn lateness_beside(self) -> Duration {
        let timer = async {
            let (begun, mut last, mut late) = (Instant::now(), now(), Duration::ZERO);
            while begun.elapsed() < 150 * MILLISECOND {
                smol::Timer::after(MILLISECOND).await;
                late = late.max((now() - last).saturating_sub(MILLISECOND));
                last = now();
            }
            (self.end)();
            late
        };
        let (late, ()) = futures::join!(timer, self.task);
        common::join("the other side", self.other);
        late
    }
}

fn floods(handle: SpscHandle) {
    while handle.send_blocking(Bytes::from_static(&[7; 64])).is_ok() {}
}

fn drains(handle: SpscHandle) {
    while handle.recv_blocking().is_some() {}
}

type FlightWay = (&'static str, fn(&Driver) -> Flight);

fn no_timer_is_late_beside(backend: &Driver, ways: &[FlightWay]) {
    for (name, way) in ways {
        for runs in RUNS {
            let late = run_on(runs, backend, |driver| way(&driver).lateness_beside());
            eprintln!("{name}, {runs:?}: a timer of 1 ms was up to {late:?} late");
            assert!(late < LATE, "{name}, {runs:?}: {late:?}");
        }
    }
}

fn no_way_to_receive_starves_a_timer(backend: &Driver) {
    no_timer_is_late_beside(
        backend,
        &[
            ("recv", |driver| {
                let task = async |_tx, mut rx: Receiver| while rx.recv().await.is_some() {};
                Flight::new(driver, task, floods)
            }),
            ("next", |driver| {
                let task = async |_tx, mut rx: Receiver| while rx.next().await.is_some() {};
                Flight::new(driver, task, floods)
            }),
            ("recv_batch", |driver| {
                let task = async |_tx, mut rx: Receiver| {
                    while rx.recv_batch(&mut Vec::new(), usize::MAX).await > 0 {}
                };
                Flight::new(driver, task, floods)
            }),
            ("recv_ref", |driver| {
                let task = async |_tx, mut rx: Receiver| while rx.recv_ref().await.is_some() {};
                Flight::new(driver, task, floods)
            }),
            ("forward", |driver| {
                let task = async |tx, rx: Receiver| drop(rx.forward(tx).await);
                Flight::new(driver, task, |handle| {
                    std::thread::scope(|scope| {
                        scope.spawn(|| while handle.recv_blocking().is_some() {});
                        while handle.send_blocking(Bytes::from_static(&[7; 64])).is_ok() {}
                    });
                })
            }),
        ],
    );
}

fn no_way_to_send_starves_a_timer(backend: &Driver) {
    no_timer_is_late_beside(
        backend,
        &[
            ("send", |driver| {
                let task = async |mut tx: Sender, _rx| {
                    while tx.send(Bytes::from_static(&[7; 64])).await.is_ok() {}
                };
                Flight::new(driver, task, drains)
            }),
            ("send_batch", |driver| {
                let task = async |mut tx: Sender, _rx| {
                    let packets = vec![Bytes::from_static(&[7; 64]); 1 << 20];
                    while tx.send_batch(&packets).await.is_ok() {}
                };
                Flight::new(driver, task, drains)
            }),
            ("sink", |driver| {
                let task = async |tx: Sender, _rx| {
                    let packets = stream::repeat(Bytes::from_static(&[7; 64]));
                    assert!(packets.map(Ok).forward(tx).await.is_err());
                };
                Flight::new(driver, task, drains)
            }),
            ("reserve", |driver| {
                let task = async |mut tx: Sender, _rx| {
                    while let Ok(mut grant) = tx.reserve(64).await {
                        grant.put_slice(&[7; 64]);
                        let _ = grant.commit();
                    }
                };
                Flight::new(driver, task, drains)
            }),
        ],
    );
}

/// Three channels on one driver: two that flood, and one with round trips.
fn a_flood_does_not_hold_up_the_round_trips_of_another_channel(backend: &Driver) {
    for runs in RUNS {
        let slowest = run_on(runs, backend, |driver| async move {
            let flight = || {
                let task = async |_tx, mut rx: Receiver| while rx.recv().await.is_some() {};
                Flight::new(&driver, task, floods)
            };
            let (one, other) = (flight(), flight());
            let (face, descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
            let handle = SpscHandle::from_fd(descriptor).unwrap();
            let echo = std::thread::spawn(move || {
                while let Some(packet) = handle.recv_blocking() {
                    if handle.send_blocking(packet).is_err() {
                        break;
                    }
                }
            });
            let pings = async {
                let mut slowest = Duration::ZERO;
                for n in 0..50 {
                    let begun = now();
                    face.send(packet(n, 64)).await.unwrap();
                    assert_eq!(number(&face.recv().await.unwrap()), n);
                    slowest = slowest.max(now() - begun);
                }
                face.close();
                (one.end)();
                (other.end)();
                slowest
            };
            let (slowest, (), ()) = futures::join!(pings, one.task, other.task);
            for thread in [echo, one.other, other.other] {
                common::join("the other side", thread);
            }
            slowest
        });
        eprintln!("{runs:?}: the slowest round trip next to two floods took {slowest:?}");
        assert!(slowest < LATE, "{runs:?}: {slowest:?}");
    }
}
