//! The process at the far end, of either way.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::executor::block_on;
use wakering::{SpscFace, SpscListener};
use zenoh::Wait;

use super::plain;
use crate::Result;

/// What a far process is.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Far {
    /// The subscriber of zenoh's own way
    Zenoh { endpoint: String },
    /// The engine of the bridged way
    Engine { name: String },
}

/// The first packet of a channel to the engine: what it does with the others.
pub const ECHO: &[u8] = b"echo";
pub const COUNT: &[u8] = b"count";

/// Is a far process until it is killed. It says what it has counted.
pub fn perform(far: Far) -> Result<()> {
    match far {
        Far::Zenoh { endpoint } => subscriber(&endpoint),
        Far::Engine { name } => engine(&name),
    }
}

/// Counts what comes between the first and the last packet.
#[derive(Debug, Default)]
struct Count {
    packets: u64,
    times: Option<(Instant, Instant)>,
}

impl Count {
    fn add(&mut self) {
        let now = Instant::now();
        let begin = self.times.map_or(now, |(begin, _)| begin);
        self.times = Some((begin, now));
        self.packets += 1;
    }

    /// Says how many packets came a second, and begins anew.
    fn say(&mut self) {
        let Self { packets, times } = std::mem::take(self);
        let seconds = times.map_or(0.0, |(begin, end)| (end - begin).as_secs_f64());
        println!("{}", packets.saturating_sub(1) as f64 / seconds);
    }
}

fn subscriber(endpoint: &str) -> Result<()> {
    let session = plain::session("listen/endpoints", endpoint)?;
    let back = session.declare_publisher(plain::BACK);
    let back = back.congestion_control(plain::BLOCK).express(true).wait()?;
    let _pong = session.declare_subscriber(plain::THERE).callback(move |sample| {
        // As `z_pong` does.
        back.put(sample.payload().clone()).wait().expect("the session is open");
    });
    let _pong = _pong.wait()?;
    let count = Arc::new(Mutex::new(Count::default()));
    let counting = session.declare_subscriber(plain::STREAM).callback(move |sample| {
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        match sample.payload().is_empty() {
            true => count.say(),
            false => count.add(),
        }
    });
    let _counting = counting.wait()?;
    loop {
        std::thread::park();
    }
}

fn engine(name: &str) -> Result<()> {
    let listener = SpscListener::bind(name)?;
    println!("ready");
    loop {
        let face = block_on(listener.accept())?;
        match face.recv_blocking().as_deref() {
            Some(ECHO) => echo(&face)?,
            Some(COUNT) => count(face),
            _ => {}
        }
    }
}

fn echo(face: &SpscFace) -> Result<()> {
    while let Some(packet) = face.recv_blocking() {
        face.send_blocking(packet)?;
    }
    Ok(())
}

/// Counts packets where they lie, as the subscriber does.
fn count(face: SpscFace) {
    let (_sender, mut receiver) = face.into_split();
    let mut count = Count::default();
    while receiver.recv_ref_blocking().is_some() {
        count.add();
    }
    count.say();
}

/// A child process, which is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Runs this program with other arguments.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        if std::env::var_os("RUST_LOG").is_none() {
            // Not each circuit that is opened.
            command.env("RUST_LOG", "warn");
        }
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no standard output")?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Waits for the next line that the process prints.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a process of the measurement ended".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
