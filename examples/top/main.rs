//! A live table of this user's channels, in any process. It only reads: it gets the snapshots that
//! both ends write into their region, through a descriptor of the application's process. The
//! snapshots are what the ends say about themselves, and lag by up to an eighth of a ring.
//!
//! ```text
//! cargo run --release --example top
//! cargo run --release --example top -- --once --json
//! ```
//!
//! Each row is one end: what it sends, how full the ring is that it sends into, what its tasks
//! sleep for, how often it wakes its peer, and how often it found that ring full. `--once` looks
//! twice, for the rates, and prints one table. `--json` prints one object for each channel on a
//! line of its own. `--interval SECONDS` is the time between two looks.
#![allow(clippy::print_stdout, reason = "the table goes there")]

mod find;
mod region;
mod view;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use find::{Finder, Found, Inode};
use view::View;

struct Arguments {
    once: bool,
    json: bool,
    interval: Duration,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("top: {error}; allowed are --once, --json and --interval SECONDS");
            return ExitCode::FAILURE;
        }
    };
    match watch(&arguments) {
        // The reader of our output has closed it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("top: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { once: false, json: false, interval: Duration::from_secs(1) };
    while let Some(name) = given.next() {
        match name.as_str() {
            "--once" => arguments.once = true,
            "--json" => arguments.json = true,
            "--interval" => {
                let seconds = given.next().and_then(|value| value.parse().ok());
                let interval = seconds.and_then(|n| Duration::try_from_secs_f64(n).ok());
                let lawful = interval.filter(|interval| !interval.is_zero());
                arguments.interval = lawful.ok_or("--interval needs a time in seconds")?;
            }
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok(arguments)
}

fn watch(arguments: &Arguments) -> io::Result<()> {
    let mut finder = Finder::default();
    let mut before = (Instant::now(), finder.look());
    let is_live = !arguments.once && !arguments.json && io::stdout().is_terminal();
    if is_live {
        write!(io::stdout(), "\x1b[2J")?;
    }
    loop {
        thread::sleep(arguments.interval);
        let now = (Instant::now(), finder.look());
        show(&before, &now, arguments.json, is_live)?;
        if arguments.once {
            return Ok(());
        }
        before = now;
    }
}

type Look = (Instant, BTreeMap<Inode, Found>);

fn show(before: &Look, now: &Look, json: bool, is_live: bool) -> io::Result<()> {
    let seconds = (now.0 - before.0).as_secs_f64();
    let view = View { now: &now.1, before: &before.1, seconds };
    let mut text = String::new();
    if json {
        text = view.json();
    } else if is_live {
        // Overwrites the old table line by line, so that nothing flickers.
        text.push_str("\x1b[H");
        let (rows, columns) = terminal();
        // One row is left for the cursor, and no line wraps.
        for line in view.table(rows.saturating_sub(1)) {
            text.extend(line.chars().take(columns));
            text.push_str("\x1b[K\r\n");
        }
        text.push_str("\x1b[J");
    } else {
        for line in view.table(usize::MAX) {
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Returns the terminal's current rows and columns.
fn terminal() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}
