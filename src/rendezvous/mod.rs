//! How two peers find each other, check each other, and learn of each other's end.
//!
//! An engine binds a Unix `SOCK_SEQPACKET` socket under a name ([`listener_socket`]), in a
//! directory that only the engine's user may write to ([`directory`], [`name`]), and answers
//! clients there ([`acceptor`]). An application connects to that name ([`connector`]) and sends a
//! hello. The engine checks the application's [`credentials`], answers, and passes the region
//! ([`message`]). From then on the [`socket`] is the [`lifeline`].
//!
//! Both sides are event-driven and depend on no driver: the acceptor is told what is ready, and the
//! connector returns what it waits for.

pub(crate) mod credentials;
pub(crate) mod lifeline;
#[cfg(not(all(test, loom)))]
mod directory;
#[cfg(not(all(test, loom)))]
mod message;
#[cfg(not(all(test, loom)))]
mod name;
#[cfg(not(all(test, loom)))]
mod socket;
#[cfg(not(all(test, loom)))]
mod untrusted;
#[cfg(not(all(test, loom)))]
mod listener_socket;
#[cfg(not(all(test, loom)))]
mod acceptor;
#[cfg(not(all(test, loom)))]
mod connector;
#[cfg(not(all(test, loom)))]
mod pair;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(any(fuzzing, all(test, not(loom))))]
pub(crate) use acceptor::{Clients, Watcher};
#[cfg(all(test, not(loom)))]
pub(crate) use message::{Status as AnswerStatus, answer as an_answer, hello as a_hello};
#[cfg(not(all(test, loom)))]
pub(crate) use {
    acceptor::{Acceptor, Host, Refusal},
    connector::{Connection, Connector, Progress},
    listener_socket::ListenerSocket,
    name::Name,
    pair::{adopt, pair},
};
