//! The public types: the two ends, their builders and halves, and packets in place.

pub(crate) mod batch;
pub(crate) mod canceller;
pub(crate) mod duplex;
mod end_calls;
pub(crate) mod endpoint;
#[cfg(not(all(test, loom)))]
pub(crate) mod face;
#[cfg(not(all(test, loom)))]
pub(crate) mod face_builder;
#[cfg(not(all(test, loom)))]
mod face_config;
#[allow(unsafe_code, reason = "`BufMut` is an unsafe trait, and hands out the ring's own bytes")]
pub(crate) mod grant;
#[cfg(not(all(test, loom)))]
pub(crate) mod handle;
#[cfg(not(all(test, loom)))]
pub(crate) mod listener;
#[cfg(not(all(test, loom)))]
mod options;
#[allow(unsafe_code, reason = "reading in place rests on the caller's trust in the peer")]
pub(crate) mod packet;
pub(crate) mod packet_reader;
pub(crate) mod packet_writer;
pub(crate) mod receiver;
pub(crate) mod sender;
#[cfg(not(all(test, loom)))]
mod serving;
