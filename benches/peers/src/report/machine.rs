//! Where, when and how it was measured.

use std::fs::read_to_string;

use super::text::{figures, spread};
use crate::arguments::Options;
use crate::quartiles::Quartiles;
use crate::results::Results;

/// In a line.
pub(super) fn line(options: &Options) -> String {
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy();
    let version = kernel.split('-').next().unwrap_or_default();
    format!(
        "{model}, {cores} cores with {} of L2 each, Linux {version}, {}; {} × {} s a run",
        l2(),
        date(),
        options.repeat,
        options.time.as_secs_f64(),
    )
}

/// So many cores others may keep busy.
const BUSY: f64 = 0.3;

/// In a paragraph: also what else happened on the machine.
pub(super) fn paragraph(results: &Results, options: &Options) -> String {
    let others = results.others();
    let warning = if others >= BUSY { ", **so the figures mean little**" } else { "" };
    let distance = results.distance().map_or(String::new(), |distance| {
        let [median, most] = [distance.median, distance.most].map(figures);
        format!(" The runs of a pair began within {median} s in the median, {most} s at most.")
    });
    let line = line(options);
    format!(
        "{line}. Other programs kept {others:.1} cores busy{warning}.{distance} {}",
        hops(results)
    )
}

/// The second-level cache of a core, as the kernel tells it.
fn l2() -> String {
    (0..8)
        .map(|index| format!("/sys/devices/system/cpu/cpu0/cache/index{index}"))
        .find(|path| read_to_string(format!("{path}/level")).is_ok_and(|level| level.trim() == "2"))
        .and_then(|path| read_to_string(format!("{path}/size")).ok())
        .map_or("an unknown size".into(), |size| size.trim().replace('K', " KiB"))
}

/// How long a cache line took, and whether there were two regimes.
fn hops(results: &Results) -> String {
    let hops = results.records.iter().filter_map(|record| record.hop);
    let Some(hop) = Quartiles::of(hops) else {
        return "How long a cache line takes from core to core was not measured.".into();
    };
    let Some(regimes) = results.regimes else {
        return format!(
            "Right before each run, a cache line took {} ns from core to core, and the machine had \
             one regime.",
            spread(hop)
        );
    };
    let share = |part: Quartiles| 100.0 * part.count as f64 / hop.count as f64;
    format!(
        "Right before each run, a cache line took either {} ns from core to core ({} % of the runs) \
         or {} ns ({} %): the machine has **two regimes**.",
        spread(regimes.fast),
        figures(share(regimes.fast)),
        spread(regimes.slow),
        figures(share(regimes.slow)),
    )
}

/// The day, in UTC, by the calendar's usual arithmetic.
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut days = now.map_or(0, |now| now.as_secs() / 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}
