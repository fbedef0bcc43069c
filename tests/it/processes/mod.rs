//! Engines and applications in processes of their own.

mod clocks;
mod forked_peers;
mod peers;
mod stopped_peers;
