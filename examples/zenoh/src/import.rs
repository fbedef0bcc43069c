//! Beside the applications: an engine of the same name, as long as there is an export.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::executor::block_on;
use wakering::{FaceBuilder, ShmError, SpscFace, SpscListener};

use crate::bridge::{Bridge, Limits};
use crate::circuit::Circuit;
use crate::network::{Network, Role};
use crate::peer::Peer;
use crate::wire::{BridgeId, CircuitId};
use crate::{Error, Result};

/// How many exports are remembered. One is used, the others are there if it goes.
const MOST_EXPORTS: usize = 16;

/// How long to wait before a name is bound again that could not be.
const PAUSE: Duration = Duration::from_secs(1);

/// The sizes of the applications' channels, unless the library's own are right.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes {
    pub max_packet: Option<usize>,
    pub ring_bytes: Option<usize>,
}

impl Sizes {
    fn apply(self, mut builder: FaceBuilder) -> FaceBuilder {
        if let Some(bytes) = self.max_packet {
            builder = builder.max_packet(bytes);
        }
        if let Some(bytes) = self.ring_bytes {
            builder = builder.ring_bytes(bytes);
        }
        builder
    }
}

/// Serves applications under `name`.
pub fn run(
    name: &str,
    config: zenoh::Config,
    key: &str,
    limits: Limits,
    sizes: Sizes,
) -> Result<()> {
    // Sizes that are not allowed are found before anybody connects.
    sizes.apply(SpscFace::builder()).pair()?;
    let bridge = Bridge::new(Network::open(config, key, Role::Import)?, limits);
    let receiving = bridge.clone();
    let _subscriber = bridge.network().subscribe(move |message| {
        // Nobody opens a circuit towards the applications.
        let _ = receiving.receive(message);
    })?;
    let _token = bridge.network().announce()?;
    let exports = Arc::new(Exports::default());
    let (watching, noticing) = (bridge.clone(), exports.clone());
    let _watch = bridge.network().watch(move |id, is_there| {
        noticing.notice(id, is_there);
        if !is_there {
            watching.lose(id);
        }
    })?;
    bridge.start_clock()?;
    loop {
        let export = exports.wait_for_one();
        match serve(&bridge, name, sizes, &export, &exports) {
            Ok(()) => tracing::info!("export {} is gone", export.id),
            Err(error) if may_pass(&error) => {
                tracing::error!("cannot serve {name}: {error}");
                exports.wait_until_gone(&export, Some(PAUSE));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether it makes sense to try again: another engine may have the name for a while, threads,
/// memory or places for peers may be lacking, and the kernel may have failed a driver.
fn may_pass(error: &Error) -> bool {
    error.downcast_ref().is_none_or(|error| {
        matches!(error, ShmError::NameInUse { .. } | ShmError::Io { .. } | ShmError::Closed { .. })
    })
}

/// Has the name as long as the export is there, as if the engine itself had it.
fn serve(
    bridge: &Arc<Bridge>,
    name: &str,
    sizes: Sizes,
    export: &Export,
    exports: &Exports,
) -> Result<()> {
    let peer = bridge.peer(export.id)?;
    let builder = SpscListener::builder().driver(peer.driver()).send_timeout(None);
    let place = Arc::new(Place {
        listener: sizes.apply(builder).bind(name)?,
        is_over: export.is_gone.clone(),
    });
    tracing::info!("imports {name} from {}", export.id);
    let accepting = peer.spawn(accept(bridge.clone(), peer.clone(), place.clone()));
    exports.wait_until_gone(export, None);
    // The name is free at once. Those who came too late are cut off as the others are.
    place.listener.close();
    block_on(accepting);
    bridge.lose(export.id);
    Ok(())
}

/// Where applications come.
struct Place {
    listener: SpscListener,
    is_over: Arc<AtomicBool>,
}

async fn accept(bridge: Arc<Bridge>, peer: Arc<Peer>, place: Arc<Place>) {
    loop {
        match place.listener.accept().await {
            Ok(face) => {
                // From here on, only an end that the engine has made is an orderly one.
                face.cancel_on_drop(true);
                if !place.is_over.load(Ordering::SeqCst) {
                    begin(&bridge, &peer, face);
                }
            }
            Err(ShmError::Closed { .. }) => return,
            Err(error) => tracing::warn!("an application is not served: {error}"),
        }
    }
}

fn begin(bridge: &Arc<Bridge>, peer: &Arc<Peer>, face: SpscFace) {
    let begun = random().and_then(|id| {
        let circuit = Circuit::to_open(CircuitId(id), peer.clone(), bridge.limits().patience);
        let from = bridge.network().id();
        bridge.run(circuit, |circuit| async move { circuit.open(from, face.into()).await })
    });
    if let Err(error) = begun {
        tracing::warn!("an application is not served: {error}");
    }
}

fn random() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random number: {error}"))?;
    Ok(u128::from_le_bytes(bytes))
}

/// An export from when it comes until it goes. If it comes back, it is another one.
#[derive(Debug, Clone)]
struct Export {
    id: BridgeId,
    is_gone: Arc<AtomicBool>,
}

/// The exports that are there, the one in use first.
#[derive(Debug, Default)]
struct Exports {
    list: Mutex<Vec<Export>>,
    changed: Condvar,
}

impl Exports {
    fn notice(&self, id: BridgeId, is_there: bool) {
        let mut list = self.lock();
        let known = list.iter().position(|other| other.id == id);
        match (known, is_there) {
            (None, true) if list.len() < MOST_EXPORTS => {
                list.push(Export { id, is_gone: Arc::default() });
            }
            (None, true) => tracing::warn!("export {id} is ignored: there are {MOST_EXPORTS}"),
            (Some(at), false) => list.remove(at).is_gone.store(true, Ordering::SeqCst),
            _ => {}
        }
        self.changed.notify_all();
    }

    fn wait_for_one(&self) -> Export {
        let mut list = self.lock();
        loop {
            if let Some(first) = list.first() {
                return first.clone();
            }
            list = self.changed.wait(list).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until `export` is gone, or for at most `timeout`.
    fn wait_until_gone(&self, export: &Export, timeout: Option<Duration>) {
        let timeout = timeout.unwrap_or(Duration::MAX);
        let is_there = |_: &mut Vec<Export>| !export.is_gone.load(Ordering::SeqCst);
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, is_there);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Export>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
