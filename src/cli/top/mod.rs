//! `top`: a live table of this user's channels, in any process. It only reads: it gets the
//! snapshots that both ends write into their region, through a descriptor of the application's
//! process. The snapshots are what the ends say about themselves, and lag by up to an eighth of a
//! ring.

mod find;
mod region;
mod view;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::failure::{Failure, help};
use crate::options::some_seconds;
use find::{Finder, Found, Inode};
use view::View;

/// Show the channels of this user while they work
///
/// Under each channel's name is a row for each end: what it sends, how full the ring is that it
/// sends into, what its tasks sleep for, how often it wakes its peer, and how often it found that
/// ring full. The numbers are what the ends say about themselves, and lag by up to an eighth of a
/// ring.
#[derive(Debug, Args)]
#[command(after_help = help(HELP))]
pub(crate) struct Arguments {
    /// Look twice, for the rates, print once and exit
    #[arg(long)]
    once: bool,
    /// Print one JSON object for each channel, each on a line of its own
    #[arg(long)]
    json: bool,
    /// The time between two looks, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = some_seconds)]
    interval: Duration,
}

const HELP: &str = "\
Channels of other users, and of processes whose descriptors this user may not see, are left out.
When the reader of its output goes away, it exits with status 0.

Examples:
  wakering top
  wakering top --once --json | jq .face.packets_per_s";

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match watch(arguments) {
        // The reader of our output has closed it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        watched => watched.map_err(Failure::io("writing the table")),
    }
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
