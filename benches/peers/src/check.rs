//! Whether the comparison measures what a program sees: wakering's rows beside the plain loops of
//! the library's example `stream`.
//!
//! A plain loop that is faster than its row shows that the comparison costs something. Row and
//! loop run right after each other, and the median of the ratios counts.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::arguments::Options;
use crate::quartiles::Quartiles;
use crate::record::Status;
use crate::row::{Measure, Pin, Row};
use crate::runner::Runner;
use crate::systems;

/// So much faster than its row a plain loop may be.
const MAX: f64 = 1.1;

/// A way of the example, and the row that is the same loop.
const WAYS: [(&str, &str); 11] = [
    ("async", "wakering, background"),
    ("batch", "wakering, background, batch"),
    ("blocking", "wakering, blocking"),
    ("blocking-batch", "wakering, blocking, batch"),
    ("try", "wakering, try"),
    ("in-place", "wakering, in place, try"),
    ("in-place-batch", "wakering, in place, try, batch"),
    ("async-in-place", "wakering, in place, background"),
    ("async-in-place-batch", "wakering, in place, background, batch"),
    ("items", "wakering, items, try"),
    ("async-items", "wakering, items, background"),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let runner = Runner::new()?;
    let program = build()?;
    let mut is_slower = false;
    println!("| plain loop | row | bytes | loop / row | at most {MAX} |\n|---|---|---|---|---|");
    for (way, name) in WAYS {
        if !(options.only.is_empty()
            || options.only.iter().any(|part| name.contains(part.as_str())))
        {
            continue;
        }
        let system = systems::find(name).ok_or_else(|| format!("no system {name:?}"))?;
        for &bytes in options.sizes(Pin::Two, Measure::Stream) {
            let row = Row { pin: Pin::Two, measure: Measure::Stream, bytes };
            if !system.is_in(row) {
                continue;
            }
            let mut ratios = Vec::new();
            for turn in 0..options.repeat {
                let by_row = || -> Result<f64> {
                    let record = runner.perform(system, row, turn, options.time, false)?;
                    match record.status {
                        Status::Done => Ok(record.packets_per_second()),
                        status => Err(format!("{name}: {status}").into()),
                    }
                };
                let by_loop = || plain_loop(&program, way, bytes, options.time);
                ratios.push(if turn % 2 == 0 {
                    let row = by_row()?;
                    by_loop()? / row
                } else {
                    by_loop()? / by_row()?
                });
            }
            let ratio = Quartiles::of(ratios).ok_or("no pairs")?;
            let is_good = ratio.median <= MAX;
            is_slower |= !is_good;
            let Quartiles { lower, median, upper, .. } = ratio;
            let verdict = if is_good { "holds" } else { "**does not hold**" };
            println!(
                "| {way} | {name} | {bytes} | {median:.2} ({lower:.2}–{upper:.2}) | {verdict} |"
            );
        }
    }
    if is_slower { Err("plain loops are faster than their rows".into()) } else { Ok(()) }
}

/// Builds the example, and returns where it is.
fn build() -> Result<PathBuf> {
    const EXECUTABLE: &str = "\"executable\":\"";

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let built = Command::new(cargo)
        .args(["build", "--release", "--example", "stream", "--message-format=json"])
        .args(["--manifest-path", library])
        .stderr(Stdio::inherit())
        .output()?;
    let messages = String::from_utf8(built.stdout)?;
    let path = messages.lines().find_map(|line| line.split_once(EXECUTABLE)?.1.split_once('"'));
    match path {
        Some((path, _)) if built.status.success() => Ok(path.into()),
        _ => Err("the example `stream` was not built".into()),
    }
}

/// Packets, or items, a second.
fn plain_loop(program: &PathBuf, way: &str, bytes: usize, time: Duration) -> Result<f64> {
    let ran = Command::new(program)
        .args([way, "--bytes", &bytes.to_string(), "--seconds", &time.as_secs_f64().to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8(ran.stdout)?;
    let number = said.split_once(": ").and_then(|(_, rest)| rest.split_whitespace().next());
    match number.map(|number| number.replace(',', "").parse()) {
        Some(Ok(number)) if ran.status.success() => Ok(number),
        _ => Err(format!("{} {way} said {said:?}", program.display()).into()),
    }
}
