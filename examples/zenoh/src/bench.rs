//! Measures the bridges beside zenoh's own put and subscribe.
//!
//! Both run over the same kind of link, TCP on this machine, in turns: round trips, then streams.
//! zenoh's own way has two processes, and its loops are those of its examples `z_ping`, `z_pong`,
//! `z_pub_thr` and `z_sub_thr`. The bridged way has four: this process is the application.

mod far;
mod plain;
mod bridged;
mod sample;

use std::time::Duration;

use crate::Result;
use bridged::Bridged;
use plain::Plain;
use sample::{Comparison, Way};

/// The aims: the least ratio of the rates, and the greatest of the round trips.
const LEAST_RATE: f64 = 0.7;
const MOST_ROUND_TRIP: f64 = 1.3;

/// What is measured, and for how long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Plan {
    /// How often each way has its turn
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each turn takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..))]
    turn: u64,
    /// The length of the packets of the stream
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    bytes: usize,
    /// The length of the packets that go there and back
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    ping_bytes: usize,
}

pub use far::{Far, perform};

/// Measures, and prints the ratios.
pub fn run(plan: &Plan) -> Result<()> {
    let turn = Duration::from_millis(plan.turn);
    let mut plain = Plain::start()?;
    let mut bridged = Bridged::start()?;
    let mut trips = Comparison::new(format!("round trip of {} B, us", plan.ping_bytes));
    let mut rates = Comparison::new(format!("stream of {} B, packets/s", plan.bytes));
    for _ in 0..plan.rounds {
        trips.add(
            plain.round_trip(plan.ping_bytes, turn)?,
            bridged.round_trip(plan.ping_bytes, turn)?,
        );
        rates.add(plain.stream(plan.bytes, turn)?, bridged.stream(plan.bytes, turn)?);
    }
    println!("{:<32} {:>11} {:>11} {:>6}  aim", "median of the turns", "zenoh", "bridged", "ratio");
    println!("{trips}  at most {MOST_ROUND_TRIP}: {}", verdict(trips.ratio() <= MOST_ROUND_TRIP));
    println!("{rates}  at least {LEAST_RATE}: {}", verdict(rates.ratio() >= LEAST_RATE));
    Ok(())
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "missed" }
}
