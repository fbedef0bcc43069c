//! What a channel takes.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use wakering::{Driver, ShmError, SpscFace, SpscHandle};

use super::section::Section;
use crate::failure::Failure;
use crate::text;

/// Descriptors that the library's docs name, for the engine's end.
pub(super) const ENGINE_DESCRIPTORS: u64 = 2;
/// And for the application's.
const APPLICATION_DESCRIPTORS: u64 = 3;
/// The memory of a channel with the default sizes: a page, and a ring for each direction.
pub(super) const REGION_BYTES: u64 = 4096 + 2 * (4 << 20);

/// How many are made, to measure one.
const CHANNELS: u64 = 8;

pub(super) fn look() -> Section {
    let section = Section::new("channel")
        .fact("engine_descriptors", ENGINE_DESCRIPTORS)
        .fact("application_descriptors", APPLICATION_DESCRIPTORS)
        .fact("region_bytes", REGION_BYTES);
    match measure() {
        Ok(Taken { descriptors, resident_bytes }) => {
            let resident = resident_bytes.div_ceil(1024);
            let rings = text::size(usize::try_from(REGION_BYTES - 4096).unwrap_or(usize::MAX));
            section
                .fact("measured_descriptors", descriptors)
                .fact("measured_idle_bytes", resident_bytes)
                .ok(format!(
                    "{ENGINE_DESCRIPTORS} descriptors in the engine and {APPLICATION_DESCRIPTORS} \
                     in the application; both ends have {descriptors} here"
                ))
                .ok(format!(
                    "{resident} KiB of resident memory a side while idle, and at most {rings} \
                     for both sides together, when both rings have been full"
                ))
        }
        Err(error) => section
            .fact("measured_descriptors", Option::<u64>::None)
            .fact("measured_idle_bytes", Option::<u64>::None)
            .problem(format!("no channel can be made: {}", Failure::from(error))),
    }
}

/// Longer than the driver's thread is kept waiting on any machine that works.
const SETTLING: Duration = Duration::from_secs(10);

/// What a channel of this process took.
struct Taken {
    /// Of both ends.
    descriptors: u64,
    /// Of each end.
    resident_bytes: u64,
}

fn measure() -> Result<Taken, ShmError> {
    let driver = Driver::builder().background()?;
    let pair = || -> Result<(SpscFace, SpscHandle), ShmError> {
        let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
        Ok((face, SpscHandle::builder().driver(&driver).from_fd(descriptor)?))
    };
    // What the first one needs besides is the driver's.
    let first = pair()?;
    let (before, (resident_before, ends_before)) = (descriptors(), resident_bytes());
    let pairs = (0..CHANNELS).map(|_| pair()).collect::<Result<Vec<_>, _>>()?;
    let (resident, ends) = resident_bytes();
    let taken = Taken {
        descriptors: settled(|| descriptors().saturating_sub(before) / CHANNELS),
        resident_bytes: resident.saturating_sub(resident_before)
            / ends.saturating_sub(ends_before).max(1),
    };
    drop((first, pairs));
    Ok(taken)
}

/// What `measured` gives once both ends have all of their descriptors.
///
/// An application's end has the descriptor of the engine's process at once. An engine's end
/// receives that of the application's process on its driver's thread. Before Linux 6.5 there is
/// neither, so if the first is not there, this does not wait for the other.
fn settled(measured: impl Fn() -> u64) -> u64 {
    const ALL: u64 = ENGINE_DESCRIPTORS + APPLICATION_DESCRIPTORS;
    let begin = Instant::now();
    loop {
        let descriptors = measured();
        if descriptors != ALL - 1 || begin.elapsed() >= SETTLING {
            return descriptors;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// The resident memory of all regions that this process maps, and how many these are.
fn resident_bytes() -> (u64, u64) {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let (mut bytes, mut count, mut is_region) = (0, 0, false);
    for line in maps.lines() {
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if !first.ends_with(':') {
            is_region = rest.contains("memfd:wakering");
            count += u64::from(is_region);
        } else if is_region && first == "Rss:" {
            let kilobytes = rest.trim().strip_suffix(" kB").and_then(|n| n.parse::<u64>().ok());
            bytes += kilobytes.unwrap_or(0) * 1024;
        }
    }
    (bytes, count)
}
