//! What is to be reached, and how near this run came: ratios of neighbours within the run, never
//! numbers of another one.

use std::fmt::Write;

use super::text::{figures, size, spread};
use crate::Result;
use crate::quartiles::Quartiles;
use crate::regimes::Regime;
use crate::results::{Results, Value, is_rival, is_wakering, reference};
use crate::row::{Measure, Pin, Row, SIZES};
use crate::system::{System, Way};

/// The systems that may stand for wakering: the best of them does.
type Choice = fn(&System) -> bool;

/// What wakering is compared with.
#[derive(Clone, Copy)]
enum With {
    System(&'static str),
    BestRival,
}

struct Goal {
    what: String,
    row: Row,
    ours: Choice,
    with: With,
    /// At most, for round trips; at least, for streams.
    bound: f64,
}

const BYTES_ASYNC: Choice = |system| {
    is_bytes(system) && !is_batch(system) && !has(system, "blocking") && !has(system, "try")
};
const BYTES_BATCH: Choice = |system| is_bytes(system) && is_batch(system);
const BYTES_SINGLE: Choice = |system| is_bytes(system) && !is_batch(system);
const IN_PLACE: Choice = |system| is_in_place(system) && !is_batch(system);
const IN_PLACE_BATCH: Choice = |system| is_in_place(system) && is_batch(system);
const ITEMS: Choice = |system| system.way == Some(Way::Items) && !has(system, "in place");
const ITEMS_IN_PLACE: Choice = |system| system.way == Some(Way::Items) && has(system, "in place");
const PARKED_IN: Choice = |system| system.name == "wakering, parked in";
const EMBEDDED: Choice = |system| system.name == "wakering, embedded";
const POLLED: Choice = |system| system.name == "wakering, polled, smol";
const BACKGROUND: Choice = |system| system.name == "wakering, background, smol";
const BLOCKING: Choice = |system| system.name == "wakering, blocking";

fn has(system: &System, part: &str) -> bool {
    system.name.contains(part)
}

fn is_in_place(system: &System) -> bool {
    system.way == Some(Way::InPlace)
}

fn is_bytes(system: &System) -> bool {
    system.way == Some(Way::Bytes)
}

fn is_batch(system: &System) -> bool {
    has(system, "batch")
}

fn goals() -> Vec<Goal> {
    let stream = |bytes: usize, way: &str, ours: Choice, limit: &'static str, bound: f64| Goal {
        what: format!("stream of {}, {way}", size(bytes)),
        row: Row { measure: Measure::Stream, pin: Pin::Two, bytes },
        ours,
        with: With::System(limit),
        bound,
    };
    let trip = |pin: Pin, way: &str, ours: Choice, with: With, bound: f64| {
        let place = if pin == Pin::Two { "awake" } else { "asleep, one core" };
        Goal {
            what: format!("round trip of 64 B, {place}, {way}"),
            row: Row { measure: Measure::RoundTrip, pin, bytes: 64 },
            ours,
            with,
            bound,
        }
    };
    let limit = With::System;
    let mut goals = Vec::new();
    for (bytes, single, batch) in [(64, 0.9, 1.0), (1024, 0.9, 0.95), (8192, 0.95, 1.0)] {
        goals.push(stream(bytes, "in place", IN_PLACE, "bare ring, in place", single));
        let limit = "bare ring, in place, batch";
        goals.push(stream(bytes, "in place, batch", IN_PLACE_BATCH, limit, batch));
    }
    for (bytes, single, batch) in [(64, 0.8, 0.9), (1024, 0.85, 0.85), (8192, 0.9, 0.9)] {
        let ours = if bytes == 64 { BYTES_ASYNC } else { BYTES_SINGLE };
        let way = if bytes == 64 { "`Bytes`, async" } else { "`Bytes`" };
        goals.push(stream(bytes, way, ours, "bare ring, Bytes", single));
        let limit = "bare ring, Bytes, batch";
        goals.push(stream(bytes, "`Bytes`, batch", BYTES_BATCH, limit, batch));
    }
    goals.push(stream(64, "items in packets", ITEMS, "bare ring, items", 0.95));
    goals.push(stream(
        64,
        "items in packets, in place",
        ITEMS_IN_PLACE,
        "bare ring, items in place",
        0.95,
    ));
    for bytes in SIZES {
        let with = With::BestRival;
        let row = Row { measure: Measure::Stream, pin: Pin::Two, bytes };
        let what = format!("stream of {}, any way", size(bytes));
        goals.push(Goal { what, row, ours: is_wakering, with, bound: 1.05 });
    }
    goals.extend([
        trip(Pin::Two, "`Bytes`, async", BYTES_ASYNC, limit("bare ring, Bytes"), 1.2),
        trip(Pin::Two, "in place", IN_PLACE, limit("bare ring, in place"), 1.0),
        trip(Pin::Two, "any way", is_wakering, With::BestRival, 1.0),
        trip(Pin::One, "parked in", PARKED_IN, limit("futex, in a ring"), 1.1),
        trip(Pin::One, "in an executor's ring", EMBEDDED, limit("futex, in a ring"), 1.1),
        trip(Pin::One, "polled in smol", POLLED, limit("futex, in a ring in smol"), 1.05),
        trip(
            Pin::One,
            "background under smol",
            BACKGROUND,
            limit("futex, in a thread's ring, smol"),
            1.15,
        ),
        trip(Pin::One, "blocking", BLOCKING, limit("futex"), 1.1),
        trip(Pin::One, "any way", is_wakering, With::BestRival, 1.0),
    ]);
    goals
}

