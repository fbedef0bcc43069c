//! Engines, bridges and applications as processes of their own, and two zenoh sessions over
//! loopback TCP.

mod packets;
mod party;
mod process;
mod proxy;
mod world;
mod ends;
mod flow;
mod kills;
mod link;
mod many;

use std::time::Duration;

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
