//! One side of a measurement: a process that `bench` starts. The engine starts the application,
//! which finds its end of the channel as its standard input.

use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use rustix::process::{Signal, set_parent_process_death_signal};
use wakering::{Receiver, Sender, ShmError, SpscFace, SpscHandle};

use super::measurement::{Figures, Kind, Measurement, Way};
use super::runner::Runner;
use super::spawn;
use crate::failure::Failure;
use crate::options::{BackendOption, bytes, some_seconds};
use crate::say;
use crate::times::{Times, nanoseconds};

/// The command's name, which no help lists.
pub(crate) const NAME: &str = "bench-side";

/// Bytes of a stream after which the sender asks the clock.
const CLOCK_BYTES: usize = 16 << 10;

/// Do one side of a measurement, for `bench`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(long, value_enum)]
    role: Role,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, value_enum)]
    driver: Way,
    #[arg(long, value_parser = bytes)]
    bytes: usize,
    #[arg(long, value_parser = some_seconds)]
    seconds: Duration,
    #[arg(long)]
    spin: Option<u64>,
    #[command(flatten)]
    backend: BackendOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Receives, or sends back.
    Engine,
    /// Sends.
    Application,
}

/// Returns the command for one side.
pub(super) fn command(measurement: &Measurement, role: Role) -> Result<Command, Failure> {
    let program = std::env::current_exe().map_err(Failure::io("finding this program"))?;
    let mut command = Command::new(program);
    let role = if role == Role::Engine { "engine" } else { "application" };
    command.arg(NAME).arg(format!("--role={role}")).args(measurement.options());
    command.stdin(Stdio::null());
    Ok(command)
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    // If the one that waits for this process is gone, so is the reason for it.
    let death = set_parent_process_death_signal(Some(Signal::KILL));
    death.map_err(|errno| Failure::io("asking for a signal")(errno.into()))?;
    let &Arguments { kind, driver, bytes, seconds, spin, backend, role } = arguments;
    let measurement = Measurement { kind, driver, bytes, seconds, spin, backend };
    let runner = Runner::new(driver, backend.driver())?;
    let figures = match role {
        Role::Engine => engine(&measurement, &runner)?,
        Role::Application => application(&measurement, &runner)?,
    };
    say(&figures.to_string())
}

/// Starts the application, and returns what both sides have measured.
fn engine(measurement: &Measurement, runner: &Runner) -> Result<Figures, Failure> {
    let mut face = SpscFace::builder().driver(runner.driver()).send_timeout(None);
    if let Some(micros) = measurement.spin {
        face = face.spin(Duration::from_micros(micros));
    }
    let (face, descriptor) = face.pair()?;
    let mut command = command(measurement, Role::Application)?;
    let application = spawn(command.stdin(descriptor))?;
    // It has a copy of the descriptor, by which the application's death would go unnoticed.
    drop(command);
    let (tx, rx) = face.into_split();
    let halves = Halves { tx, rx, blocks: measurement.driver == Way::Blocking };
    let own = match measurement.kind {
        Kind::RoundTrips => runner.block_on(halves.echo()),
        Kind::Streams => runner.block_on(halves.receive(measurement.bytes)),
    };
    let application = application.wait_with_output().map_err(Failure::io("waiting"))?;
    let output = String::from_utf8_lossy(&application.stdout);
    let other: Figures = match output.trim_end().parse() {
        Ok(figures) if application.status.success() => figures,
        _ => {
            let errors = String::from_utf8_lossy(&application.stderr);
            let (status, errors) = (application.status, errors.trim_end());
            return Err(Failure::new(format!("the application, {status}: {errors}")));
        }
    };
    let own = own??;
    let wakes = own.wakes + other.wakes;
    Ok(match measurement.kind {
        // Of these the application knows all.
        Kind::RoundTrips => Figures { wakes, ..other },
        Kind::Streams => Figures { sent: other.sent, wakes, ..own },
    })
}

