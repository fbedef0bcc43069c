//! All circuits of a process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::circuit::Circuit;
use crate::network::Network;
use crate::peer::Peer;
use crate::wire::{self, Body, BridgeId, CircuitId, Cut, Header, Offer};

/// How many bridges may have circuits with this one. Each costs a thread.
const MOST_PEERS: usize = 64;

/// How often each circuit looks at the clock.
const TICK: Duration = Duration::from_millis(100);

/// What both kinds of bridges have.
#[derive(Debug)]
pub struct Bridge {
    network: Network,
    limits: Limits,
    circuits: Mutex<HashMap<CircuitId, Arc<Circuit>>>,
    peers: Mutex<HashMap<BridgeId, Weak<Peer>>>,
}

/// What bounds a bridge.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many circuits there may be.
    pub circuits: usize,
    /// How long the other end of one may be silent.
    pub patience: Duration,
}

/// A circuit that the other bridge wants to open.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    pub circuit: CircuitId,
    pub from: BridgeId,
    pub offer: Offer,
}

/// Why there is no new circuit.
#[derive(Debug, thiserror::Error)]
pub enum Full {
    #[error("there are {0} circuits already, as many as are allowed")]
    Circuits(usize),
    #[error("{MOST_PEERS} other bridges have circuits already, as many as are allowed")]
    Peers,
}

impl Bridge {
    pub fn new(network: Network, limits: Limits) -> Arc<Self> {
        let (circuits, peers) = (Mutex::default(), Mutex::default());
        Arc::new(Self { network, limits, circuits, peers })
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the bridge at the other end with this id.
    pub fn peer(&self, id: BridgeId) -> Result<Arc<Peer>> {
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(&id).and_then(Weak::upgrade) {
            return Ok(peer);
        }
        peers.retain(|_, peer| peer.strong_count() > 0);
        if peers.len() >= MOST_PEERS {
            return Err(Full::Peers.into());
        }
        let peer = Peer::start(id, self.network.publisher(id)?)?;
        peers.insert(id, Arc::downgrade(&peer));
        Ok(peer)
    }

    /// Runs a circuit on the thread of its peer, until it is over.
    pub fn run<F>(
        self: &Arc<Self>,
        circuit: Circuit,
        work: impl FnOnce(Arc<Circuit>) -> F,
    ) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (id, peer, circuit) = (circuit.id(), circuit.peer().clone(), Arc::new(circuit));
        {
            let mut circuits = lock(&self.circuits);
            if circuits.len() >= self.limits.circuits {
                return Err(Full::Circuits(circuits.len()).into());
            }
            match circuits.entry(id) {
                Entry::Vacant(place) => place.insert(circuit.clone()),
                Entry::Occupied(_) => return Err(format!("circuit {id} exists already").into()),
            };
        }
        let (bridge, work) = (self.clone(), work(circuit));
        let task = async move {
            work.await;
            lock(&bridge.circuits).remove(&id);
        };
        peer.spawn(task).detach();
        Ok(())
    }

    /// Takes a message from the network. Never blocks. Returns a circuit that it asks for.
    pub fn receive(&self, message: &[u8]) -> Option<Opening> {
        // PEER: anybody who may publish under the key can have sent this.
        let (header, body) = match wire::decode(message) {
            Ok(decoded) => decoded,
            Err(malformed) => {
                tracing::debug!("ignored: {malformed}");
                return None;
            }
        };
        let circuit = lock(&self.circuits).get(&header.circuit).cloned();
        match (circuit, body) {
            (Some(circuit), body) => circuit.receive(&header, &body),
            (None, Body::Open { from, offer }) if header.number == 0 => {
                return Some(Opening { circuit: header.circuit, from, offer });
            }
            // What was under way when the circuit ended.
            (None, _) => tracing::debug!("ignored: a message of no circuit"),
        }
        None
    }

    /// Answers that a circuit is not opened. Blocks while the link is congested.
    pub fn refuse(&self, opening: &Opening, cut: Cut) -> Result<()> {
        let header = Header { circuit: opening.circuit, number: 0, freed: 0 };
        let publisher = self.network.publisher(opening.from)?;
        zenoh::Wait::wait(publisher.put(wire::encode(&header, &Body::Cancel(cut))))?;
        Ok(())
    }

    /// Cuts all circuits with a bridge that is gone.
    pub fn lose(&self, id: BridgeId) {
        for circuit in self.all() {
            if circuit.peer().id() == id {
                circuit.cut(Cut::BridgeGone);
            }
        }
    }

    /// Starts the thread that lets the circuits look at the clock.
    pub fn start_clock(self: &Arc<Self>) -> Result<()> {
        let bridge = self.clone();
        thread::Builder::new().name("clock".to_owned()).spawn(move || {
            loop {
                thread::sleep(TICK);
                if bridge.network.is_closed() {
                    tracing::error!("zenoh has ended");
                    // No channel is closed in order by this.
                    std::process::exit(1);
                }
                bridge.all().iter().for_each(|circuit| circuit.tick());
            }
        })?;
        Ok(())
    }

    fn all(&self) -> Vec<Arc<Circuit>> {
        lock(&self.circuits).values().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
