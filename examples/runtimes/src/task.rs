//! What one side of a measurement does, over a channel or a socket.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The length of what goes there and back.
pub const BYTES: usize = 64;

/// What one side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Sends, and waits until it is back, again and again.
    Ping { milliseconds: u64 },
    /// Sends back what comes.
    Echo,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping { milliseconds } => write!(f, "{milliseconds}"),
            Self::Echo => f.write_str("echo"),
        }
    }
}

impl FromStr for Task {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "echo" => Ok(Self::Echo),
            text => Ok(Self::Ping { milliseconds: text.parse()? }),
        }
    }
}

/// One end of a channel or a socket.
pub trait Carrier {
    /// Sends one packet.
    async fn send(&mut self, packet: [u8; BYTES]) -> io::Result<()>;

    /// Receives one packet, or `None` at the end.
    async fn receive(&mut self) -> io::Result<Option<[u8; BYTES]>>;
}

/// Does `task`. Returns the median round trip in microseconds, or `None` for an echo.
pub async fn perform(task: Task, mut carrier: impl Carrier) -> io::Result<Option<f64>> {
    match task {
        Task::Ping { milliseconds } => {
            ping(&mut carrier, Duration::from_millis(milliseconds)).await.map(Some)
        }
        Task::Echo => {
            while let Some(packet) = carrier.receive().await? {
                carrier.send(packet).await?;
            }
            Ok(None)
        }
    }
}

async fn ping(carrier: &mut impl Carrier, turn: Duration) -> io::Result<f64> {
    // The first ones find cold caches, and a peer that is still starting.
    let (begin, warm_up) = (Instant::now(), turn / 4);
    let mut trips = Vec::new();
    for number in 0_u64.. {
        let before = Instant::now();
        let mut packet = [0; BYTES];
        packet[..8].copy_from_slice(&number.to_le_bytes());
        carrier.send(packet).await?;
        if carrier.receive().await? != Some(packet) {
            return Err(io::Error::other("another packet came back"));
        }
        match begin.elapsed() {
            elapsed if elapsed > turn + warm_up => break,
            elapsed if elapsed > warm_up => trips.push(before.elapsed().as_secs_f64() * 1e6),
            _ => {}
        }
    }
    Ok(median(&mut trips))
}

/// Returns the median, or not-a-number if there are no figures.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
