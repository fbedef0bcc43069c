//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use zenoh::Config;

use crate::Result;
use crate::bench::{Far, Plan};
use crate::bridge::Limits;
use crate::network;

/// Carries wakering channels between machines, over zenoh.
#[derive(Debug, Parser)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Beside an engine: connects to it for the applications of other machines
    Export {
        /// The name of the engine, which has to be one that accepts many applications
        name: String,
        #[command(flatten)]
        bridge: BridgeArguments,
    },
    /// Beside applications: lets them connect to the engine as if it were here
    Import {
        /// The name under which applications connect
        name: String,
        #[command(flatten)]
        bridge: BridgeArguments,
        /// The longest packet of the applications' channels, in bytes; should be the engine's
        #[arg(long, value_name = "BYTES")]
        max_packet: Option<usize>,
        /// The ring of the applications' channels, in bytes each way
        #[arg(long, value_name = "BYTES")]
        ring_bytes: Option<usize>,
    },
    /// Measures the bridges beside zenoh's own put and subscribe, on this machine
    Bench(Plan),
    /// A far process of a measurement
    #[command(hide = true)]
    Far {
        #[command(subcommand)]
        far: Far,
    },
}

#[derive(Debug, Args)]
pub struct BridgeArguments {
    /// The key expression that both bridges have in common, without wildcards
    #[arg(long)]
    pub key: String,
    /// zenoh's configuration file, for routers, TLS and all else
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An endpoint to listen on, such as tcp/0.0.0.0:7447; may be repeated
    #[arg(long, value_name = "ENDPOINT")]
    listen: Vec<String>,
    /// An endpoint to connect to, such as tcp/192.168.0.1:7447; may be repeated
    #[arg(long, value_name = "ENDPOINT")]
    connect: Vec<String>,
    /// Do not look for other zenoh nodes by multicast
    #[arg(long)]
    no_multicast: bool,
    /// How many applications may be connected at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    most: u32,
    /// After how much silence the other end of a channel is taken to be lost
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..))]
    patience: u64,
}

impl BridgeArguments {
    /// What bounds the bridge.
    pub fn limits(&self) -> Limits {
        Limits { circuits: self.most as usize, patience: Duration::from_secs(self.patience) }
    }

    /// The configuration of the zenoh session.
    pub fn zenoh(&self) -> Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::from_file(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?,
            None => Config::default(),
        };
        for (setting, endpoints) in
            [("listen/endpoints", &self.listen), ("connect/endpoints", &self.connect)]
        {
            if !endpoints.is_empty() {
                config.insert_json5(setting, &format!("{endpoints:?}"))?;
            }
        }
        if self.no_multicast {
            config.insert_json5("scouting/multicast/enabled", "false")?;
        }
        network::tune(&mut config)?;
        Ok(config)
    }
}
