//! The tables, as a page of Markdown: a table a row of the comparison.

use std::fmt::Write;

use super::text::{figures, spread};
use crate::Result;
use crate::quartiles::Quartiles;
use crate::record::{Record, Status};
use crate::results::{Results, reference};
use crate::row::{Measure, Pin, Row, size};
use crate::system::{Family, System};

pub(super) fn of(results: &Results) -> Result<String> {
    let mut page = String::new();
    for row in results.rows().into_iter().filter(|row| row.measure != Measure::Idle) {
        title(&mut page, row)?;
        match row.measure {
            Measure::RoundTrip => round_trips(&mut page, results, row)?,
            _ => streams(&mut page, results, row)?,
        }
    }
    if let Some(reason) = &results.uncounted {
        writeln!(page, "System calls were not counted: {reason}.\n")?;
    }
    systems(&mut page, results)?;
    Ok(page)
}

fn title(page: &mut String, Row { pin, measure, bytes }: Row) -> Result<()> {
    let what = if measure == Measure::RoundTrip { "Round trips" } else { "Streams" };
    let place = match pin {
        Pin::Two => "a core for each side",
        Pin::One => "one core for both sides",
        Pin::None => "not pinned",
    };
    Ok(writeln!(page, "## {what} of {}, {place}\n", size(bytes))?)
}

fn round_trips(page: &mut String, results: &Results, row: Row) -> Result<()> {
    writeln!(page, "| | × {} | × its limit | p50, µs | p99 | p99.9 |", reference(row))?;
    writeln!(page, "|---|---|---|---|---|---|")?;
    table(page, results, row, |system| {
        let micros = |time: fn(&Record) -> u64| {
            entry(results, system, row, |record| time(record) as f64 / 1e3)
        };
        vec![
            micros(|record| record.outcome.p50_ns),
            micros(|record| record.outcome.p99_ns),
            micros(|record| record.outcome.p999_ns),
        ]
    })
}

fn streams(page: &mut String, results: &Results, row: Row) -> Result<()> {
    let is_short = row.bytes < 1024;
    let unit = if is_short { "M packets/s" } else { "GB/s" };
    let calls = if results.uncounted.is_none() { " calls a packet |" } else { "" };
    let reference = reference(row);
    writeln!(page, "| | × {reference} | × its limit | {unit} | CPU ns a packet |{calls}")?;
    let line = if results.uncounted.is_none() { "---|" } else { "" };
    writeln!(page, "|---|---|---|---|---|{line}")?;
    table(page, results, row, |system| {
        let speed = entry(results, system, row, |record| {
            if is_short { record.packets_per_second() / 1e6 } else { record.gigabytes_per_second() }
        });
        let cpu = results.median(system.name, row, Record::cpu_ns_per_packet);
        let mut entries = vec![speed, cpu.map_or("–".into(), |cpu| figures(cpu.median))];
        if results.uncounted.is_none() {
            entries.push(match results.calls(system.name, row) {
                Some(calls) if calls.median < 1e-5 => "0".into(),
                Some(calls) => figures(calls.median),
                None => "–".into(),
            });
        }
        entries
    })
}

/// A line for each system of the row: its ratios, then these entries.
fn table(
    page: &mut String,
    results: &Results,
    row: Row,
    entries: impl Fn(&System) -> Vec<String>,
) -> Result<()> {
    for system in results.systems() {
        if results.of(system.name, row, false).next().is_none() {
            continue;
        }
        let to_reference = results.ratio(row, system.name, reference(row), |_| true);
        let own = own_limit(results, system, row);
        let to_own = own.and_then(|limit| results.ratio(row, system.name, limit, |_| true));
        let ratio = |ratio: Option<Quartiles>| ratio.map_or("–".into(), spread);
        let entries = entries(system).join(" | ");
        let (one, other) = (ratio(to_reference), ratio(to_own));
        writeln!(page, "| {} | {one} | {other} | {entries} |", system.name)?;
    }
    page.push('\n');
    Ok(())
}

/// The limit of the system's own kind, unless it is the one that all are compared with.
fn own_limit(results: &Results, system: &System, row: Row) -> Option<&'static str> {
    let mut limits = system.limits.iter().copied();
    let own = limits.find(|limit| results.of(limit, row, false).next().is_some())?;
    (own != reference(row) && system.family == Family::Wakering).then_some(own)
}

/// A median, or what went wrong; both if packets were lost.
fn entry(results: &Results, system: &System, row: Row, value: impl Fn(&Record) -> f64) -> String {
    let trouble = results.trouble(system.name, row);
    let median = results.median(system.name, row, value).map(|median| figures(median.median));
    match (median, trouble) {
        (None, None) => "–".into(),
        (None, Some(Status::Failed(_))) => "**failed**".into(),
        (None, Some(trouble)) => format!("**{trouble}**"),
        (Some(median), None) => median,
        (Some(median), Some(Status::Failed(_))) => format!("{median} **failed once**"),
        (Some(median), Some(trouble)) => format!("{median} **{trouble}**"),
    }
}

fn systems(page: &mut String, results: &Results) -> Result<()> {
    page.push_str("## The systems\n\n| | |\n|---|---|\n");
    for system in results.systems() {
        writeln!(page, "| {} | {} |", system.name, system.about)?;
    }
    for record in &results.records {
        if let Status::Failed(reason) = &record.status {
            let Row { pin, measure, bytes } = record.row;
            let name = record.system.name;
            writeln!(page, "| {name}, {measure}, {bytes} bytes, {pin} | failed: {reason} |")?;
        }
    }
    Ok(())
}
