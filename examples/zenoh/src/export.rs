//! Beside the engine: connects to it for the applications of other machines.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use wakering::SpscHandle;

use crate::Result;
use crate::bridge::{Bridge, Full, Limits, Opening};
use crate::circuit::Circuit;
use crate::network::{Network, Role};
use crate::wire::Cut;

/// How many circuits may wait to be opened, and how many to be refused. Any more are not answered.
const MOST_OPENINGS: usize = 128;

/// How long the engine may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves the engine `name`.
pub fn run(name: &str, config: zenoh::Config, key: &str, limits: Limits) -> Result<()> {
    let bridge = Bridge::new(Network::open(config, key, Role::Export)?, limits);
    // The callback may not block, and to open a circuit may.
    let (sender, openings) = sync_channel(MOST_OPENINGS);
    let receiving = bridge.clone();
    let _subscriber = bridge.network().subscribe(move |message| {
        if let Some(opening) = receiving.receive(message)
            && sender.try_send(opening).is_err()
        {
            tracing::warn!("circuit {} is not answered: too many at once", opening.circuit);
        }
    })?;
    let watching = bridge.clone();
    let _watch = bridge.network().watch(move |id, is_there| {
        if !is_there {
            watching.lose(id);
        }
    })?;
    let _token = bridge.network().announce()?;
    bridge.start_clock()?;
    let refusals = start_refusals(&bridge)?;
    tracing::info!("exports {name} under {key}");
    for opening in openings {
        if let Err(error) = open(&bridge, name, &opening) {
            tracing::warn!("circuit {} is refused: {error}", opening.circuit);
            let cut = if error.is::<Full>() { Cut::TooMany } else { Cut::Breach };
            if refusals.try_send((opening, cut)).is_err() {
                tracing::warn!("circuit {} is not answered: too many at once", opening.circuit);
            }
        }
    }
    Ok(())
}

/// Starts the thread that refuses openings. zenoh blocks it while the link to one of the bridges is
/// congested; the circuits of the others are opened meanwhile.
fn start_refusals(bridge: &Arc<Bridge>) -> Result<SyncSender<(Opening, Cut)>> {
    let (sender, refusals) = sync_channel(MOST_OPENINGS);
    let bridge = bridge.clone();
    thread::Builder::new().name("refusals".to_owned()).spawn(move || {
        for (opening, cut) in refusals {
            if let Err(error) = bridge.refuse(&opening, cut) {
                tracing::warn!("circuit {} is not answered: {error}", opening.circuit);
            }
        }
    })?;
    Ok(sender)
}

fn open(bridge: &Arc<Bridge>, name: &str, opening: &Opening) -> Result<()> {
    let Opening { circuit, from, offer } = *opening;
    let peer = bridge.peer(from)?;
    let builder = SpscHandle::builder().driver(peer.driver());
    let builder = builder.send_timeout(None).connect_timeout(CONNECT_TIMEOUT);
    let circuit = Circuit::opened(circuit, peer, bridge.limits().patience, offer)?;
    let name = name.to_owned();
    bridge.run(circuit, |circuit| async move {
        let connecting = async { builder.connect_async(&name).await.map(Into::into) };
        circuit.accept(connecting).await;
    })
}
