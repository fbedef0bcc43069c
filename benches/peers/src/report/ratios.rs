//! The targets, and how near this run came: ratios within the run, never numbers of another one.
//!
//! A ratio is taken of two runs that were made right after each other, repeat by repeat; the median
//! of those is what counts. Where a target speaks of the best, it is the best by its own median.

use std::fmt::Write;

use super::tables::{figures, size};
use crate::Result;
use crate::arguments::SIZES;
use crate::cell::{Measure, Pin};
use crate::results::{Median, Record, Results, Row};
use crate::systems::{Family, System};

/// What of a run is compared.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    /// The median round trip: less is better.
    RoundTrip,
    /// Packets a second: more is better.
    Speed,
}

impl Value {
    fn of(self, record: &Record) -> f64 {
        match self {
            Self::RoundTrip => record.outcome.p50_ns as f64,
            Self::Speed => record.packets_per_second(),
        }
    }

    fn is_better(self, one: f64, other: f64) -> bool {
        if self == Self::RoundTrip { one < other } else { one > other }
    }
}

/// One of the systems that may stand for a side of a ratio.
type Choice = fn(&System) -> bool;

const ASYNC: Choice = |system| {
    is_wakering(system)
        && ["background", "polled", "parked in"].iter().any(|way| system.name.contains(way))
        && !is_in_place(system)
};
const BYTES: Choice = |system| is_wakering(system) && !is_in_place(system);
const IN_PLACE: Choice = |system| is_wakering(system) && is_in_place(system);
const IN_PLACE_TRY: Choice = |system| IN_PLACE(system) && system.name.contains("try");
const TRY: Choice = |system| is_wakering(system) && system.name.contains("try");
const ANY_WAKERING: Choice = is_wakering;
const ANY_RIVAL: Choice = |system| matches!(system.family, Family::Rival | Family::Yardstick);

const BEST: &str = "the best rival";
const IN_PLACE_RING: &str = "a bare ring read in place";
const BYTES_RING: &str = "a bare ring that makes `Bytes`";

fn is_wakering(system: &System) -> bool {
    system.family == Family::Wakering
}

fn is_in_place(system: &System) -> bool {
    system.name.contains("in place")
}

/// What is to be reached.
struct Target {
    what: String,
    row: Row,
    value: Value,
    ours: Choice,
    theirs: Choice,
    of: &'static str,
    /// At most, for round trips; at least, for streams. `None`: to be known, not to be reached.
    bound: Option<f64>,
}

fn targets() -> Vec<Target> {
    let trip = |what: &str, pin, ours, theirs, of, bound: f64| Target {
        what: what.to_owned(),
        row: Row { measure: Measure::RoundTrip, pin, bytes: 64 },
        value: Value::RoundTrip,
        ours,
        theirs,
        of,
        bound: (bound > 0.0).then_some(bound),
    };
    let stream = |bytes: usize, out: &str, ours, theirs, of, bound: f64| Target {
        what: format!("stream {}, {out}", size(bytes)),
        row: Row { measure: Measure::Stream, pin: Pin::Two, bytes },
        value: Value::Speed,
        ours,
        theirs,
        of,
        bound: (bound > 0.0).then_some(bound),
    };
    let line: Choice = |system| system.name == "cache line";
    let futex: Choice = |system| system.name == "futex";
    let in_place: Choice = |system| system.name == "bare ring, in place";
    let copied: Choice = |system| system.name == "bare ring, copied";
    let bytes: Choice = |system| system.name == "bare ring, Bytes";
    let ring: Choice = |system| system.name == "futex, in a ring";
    let in_smol: Choice = |system| system.name == "futex, in a ring in smol";
    let thread: Choice = |system| system.name == "futex, in a thread's ring, smol";
    let parked_in: Choice = |system| system.name == "wakering, parked in";
    let polled: Choice = |system| system.name == "wakering, polled, smol";
    let background: Choice = |system| system.name == "wakering, background, smol";
    let blocking: Choice = |system| system.name == "wakering, blocking";

    let awake = "round trip 64 B, two cores";
    let asleep = "round trip 64 B, one core";
    let (a_line, a_futex, best) = ("a spun cache line", "futex wait and wake", BEST);
    let mut targets = vec![
        trip(&format!("{awake}, async `Bytes`"), Pin::Two, ASYNC, line, a_line, 1.4),
        trip(&format!("{awake}, in place, `try_`"), Pin::Two, IN_PLACE_TRY, line, a_line, 1.15),
        trip(&format!("{awake}, async `Bytes`"), Pin::Two, ASYNC, bytes, BYTES_RING, 0.0),
        trip(&format!("{awake}, `try_`"), Pin::Two, TRY, in_place, IN_PLACE_RING, 0.0),
        trip(&format!("{asleep}, parked in"), Pin::One, parked_in, futex, a_futex, 1.5),
        trip(&format!("{asleep}, polled in smol"), Pin::One, polled, futex, a_futex, 2.1),
        trip(
            &format!("{asleep}, background under smol"),
            Pin::One,
            background,
            futex,
            a_futex,
            3.2,
        ),
        trip(&format!("{asleep}, blocking"), Pin::One, blocking, futex, a_futex, 1.2),
        trip(&format!("{asleep}, parked in"), Pin::One, parked_in, ring, "a ring alone", 0.0),
        trip(
            &format!("{asleep}, polled in smol"),
            Pin::One,
            polled,
            in_smol,
            "a ring in smol",
            0.0,
        ),
        trip(
            &format!("{asleep}, background under smol"),
            Pin::One,
            background,
            thread,
            "a thread's ring and smol",
            0.0,
        ),
        stream(64, "`Bytes`", BYTES, ANY_RIVAL, best, 2.0),
        stream(64, "`Bytes`", BYTES, bytes, BYTES_RING, 0.8),
        stream(64, "in place", IN_PLACE, ANY_RIVAL, best, 4.0),
        stream(64, "in place", IN_PLACE, in_place, IN_PLACE_RING, 0.6),
    ];
    for large in &SIZES[1..] {
        targets.push(stream(*large, "in place", IN_PLACE, in_place, IN_PLACE_RING, 0.9));
    }
    for large in &SIZES[1..] {
        targets.push(stream(*large, "`Bytes`", BYTES, copied, "a bare ring copied out", 0.85));
    }
    targets.push(trip(&format!("{awake}, any way"), Pin::Two, ANY_WAKERING, ANY_RIVAL, best, 1.0));
    targets.push(trip(&format!("{asleep}, any way"), Pin::One, ANY_WAKERING, ANY_RIVAL, best, 1.0));
    for any in SIZES {
        targets.push(stream(any, "any way", ANY_WAKERING, ANY_RIVAL, best, 1.0));
    }
    targets
}

