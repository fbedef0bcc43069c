//! The command `wakering`: channels at a terminal.
//!
//! It uses the library as any other program does. Each command has a module; [`options`],
//! [`failure`], [`json`] and [`text`] are what they share.

mod bench;
mod cat;
mod doctor;
mod failure;
mod json;
mod options;
mod ping;
mod text;
mod times;
mod top;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{EXIT_STATUS, Failure};

/// Packets between two processes through shared memory: look at channels, use them, measure them.
///
/// An engine serves a name; applications connect to it. A name is one of 1 to 100 ASCII letters,
/// digits, dots, underscores and hyphens, whose socket is in $WAKERING_DIR, else in
/// $XDG_RUNTIME_DIR/wakering, else in /run/wakering for root or /tmp/wakering-<uid>; or it is the
/// absolute path of a socket.
#[derive(Debug, Parser)]
#[command(name = "wakering", version, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Top(top::Arguments),
    Cat(cat::Arguments),
    Ping(ping::Arguments),
    Bench(bench::Arguments),
    Doctor(doctor::Arguments),
    #[command(name = bench::SIDE, hide = true)]
    BenchSide(bench::SideArguments),
}

fn main() -> ExitCode {
    // Answers `--help`, `--version` and arguments that are not allowed by itself.
    let command = Cli::parse().command;
    let (name, outcome) = match command {
        Command::Top(arguments) => ("top", top::run(&arguments)),
        Command::Cat(arguments) => ("cat", cat::run(&arguments)),
        Command::Ping(arguments) => ("ping", ping::run(&arguments)),
        Command::Bench(arguments) => ("bench", bench::run(&arguments)),
        Command::Doctor(arguments) => ("doctor", doctor::run(&arguments)),
        Command::BenchSide(arguments) => (bench::SIDE, bench::run_side(&arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "wakering {name}: {failure}");
            ExitCode::from(failure.status)
        }
    }
}

/// Writes a line to standard output.
fn say(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(Failure::io("writing to standard output"))
}
