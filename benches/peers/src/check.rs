//! Whether the comparison measures what a program sees: wakering's rows beside the plain loops of
//! the library's example `stream`.
//!
//! A plain loop that is faster than its row shows that the comparison costs something. Row and
//! loop run right after each other, and the median of the ratios counts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::arguments::Options;
use crate::quartiles::Quartiles;
use crate::record::Status;
use crate::results::is_wakering;
use crate::row::{Measure, Pin, Row};
use crate::runner::Runner;
use crate::system::System;
use crate::systems;

/// So much faster than its row a plain loop may be.
const MAX: f64 = 1.1;

/// A plain loop, by the arguments of the example, and the row that makes the same calls.
const LOOPS: [(&str, &str, &str); 20] = [
    ("async", "background", "wakering, background"),
    ("async", "smol", "wakering, background, smol"),
    ("batch", "background", "wakering, background, batch"),
    ("async", "polled", "wakering, polled, smol"),
    ("batch", "polled", "wakering, polled, smol, batch"),
    ("async", "parked-in", "wakering, parked in"),
    ("batch", "parked-in", "wakering, parked in, batch"),
    ("blocking", "background", "wakering, blocking"),
    ("blocking-batch", "background", "wakering, blocking, batch"),
    ("try", "background", "wakering, try"),
    ("async-in-place", "background", "wakering, in place, background"),
    ("async-in-place-batch", "background", "wakering, in place, background, batch"),
    ("async-in-place", "parked-in", "wakering, in place, parked in"),
    ("blocking-in-place", "background", "wakering, in place, blocking"),
    ("in-place", "background", "wakering, in place, try"),
    ("in-place-batch", "background", "wakering, in place, try, batch"),
    ("async-items", "background", "wakering, items, background"),
    ("async-items-in-place", "background", "wakering, items in place, background"),
    ("items", "background", "wakering, items, try"),
    ("items-in-place", "background", "wakering, items in place, try"),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let check = Check { runner: Runner::new()?, program: build()?, options };
    if check.runner.cores.len() < 2 {
        Err("each side of a stream needs a core of its own, and there is one")?;
    }
    let rows = options.sizes(Pin::Two, Measure::Stream).iter().flat_map(|&bytes| {
        let row = Row { pin: Pin::Two, measure: Measure::Stream, bytes };
        let is_wanted = move |system: &&System| {
            is_wakering(system) && system.is_in(row) && options.wants(system.name)
        };
        systems::all().filter(is_wanted).map(move |system| (row, system))
    });
    println!("| row | bytes | plain loop | loop / row | at most {MAX} |\n|---|---|---|---|---|");
    let (mut compared, mut slower) = (0, 0);
    for (row, system) in rows {
        let (way, driver, name) = LOOPS
            .into_iter()
            .find(|(.., name)| *name == system.name)
            .ok_or_else(|| format!("no plain loop is like the row {:?}", system.name))?;
        let ratio = check.compare(row, system, [way, driver])?;
        let is_good = ratio.median <= MAX;
        compared += 1;
        slower += usize::from(!is_good);
        let Quartiles { lower, median, upper, .. } = ratio;
        let verdict = if is_good { "holds" } else { "**does not hold**" };
        let bytes = row.bytes;
        println!(
            "| {name} | {bytes} | {way}, {driver} | {median:.2} ({lower:.2}–{upper:.2}) | {verdict} |"
        );
    }
    match (compared, slower) {
        (0, _) => Err("nothing to compare: see --list".into()),
        (_, 0) => Ok(()),
        _ => Err(format!("{slower} of {compared} rows are slower than their plain loops").into()),
    }
}

struct Check<'a> {
    runner: Runner,
    /// The example.
    program: PathBuf,
    options: &'a Options,
}

impl Check<'_> {
    /// How much faster the plain loop is than the row, pair by pair.
    fn compare(&self, row: Row, system: &'static System, plain: [&str; 2]) -> Result<Quartiles> {
        let time = self.options.time;
        let ratio = |turn: usize| -> Result<f64> {
            let by_row = || {
                let record = self.runner.perform(system, row, turn, time, false)?;
                match record.status {
                    Status::Done => Ok(record.packets_per_second()),
                    status => Err(format!("{}: {status}", system.name).into()),
                }
            };
            let by_loop = || plain_loop(&self.program, plain, row.bytes, time);
            let (row, plain): (Result<f64>, Result<f64>) = if turn.is_multiple_of(2) {
                let row = by_row();
                (row, by_loop())
            } else {
                let plain = by_loop();
                (by_row(), plain)
            };
            Ok(plain? / row?)
        };
        let ratios = (0..self.options.repeat).map(ratio).collect::<Result<Vec<f64>>>()?;
        Ok(Quartiles::of(ratios).ok_or("no pairs")?)
    }
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
fn plain_loop(
    program: &Path,
    [way, driver]: [&str; 2],
    bytes: usize,
    time: Duration,
) -> Result<f64> {
    let ran = Command::new(program)
        .args([way, "--driver", driver, "--bytes", &bytes.to_string()])
        .args(["--seconds", &time.as_secs_f64().to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8(ran.stdout)?;
    let number = said.split_once(": ").and_then(|(_, rest)| rest.split_whitespace().next());
    match number.map(|number| number.replace(',', "").parse()) {
        Some(Ok(number)) if ran.status.success() => Ok(number),
        _ => Err(format!("{} {way} said {said:?}", program.display()).into()),
    }
}
