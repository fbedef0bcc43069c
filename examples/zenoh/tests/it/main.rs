//! Engines, bridges and applications as processes of their own, and two zenoh sessions over
//! loopback TCP.

mod packets;
mod party;
mod process;
mod proxy;
mod world;
#[path = "../../src/wire.rs"]
#[allow(dead_code, reason = "not all of it is needed to lie")]
mod wire;
mod ends;
mod flow;
mod hostile;
mod kills;
mod link;
mod many;

use std::time::Duration;

/// The longest that anything may take, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(240);
