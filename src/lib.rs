//! Packets between two Linux processes through shared memory, for any async executor.

mod sync;
mod error;
mod layout;
#[allow(unsafe_code, reason = "raw pointers into the mapping live here and nowhere else")]
mod region;
mod futex;
mod ring;
mod bell;
mod waiters;
mod spin;
mod driver;
#[allow(unsafe_code, reason = "two socket options that rustix cannot read or set")]
mod sockopt;
mod credentials;
mod lifeline;
mod endpoint;
mod canceller;
mod sender;
mod receiver;
mod rendezvous;
mod face;
mod listener;
mod handle;
#[cfg(any(fuzzing, all(test, not(loom))))]
#[doc(hidden)]
pub mod fuzzing;

pub use canceller::Canceller;
pub use credentials::PeerCredentials;
pub use driver::{Backend, Driver, DriverBuilder};
pub use endpoint::{Endpoint, Stats};
pub use error::{CloseReason, RecvTimeoutError, ShmError, TryRecvError, TrySendError, Violation};
pub use face::{FaceBuilder, SpscFace};
pub use handle::{HandleBuilder, SpscHandle};
pub use listener::{ListenerStats, SpscListener};
pub use receiver::Receiver;
pub use sender::Sender;

/// Has the example of the README compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
