//! Options that several commands share.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use wakering::{Backend, Driver, DriverBuilder, HandleBuilder, ShmError, SpscHandle};

use crate::failure::Failure;

/// How often a missing engine is looked for.
const RETRY: Duration = Duration::from_millis(20);

/// How long an engine that is there may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The longest time that an option takes, in seconds: some hundred years.
const LONGEST: f64 = 4e9;

/// How to wait in the kernel.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct BackendOption {
    /// How to wait in the kernel
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    pub(crate) backend: BackendName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// io_uring where it is available, otherwise epoll
    Auto,
    /// io_uring with futex operations, from Linux 6.7
    IoUring,
    /// epoll, which works everywhere
    Epoll,
}

impl BackendOption {
    /// Returns a builder for a driver that waits so.
    pub(crate) fn driver(self) -> DriverBuilder {
        Driver::builder().backend(self.backend.into())
    }
}

impl From<BackendName> for Backend {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Auto => Self::Auto,
            BackendName::IoUring => Self::IoUring,
            BackendName::Epoll => Self::Epoll,
        }
    }
}

/// Whether to wait for an engine that is not there yet.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WaitOption {
    /// Wait until the engine is there and free, at most for that time; without a number for ever
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "4e9",
        value_parser = seconds
    )]
    pub(crate) wait: Option<Duration>,
}

impl WaitOption {
    /// Connects to the engine, once it is there if that is wanted.
    pub(crate) fn connect(self, name: &str, handle: &HandleBuilder) -> Result<SpscHandle, Failure> {
        let Some(patience) = self.wait else { return Ok(handle.clone().connect(name)?) };
        let begin = Instant::now();
        loop {
            let left = patience.saturating_sub(begin.elapsed());
            let timeout = left.clamp(RETRY, ANSWER);
            match handle.clone().connect_timeout(timeout).connect(name) {
                Err(error) if may_pass(&error) && left.is_zero() => {
                    let waited = patience.as_secs_f64();
                    return Err(Failure::timed_out(format!("waited {waited} s: {error}")));
                }
                Err(error) if may_pass(&error) => std::thread::sleep(RETRY.min(left)),
                connected => return Ok(connected?),
            }
        }
    }
}

/// Whether the engine may be there and free a moment later.
fn may_pass(error: &ShmError) -> bool {
    match error {
        // Busy: the engine may not have noticed yet that an earlier application has gone.
        ShmError::NotFound { .. } | ShmError::HungUp | ShmError::Busy => true,
        _ => false,
    }
}

/// Parses a time in seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=LONGEST).contains(seconds));
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| "allowed is a number of seconds, such as 0.5".to_owned())
}

/// Parses a time in seconds that is not zero.
pub(crate) fn some_seconds(text: &str) -> Result<Duration, String> {
    seconds(text)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "allowed is a number of seconds above 0, such as 0.5".to_owned())
}

/// Parses a number of bytes: `64`, `8k` (KiB), `4M` (MiB), `1G` (GiB).
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let (number, shift) = match text.strip_suffix(['k', 'K', 'M', 'G']) {
        Some(number) if text.ends_with('G') => (number, 30),
        Some(number) if text.ends_with('M') => (number, 20),
        Some(number) => (number, 10),
        None => (text, 0),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "allowed is a number of bytes, such as 64, 8k or 4M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_parsed_or_refused() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        for bad in ["", "-1", "x", "inf", "NaN", "1e10"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert!(some_seconds("0").is_err() && some_seconds("1e-12").is_err());
        assert_eq!(some_seconds("2"), Ok(Duration::from_secs(2)));
        let good = [("64", 64), ("8k", 8 << 10), ("1K", 1 << 10), ("4M", 4 << 20), ("0", 0)];
        for (text, expected) in good {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "k", "-1", "1.5k", "4m", "99999999999999999999", "99999999999G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
