//! Where a system performs: in a process that the coordinator has started, with a link to the
//! other.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Barrier;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Result;
use crate::cell::{Measure, Order, Side};
use crate::link::Link;
use crate::meters::{self, SystemCalls};
use crate::outcome::Outcome;
use crate::port::{self, AsyncPort, Port, Tally};

pub(crate) struct Stage {
    order: Order,
    pub(crate) link: Link,
    calls: Option<SystemCalls>,
}

/// With this begin the names of all objects in `/dev/shm` that are not in the scratch directory.
pub(crate) fn prefix(coordinator: u32) -> String {
    format!("peers_{coordinator}_")
}

/// In a process of a run: does what the command line says, and answers with a line.
pub(crate) fn perform(words: impl Iterator<Item = String>) -> Result<Outcome> {
    // Spinners would go on for ever without the coordinator.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let order = Order::from_words(words)?;
    if !order.cell.system.is_in_one_process() {
        // Before there is any other thread, so that all of them stay there.
        pin(order.cores[order.side as usize])?;
    }
    let calls = if order.counts_calls { Some(SystemCalls::count()?) } else { None };
    let mut stage = Stage { link: Link::inherited()?, order, calls };
    (stage.order.cell.system.perform)(&mut stage)
}

fn pin(core: Option<usize>) -> Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

impl Stage {
    pub(crate) fn side(&self) -> Side {
        self.order.side
    }

    pub(crate) fn bytes(&self) -> usize {
        self.order.cell.bytes
    }

    pub(crate) fn measure(&self) -> Measure {
        self.order.cell.measure
    }

    pub(crate) fn time(&self) -> Duration {
        self.order.time
    }

    /// The beginning of names that nobody else uses; a path.
    pub(crate) fn scratch(&self) -> &str {
        &self.order.scratch
    }

    /// Makes descriptors on side A and gives both sides the same ones.
    pub(crate) fn share<const N: usize>(
        &mut self,
        make: impl FnOnce() -> Result<[OwnedFd; N]>,
    ) -> Result<[OwnedFd; N]> {
        match self.side() {
            Side::A => {
                let made = make()?;
                self.link.pass(&made.each_ref().map(AsFd::as_fd))?;
                Ok(made)
            }
            Side::B => self.link.take(),
        }
    }

    /// Makes two ends on side A, keeps the first and gives the other to side B.
    pub(crate) fn part<const N: usize>(
        &mut self,
        make: impl FnOnce() -> Result<([OwnedFd; N], [OwnedFd; N])>,
    ) -> Result<[OwnedFd; N]> {
        match self.side() {
            Side::A => {
                let (mine, theirs) = make()?;
                self.link.pass(&theirs.each_ref().map(AsFd::as_fd))?;
                Ok(mine)
            }
            Side::B => self.link.take(),
        }
    }

    /// Plays this side on a port of calls.
    pub(crate) fn run(&mut self, mut port: impl Port) -> Result<Outcome> {
        self.link.meet()?;
        let meter = Meter::start(&mut self.calls)?;
        let tally = port::drive(self.measure(), self.side(), self.bytes(), self.time(), &mut port)?;
        let outcome = meter.stop(&mut self.calls, tally)?;
        // Nobody goes while the other may still be at it.
        self.link.meet()?;
        Ok(outcome)
    }

    /// Plays this side on a port of futures.
    pub(crate) async fn run_async(&mut self, mut port: impl AsyncPort) -> Result<Outcome> {
        self.link.meet()?;
        let meter = Meter::start(&mut self.calls)?;
        let (measure, side, bytes, time) = (self.measure(), self.side(), self.bytes(), self.time());
        let tally = port::drive_async(measure, side, bytes, time, &mut port).await?;
        let outcome = meter.stop(&mut self.calls, tally)?;
        self.link.meet()?;
        Ok(outcome)
    }

    /// Plays both sides, each on a thread of its own.
    pub(crate) fn run_threads<P: Port + Send>(&mut self, ports: [P; 2]) -> Result<Outcome> {
        self.play(ports, |Order { cell, time, .. }, side, mut port| {
            port::drive(cell.measure, side, cell.bytes, *time, &mut port)
        })
    }

    /// The same with futures, each thread under an executor that knows nothing but its one.
    pub(crate) fn run_threads_async<P: AsyncPort + Send>(
        &mut self,
        ports: [P; 2],
    ) -> Result<Outcome> {
        self.play(ports, |Order { cell, time, .. }, side, mut port| {
            let drive = port::drive_async(cell.measure, side, cell.bytes, *time, &mut port);
            pollster::block_on(drive)
        })
    }

    fn play<P: Send>(
        &mut self,
        ports: [P; 2],
        drive: impl Fn(&Order, Side, P) -> Result<Tally> + Sync,
    ) -> Result<Outcome> {
        let meter = Meter::start(&mut self.calls)?;
        let (order, both, drive) = (&self.order, &Barrier::new(2), &drive);
        let tallies = thread::scope(|scope| {
            let sides = ports.into_iter().zip([Side::A, Side::B]);
            let threads = sides.map(|(port, side)| {
                scope.spawn(move || {
                    let pinned = pin(order.cores[side as usize]);
                    both.wait();
                    pinned.and_then(|()| drive(order, side, port))
                })
            });
            let threads: Vec<_> = threads.collect();
            let join = |thread: ScopedJoinHandle<'_, Result<Tally>>| {
                thread.join().map_err(|_| "a side panicked")?
            };
            threads.into_iter().map(join).collect::<Result<Vec<Tally>>>()
        })?;
        let [asked, answered] =
            <[Tally; 2]>::try_from(tallies).map_err(|_| "there are two sides")?;
        let is_stream = self.measure() == Measure::Stream;
        meter.stop(&mut self.calls, if is_stream { answered } else { asked })
    }
}

/// What was used up when the measuring began.
struct Meter {
    cpu: Duration,
    calls: u64,
    begun: Instant,
}

impl Meter {
    fn start(counter: &mut Option<SystemCalls>) -> Result<Self> {
        let calls = counter.as_mut().map_or(Ok(0), SystemCalls::so_far)?;
        Ok(Self { calls, cpu: meters::cpu_time(), begun: Instant::now() })
    }

    fn stop(self, counter: &mut Option<SystemCalls>, tally: Tally) -> Result<Outcome> {
        let cpu = meters::cpu_time() - self.cpu;
        let calls = counter.as_mut().map_or(Ok(0), SystemCalls::so_far)? - self.calls;
        let elapsed = if tally.elapsed.is_zero() { self.begun.elapsed() } else { tally.elapsed };
        Ok(Outcome {
            sent: tally.sent,
            taken: tally.sink.taken,
            lost: tally.sink.lost,
            corrupt: tally.sink.corrupt,
            elapsed_ns: nanoseconds(elapsed),
            cpu_ns: nanoseconds(cpu),
            calls,
            p50_ns: tally.latencies.value_at_quantile(0.5),
            p99_ns: tally.latencies.value_at_quantile(0.99),
            p999_ns: tally.latencies.value_at_quantile(0.999),
            resident: 0,
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