/// The best of those that may be chosen.
fn best(results: &Results, row: Row, value: Value, choice: Choice) -> Option<&'static str> {
    let mut best: Option<(&str, f64)> = None;
    for system in crate::systems::all().filter(|system| choice(system)) {
        let Some(of) = results.median(system.name, row, |record| value.of(record)) else {
            continue;
        };
        if best.is_none_or(|(_, so_far)| value.is_better(of.median, so_far)) {
            best = Some((system.name, of.median));
        }
    }
    best.map(|(name, _)| name)
}

fn ratio(results: &Results, target: &Target, ours: &str, theirs: &str) -> Option<Median> {
    let ratios = results.of(ours, target.row, false).filter_map(|record| {
        let mut others = results.of(theirs, target.row, false);
        let other = others.find(|other| other.repeat == record.repeat)?;
        let is_whole = record.packets() > 0 && other.packets() > 0;
        is_whole.then(|| target.value.of(record) / target.value.of(other))
    });
    Median::of(ratios)
}

/// All targets with what was reached, as a table.
pub(crate) fn of(results: &Results) -> Result<String> {
    let mut page =
        String::from("## Targets\n\n| what | by | target | measured | |\n|---|---|---|---|---|\n");
    for target in targets() {
        let Target { what, row, value, ours, theirs, of, bound } = &target;
        let word = if *value == Value::RoundTrip { "at most" } else { "at least" };
        let bar = bound.map_or("×".into(), |bound| format!("{word} {bound} ×"));
        let ours = best(results, *row, *value, *ours);
        let theirs = best(results, *row, *value, *theirs);
        let measured = ours.zip(theirs).and_then(|(ours, theirs)| {
            Some((ours, theirs, ratio(results, &target, ours, theirs)?))
        });
        let Some((ours, theirs, Median { median, least, most })) = measured else {
            writeln!(page, "| {what} | | {bar} {of} | not measured | |")?;
            continue;
        };
        let is_reached = bound.map(|bound| bound == median || value.is_better(median, bound));
        let of = if *of == BEST { format!("{of}, {theirs}") } else { (*of).to_owned() };
        writeln!(
            page,
            "| {what} | {ours} | {bar} {of} | {} ({}–{}) | {} |",
            figures(median),
            figures(least),
            figures(most),
            is_reached.map_or("", verdict),
        )?;
    }
    calls(&mut page, results)?;
    memory(&mut page, results)?;
    page.push('\n');
    Ok(page)
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "**missed**" }
}

/// Of the form that is fastest there.
fn calls(page: &mut String, results: &Results) -> Result<()> {
    const MAX: f64 = 0.001;

    for bytes in SIZES {
        let what = format!("system calls a packet, stream {}", size(bytes));
        let row = Row { measure: Measure::Stream, pin: Pin::Two, bytes };
        let fastest = best(results, row, Value::Speed, ANY_WAKERING);
        let counted = fastest.and_then(|name| Some((name, results.calls(name, row)?)));
        match counted {
            Some((name, calls)) => writeln!(
                page,
                "| {what} | {name} | under {MAX} | {} | {} |",
                figures(calls.median),
                verdict(calls.median < MAX),
            )?,
            None => writeln!(page, "| {what} | | under {MAX} | not measured | |")?,
        }
    }
    Ok(())
}

fn memory(page: &mut String, results: &Results) -> Result<()> {
    const MAX_KIB: f64 = 64.0;

    let idle = results.records.iter().filter(|r| r.cell.measure == Measure::Idle);
    let kib = Median::of(idle.map(|record| record.outcome.resident as f64 / 1024.0));
    match kib.filter(|kib| kib.least > 0.0) {
        Some(kib) => writeln!(
            page,
            "| memory of an idle channel, a side | wakering, idle | under {MAX_KIB} KiB resident | {} | {} |",
            figures(kib.median),
            verdict(kib.median < MAX_KIB),
        )?,
        None => writeln!(
            page,
            "| memory of an idle channel, a side | | under {MAX_KIB} KiB resident | not measured | |"
        )?,
    }
    Ok(())
}
