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
