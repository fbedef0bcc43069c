//! Where a system performs: a process of a run, with a link to the other one.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Barrier;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Result;
use crate::link::Link;
use crate::loops::{self, AllLoops, Loops, Tally};
use crate::meters::{self, SystemCalls};
use crate::order::Order;
use crate::outcome::Outcome;
use crate::row::{Measure, Side};

pub(crate) struct Stage {
    order: Order,
    pub(crate) link: Link,
    calls: Option<SystemCalls>,
}

/// With this begin the names of all objects in `/dev/shm` that a run makes outside of its scratch
/// directory; `parent` is the process that started it.
pub(crate) fn prefix(parent: u32) -> String {
    format!("peers_{parent}_")
}

impl Stage {
    /// What the command line of a process of a run orders.
    pub(crate) fn set(order: Order) -> Result<Self> {
        // Spinners would go on for ever without their parent.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if !order.is_in_one_process {
            // Before there is any other thread, so that all of them stay there.
            pin(order.cores[order.side as usize])?;
        }
        let calls = if order.counts_calls { Some(SystemCalls::count()?) } else { None };
        Ok(Self { link: Link::inherited()?, order, calls })
    }

    pub(crate) fn side(&self) -> Side {
        self.order.side
    }

    pub(crate) fn bytes(&self) -> usize {
        self.order.row.bytes
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

    /// Runs this side's loop, whatever the length of the packets.
    pub(crate) async fn run(&mut self, loops: impl AllLoops) -> Result<Outcome> {
        match self.bytes() {
            64 => self.run_sized::<64>(loops).await,
            1024 => self.run_sized::<1024>(loops).await,
            8192 => self.run_sized::<8192>(loops).await,
            65536 => self.run_sized::<65536>(loops).await,
            other => Err(format!("packets of {other} bytes are not prepared").into()),
        }
    }

    /// The same where the type of a channel tells how long its packets are.
    pub(crate) async fn run_sized<const N: usize>(
        &mut self,
        mut loops: impl Loops<N>,
    ) -> Result<Outcome> {
        self.link.meet()?;
        let meter = Meter::start(&mut self.calls)?;
        let Order { row, side, time, .. } = self.order;
        let tally = loops::run(row.measure, side, time, &mut loops).await?;
        let outcome = meter.stop(&mut self.calls, tally)?;
        // Nobody goes while the other may still be at it.
        self.link.meet()?;
        Ok(outcome)
    }

    /// Runs the loops of both sides, each on a thread of its own.
    pub(crate) fn run_threads<const N: usize>(
        &mut self,
        sides: [impl Loops<N> + Send; 2],
    ) -> Result<Outcome> {
        let meter = Meter::start(&mut self.calls)?;
        let (order, both) = (&self.order, &Barrier::new(2));
        let tallies = thread::scope(|scope| {
            let sides = sides.into_iter().zip([Side::A, Side::B]);
            let threads = sides.map(|(mut loops, side)| {
                scope.spawn(move || {
                    let pinned = pin(order.cores[side as usize]);
                    both.wait();
                    pinned?;
                    pollster::block_on(loops::run(order.row.measure, side, order.time, &mut loops))
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
        let is_stream = order.row.measure == Measure::Stream;
        meter.stop(&mut self.calls, if is_stream { answered } else { asked })
    }
}

fn pin(core: Option<usize>) -> Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// What was used up when the measuring began.
struct Meter {
    cpu: Duration,
    calls: u64,
}

impl Meter {
    fn start(counter: &mut Option<SystemCalls>) -> Result<Self> {
        let calls = counter.as_mut().map_or(Ok(0), SystemCalls::so_far)?;
        Ok(Self { calls, cpu: meters::cpu_time() })
    }

    fn stop(self, counter: &mut Option<SystemCalls>, tally: Tally) -> Result<Outcome> {
        let cpu = meters::cpu_time() - self.cpu;
        let calls = counter.as_mut().map_or(Ok(0), SystemCalls::so_far)? - self.calls;
        let [p50_ns, p99_ns, p999_ns] = tally.quantiles;
        Ok(Outcome {
            sent: tally.sent,
            taken: tally.taken,
            lost: tally.lost,
            corrupt: tally.corrupt,
            elapsed_ns: nanoseconds(tally.elapsed),
            cpu_ns: nanoseconds(cpu),
            calls,
            p50_ns,
            p99_ns,
            p999_ns,
            resident: 0,
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
