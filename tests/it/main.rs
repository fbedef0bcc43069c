//! The tests that share a process, a module for each theme.
//!
//! What changes its process, counts what the process holds or measures times has a binary of its own
//! beside this one.

#[path = "../common/mod.rs"]
mod common;

mod auto_traits;
mod blocked_senders;
mod cancel;
mod driver;
mod ends;
mod hostile;
mod in_place;
mod interop;
mod listener;
mod model;
mod names;
mod packets;
mod processes;
mod runtimes;
mod send_timeout;
mod sharing;
mod sink_stream;
mod top;
mod wakers;
