//! The tests that can share a process, one module for each theme.
//!
//! Tests that change their process, count what it holds or measure times have their own binaries
//! next to this one: `fork`, `limits`, `without_io_uring`, `kills`, `listener_churn` and `timing`.

#[path = "../common/mod.rs"]
mod common;

mod auto_traits;
mod blocked_senders;
mod byte_streams;
mod cancel;
mod driver;
mod dry_spells;
mod duplex;
mod ends;
mod fill_levels;
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
mod wakers;
mod weak_ends;
