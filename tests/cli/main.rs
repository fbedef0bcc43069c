//! The command `wakering`, run as a user runs it: in processes of their own.
//!
//!     cargo test --features cli --test cli

#[path = "../common/mod.rs"]
mod common;
#[path = "../../src/cli/json.rs"]
mod json;

mod bench;
mod cat;
mod doctor;
mod help;
mod ping;
mod program;
mod top;