fn application(measurement: &Measurement, runner: &Runner) -> Result<Figures, Failure> {
    let mut handle = SpscHandle::builder().driver(runner.driver()).send_timeout(None);
    if let Some(micros) = measurement.spin {
        handle = handle.spin(Duration::from_micros(micros));
    }
    let descriptor = io::stdin().as_fd().try_clone_to_owned();
    let handle = handle.from_fd(descriptor.map_err(Failure::io("copying a descriptor"))?)?;
    let (tx, rx) = handle.into_split();
    let halves = Halves { tx, rx, blocks: measurement.driver == Way::Blocking };
    let packet = Bytes::from(vec![0x5a; measurement.bytes]);
    match measurement.kind {
        Kind::RoundTrips => runner.block_on(halves.ask(packet, measurement.seconds))?,
        Kind::Streams => runner.block_on(halves.stream(packet, measurement.seconds))?,
    }
}

/// Both halves of an end, for loops that are written once for tasks and for threads.
struct Halves {
    tx: Sender,
    rx: Receiver,
    /// Each call blocks the thread.
    blocks: bool,
}

impl Halves {
    async fn send(&mut self, packet: Bytes) -> Result<(), ShmError> {
        if self.blocks { self.tx.send_blocking(packet) } else { self.tx.send(packet).await }
    }

    async fn recv(&mut self) -> Option<Bytes> {
        if self.blocks { self.rx.recv_blocking() } else { self.rx.recv().await }
    }

    /// Whether all has come, after `recv` has returned `None`.
    fn finished(&self) -> Result<(), Failure> {
        match self.rx.finished() {
            Some(Err(reason)) => Err(reason.into()),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn figures(&self, sent: u64, received: u64, elapsed: Duration) -> Figures {
        let wakes = self.tx.stats().wakes_sent;
        Figures { sent, received, elapsed_ns: nanoseconds(elapsed), wakes, times: None }
    }

    /// Sends a packet, waits for it to come back, and again.
    async fn ask(mut self, packet: Bytes, time: Duration) -> Result<Figures, Failure> {
        let mut times = Times::new();
        let (mut sent, mut received) = (0, 0);
        let begin = Instant::now();
        let mut before = begin;
        while before - begin < time {
            self.send(packet.clone()).await?;
            sent += 1;
            let Some(echo) = self.recv().await else { break };
            let now = Instant::now();
            times.record(now - before);
            before = now;
            received += u64::from(echo == packet);
        }
        let figures = self.figures(sent, received, begin.elapsed());
        Ok(Figures { times: times.summary(), ..figures })
    }

    /// Sends back what comes.
    async fn echo(mut self) -> Result<Figures, Failure> {
        let begin = Instant::now();
        let mut echoed = 0;
        while let Some(packet) = self.recv().await {
            self.send(packet).await?;
            echoed += 1;
        }
        self.finished()?;
        Ok(self.figures(echoed, echoed, begin.elapsed()))
    }

    /// Sends as fast as it goes.
    async fn stream(mut self, packet: Bytes, time: Duration) -> Result<Figures, Failure> {
        // The clock is asked once in so many bytes: it takes longer than a short packet.
        let round = (CLOCK_BYTES / packet.len()).max(1) as u64;
        let mut sent = 0;
        let begin = Instant::now();
        // At least one round, however long this thread was kept waiting.
        loop {
            for _ in 0..round {
                self.send(packet.clone()).await?;
            }
            sent += round;
            let elapsed = begin.elapsed();
            if elapsed >= time {
                return Ok(self.figures(sent, 0, elapsed));
            }
        }
    }

    /// Receives until the end. The time runs from the first packet.
    async fn receive(mut self, bytes: usize) -> Result<Figures, Failure> {
        let mut begin = None;
        let mut received = 0;
        while let Some(packet) = self.recv().await {
            begin.get_or_insert_with(Instant::now);
            received += u64::from(packet.len() == bytes);
        }
        let elapsed = begin.map_or(Duration::ZERO, |begin| begin.elapsed());
        self.finished()?;
        Ok(self.figures(0, received, elapsed))
    }
}
