//! How a side sleeps, and how it is woken.

pub(crate) mod bell;
pub(crate) mod pace;
pub(crate) mod spin;
pub(crate) mod waiters;
pub(crate) mod waker_slot;
pub(crate) mod yields;
