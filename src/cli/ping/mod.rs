//! `ping`: round trips to an engine that sends back what comes.

mod echo;

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use wakering::{RecvTimeoutError, ShmError, SpscHandle};

use crate::failure::{Failure, help};
use crate::json::Object;
use crate::options::{BackendOption, WaitOption, bytes, seconds, some_seconds};
use crate::times::{Summary, Times, nanoseconds};
use crate::{say, text};

/// Measure round trips to an engine that echoes
///
/// Sends a packet, waits until the same packet has come back, and says how long that took. Any
/// engine that sends back what it receives will do; `wakering ping NAME --echo` is one.
///
/// With an interval, both sides sleep between two packets, so each round trip includes two wakes.
/// With `--interval 0` a side may find the other awake, because both spin before they sleep.
#[derive(Debug, Args)]
#[command(after_help = help(HELP))]
pub(crate) struct Arguments {
    /// The engine's name, or the path of its socket
    name: String,
    /// Be the engine: send back what comes, to any number of applications
    #[arg(long, conflicts_with_all = ["count", "interval", "deadline", "bytes", "wait"])]
    echo: bool,
    /// Exit after that many applications
    #[arg(long, value_name = "N", requires = "echo")]
    sessions: Option<u64>,
    /// The number of round trips
    #[arg(long, short, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// The time from one round trip to the next, in seconds
    #[arg(long, short, value_name = "SECONDS", default_value = "0.1", value_parser = seconds)]
    interval: Duration,
    /// The time for all round trips, in seconds; the exit status is 124 if they take longer
    #[arg(long, short = 'w', value_name = "SECONDS", value_parser = some_seconds)]
    deadline: Option<Duration>,
    /// The length of each packet
    #[arg(long, short, value_name = "BYTES", default_value = "64", value_parser = bytes)]
    bytes: usize,
    #[command(flatten)]
    wait: WaitOption,
    #[command(flatten)]
    backend: BackendOption,
    /// Print one JSON object: for all round trips, or for each application that was served
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
The exit status is 0 only if every packet came back, and unchanged.

Examples:
  wakering ping --echo test &
  wakering ping --wait test
  wakering ping --count 100000 --interval 0 --json test";

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.echo {
        return echo::serve(arguments);
    }
    // This thread sleeps on the bell itself; the driver is for what else may happen.
    let driver = arguments.backend.driver().background()?;
    let handle = SpscHandle::builder().driver(&driver).send_timeout(arguments.deadline);
    let handle = arguments.wait.connect(&arguments.name, &handle)?;
    if arguments.bytes > handle.max_packet() {
        let max = handle.max_packet();
        let given = arguments.bytes;
        return Err(Failure::usage(format!("--bytes {given}: the channel allows at most {max}")));
    }
    let mut pings = Pings { handle, arguments, times: Times::new(), sent: 0 };
    let outcome = pings.run();
    pings.report()?;
    outcome
}

/// The round trips so far.
struct Pings<'a> {
    handle: SpscHandle,
    arguments: &'a Arguments,
    times: Times,
    sent: u64,
}

impl Pings<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let begin = Instant::now();
        let end = self.arguments.deadline.and_then(|deadline| begin.checked_add(deadline));
        let mut next = begin;
        while self.sent < self.arguments.count {
            // Not faster, after one that was late: an interval is for both sides to fall asleep.
            let pause = next.saturating_duration_since(Instant::now());
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left <= pause) {
                return Err(self.late());
            }
            std::thread::sleep(pause);
            let sent = Instant::now();
            next = sent.checked_add(self.arguments.interval).unwrap_or(sent);
            let time = self.round_trip(sent, end)?;
            self.times.record(time);
            if !self.arguments.json && !self.arguments.interval.is_zero() {
                let Arguments { name, bytes, .. } = self.arguments;
                let time = text::time(nanoseconds(time));
                say(&format!("{bytes} bytes from {name}: number {} time {time}", self.sent))?;
            }
        }
        Ok(())
    }

    /// One packet there and back.
    fn round_trip(&mut self, begin: Instant, end: Option<Instant>) -> Result<Duration, Failure> {
        let packet = packet(self.sent, self.arguments.bytes);
        self.sent += 1;
        match self.handle.send_blocking(packet.clone()) {
            Err(ShmError::TimedOut { .. }) => return Err(self.late()),
            sent => sent?,
        }
        let echo = match end {
            None => self.handle.recv_blocking().ok_or_else(|| self.ended())?,
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                match self.handle.recv_timeout(left) {
                    Err(RecvTimeoutError::Timeout) => return Err(self.late()),
                    Err(RecvTimeoutError::Closed(_)) => return Err(self.ended()),
                    Ok(echo) => echo,
                }
            }
        };
        let time = begin.elapsed();
        if echo != packet {
            let (number, sent, came) = (self.sent, packet.len(), echo.len());
            return Err(Failure::new(format!(
                "packet {number} came back changed: {sent} bytes were sent, {came} came"
            )));
        }
        Ok(time)
    }

    fn late(&self) -> Failure {
        let deadline = self.arguments.deadline.unwrap_or_default().as_secs_f64();
        let (came, count) = (self.came(), self.arguments.count);
        Failure::timed_out(format!("after {deadline} s, {came} of {count} packets have come back"))
    }

    fn ended(&self) -> Failure {
        let (came, count) = (self.came(), self.arguments.count);
        let reason = match self.handle.finished() {
            Some(Err(reason)) => reason.to_string(),
            Some(Ok(())) | None => "the engine sends no more".to_owned(),
        };
        Failure::new(format!("{reason}: {came} of {count} packets have come back"))
    }

    fn came(&self) -> u64 {
        self.times.summary().map_or(0, |times| times.count)
    }

    fn report(&self) -> Result<(), Failure> {
        let times = self.times.summary();
        if self.arguments.json {
            let object = Object::new()
                .with("name", self.arguments.name.as_str())
                .with("bytes", self.arguments.bytes)
                .with("sent", self.sent)
                .with("received", self.came());
            return say(&times.map_or(object.clone(), |times| times.add_to(object)).text());
        }
        let Some(Summary { count, min, median, p99, max }) = times else { return Ok(()) };
        let [min, median, p99, max] = [min, median, p99, max].map(text::time);
        let trips = text::count(count, "round trip");
        let size = text::size(self.arguments.bytes);
        say(&format!("{trips} of {size}: min {min}, median {median}, p99 {p99}, max {max}"))
    }
}

/// A packet that differs from the others, if it has room for that.
fn packet(number: u64, bytes: usize) -> Bytes {
    number.to_le_bytes().into_iter().cycle().take(bytes).collect()
}
