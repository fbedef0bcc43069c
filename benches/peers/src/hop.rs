//! How long a cache line takes from core to core, at this moment.
//!
//! On a virtual machine this may change while a comparison runs, by a factor of three and for
//! seconds or minutes, and everything that two cores share then changes with it.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Result;

/// Trips of a line there and back that are timed together, and how often that is done: about a
/// millisecond in all. The median of the times is hardly moved by who interrupts.
const TRIPS: u64 = 32;
const TIMES: usize = 64;

#[repr(align(256))]
struct Line(AtomicU64);

/// Nanoseconds from one of the two cores to the other.
pub(crate) fn measure(cores: [usize; 2]) -> Result<f64> {
    let (there, back) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let wait = |line: &Line, number| {
        while line.0.load(Ordering::Acquire) != number {
            spin_loop();
        }
    };
    let trips = TRIPS * TIMES as u64;
    thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let pinned = pin(cores[1]);
            for number in 1..=trips {
                wait(&there, number);
                back.0.store(number, Ordering::Release);
            }
            pinned
        });
        let asks = scope.spawn(|| {
            let pinned = pin(cores[0]);
            let mut times = Vec::with_capacity(TIMES);
            for turn in 0..TIMES as u64 {
                let begun = Instant::now();
                for number in turn * TRIPS + 1..=(turn + 1) * TRIPS {
                    there.0.store(number, Ordering::Release);
                    wait(&back, number);
                }
                times.push(begun.elapsed());
            }
            pinned.map(|()| times)
        });
        let panicked = |_| "a thread that measures the cache line has panicked";
        answers.join().map_err(panicked)??;
        let mut times = asks.join().map_err(panicked)??;
        times.sort();
        Ok(times[TIMES / 2].as_nanos() as f64 / (2 * TRIPS) as f64)
    })
}

fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}
