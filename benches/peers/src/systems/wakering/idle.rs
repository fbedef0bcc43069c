//! wakering, unused: what a channel takes on each side.

use super::open::{Runner, SLEEPING, open};
use crate::Result;
use crate::meters::resident_bytes;
use crate::outcome::Outcome;
use crate::row::Measure;
use crate::stage::Stage;
use crate::system::System;

pub(crate) const SYSTEMS: &[System] = &[System {
    name: "wakering, idle",
    about: "channels that nobody uses; background driver",
    measures: &[Measure::Idle],
    sizes: &[64],
    limits: &[],
    perform,
    ..SLEEPING
}];

/// From the difference that many of them make.
fn perform(stage: &mut Stage) -> Result<Outcome> {
    const CHANNELS: u64 = 32;

    // The first one starts the driver.
    let _first = open(stage, Runner::Background)?;
    stage.link.meet()?;
    let before = resident_bytes()?;
    let channels: Result<Vec<_>> = (0..CHANNELS).map(|_| open(stage, Runner::Background)).collect();
    let _channels = channels?;
    stage.link.meet()?;
    let resident = resident_bytes()?.saturating_sub(before) / CHANNELS;
    stage.link.meet()?;
    Ok(Outcome { resident, ..Outcome::default() })
}
