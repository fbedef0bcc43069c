//! What is measured of this process: times, and memory.

use std::fs::read_to_string;

use rustix::time::{ClockId, clock_gettime};

/// Returns nanoseconds of a clock that all processes share, never 0.
pub(crate) fn now() -> u64 {
    nanos(ClockId::Monotonic).max(1)
}

pub(crate) fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let nanos = time.tv_sec * 1_000_000_000 + time.tv_nsec;
    u64::try_from(nanos).expect("clocks do not go below zero")
}

/// Returns the processor time of this process so far, in the hundredths of a second that the kernel
/// shows.
pub(crate) fn ticks() -> u64 {
    let stat = read_to_string("/proc/self/stat").expect("procfs");
    let after_the_name = stat.rsplit(')').next().expect("a name in brackets");
    after_the_name
        .split(' ')
        .skip(12)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a count"))
        .sum()
}

/// What this process holds, in bytes, and what the kernel holds for the whole machine.
pub(crate) struct Memory {
    private: u64,
    shared: u64,
    tables: u64,
    kernel: u64,
}

impl Memory {
    pub(crate) fn now() -> Self {
        let status = read_to_string("/proc/self/status").expect("procfs");
        let machine = read_to_string("/proc/meminfo").expect("procfs");
        let entry = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(": 0 kB");
            let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
            number.parse::<u64>().expect("a number of kilobytes") << 10
        };
        Self {
            private: entry(&status, "RssAnon"),
            shared: entry(&status, "RssShmem"),
            tables: entry(&status, "VmPTE"),
            kernel: entry(&machine, "Slab"),
        }
    }

    pub(crate) fn resident(&self) -> u64 {
        self.private + self.shared + self.tables
    }

    /// Prints what was added since `before`, for each of `channels`. Returns the process's own
    /// part.
    pub(crate) fn report(&self, before: &Self, channels: usize) -> u64 {
        let each = |now: u64, before: u64| now.saturating_sub(before) / channels as u64;
        let sum = each(self.resident(), before.resident());
        println!("  memory of the engine's side, all of it     {sum:>7} bytes, of which");
        println!(
            "    region, as far as it was touched         {:>7}",
            each(self.shared, before.shared)
        );
        println!(
            "    its page tables                          {:>7}",
            each(self.tables, before.tables)
        );
        println!(
            "    heap, with the task                      {:>7}",
            each(self.private, before.private)
        );
        let kernel = each(self.kernel, before.kernel);
        println!("  kernel's slabs, both sides and all else    {kernel:>7} bytes");
        sum
    }
}
