//! Carries wakering channels between machines, over zenoh. README.md says how, and what is
//! promised.

mod arguments;
mod breach;
mod bridge;
mod circuit;
mod credit;
mod duties;
mod export;
mod import;
mod inward;
mod network;
mod outward;
mod peer;
mod wire;

use arguments::{Arguments, Command};
use clap::Parser;
use import::Sizes;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> Result<()> {
    zenoh::init_log_from_env_or("warn,wakering_zenoh=info");
    match Arguments::parse().command {
        Command::Export { name, bridge } => {
            export::run(&name, bridge.zenoh()?, &bridge.key, bridge.limits())
        }
        Command::Import { name, bridge, max_packet, ring_bytes } => {
            let sizes = Sizes { max_packet, ring_bytes };
            import::run(&name, bridge.zenoh()?, &bridge.key, bridge.limits(), sizes)
        }
    }
}
