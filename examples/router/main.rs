//! A router between two applications: what it costs, and whether everything arrives.
//!
//! ```text
//! cargo run --release --example router
//! ```
//!
//! This process is the *engine*. It starts itself twice more as *applications*, which know nothing
//! of each other. Each application connects to the engine by name, and the engine routes packets
//! from one to the other and back (`engine.rs`, `application.rs`). First it measures round trips of
//! 64 bytes, which pass the engine twice each, then one-way streams of packets of several sizes.
//! The applications check every byte of every packet (`packet.rs`).
#![allow(clippy::print_stdout, reason = "the result goes there")]

mod application;
mod arguments;
mod engine;
mod packet;
mod report;

use std::error::Error;
use std::process::ExitCode;

use arguments::{Arguments, Mode};
use engine::Engine;
use report::Report;
use wakering::Driver;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    RoundTrip { bytes: usize },
    Stream { bytes: usize },
}

const STEPS: [Step; 5] = [
    Step::RoundTrip { bytes: 64 },
    Step::Stream { bytes: 64 },
    Step::Stream { bytes: 1 << 10 },
    Step::Stream { bytes: 8 << 10 },
    Step::Stream { bytes: 64 << 10 },
];

fn main() -> ExitCode {
    let outcome = match arguments::parse(std::env::args().skip(1)) {
        Ok(Mode::Route(arguments)) => route(&arguments),
        Ok(Mode::Apply(backend)) => application::run(backend).map(|()| true),
        Ok(Mode::Help) => {
            print!("{}", arguments::HELP);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("router: {problem}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("router: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all steps. Returns `true` if nothing was lost or corrupted.
fn route(arguments: &Arguments) -> Result<bool> {
    // The engine and each application have one thread, which sleeps in its driver.
    let driver = Driver::builder().backend(arguments.backend).build()?;
    driver.block_on(async {
        let mut engine = Engine::start(&driver, arguments.backend)?;
        let mut report = Report::new(arguments.json, engine.backend());
        for step in STEPS {
            report.begins(step);
            let outcome = engine.run(step, arguments.seconds, &report).await?;
            report.ends(step, outcome);
        }
        Ok(report.finish())
    })
}
