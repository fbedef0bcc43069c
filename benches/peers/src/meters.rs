//! What a process has used up so far.

use std::time::Duration;

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
