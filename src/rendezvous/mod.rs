//! How two processes find each other: names, the socket, the handshake, the lifeline.
//!
//! An engine binds a Unix `SOCK_SEQPACKET` socket under a name ([`bound`]), in a directory that
//! only it may write to ([`directory`], [`name`]), and looks after it at its [`desk`]. An
//! application [`dial`]s that name and says hello; the engine looks at its [`credentials`](crate::credentials),
//! answers, and passes the region ([`message`]). From then on the [`socket`] is the lifeline.
//!
//! Both sides are event-driven and name no driver: the desk is told what is ready, the dial says
//! what it waits for.
#![cfg(not(all(test, loom)))]

mod bound;
mod desk;
mod dial;
mod directory;
mod message;
mod name;
mod pair;
mod socket;
mod untrusted;

pub(crate) use bound::BoundSocket;
#[cfg(any(fuzzing, all(test, not(loom))))]
pub(crate) use desk::{Clients, Watcher};
pub(crate) use desk::{Desk, Host, Refusal};
pub(crate) use dial::{Connection, Dial, Progress};
#[cfg(all(test, not(loom)))]
pub(crate) use message::{Status as AnswerStatus, answer as an_answer, hello as a_hello};
pub(crate) use name::Name;
pub(crate) use pair::{adopt, pair};

#[cfg(all(test, not(loom)))]
mod tests;
