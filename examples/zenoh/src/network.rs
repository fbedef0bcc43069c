//! What the bridges use of zenoh.
//!
//! Under the key `K`, a bridge with the id `B` has a liveliness token and a subscription each, at
//! `K/export/B` and `K/export/B/in`, or `K/import/...`. The subscription is declared first, so that
//! whoever sees the token can send.

use zenoh::key_expr::KeyExpr;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::{CongestionControl, Priority};
use zenoh::sample::{Sample, SampleKind};
use zenoh::{Config, Session, Wait};

use crate::Result;
use crate::wire::BridgeId;

/// Which side of the network a bridge is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Beside the engine.
    Export,
    /// Beside the applications.
    Import,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Import => "import",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Export => Self::Import,
            Self::Import => Self::Export,
        }
    }
}

/// How many batches of zenoh's, of 64 KiB, may wait for the link. With zenoh's own number, 2, a
/// stream of full batches waits for the link's thread once a message.
const BATCHES: &str = "16";

/// Changes what a session would do by default, unless the configuration has something else.
pub fn tune(config: &mut Config) -> Result<()> {
    let queue = "transport/link/tx/queue/size/data";
    if config.get_json(queue)? == Config::default().get_json(queue)? {
        config.insert_json5(queue, BATCHES)?;
    }
    Ok(())
}

/// The variable that says which threads zenoh has, and what it is set to unless it is set already.
///
/// By zenoh's own default, other threads than those that receive wait for the link and wake these:
/// that is one change of threads more for each message.
pub const THREADS: (&str, &str) = ("ZENOH_RUNTIME", "(acc: (handover: rx), net: (handover: rx))");

/// A zenoh session, and the bridge's place in it.
#[derive(Debug)]
pub struct Network {
    session: Session,
    key: KeyExpr<'static>,
    role: Role,
}

impl Network {
    pub fn open(config: Config, key: &str, role: Role) -> Result<Self> {
        let key = KeyExpr::new(key.to_owned())
            .map_err(|error| format!("the key {key:?} is not allowed: {error}"))?;
        if key.is_wild() {
            return Err(format!("the key {key:?} is not allowed: it has wildcards").into());
        }
        let session = zenoh::open(config).wait()?;
        Ok(Self { session, key, role })
    }

    /// The id of this bridge.
    pub fn id(&self) -> BridgeId {
        BridgeId(u128::from_le_bytes(self.session.zid().to_le_bytes()))
    }

    /// Whether zenoh has given up.
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Calls `receive` with the messages for this bridge.
    pub fn subscribe(
        &self,
        receive: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<Subscriber<()>> {
        let callback = move |sample: Sample| {
            if sample.kind() == SampleKind::Put {
                receive(&sample.payload().to_bytes());
            }
        };
        let inbox = self.inbox(self.role, self.id());
        self.session.declare_subscriber(inbox).callback(callback).wait()
    }

    /// Tells the bridges of the other side that this one is there, and when it no longer is.
    pub fn announce(&self) -> Result<LivelinessToken> {
        self.session.liveliness().declare_token(self.place(self.role, self.id())).wait()
    }

    /// Calls `noticed` with each bridge of the other side that comes (`true`) or goes.
    pub fn watch(
        &self,
        noticed: impl Fn(BridgeId, bool) + Send + Sync + 'static,
    ) -> Result<Subscriber<()>> {
        let places = format!("{}/{}/*", self.key, self.role.other().name());
        let callback = move |sample: Sample| {
            let id = sample.key_expr().rsplit('/').next();
            let id =
                id.filter(|id| id.len() == 32).and_then(|id| u128::from_str_radix(id, 16).ok());
            match id {
                Some(id) => noticed(BridgeId(id), sample.kind() == SampleKind::Put),
                None => tracing::debug!("a token of another kind: {}", sample.key_expr()),
            }
        };
        let tokens = self.session.liveliness().declare_subscriber(places);
        tokens.history(true).callback(callback).wait()
    }

    /// Makes what sends messages to a bridge of the other side.
    ///
    /// Reliable, and never dropped by zenoh while the link stands. Not batched by zenoh, because
    /// the messages are batches already.
    pub fn publisher(&self, to: BridgeId) -> Result<Publisher<'static>> {
        let publisher = self.session.declare_publisher(self.inbox(self.role.other(), to));
        let publisher = publisher.congestion_control(CongestionControl::Block);
        publisher.priority(Priority::Data).express(true).wait()
    }

    fn place(&self, role: Role, id: BridgeId) -> String {
        format!("{}/{}/{id}", self.key, role.name())
    }

    fn inbox(&self, role: Role, id: BridgeId) -> String {
        format!("{}/in", self.place(role, id))
    }
}
