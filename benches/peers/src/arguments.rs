//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::row::{Measure, Pin, SIZES};
use crate::{Error, Result};

pub(crate) const HELP: &str = "\
Measures wakering beside other ways to carry packets between two processes.

Usage: cargo run --release --manifest-path benches/peers/Cargo.toml -- [OPTIONS]

Options:
  --quick           under a minute: short, once, the rows that the goals need
  --check           compares wakering's rows with the plain loops of examples/stream instead
  --seconds N       how long each run takes (default 0.1)
  --repeat N        how often each is made (default 9)
  --only TEXT       systems with this in their name, and no others; may be given several times
  --pin WHERE       two, one or none: only with these cores; may be given several times
  --bytes N         64, 1024, 8192 or 65536: only these packets; may be given several times
  --out DIR         where the tables and charts go (default benches/peers/out)
  --list            the systems
  --help            this text

Exit status: 0 if every system did as it should, 1 if one hung, failed or lost packets, if a plain
loop is faster than its row, or on an error, 2 for bad arguments.
";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) is_quick: bool,
    pub(crate) time: Duration,
    pub(crate) repeat: usize,
    only: Vec<String>,
    pub(crate) pins: Vec<Pin>,
    sizes: Vec<usize>,
    pub(crate) out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Compare,
    Check,
    List,
}

impl Options {
    /// Whether a system with this name is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// Which packets there are in these rows.
    pub(crate) fn sizes(&self, pin: Pin, measure: Measure) -> &[usize] {
        match measure {
            // Once is enough.
            Measure::Idle if self.pins.first() != Some(&pin) => &[],
            Measure::Idle => &SIZES[..1],
            // There is no limit to compare with.
            Measure::Stream if pin == Pin::One => &[],
            _ if !self.sizes.is_empty() => &self.sizes,
            Measure::RoundTrip => &SIZES[..1],
            Measure::Stream => &SIZES,
        }
    }
}

/// What is wanted; `None` is help.
pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let (mut seconds, mut repeat, mut is_quick, mut mode) = (None, None, false, Mode::Compare);
    let (mut only, mut pins, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    let mut out = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/out"));
    while let Some(argument) = given.next() {
        // Both `--seconds 2` and `--seconds=2`.
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            value.clone().or_else(|| given.next()).ok_or_else(|| format!("{name} needs a value"))
        };
        match name.as_str() {
            "--quick" => is_quick = true,
            "--check" => mode = Mode::Check,
            "--list" => mode = Mode::List,
            "--seconds" => seconds = Some(between(&value()?, 0.01, 60.0)?),
            "--repeat" => repeat = Some(between(&value()?, 1, 1000)?),
            "--only" => only.push(value()?),
            "--pin" => pins.push(value()?.parse()?),
            "--bytes" => sizes.push(size(&value()?)?),
            "--out" => out = value()?.into(),
            "--help" | "-h" => return Ok(None),
            _ => Err(format!("unknown argument {name:?}: see --help"))?,
        }
    }
    if pins.is_empty() {
        pins = vec![Pin::Two, Pin::One];
    }
    let seconds = seconds.unwrap_or(if is_quick { 0.03 } else { 0.1 });
    Ok(Some(Options {
        mode,
        is_quick,
        time: Duration::from_secs_f64(seconds),
        repeat: repeat.unwrap_or(if is_quick { 1 } else { 9 }),
        only,
        pins,
        sizes,
        out,
    }))
}

fn between<T>(text: &str, least: T, most: T) -> Result<T>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("{text:?}: allowed is a number from {least} to {most}").into()),
    }
}

fn size(text: &str) -> Result<usize> {
    let size = SIZES.into_iter().find(|size| size.to_string() == text);
    size.ok_or_else(|| Error::from(format!("{text:?}: allowed are the sizes {SIZES:?}")))
}
