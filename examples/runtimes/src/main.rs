//! Measures round trips on one core: for each runtime, a channel with the glue of this crate beside
//! a Unix socket under the same runtime.

mod arguments;
mod channel;
mod process;
mod socket;
mod table;
mod task;
mod ways;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;
use process::Process;
use rustix::thread::{CpuSet, sched_setaffinity};
use table::Row;
use task::Task;
use ways::WAYS;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Channel { way, name, task }) => channel::run(ways::find(way), name, *task),
        Some(Command::Socket { way, task }) => socket::run(ways::find(way), *task),
        None => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    // The processes that are started inherit this.
    let mut core = CpuSet::new();
    core.set(arguments.core);
    sched_setaffinity(None, &core)?;
    let directory = std::env::temp_dir().join(format!("runtimes-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let measured = measure_in(&directory, arguments);
    std::fs::remove_dir_all(&directory)?;
    measured
}

fn measure_in(directory: &Path, arguments: &Arguments) -> Result<()> {
    let ping = Task::Ping { milliseconds: arguments.turn };
    println!("{}", table::HEAD);
    for way in WAYS.iter().filter(|way| arguments.wants(way.name)) {
        let mut row = Row::new(way.name, way.glue);
        for _ in 0..arguments.pairs {
            let channel = channel_trip(directory, way.name, ping)
                .map_err(|error| format!("{}, channel: {error}", way.name))?;
            let socket = socket_trip(way.name, ping)
                .map_err(|error| format!("{}, socket: {error}", way.name))?;
            row.add(channel, socket);
        }
        println!("{row}");
    }
    Ok(())
}

/// Returns the median round trip over a channel between two new processes, in microseconds.
fn channel_trip(directory: &Path, way: &str, ping: Task) -> Result<f64> {
    let name = directory.join("channel").display().to_string();
    let start = |task: Task| Process::start(&["channel", way, &name, &task.to_string()], None);
    let mut near = start(ping)?;
    near.hear()?;
    let far = start(Task::Echo)?;
    let median = near.hear()?.parse()?;
    near.wait()?;
    far.wait()?;
    Ok(median)
}

/// Does the same over a socket.
fn socket_trip(way: &str, ping: Task) -> Result<f64> {
    let (here, there) = UnixStream::pair()?;
    let start = |task: Task, end: UnixStream| -> io::Result<Process> {
        Process::start(&["socket", way, &task.to_string()], Some(end))
    };
    let (mut near, far) = (start(ping, here)?, start(Task::Echo, there)?);
    let median = near.hear()?.parse()?;
    near.wait()?;
    far.wait()?;
    Ok(median)
}
