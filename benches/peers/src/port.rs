//! What a system has to offer to be measured, and the four loops that measure it.
//!
//! A port is one side of a channel, both directions. The loops are there twice, for calls that
//! return when they are done and for futures: a future that never waits costs a limit that takes
//! five nanoseconds a packet too much.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Result;
use crate::cell::{Measure, Side};
use crate::packet::{Sink, Source};

/// One side of a channel, by calls.
pub(crate) trait Port {
    /// Sends the next packet of `source`, waiting for room.
    fn send(&mut self, source: &mut Source) -> Result<()>;

    /// Gives the next packet to `sink`, waiting for it.
    fn recv(&mut self, sink: &mut Sink) -> Result<()>;

    /// The same in a stream: one packet or more at a time, as suits the system best.
    fn send_some(&mut self, source: &mut Source) -> Result<()> {
        self.send(source)
    }

    fn recv_some(&mut self, sink: &mut Sink) -> Result<()> {
        self.recv(sink)
    }

    /// Makes visible what `send_some` may have held back.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// One side of a channel, by futures.
pub(crate) trait AsyncPort {
    async fn send(&mut self, source: &mut Source) -> Result<()>;

    async fn recv(&mut self, sink: &mut Sink) -> Result<()>;

    async fn send_some(&mut self, source: &mut Source) -> Result<()> {
        self.send(source).await
    }

    async fn recv_some(&mut self, sink: &mut Sink) -> Result<()> {
        self.recv(sink).await
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// How it went for one side.
pub(crate) struct Tally {
    pub(crate) sink: Sink,
    /// Packets that this side sent.
    pub(crate) sent: u64,
    /// From the first packet to the last.
    pub(crate) elapsed: Duration,
    /// In nanoseconds.
    pub(crate) latencies: Histogram<u64>,
}

/// Packets, or so many bytes, between two looks at the clock of who streams.
const PACKETS_A_LOOK: u64 = 128;
const BYTES_A_LOOK: u64 = 128 << 10;

/// What one side has at hand while it runs.
struct Run {
    source: Source,
    sink: Sink,
    latencies: Histogram<u64>,
    time: Duration,
    looks_every: u64,
    begun: Option<Instant>,
}

impl Run {
    fn new(bytes: usize, time: Duration) -> Self {
        Self {
            source: Source::new(bytes),
            sink: Sink::new(bytes),
            // Up to a minute, to three digits.
            latencies: Histogram::new_with_max(60_000_000_000, 3).expect("lawful bounds"),
            time,
            looks_every: PACKETS_A_LOOK.min(BYTES_A_LOOK / bytes as u64).max(1),
            begun: None,
        }
    }

    /// The first tenth of the time is for caches and for whatever adapts itself.
    fn note(&mut self, begun: Instant, sent: Instant, came: Instant) {
        if came - begun > self.time / 10 {
            let nanos = u64::try_from((came - sent).as_nanos()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(nanos);
        }
    }

    #[inline]
    fn has_begun(&mut self) {
        if self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
    }

    fn tally(self) -> Tally {
        Tally {
            elapsed: self.begun.map_or(Duration::ZERO, |begun| begun.elapsed()),
            sent: self.source.made(),
            sink: self.sink,
            latencies: self.latencies,
        }
    }
}

/// Does this side's part.
pub(crate) fn drive(
    measure: Measure,
    side: Side,
    bytes: usize,
    time: Duration,
    port: &mut impl Port,
) -> Result<Tally> {
    let mut run = Run::new(bytes, time);
    match (measure, side) {
        (Measure::RoundTrip, Side::A) => ping(&mut run, port)?,
        (Measure::RoundTrip, Side::B) => echo(&mut run, port)?,
        (Measure::Stream, Side::A) => stream(&mut run, port)?,
        (Measure::Stream, Side::B) => drain(&mut run, port)?,
        (Measure::Idle, _) => {}
    }
    Ok(run.tally())
}

fn ping(run: &mut Run, port: &mut impl Port) -> Result<()> {
    let begun = Instant::now();
    let mut sent = begun;
    while sent - begun < run.time {
        port.send(&mut run.source)?;
        port.recv(&mut run.sink)?;
        let came = Instant::now();
        run.note(begun, sent, came);
        sent = came;
    }
    run.source.end();
    port.send(&mut run.source)
}

fn echo(run: &mut Run, port: &mut impl Port) -> Result<()> {
    loop {
        port.recv(&mut run.sink)?;
        if run.sink.is_over() {
            return Ok(());
        }
        port.send(&mut run.source)?;
    }
}

fn stream(run: &mut Run, port: &mut impl Port) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < run.time {
        let next_look = run.source.made() + run.looks_every;
        while run.source.made() < next_look {
            port.send_some(&mut run.source)?;
        }
    }
    run.source.end();
    port.send(&mut run.source)?;
    port.flush()
}

fn drain(run: &mut Run, port: &mut impl Port) -> Result<()> {
    port.recv(&mut run.sink)?;
    run.has_begun();
    while !run.sink.is_over() {
        port.recv_some(&mut run.sink)?;
    }
    Ok(())
}

/// Does this side's part, in futures.
pub(crate) async fn drive_async(
    measure: Measure,
    side: Side,
    bytes: usize,
    time: Duration,
    port: &mut impl AsyncPort,
) -> Result<Tally> {
    let mut run = Run::new(bytes, time);
    match (measure, side) {
        (Measure::RoundTrip, Side::A) => ping_async(&mut run, port).await?,
        (Measure::RoundTrip, Side::B) => echo_async(&mut run, port).await?,
        (Measure::Stream, Side::A) => stream_async(&mut run, port).await?,
        (Measure::Stream, Side::B) => drain_async(&mut run, port).await?,
        (Measure::Idle, _) => {}
    }
    Ok(run.tally())
}

async fn ping_async(run: &mut Run, port: &mut impl AsyncPort) -> Result<()> {
    let begun = Instant::now();
    let mut sent = begun;
    while sent - begun < run.time {
        port.send(&mut run.source).await?;
        port.recv(&mut run.sink).await?;
        let came = Instant::now();
        run.note(begun, sent, came);
        sent = came;
    }
    run.source.end();
    port.send(&mut run.source).await
}

async fn echo_async(run: &mut Run, port: &mut impl AsyncPort) -> Result<()> {
    loop {
        port.recv(&mut run.sink).await?;
        if run.sink.is_over() {
            return Ok(());
        }
        port.send(&mut run.source).await?;
    }
}

async fn stream_async(run: &mut Run, port: &mut impl AsyncPort) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < run.time {
        let next_look = run.source.made() + run.looks_every;
        while run.source.made() < next_look {
            port.send_some(&mut run.source).await?;
        }
    }
    run.source.end();
    port.send(&mut run.source).await?;
    port.flush().await
}

async fn drain_async(run: &mut Run, port: &mut impl AsyncPort) -> Result<()> {
    port.recv(&mut run.sink).await?;
    run.has_begun();
    while !run.sink.is_over() {
        port.recv_some(&mut run.sink).await?;
    }
    Ok(())
}
