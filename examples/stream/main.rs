//! How fast a stream is, from one process to another: the plainest loops, each by other calls.
//!
//! ```console
//! $ cargo run --release --example stream -- in-place-batch --bytes 64 --seconds 2
//! in-place-batch, 64 B: 71,021,913 packets/s, 4.55 GB/s
//! ```
//!
//! [`bytes`] has the loops that carry `Bytes`, [`in_place`] those that write and read packets
//! where they lie, and [`items`] those whose packets hold many items. [`runner`] has the ways to
//! run their driver. This file starts the second process and keeps each of the two on a core of
//! its own, if there are two.

#![allow(clippy::print_stdout, reason = "an example says what it did")]

mod bytes;
mod in_place;
mod items;
mod packet;
mod runner;

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use wakering::{Receiver, Sender};

use packet::{Check, Numbers};
use runner::Runner;

type Error = Box<dyn std::error::Error>;
type Result<T> = std::result::Result<T, Error>;

const HELP: &str = "\
usage: stream [WAY] [--driver DRIVER] [--bytes N] [--seconds S]

WAY        async (default), batch, blocking, blocking-batch, try: `Bytes`
           in-place, in-place-batch, blocking-in-place, async-in-place, async-in-place-batch: packets
           in place
           items, items-in-place, async-items, async-items-in-place: items of N bytes, many in a
           packet
--driver   background (default), smol, parked-in or polled: who runs the driver and the task
--bytes    64 (default), 1024, 8192 or 65536; for items 64 or 1024
--seconds  how long (default 1)";

/// What the command line asks for.
struct Options {
    way: String,
    driver: String,
    bytes: usize,
    time: Duration,
    /// In the process that was started: where to find the first.
    from: Option<String>,
    /// In the same: the core to stay on.
    core: Option<usize>,
}

fn main() -> Result<()> {
    let options = parse(std::env::args().skip(1))?;
    match options.bytes {
        64 => run::<64>(&options),
        1024 => run::<1024>(&options),
        8192 => run::<8192>(&options),
        65536 => run::<65536>(&options),
        _ => Err(HELP.into()),
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let (mut way, mut driver) = ("async".to_owned(), "background".to_owned());
    let (mut bytes, mut seconds, mut from, mut core) = (64, 1.0, None, None);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(HELP);
        match argument.as_str() {
            "--driver" => driver = value()?,
            "--bytes" => bytes = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--receive-from" => from = Some(value()?),
            "--core" => core = Some(value()?.parse()?),
            _ if !argument.starts_with('-') => way = argument,
            _ => Err(HELP)?,
        }
    }
    Ok(Options { way, driver, bytes, time: Duration::try_from_secs_f64(seconds)?, from, core })
}

fn run<const N: usize>(options: &Options) -> Result<()> {
    match &options.from {
        None => run_sender::<N>(options),
        Some(name) => run_receiver::<N>(options, name),
    }
}

fn run_sender<const N: usize>(Options { way, driver, time, .. }: &Options) -> Result<()> {
    let name = format!("stream-{}", std::process::id());
    let mut arguments = vec!["--receive-from".to_owned(), name.clone()];
    if let [first, second, ..] = cores()?[..] {
        arguments.extend(["--core".to_owned(), second.to_string()]);
        // Before there is another thread, so that all stay there.
        stay_on_core(first)?;
    }
    let runner = Runner::named(driver)?;
    let face = runner.face().create(&name)?;
    let mut receiver = Command::new(std::env::current_exe()?)
        .args([way, "--driver", driver, "--bytes", &N.to_string()])
        .args(arguments)
        .spawn()?;
    runner.run(async { Ok(face.connected().await?) })?;
    let (tx, _rx) = face.into_split();
    let sent = send::<N>(way, &runner, tx, Numbers::until(Instant::now() + *time));
    let received = receiver.wait()?;
    sent?;
    if received.success() { Ok(()) } else { Err("the receiver failed".into()) }
}

fn run_receiver<const N: usize>(options: &Options, name: &str) -> Result<()> {
    let Options { way, driver, core, .. } = options;
    if let Some(core) = *core {
        stay_on_core(core)?;
    }
    let runner = Runner::named(driver)?;
    let (_tx, mut rx) = runner.handle().connect(name)?.into_split();
    let mut check = Check::new();
    receive::<N>(way, &runner, &mut rx, &mut check)?;
    let (count, seconds) = (check.count() as f64, check.elapsed().as_secs_f64());
    if rx.finished() != Some(Ok(())) {
        Err("the stream was cut off")?;
    }
    let what = if way.contains("items") { "items" } else { "packets" };
    let (speed, bytes) = (grouped(count / seconds), count * N as f64 / seconds / 1e9);
    println!("{way}, {N} B: {speed} {what}/s, {bytes:.2} GB/s");
    Ok(())
}

fn send<const N: usize>(way: &str, runner: &Runner, tx: Sender, numbers: Numbers) -> Result<()> {
    match way {
        "async" => runner.run(bytes::send::<N>(tx, numbers)),
        "batch" => runner.run(bytes::send_batch::<N>(tx, numbers)),
        "blocking" => bytes::send_blocking::<N>(tx, numbers),
        "blocking-batch" => bytes::send_batch_blocking::<N>(tx, numbers),
        "try" => bytes::try_send::<N>(tx, numbers),
        "in-place" => in_place::try_send::<N>(tx, numbers),
        "in-place-batch" => in_place::try_send_batch::<N>(tx, numbers),
        "blocking-in-place" => in_place::send_blocking::<N>(tx, numbers),
        "async-in-place" => runner.run(in_place::send::<N>(tx, numbers)),
        "async-in-place-batch" => runner.run(in_place::send_batch::<N>(tx, numbers)),
        "items" | "items-in-place" => items::try_send::<N>(tx, numbers),
        "async-items" | "async-items-in-place" => runner.run(items::send::<N>(tx, numbers)),
        _ => Err(HELP.into()),
    }
}

fn receive<const N: usize>(
    way: &str,
    runner: &Runner,
    rx: &mut Receiver,
    check: &mut Check,
) -> Result<()> {
    match way {
        "async" => runner.run(bytes::receive::<N>(rx, check)),
        "batch" => runner.run(bytes::receive_batch::<N>(rx, check)),
        "blocking" => bytes::receive_blocking::<N>(rx, check),
        "blocking-batch" => bytes::receive_batch_blocking::<N>(rx, check),
        "try" => bytes::try_receive::<N>(rx, check),
        "in-place" | "in-place-batch" => in_place::try_receive::<N>(rx, check),
        "blocking-in-place" => in_place::receive_blocking::<N>(rx, check),
        "async-in-place" | "async-in-place-batch" => runner.run(in_place::receive::<N>(rx, check)),
        "items" => items::try_receive::<N>(rx, check),
        "items-in-place" => items::try_receive_in_place::<N>(rx, check),
        "async-items" => runner.run(items::receive::<N>(rx, check)),
        "async-items-in-place" => runner.run(items::receive_in_place::<N>(rx, check)),
        _ => Err(HELP.into()),
    }
}

/// The cores that this process may use.
fn cores() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect())
}

fn stay_on_core(core: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

/// A number with commas.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}
