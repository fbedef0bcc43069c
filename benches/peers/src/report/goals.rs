//! How near this run came to the goals: ratios of neighbours within the run, never numbers of
//! another one.

use std::fmt::Write;

use super::text::{figures, spread};
use crate::Result;
use crate::goals::{self, Goal};
use crate::quartiles::Quartiles;
use crate::record::Record;
use crate::regimes::Regime;
use crate::results::{Results, Value, is_wakering, reference};
use crate::row::{Measure, Pin, Row, SIZES, size};

/// All goals with what was reached, as a table.
pub(super) fn of(results: &Results) -> Result<String> {
    let mut page = String::from(
        "## Goals\n\nWho stands for wakering, and for the best rival, is the best of the heats. A ratio \
         is that of two runs of a final, in which the two meet again; the median of all pairs, and \
         the quartiles.\n\n",
    );
    let has_regimes = results.regimes.is_some();
    let regimes = if has_regimes { " fast regime | slow regime |" } else { "" };
    let lines = if has_regimes { "---|---|" } else { "" };
    writeln!(page, "| what | by | against | goal | × | pairs |{regimes} |")?;
    writeln!(page, "|---|---|---|---|---|---|{lines}---|")?;
    for goal in goals::all() {
        let Goal { what, row, bound, .. } = &goal;
        let value = Value::in_row(*row);
        let word = if value == Value::RoundTrip { "at most" } else { "at least" };
        let bar = format!("{word} {bound}");
        let measured = goal.sides(results).and_then(|[ours, theirs]| {
            let ratio = results.ratio(*row, ours.name, theirs.name, |record| record.is_final)?;
            Some((ours.name, theirs.name, ratio))
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
                let was_in = |record: &Record| record.is_final && results.was_in(record, regime);
                let ratio = results.ratio(*row, ours, theirs, was_in);
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
