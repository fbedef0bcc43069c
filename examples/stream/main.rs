//! How fast a stream is, from one process to another: the plainest loops, each by other calls.
//!
//! ```console
//! $ cargo run --release --example stream -- in-place-batch --bytes 64 --seconds 2
//! in-place-batch, 64 B: 71,021,913 packets/s, 4.55 GB/s
//! ```
//!
//! [`bytes`] has the loops that carry `Bytes`, [`in_place`] those that write and read packets where
//! they lie, and [`items`] those whose packets hold many items. This file starts the second process
//! and keeps each of the two on a core of its own, if there are two.

#![allow(clippy::print_stdout, reason = "an example says what it did")]

mod bytes;
mod in_place;
mod items;
mod packet;

use std::process::Command;
use std::time::{Duration, Instant};

use pollster::block_on;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use wakering::{Receiver, Sender, SpscFace, SpscHandle};

use packet::{Check, Numbers};

type Error = Box<dyn std::error::Error>;
type Result<T> = std::result::Result<T, Error>;

const HELP: &str = "\
usage: stream [WAY] [--bytes N] [--seconds S]

WAY        async (default), batch, blocking, blocking-batch, try: `Bytes`
           in-place, in-place-batch, async-in-place, async-in-place-batch: packets in place
           items, async-items: items of N bytes, many in a packet
--bytes    64 (default), 1024, 8192 or 65536; for items 64 or 1024
--seconds  how long (default 1)";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut way, mut bytes, mut seconds, mut name) = ("async".to_owned(), 64, 1.0, None);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(HELP);
        match argument.as_str() {
            "--bytes" => bytes = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            // In the process that was started: where to find the first.
            "--receive-from" => name = Some(value()?),
            _ if !argument.starts_with('-') => way = argument,
            _ => Err(HELP)?,
        }
    }
    let time = Duration::try_from_secs_f64(seconds)?;
    match bytes {
        64 => run::<64>(&way, time, name),
        1024 => run::<1024>(&way, time, name),
        8192 => run::<8192>(&way, time, name),
        65536 => run::<65536>(&way, time, name),
        _ => Err(HELP.into()),
    }
}

fn run<const N: usize>(way: &str, time: Duration, from: Option<String>) -> Result<()> {
    match from {
        None => run_sender::<N>(way, time),
        Some(name) => run_receiver::<N>(way, &name),
    }
}

fn run_sender<const N: usize>(way: &str, time: Duration) -> Result<()> {
    let name = format!("stream-{}", std::process::id());
    let face = SpscFace::create(&name)?;
    let mut receiver = Command::new(std::env::current_exe()?)
        .args([way, "--bytes", &N.to_string(), "--receive-from", &name])
        .spawn()?;
    stay_on_core(0)?;
    block_on(face.connected())?;
    let (tx, _rx) = face.into_split();
    let sent = send::<N>(way, tx, Numbers::until(Instant::now() + time));
    let received = receiver.wait()?;
    sent?;
    if received.success() { Ok(()) } else { Err("the receiver failed".into()) }
}

fn run_receiver<const N: usize>(way: &str, name: &str) -> Result<()> {
    stay_on_core(1)?;
    let (_tx, mut rx) = SpscHandle::connect(name)?.into_split();
    let mut check = Check::new();
    receive::<N>(way, &mut rx, &mut check)?;
    let (count, seconds) = (check.count() as f64, check.elapsed().as_secs_f64());
    if rx.finished() != Some(Ok(())) {
        Err("the stream was cut off")?;
    }
    let what = if way.contains("items") { "items" } else { "packets" };
    let (speed, bytes) = (grouped(count / seconds), count * N as f64 / seconds / 1e9);
    println!("{way}, {N} B: {speed} {what}/s, {bytes:.2} GB/s");
    Ok(())
}

fn send<const N: usize>(way: &str, tx: Sender, numbers: Numbers) -> Result<()> {
    match way {
        "async" => block_on(bytes::send::<N>(tx, numbers)),
        "batch" => block_on(bytes::send_batch::<N>(tx, numbers)),
        "blocking" => bytes::send_blocking::<N>(tx, numbers),
        "blocking-batch" => bytes::send_batch_blocking::<N>(tx, numbers),
        "try" => bytes::try_send::<N>(tx, numbers),
        "in-place" => in_place::try_send::<N>(tx, numbers),
        "in-place-batch" => in_place::try_send_batch::<N>(tx, numbers),
        "async-in-place" => block_on(in_place::send::<N>(tx, numbers)),
        "async-in-place-batch" => block_on(in_place::send_batch::<N>(tx, numbers)),
        "items" => items::try_send::<N>(tx, numbers),
        "async-items" => block_on(items::send::<N>(tx, numbers)),
        _ => Err(HELP.into()),
    }
}

fn receive<const N: usize>(way: &str, rx: &mut Receiver, check: &mut Check) -> Result<()> {
    match way {
        "async" => block_on(bytes::receive::<N>(rx, check)),
        "batch" => block_on(bytes::receive_batch::<N>(rx, check)),
        "blocking" => bytes::receive_blocking::<N>(rx, check),
        "blocking-batch" => bytes::receive_batch_blocking::<N>(rx, check),
        "try" => bytes::try_receive::<N>(rx, check),
        "in-place" | "in-place-batch" => in_place::try_receive::<N>(rx, check),
        "async-in-place" | "async-in-place-batch" => block_on(in_place::receive::<N>(rx, check)),
        "items" => items::try_receive::<N>(rx, check),
        "async-items" => block_on(items::receive::<N>(rx, check)),
        _ => Err(HELP.into()),
    }
}

/// Keeps this process on one of the cores that it may use, if there is more than one.
fn stay_on_core(nth: usize) -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let Some(core) = cores.nth(nth) else { return Ok(()) };
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
