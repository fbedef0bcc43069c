//! `bench`: round trips and streams between two processes.

mod measurement;
mod report;
mod runner;
mod side;

use std::io::{self, IsTerminal, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::failure::{Failure, help};
use crate::options::{BackendOption, bytes, some_seconds};
use measurement::{Figures, Kind, Measurement, Way};
use report::Report;

pub(crate) use side::run as run_side;
pub(crate) use side::{Arguments as SideArguments, NAME as SIDE};

/// How much longer than it should a measurement may take before something must have gone wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often progress is shown, and a measurement asked whether it is over.
const REFRESH: Duration = Duration::from_millis(20);

/// Measure round trips and streams between two processes
///
/// Starts two processes with one channel between them for each measurement. A round trip is a
/// packet there and back, and then the next; a stream is packets one way, as fast as they go. Each
/// packet is one call to `send` and one to `recv`, and is copied in and out: batches, and packets
/// written and read in place, are faster.
///
/// The drivers are the ways to wait: a thread of the library's (background), the program's own
/// thread (parked), a reactor, here of one descriptor (polled), and threads that block on the
/// channel itself (blocking).
#[derive(Debug, Args)]
#[command(after_help = help(HELP))]
pub(crate) struct Arguments {
    /// The lengths of the packets, in bytes
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_value = "64,64k",
        value_parser = packet_bytes)]
    sizes: Vec<usize>,
    /// The ways to wait
    #[arg(
        long,
        value_name = "DRIVER,...",
        value_delimiter = ',',
        value_enum,
        default_value = "blocking,parked,polled,background"
    )]
    drivers: Vec<Way>,
    /// Measure only these
    #[arg(long, value_enum)]
    only: Option<Kind>,
    /// How long each measurement takes, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = some_seconds)]
    seconds: Duration,
    /// How long a side that finds nothing spins before it sleeps, in microseconds; 0 turns it off
    /// [default: the library's]
    #[arg(long, value_name = "MICROSECONDS")]
    spin: Option<u64>,
    #[command(flatten)]
    backend: BackendOption,
    /// Print one JSON object for each measurement, each on a line of its own
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Progress goes to standard error, if that is a terminal. The exit status is 1 if a packet was lost, or
if a process failed.

Examples:
  wakering bench
  taskset -c 0 wakering bench --only round-trips     both processes on one core
  wakering bench --sizes 64,1k,8k,64k --drivers parked --seconds 2 --json";

/// The longest packet of a channel with the default sizes.
const MAX_PACKET: usize = (1 << 20) - 8;

fn packet_bytes(text: &str) -> Result<usize, String> {
    let lawful = bytes(text).ok().filter(|bytes| (1..=MAX_PACKET).contains(bytes));
    lawful.ok_or_else(|| {
        format!("allowed is a number of bytes from 1 to {MAX_PACKET}, such as 64 or 8k")
    })
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let backend = arguments.backend.driver().build()?.backend();
    let measurements = plan(arguments);
    let mut report = Report::new(arguments.json, backend, arguments.seconds);
    let progress = Progress { is_shown: io::stderr().is_terminal(), all: measurements.len() };
    for (number, measurement) in measurements.iter().enumerate() {
        let figures = measure(measurement, |time| progress.show(number, measurement, time));
        progress.clear();
        report.add(measurement, figures?)?;
    }
    report.finish()
}

fn plan(arguments: &Arguments) -> Vec<Measurement> {
    let kinds = [Kind::RoundTrips, Kind::Streams];
    let wanted = kinds.into_iter().filter(|kind| arguments.only.is_none_or(|only| only == *kind));
    let mut measurements = Vec::new();
    for kind in wanted {
        for &bytes in &arguments.sizes {
            measurements.extend(arguments.drivers.iter().map(|&driver| Measurement {
                kind,
                driver,
                bytes,
                seconds: arguments.seconds,
                spin: arguments.spin,
                backend: arguments.backend,
            }));
        }
    }
    measurements
}

/// Has a process do it, together with one that it starts.
fn measure(measurement: &Measurement, mut show: impl FnMut(Duration)) -> Result<Figures, Failure> {
    let mut engine = Killed(spawn(&mut side::command(measurement, side::Role::Engine)?)?);
    let begin = Instant::now();
    let limit = measurement.seconds.saturating_add(PATIENCE);
    let status = loop {
        if let Some(status) = engine.0.try_wait().map_err(Failure::io("waiting for a process"))? {
            break status;
        }
        let time = begin.elapsed();
        if time > limit {
            let limit = limit.as_secs_f64();
            return Err(Failure::new(format!("{measurement}: no end after {limit} s")));
        }
        show(time);
        thread::sleep(REFRESH);
    };
    // It has exited, and says little: all of it is in the pipes.
    let said = |pipe: Option<&mut dyn Read>| {
        let mut text = String::new();
        pipe.map(|pipe| pipe.read_to_string(&mut text));
        text
    };
    let output = said(engine.0.stdout.as_mut().map(|pipe| pipe as &mut dyn Read));
    let errors = said(engine.0.stderr.as_mut().map(|pipe| pipe as &mut dyn Read));
    match output.trim_end().parse() {
        Ok(figures) if status.success() => Ok(figures),
        _ => Err(Failure::new(format!("{measurement}: {status}: {}", errors.trim_end()))),
    }
}

/// Starts a process, with pipes for what it says.
fn spawn(command: &mut Command) -> Result<Child, Failure> {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().map_err(Failure::io("starting a process"))
}

/// A process that is killed when this is dropped, and the process that it started with it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Progress {
    is_shown: bool,
    /// How many measurements there are.
    all: usize,
}

impl Progress {
    fn show(&self, number: usize, measurement: &Measurement, time: Duration) {
        if self.is_shown {
            let (number, all) = (number + 1, self.all);
            let whole = measurement.seconds.as_secs_f64();
            let part = time.as_secs_f64().min(whole);
            let line = format!("{number} of {all}: {measurement}, {part:.1} of {whole:.1} s");
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }

    fn clear(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
