//! Figures of two ways, side by side.

use std::fmt;
use std::time::{Duration, Instant};

use crate::Result;

/// One way to carry packets to the far process and back.
pub trait Way {
    /// Sends a packet of `bytes` there and waits until it is back, for as long as `turn`. Returns
    /// the median in microseconds.
    fn round_trip(&mut self, bytes: usize, turn: Duration) -> Result<f64>;

    /// Sends packets of `bytes` for as long as `turn`. Returns how many came a second.
    fn stream(&mut self, bytes: usize, turn: Duration) -> Result<f64>;
}

/// Repeats `trip`, and returns the median of how long it took, in microseconds.
pub fn median_trip(turn: Duration, mut trip: impl FnMut() -> Result<()>) -> Result<f64> {
    // The first ones find cold caches and sleeping threads.
    let (begin, warm_up) = (Instant::now(), turn / 10);
    let mut trips = Vec::new();
    while begin.elapsed() < turn {
        let before = Instant::now();
        trip()?;
        if begin.elapsed() > warm_up {
            trips.push(before.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(median(&mut trips))
}

/// The figures of all turns.
#[derive(Debug)]
pub struct Comparison {
    title: String,
    plain: Vec<f64>,
    bridged: Vec<f64>,
}

impl Comparison {
    pub fn new(title: String) -> Self {
        Self { title, plain: Vec::new(), bridged: Vec::new() }
    }

    /// Adds the figures of two turns, one after the other.
    pub fn add(&mut self, plain: f64, bridged: f64) {
        eprintln!("{:<32} {plain:>11.1} {bridged:>11.1}", self.title);
        self.plain.push(plain);
        self.bridged.push(bridged);
    }

    /// The median of the ratios of neighbours: what disturbs the machine for longer than a turn
    /// disturbs both.
    pub fn ratio(&self) -> f64 {
        let pairs = self.bridged.iter().zip(&self.plain);
        median(&mut pairs.map(|(ours, plain)| ours / plain).collect::<Vec<_>>())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [plain, bridged] = [&self.plain, &self.bridged].map(|all| median(&mut all.clone()));
        write!(f, "{:<32} {plain:>11.1} {bridged:>11.1} {:>6.2}", self.title, self.ratio())
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
