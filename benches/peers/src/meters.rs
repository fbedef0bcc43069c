//! What a process has used up so far.

use std::time::{Duration, Instant};

use perf_event::events::Tracepoint;
use perf_event::{Builder, Counter};
use rustix::time::{ClockId, clock_gettime};

use crate::Result;

const TRACE_POINT: &str = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";

/// CPU time of all threads of this process, in user and system mode together: what `getrusage`
/// tells, but exact to the nanosecond.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Counts the system calls of this process, by the kernel's own trace point.
///
/// While anybody counts, every system call on the machine takes a slower way; so it is done in
/// runs of its own, whose times are thrown away.
pub(crate) struct SystemCalls(Counter);

impl SystemCalls {
    /// Counts from now on, with the threads that are still to be started.
    pub(crate) fn count() -> Result<Self> {
        let id = std::fs::read_to_string(TRACE_POINT)
            .map_err(|error| format!("{TRACE_POINT}: {error}"))?;
        let mut counter = Builder::new(Tracepoint::with_id(id.trim().parse()?))
            .inherit(true)
            .include_kernel()
            .build()?;
        counter.enable()?;
        Ok(Self(counter))
    }

    pub(crate) fn so_far(&mut self) -> Result<u64> {
        Ok(self.0.read()?)
    }
}

/// Bytes of memory that are resident for this process, shared ones included.
pub(crate) fn resident_bytes() -> Result<u64> {
    // Exact, unlike the counters in `status`, which lag behind.
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no Rss in smaps")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// What this process's ended children, it, and the whole machine have worked so far; to tell how
/// much of a time others had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    all: u64,
    ours: u64,
    at: Instant,
}

/// Of a second, as the kernel tells such times.
const TICKS: f64 = 100.0;

impl Work {
    pub(crate) fn so_far() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let times: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        // All but idle and waiting; what another machine on the same processor had counts as well,
        // what guests had is in the first two.
        let idle = |nth: usize| nth == 3 || nth == 4 || nth >= 8;
        let all = times.iter().enumerate().filter(|(nth, _)| !idle(*nth)).map(|(_, time)| time);
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let (_, fields) = stat.rsplit_once(')').ok_or("a stat of another form")?;
        let ours = fields.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
        let ours = ours.sum::<std::result::Result<u64, _>>()?;
        Ok(Self { all: all.sum(), ours, at: Instant::now() })
    }

    /// How many cores others have kept busy since `earlier`.
    pub(crate) fn of_others(&self, earlier: &Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all) as f64;
        let ours = self.ours.saturating_sub(earlier.ours) as f64;
        (all - ours).max(0.0) / TICKS / (self.at - earlier.at).as_secs_f64().max(1e-3)
    }
}
