//! The command line.

use std::time::Duration;

use wakering::Backend;

pub(crate) const HELP: &str = "\
Routes packets between two applications and checks every one of them.

Usage: cargo run --release --example router -- [OPTIONS]

Options:
  --seconds N        how long each step runs: 0.01 to 3600, fractions allowed (default 1)
  --backend BACKEND  auto, io-uring or epoll (default auto: io-uring where it is to be had)
  --json             one JSON object a line instead of the table
  --help             this text

Exit status: 0 if every packet arrived intact, 1 if not or on an error, 2 for bad arguments.
";

/// With this first argument, the program is one of its own applications.
pub(crate) const APPLICATION: &str = "--application";

pub(crate) enum Mode {
    Route(Arguments),
    Apply(Backend),
    Help,
}

pub(crate) struct Arguments {
    pub(crate) seconds: Duration,
    pub(crate) backend: Backend,
    pub(crate) json: bool,
}

pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Mode, String> {
    let mut arguments =
        Arguments { seconds: Duration::from_secs(1), backend: Backend::Auto, json: false };
    let mut is_application = false;
    while let Some(argument) = given.next() {
        // Accepts both `--seconds 2` and `--seconds=2`.
        let (name, mut value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value = || value.take().or_else(|| given.next()).unwrap_or_default();
        match name {
            "--seconds" => arguments.seconds = seconds(&value())?,
            "--backend" => arguments.backend = backend(&value())?,
            "--json" => arguments.json = true,
            APPLICATION => is_application = true,
            "--help" | "-h" => return Ok(Mode::Help),
            _ => {
                return Err(format!(
                    "unknown argument {argument:?}: allowed are --seconds N, \
                     --backend auto|io-uring|epoll, --json and --help"
                ));
            }
        }
    }
    Ok(if is_application { Mode::Apply(arguments.backend) } else { Mode::Route(arguments) })
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("--seconds {text:?}: allowed is a number from 0.01 to 3600")),
    }
}

fn backend(text: &str) -> Result<Backend, String> {
    [Backend::Auto, Backend::IoUring, Backend::Epoll]
        .into_iter()
        .find(|backend| backend.to_string() == text)
        .ok_or_else(|| format!("--backend {text:?}: allowed are auto, io-uring and epoll"))
}
