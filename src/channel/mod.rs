//! One end of a channel: sending, receiving, waiting, and closing.

mod bell_wait;
mod block;
mod budget;
mod closing;
mod counters;
mod deadline;
mod ends;
mod events;
mod hangup;
mod loan_guard;
mod payload;
mod recv;
mod rx;
mod send;
mod send_end;
mod send_half;
mod shared;
mod spurious_wakes;
mod tx;
mod wait;
mod with_mut;

pub(crate) use budget::Limit;
pub use counters::Stats;
pub(crate) use deadline::{Deadline, deadline_after};
pub(crate) use ends::Directions;
pub(crate) use loan_guard::LoanGuard;
#[cfg(all(test, not(loom)))]
pub(crate) use payload::Payload;
pub(crate) use recv::{RecvFuture, from_taken, from_timed, take_at_once};
pub(crate) use rx::Rx;
pub(crate) use send::{SendFuture, send, send_blocking};
pub(crate) use send_end::{SharedTx, Whole};
pub(crate) use send_half::SendHalf;
pub(crate) use shared::{Channel, Options};
#[cfg(all(test, not(loom)))]
pub(crate) use tx::Attempt;
pub(crate) use tx::Tx;
