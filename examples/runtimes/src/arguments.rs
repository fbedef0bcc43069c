//! The command line.

use clap::{Parser, Subcommand, value_parser};

use crate::task::Task;

/// Measures wakering's round trips under each runtime, beside a Unix socket under the same runtime.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// The core on which all processes run
    #[arg(long, default_value_t = 0)]
    pub core: usize,
    /// How many pairs of a channel and a socket are measured for each runtime
    #[arg(long, value_name = "NUMBER", default_value_t = 7, value_parser = value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// How long each measurement takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = value_parser!(u64).range(10..))]
    pub turn: u64,
    /// Measures only the runtimes whose names contain this; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Arguments {
    /// Whether the runtime is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str()))
    }
}

/// One side of a measurement, in a process of its own.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
pub enum Command {
    /// One end of the channel
    #[command(hide = true)]
    Channel { way: String, name: String, task: Task },
    /// One end of the socket pair, which is the standard input
    #[command(hide = true)]
    Socket { way: String, task: Task },
}