/// Who stands for the two sides of a goal.
fn sides(results: &Results, goal: &Goal) -> Option<(&'static str, &'static str)> {
    let row = goal.row;
    let theirs = match goal.with {
        With::System(name) => name,
        // They meet in the final, and nowhere else.
        With::BestRival => {
            let meets = |rival: &System| {
                let ours = results.systems().into_iter().filter(|system| is_wakering(system));
                ours.map(|ours| results.ratio(row, ours.name, rival.name, None))
                    .any(|r| r.is_some())
            };
            results.best(row, reference(row), |system| is_rival(system) && meets(system))?.name
        }
    };
    Some((results.best(row, theirs, goal.ours)?.name, theirs))
}

/// All goals with what was reached, as a table.
pub(super) fn of(results: &Results) -> Result<String> {
    let mut page = String::from(
        "## Goals\n\nA ratio is that of two runs of one heat; the median of all pairs, and the \
         quartiles.\n\n",
    );
    let has_regimes = results.regimes.is_some();
    let regimes = if has_regimes { " fast regime | slow regime |" } else { "" };
    let lines = if has_regimes { "---|---|" } else { "" };
    writeln!(page, "| what | by | against | goal | × | pairs |{regimes} |")?;
    writeln!(page, "|---|---|---|---|---|---|{lines}---|")?;
    for goal in goals() {
        let Goal { what, row, bound, .. } = &goal;
        let value = Value::in_row(*row);
        let word = if value == Value::RoundTrip { "at most" } else { "at least" };
        let bar = format!("{word} {bound}");
        let measured = sides(results, &goal).and_then(|(ours, theirs)| {
            Some((ours, theirs, results.ratio(*row, ours, theirs, None)?))
        });
        let Some((ours, theirs, ratio)) = measured else {
            let empty = if has_regimes { " | |" } else { "" };
            writeln!(page, "| {what} | | | {bar} | not measured | |{empty} |")?;
            continue;
        };
        let is_reached = *bound == ratio.median || value.is_better(ratio.median, *bound);
        write!(page, "| {what} | {ours} | {theirs} | {bar} | {} | ", spread(ratio))?;
        write!(page, "{} | ", ratio.count)?;
        if has_regimes {
            for regime in [Regime::Fast, Regime::Slow] {
                let ratio = results.ratio(*row, ours, theirs, Some(regime));
                let text = ratio.map_or("–".into(), |ratio: Quartiles| figures(ratio.median));
                write!(page, "{text} | ")?;
            }
        }
        writeln!(page, "{} |", verdict(is_reached))?;
    }
    page.push('\n');
    calls(&mut page, results)?;
    memory(&mut page, results)?;
    Ok(page)
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "**missed**" }
}

/// Of the way that is fastest there.
fn calls(page: &mut String, results: &Results) -> Result<()> {
    const MAX: f64 = 0.001;

    for bytes in SIZES {
        let row = Row { measure: Measure::Stream, pin: Pin::Two, bytes };
        let fastest = results.best(row, reference(row), is_wakering);
        let counted = fastest.and_then(|system| Some((system, results.calls(system.name, row)?)));
        if let Some((system, calls)) = counted {
            writeln!(
                page,
                "- System calls a packet, stream of {}, {}: {}, under {MAX} is the goal: {}.",
                size(bytes),
                system.name,
                figures(calls.median),
                verdict(calls.median < MAX),
            )?;
        }
    }
    Ok(())
}

fn memory(page: &mut String, results: &Results) -> Result<()> {
    const MAX_KIB: f64 = 64.0;

    let idle = results.records.iter().filter(|r| r.row.measure == Measure::Idle);
    let kib = Quartiles::of(idle.map(|record| record.outcome.resident as f64 / 1024.0));
    if let Some(kib) = kib.filter(|kib| kib.lower > 0.0) {
        writeln!(
            page,
            "- Resident memory of an idle channel, a side: {} KiB, under {MAX_KIB} is the goal: {}.",
            figures(kib.median),
            verdict(kib.median < MAX_KIB),
        )?;
    }
    page.push('\n');
    Ok(())
}
