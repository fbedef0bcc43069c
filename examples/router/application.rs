//! An application. It follows the orders on its standard input, one a line, and answers each with a
//! line of numbers. The packets go through the channel that the order names.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use wakering::{Backend, Driver, Receiver, Sender, SpscHandle};

use crate::Result;
use crate::packet::{self, Checker};

/// Bytes that one `send_batch` sends, so that sender and receiver stay close and in the cache.
const BATCH_BYTES: usize = 64 << 10;
/// The most packets that one `send_batch` or `recv_batch` takes.
const BATCH: usize = 256;

/// What to do with a channel, until it ends or for a given time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task {
    /// Send a packet, wait for its echo, and repeat.
    Ping(Duration),
    /// Send back every packet.
    Echo,
    /// Send as fast as possible.
    Send(Duration),
    /// Receive every packet.
    Receive,
}

/// The result of a task.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Packets that came back, were sent, or arrived. In the first and the last case, only intact
    /// ones.
    pub(crate) packets: u64,
    /// The number that the next packet would have.
    pub(crate) next: u64,
    pub(crate) lost: u64,
    pub(crate) corrupt: u64,
    pub(crate) elapsed_ns: u64,
    /// How often this end woke the engine.
    pub(crate) wakes: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
}

/// Runs until standard input ends.
pub(crate) fn run(backend: Backend) -> Result<()> {
    // This thread sleeps in the driver itself, so the engine's wakes go straight to it.
    let driver = Driver::builder().backend(backend).build()?;
    for line in io::stdin().lines() {
        let order: Order = line?.parse()?;
        let answer = match driver.block_on(obey(&driver, &order)) {
            Ok(outcome) => outcome.to_string(),
            Err(error) => format!("error {error}"),
        };
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

async fn obey(driver: &Driver, order: &Order) -> Result<Outcome> {
    let handle = SpscHandle::builder().driver(driver).connect(&order.name)?;
    let (mut tx, mut rx) = handle.into_split();
    let mut outcome = match order.task {
        Task::Ping(time) => ping(&mut tx, &mut rx, order.bytes, time).await?,
        Task::Echo => echo(&mut tx, &mut rx, order.bytes).await?,
        Task::Send(time) => send(&mut tx, order.bytes, time).await?,
        Task::Receive => receive(&mut rx, order.bytes).await?,
    };
    // From this, the engine learns that everything has been sent.
    drop(tx);
    outcome.wakes = rx.stats().wakes_sent;
    Ok(outcome)
}

async fn ping(tx: &mut Sender, rx: &mut Receiver, bytes: usize, time: Duration) -> Result<Outcome> {
    // Nanoseconds up to a minute, to three digits.
    let mut latencies = Histogram::<u64>::new_with_max(60_000_000_000, 3)?;
    let mut checker = Checker::default();
    let begin = Instant::now();
    let mut sent = begin;
    while sent - begin < time {
        tx.send(new_packet(Bytes::new(), checker.next, bytes)).await?;
        let echo = rx.recv().await.ok_or("the channel ended before the echo came")?;
        let now = Instant::now();
        latencies.saturating_record(nanoseconds(now - sent));
        checker.look(&echo, bytes);
        sent = now;
    }
    Ok(Outcome {
        p50_ns: latencies.value_at_quantile(0.5),
        p99_ns: latencies.value_at_quantile(0.99),
        p999_ns: latencies.value_at_quantile(0.999),
        ..outcome(&checker, begin.elapsed())
    })
}

async fn echo(tx: &mut Sender, rx: &mut Receiver, bytes: usize) -> Result<Outcome> {
    let mut checker = Checker::default();
    let begin = Instant::now();
    while let Some(packet) = rx.recv().await {
        checker.look(&packet, bytes);
        tx.send(packet).await?;
    }
    ended_in_order(rx)?;
    Ok(outcome(&checker, begin.elapsed()))
}

async fn send(tx: &mut Sender, bytes: usize, time: Duration) -> Result<Outcome> {
    let mut batch = vec![Bytes::new(); batch_of(bytes)];
    let mut next = 0;
    let begin = Instant::now();
    while begin.elapsed() < time {
        for packet in &mut batch {
            *packet = new_packet(std::mem::take(packet), next, bytes);
            next += 1;
        }
        tx.send_batch(&batch).await?;
    }
    let elapsed_ns = nanoseconds(begin.elapsed());
    Ok(Outcome { packets: next, next, elapsed_ns, ..Outcome::default() })
}

fn batch_of(bytes: usize) -> usize {
    (BATCH_BYTES / bytes).clamp(1, BATCH)
}

async fn receive(rx: &mut Receiver, bytes: usize) -> Result<Outcome> {
    let most = batch_of(bytes);
    let mut batch = Vec::with_capacity(most);
    let mut checker = Checker::default();
    let mut begin = None;
    while rx.recv_batch(&mut batch, most).await > 0 {
        begin.get_or_insert_with(Instant::now);
        for packet in batch.drain(..) {
            checker.look(&packet, bytes);
        }
    }
    ended_in_order(rx)?;
    Ok(outcome(&checker, begin.map_or(Duration::ZERO, |begin| begin.elapsed())))
}

/// Returns an error if the channel was cut off. `recv` returns `None` in that case too.
pub(crate) fn ended_in_order(rx: &Receiver) -> Result<()> {
    match rx.finished() {
        Some(Err(reason)) => Err(format!("the channel was cut off: {reason}"))?,
        Some(Ok(())) | None => Ok(()),
    }
}

/// Returns a packet in the memory of a packet that was sent before. That one was copied into the
/// ring, so its memory is free.
fn new_packet(used: Bytes, number: u64, bytes: usize) -> Bytes {
    let mut memory = match used.try_into_mut() {
        Ok(memory) if memory.len() == bytes => memory,
        _ => BytesMut::zeroed(bytes),
    };
    packet::fill(number, &mut memory);
    memory.freeze()
}

fn outcome(checker: &Checker, elapsed: Duration) -> Outcome {
    let &Checker { intact, corrupt, lost, next } = checker;
    let elapsed_ns = nanoseconds(elapsed);
    Outcome { packets: intact, next, lost, corrupt, elapsed_ns, ..Outcome::default() }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A line on an application's standard input: `<task> <seconds> <bytes> <name>`.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) task: Task,
    pub(crate) bytes: usize,
    pub(crate) name: String,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, time) = match self.task {
            Task::Ping(time) => ("ping", time),
            Task::Echo => ("echo", Duration::ZERO),
            Task::Send(time) => ("send", time),
            Task::Receive => ("receive", Duration::ZERO),
        };
        write!(f, "{word} {} {} {}", time.as_secs_f64(), self.bytes, self.name)
    }
}

