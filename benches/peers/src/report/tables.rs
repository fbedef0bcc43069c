//! The tables, as a page of Markdown.

use std::fmt::Write;

use super::ratios;
use crate::Result;
use crate::arguments::Options;
use crate::cell::{Measure, Pin};
use crate::results::{Median, Record, Results, Row, Status};
use crate::systems::{Family, System};

pub(crate) const ALL: &[Family] =
    &[Family::Limit, Family::Wakering, Family::Rival, Family::Yardstick];

pub(crate) fn of(results: &Results, options: &Options) -> Result<String> {
    let mut page = String::from("# wakering beside others\n\n");
    writeln!(page, "{}\n", machine(results, options))?;
    page.push_str(&ratios::of(results)?);
    for pin in [Pin::Two, Pin::One, Pin::None] {
        round_trips(&mut page, results, pin)?;
        streams(&mut page, results, pin)?;
    }
    systems(&mut page, results)?;
    Ok(page)
}

/// Where, when and how it was measured.
pub(crate) fn machine(results: &Results, options: &Options) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy();
    let version = kernel.split('-').next().unwrap_or_default();
    format!(
        "{model}, {cores} cores, of which other programs had {:.1}, Linux {version}, {}; {} × {} s a \
         figure; medians, and in brackets the least and the largest.",
        results.others(),
        date(),
        options.repeat,
        options.time.as_secs_f64(),
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

fn pinned(pin: Pin) -> &'static str {
    match pin {
        Pin::Two => "on two cores, a side each",
        Pin::One => "on one core, both sides",
        Pin::None => "not pinned",
    }
}

fn round_trips(page: &mut String, results: &Results, pin: Pin) -> Result<()> {
    let rows = rows(results, Measure::RoundTrip, pin);
    let Some(first) = rows.first().copied() else { return Ok(()) };
    writeln!(page, "## Round trips {}\n", pinned(pin))?;
    let mut head = vec![format!("p50 at {}, µs", size(first.bytes)), "p99".into(), "p99.9".into()];
    head.extend(rows[1..].iter().map(|row| format!("p50 at {}, µs", size(row.bytes))));
    table(page, results, Measure::RoundTrip, pin, &head, |system| {
        let micros = |row: &Row, time: fn(&Record) -> f64| {
            entry(results, system, *row, |record| time(record) / 1e3)
        };
        let mut entries = vec![
            micros(&first, |record| record.outcome.p50_ns as f64),
            micros(&first, |record| record.outcome.p99_ns as f64),
            micros(&first, |record| record.outcome.p999_ns as f64),
        ];
        let others = rows[1..].iter();
        entries.extend(others.map(|row| micros(row, |record| record.outcome.p50_ns as f64)));
        entries
    })
}

fn streams(page: &mut String, results: &Results, pin: Pin) -> Result<()> {
    let rows = rows(results, Measure::Stream, pin);
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(page, "## Streams {}\n", pinned(pin))?;
    let mut head = Vec::new();
    for row in &rows {
        let unit = if row.bytes < 1024 { "M packets/s" } else { "GB/s" };
        head.push(format!("{}, {unit}", size(row.bytes)));
    }
    head.extend(rows.iter().map(|row| format!("CPU ns a packet at {}", size(row.bytes))));
    let counts = pin == Pin::Two && results.uncounted.is_none();
    if counts {
        head.extend(rows.iter().map(|row| format!("calls a packet at {}", size(row.bytes))));
    }
    table(page, results, Measure::Stream, pin, &head, |system| {
        let speed = |row: &Row| {
            entry(results, system, *row, |record| {
                if record.cell.bytes < 1024 {
                    record.packets_per_second() / 1e6
                } else {
                    record.gigabytes_per_second()
                }
            })
        };
        let cpu = |row: &Row| {
            let cpu = results.median(system.name, *row, Record::cpu_ns_per_packet);
            cpu.map_or("–".into(), |cpu| figures(cpu.median))
        };
        let calls = |row: &Row| match results.calls(system.name, *row) {
            Some(calls) if calls.median < 1e-5 => "0".into(),
            Some(calls) => figures(calls.median),
            None => "–".into(),
        };
        let mut entries: Vec<String> = rows.iter().map(speed).collect();
        entries.extend(rows.iter().map(cpu));
        if counts {
            entries.extend(rows.iter().map(calls));
        }
        entries
    })?;
    if let (Pin::Two, Some(reason)) = (pin, &results.uncounted) {
        writeln!(page, "System calls were not counted: {reason}.\n")?;
    }
    Ok(())
}

fn rows(results: &Results, measure: Measure, pin: Pin) -> Vec<Row> {
    let mut rows = results.rows(measure);
    rows.retain(|row| row.pin == pin);
    rows
}

fn table(
    page: &mut String,
    results: &Results,
    measure: Measure,
    pin: Pin,
    head: &[String],
    entries: impl Fn(&System) -> Vec<String>,
) -> Result<()> {
    writeln!(page, "| | {} |", head.join(" | "))?;
    writeln!(page, "|---|{}", "---|".repeat(head.len()))?;
    for system in results.systems(ALL) {
        if !system.measures.contains(&measure) {
            continue;
        }
        let entries = if system.can_be_pinned(pin) {
            entries(system)
        } else {
            vec!["n/a".into(); head.len()]
        };
        writeln!(page, "| {} | {} |", system.name, entries.join(" | "))?;
    }
    page.push('\n');
    Ok(())
}

/// A median with its spread, or what went wrong; both if packets were lost.
fn entry(results: &Results, system: &System, row: Row, value: impl Fn(&Record) -> f64) -> String {
    let trouble = results.trouble(system.name, row);
    match (results.median(system.name, row, value), trouble) {
        (None, None) => "–".into(),
        (None, Some(Status::Failed(_))) => "**failed**".into(),
        (None, Some(trouble)) => format!("**{trouble}**"),
        (Some(median), None) => spread(median),
        (Some(median), Some(Status::Failed(_))) => format!("{} **failed once**", spread(median)),
        (Some(median), Some(trouble)) => format!("{} **{trouble}**", spread(median)),
    }
}

fn spread(Median { median, least, most }: Median) -> String {
    if least == most {
        return figures(median);
    }
    format!("{} ({}–{})", figures(median), figures(least), figures(most))
}

/// Three figures, no more.
pub(crate) fn figures(number: f64) -> String {
    match number.abs() {
        0.0 => "0".into(),
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 => format!("{number:.2}"),
        size if size >= 0.01 => format!("{number:.3}"),
        _ => format!("{number:.5}"),
    }
}

pub(crate) fn size(bytes: usize) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) }
}

fn systems(page: &mut String, results: &Results) -> Result<()> {
    page.push_str("## The systems\n\n| | |\n|---|---|\n");
    for system in results.systems(ALL) {
        writeln!(page, "| {} | {} |", system.name, system.about)?;
    }
    for record in &results.records {
        if let Status::Failed(reason) = &record.status {
            let name = record.cell.system.name;
            writeln!(
                page,
                "| {name}, {}, {} | failed: {reason} |",
                record.cell.measure, record.cell.pin
            )?;
        }
    }
    Ok(())
}
