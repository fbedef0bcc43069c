//! Carries wakering channels between machines, over zenoh. README.md says how, and what is
//! promised.

mod arguments;
mod bench;
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

use std::io::IsTerminal;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;
use import::Sizes;
use tracing_subscriber::EnvFilter;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    abort_on_panic();
    let filter = EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("warn,wakering_zenoh=info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("error: {error}");
            let mut cause = error.source();
            while let Some(because) = cause {
                eprint!(": {because}");
                cause = because.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// A panic of any thread ends the process, and thereby all channels, none of them in order.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Export { name, bridge } => {
            choose_threads();
            export::run(&name, bridge.zenoh()?, &bridge.key, bridge.limits())
        }
        Command::Import { name, bridge, max_packet, ring_bytes } => {
            choose_threads();
            let sizes = Sizes { max_packet, ring_bytes };
            import::run(&name, bridge.zenoh()?, &bridge.key, bridge.limits(), sizes)
        }
        Command::Bench(plan) => bench::run(&plan),
        Command::Far { far } => bench::perform(far),
    }
}

/// Tells zenoh which threads to have. Only the environment can.
#[allow(unsafe_code, reason = "the environment is changed")]
fn choose_threads() {
    let (variable, threads) = network::THREADS;
    if std::env::var_os(variable).is_none() {
        // SAFETY: no other thread reads or writes the environment: this one is the only one so far.
        unsafe { std::env::set_var(variable, threads) };
    }
}
