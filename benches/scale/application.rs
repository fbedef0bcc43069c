//! The other ends of many channels: a process, as the engine sees it, and what it does.

use std::fs::{DirBuilder, remove_dir_all};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use wakering::{Backend, Driver, Receiver, Sender, SpscHandle, TryReserveError};

use crate::meters::{Memory, now};
use crate::program::{number, this_program};

/// How often one channel among many is woken by an order.
pub(crate) const PINGS: usize = 200;
/// In place of the time at which a packet was sent: it is not answered.
pub(crate) const NO_ANSWER: u64 = 0;

/// Bytes of a packet of a busy channel, and of one that asks how long it takes.
pub(crate) const BUSY_BYTES: usize = 64;
pub(crate) const PING_BYTES: usize = 8;
/// Packets that a busy channel gets at once.
const BURST: usize = 16;
/// Between two packets on the channel that is quiet while all others are busy.
const QUIET: Duration = Duration::from_micros(500);

/// In place of how long an end spins, on the command line.
const DEFAULT: &str = "default";

/// Where the applications are.
pub(crate) struct Place {
    pub(crate) core: String,
    pub(crate) sockets: Sockets,
}

/// A directory for our own sockets.
pub(crate) struct Sockets(PathBuf);

impl Sockets {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wakering-scale-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).expect("a directory of our own");
        Self(path)
    }

    pub(crate) fn name(&self, file: &str) -> String {
        self.0.join(file).into_os_string().into_string().expect("a path in UTF-8")
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // If this fails, the directory stays in the temporary directory.
        let _ = remove_dir_all(&self.0);
    }
}

/// A process with the other ends of many channels, as the engine sees it.
pub(crate) struct Application {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Application {
    pub(crate) fn start(
        core: &str,
        backend: Backend,
        spin: Option<Duration>,
        name: &str,
        channels: usize,
    ) -> Self {
        let spin = spin.map_or(DEFAULT.to_owned(), |spin| spin.as_nanos().to_string());
        let mut command = this_program();
        command.args(["--application", core, &backend.to_string(), &spin]);
        command.args([name, &channels.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("a process");
        let orders = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, orders, answers }
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it listens");
    }

    /// Waits for the number that answers an order, or that tells, at the start, how many bytes each
    /// of its sides holds.
    pub(crate) fn hear(&mut self) -> u64 {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("text");
        number(line.trim_end())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The application's process: connects, and follows the engine's orders. It answers each with the
/// number of packets that it has sent.
pub(crate) fn run(backend: Backend, spin: &str, name: &str, channels: usize) {
    let driver = Driver::builder().backend(backend).background().expect("the engine has one");
    let mut builder = SpscHandle::builder().driver(&driver);
    if spin != DEFAULT {
        builder = builder.spin(Duration::from_nanos(number(spin)));
    }
    let before = Memory::now().resident();
    let connect = |_| builder.clone().connect(name).expect("an engine").into_split();
    let mut ends: Vec<_> = (0..channels).map(connect).collect();
    println!("{}", Memory::now().resident() - before);

    let mut numbers = vec![0; channels];
    for order in std::io::stdin().lines() {
        let order = order.expect("text");
        let sent = match order.split_once(' ') {
            None if order == "same" => ping(&mut ends, 0),
            // Jumps by a prime each time, so that the channels are far apart.
            None if order == "any" => ping(&mut ends, 7919),
            None if order == "ring" => ring(&mut ends),
            Some(("flood", millis)) => {
                flood(&mut ends, &mut numbers, Duration::from_millis(number(millis)))
            }
            _ => panic!("no order: {order}"),
        };
        println!("{sent}");
    }
}

type Ends = (Sender, Receiver);

fn send(tx: &mut Sender, sent: u64) {
    tx.try_send(Bytes::copy_from_slice(&sent.to_ne_bytes())).expect("there is room");
}

/// Wakes the engine by one channel at a time, and waits for its answers.
fn ping(ends: &mut [Ends], stride: usize) -> usize {
    let channels = ends.len();
    for n in 0..PINGS {
        // Long enough for the engine to sleep again.
        std::thread::sleep(Duration::from_micros(200));
        let (tx, rx) = &mut ends[(channels / 2 + n * stride) % channels];
        send(tx, now());
        rx.recv_blocking().expect("an answer");
    }
    PINGS
}

/// Sends a packet on each channel.
fn ring(ends: &mut [Ends]) -> usize {
    ends.iter_mut().for_each(|(tx, _)| send(tx, NO_ANSWER));
    ends.len()
}

/// Sends on all channels but the first as much as there is room for, in turns, and on the first a
/// packet from time to time.
fn flood(ends: &mut [Ends], numbers: &mut [u64], time: Duration) -> usize {
    let begin = Instant::now();
    let (mut sent, mut pinged) = (0, begin);
    let [(quiet, _), busy @ ..] = ends else { panic!("no channels") };
    loop {
        for ((tx, _), number) in busy.iter_mut().zip(&mut *numbers) {
            sent += burst(tx, number);
            let now = Instant::now();
            if now - begin >= time {
                return sent;
            }
            if now - pinged >= QUIET {
                send(quiet, crate::meters::now());
                sent += 1;
                pinged = now;
            }
        }
    }
}

/// Sends up to a burst of packets, with the channel's next numbers, and returns how many.
fn burst(tx: &mut Sender, number: &mut u64) -> usize {
    let mut batch = tx.batch();
    for count in 0..BURST {
        let mut grant = match batch.try_reserve(BUSY_BYTES) {
            Ok(grant) => grant,
            Err(TryReserveError::Full) => return count,
            Err(error) => panic!("the engine has gone: {error}"),
        };
        grant.put_u64_ne(*number);
        grant.put_bytes(0, BUSY_BYTES - 8);
        grant.commit().expect("an engine");
        *number += 1;
    }
    batch.publish().expect("an engine");
    BURST
}