impl FromStr for Order {
    type Err = Box<dyn std::error::Error + Send + Sync>;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().ok_or_else(|| format!("an order without an end: {line:?}"));
        let (task, seconds) = (word()?, Duration::try_from_secs_f64(word()?.parse()?)?);
        let task = match task {
            "ping" => Task::Ping(seconds),
            "echo" => Task::Echo,
            "send" => Task::Send(seconds),
            "receive" => Task::Receive,
            _ => Err(format!("an order of no known kind: {line:?}"))?,
        };
        Ok(Self { task, bytes: word()?.parse()?, name: word()?.to_owned() })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packets, next, lost, corrupt, elapsed_ns, wakes, .. } = self;
        let Self { p50_ns, p99_ns, p999_ns, .. } = self;
        write!(f, "{packets} {next} {lost} {corrupt} {elapsed_ns} {wakes} ")?;
        write!(f, "{p50_ns} {p99_ns} {p999_ns}")
    }
}

impl FromStr for Outcome {
    type Err = Box<dyn std::error::Error + Send + Sync>;

    fn from_str(line: &str) -> Result<Self> {
        if let Some(problem) = line.strip_prefix("error ") {
            Err(problem)?;
        }
        let numbers: Vec<u64> =
            line.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?;
        let &[packets, next, lost, corrupt, elapsed_ns, wakes, p50_ns, p99_ns, p999_ns] =
            numbers.as_slice()
        else {
            Err(format!("an answer that makes no sense: {line:?}"))?
        };
        Ok(Self { packets, next, lost, corrupt, elapsed_ns, wakes, p50_ns, p99_ns, p999_ns })
    }
}
