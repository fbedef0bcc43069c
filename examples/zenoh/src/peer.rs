//! A bridge at the other end of the network, and the thread that serves its circuits.
//!
//! A thread for each, because zenoh blocks a sender while the link to that bridge is congested. The
//! circuits of other bridges go on meanwhile.

use std::sync::Arc;
use std::thread;

use async_executor::{Executor, Task};
use event_listener::Event;
use wakering::Driver;
use zenoh::Wait;
use zenoh::pubsub::Publisher;

use crate::wire::BridgeId;

/// The other bridge, as long as somebody needs it.
#[derive(Debug)]
pub struct Peer {
    id: BridgeId,
    publisher: Publisher<'static>,
    driver: Driver,
    executor: Arc<Executor<'static>>,
    over: Arc<Event>,
}

impl Peer {
    /// Starts the thread.
    pub fn start(id: BridgeId, publisher: Publisher<'static>) -> crate::Result<Arc<Self>> {
        let (driver, executor, over) = (Driver::new()?, Arc::new(Executor::new()), Arc::default());
        let peer = Self { id, publisher, driver, executor, over };
        let (driver, executor) = (peer.driver.clone(), peer.executor.clone());
        let over = peer.over.listen();
        thread::Builder::new().name(format!("peer {:.8}", id.to_string())).spawn(move || {
            driver.block_on(executor.run(over));
        })?;
        Ok(Arc::new(peer))
    }

    pub fn id(&self) -> BridgeId {
        self.id
    }

    /// The driver that the thread runs. Channels that its tasks use are to be bound to it.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Runs a task on the thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Task<()> {
        self.executor.spawn(task)
    }

    /// Sends a message to the other bridge. Blocks while the link is congested.
    pub fn send(&self, message: Vec<u8>) -> zenoh::Result<()> {
        self.publisher.put(message).wait()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.over.notify(usize::MAX);
    }
}
