//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::cell::Pin;
use crate::{Error, Result};

pub(crate) const HELP: &str = "\
Measures wakering beside other ways to carry packets between two processes.

Usage: cargo run --release --manifest-path benches/peers/Cargo.toml -- [OPTIONS]

Options:
  --quick           under a minute: short, once, the rows that the targets need
  --seconds N       how long each measurement takes (default 0.3)
  --repeat N        how often each is made (default 5)
  --only TEXT       systems with this in their name, and no others; may be given several times
  --pin WHERE       two, one or none: only with these cores; may be given several times
  --bytes N         64, 1024, 8192 or 65536: only these packets; may be given several times
  --out DIR         where the tables and charts go (default benches/peers/out)
  --list            the systems
  --help            this text

Exit status: 0 if every system did as it should, 1 if one hung, failed or lost packets or on an
error, 2 for bad arguments.
";

/// With this first argument the program is a process of a run.
pub(crate) const STAGE: &str = "--stage";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) is_quick: bool,
    pub(crate) time: Duration,
    pub(crate) repeat: usize,
    pub(crate) only: Vec<String>,
    pub(crate) pins: Vec<Pin>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) out: PathBuf,
    pub(crate) lists: bool,
}

/// All sizes of packets.
pub(crate) const SIZES: [usize; 4] = [64, 1 << 10, 8 << 10, 64 << 10];

/// What is wanted; `None` is help.
pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let (mut seconds, mut repeat, mut is_quick, mut lists) = (None, None, false, false);
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
            "--list" => lists = true,
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
        if !is_quick {
            pins.push(Pin::None);
        }
    }
    if sizes.is_empty() {
        sizes = SIZES.to_vec();
    }
    let seconds = seconds.unwrap_or(if is_quick { 0.05 } else { 0.3 });
    Ok(Some(Options {
        is_quick,
        time: Duration::from_secs_f64(seconds),
        repeat: repeat.unwrap_or(if is_quick { 1 } else { 5 }),
        only,
        pins,
        sizes,
        out,
        lists,
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
