//! What is measured, and what comes of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::options::BackendOption;
use crate::text;
use crate::times::Summary;

/// What passes between the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A packet there and back, and then the next
    RoundTrips,
    /// Packets one way, as fast as they go
    Streams,
}

/// How a side waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// Threads that block on the channel itself
    Blocking,
    /// A thread that sleeps in its own driver
    Parked,
    /// A reactor that polls the driver's descriptor
    Polled,
    /// A driver that runs on a thread of the library's
    Background,
}

/// The name of a value, as it is on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&name(self))
    }
}

/// One measurement, with a channel of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measurement {
    pub(crate) kind: Kind,
    pub(crate) driver: Way,
    pub(crate) bytes: usize,
    pub(crate) seconds: Duration,
    pub(crate) spin: Option<u64>,
    pub(crate) backend: BackendOption,
}

impl Measurement {
    /// The options that have another process do it: those of [`super::side::Arguments`].
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = vec![
            format!("--kind={}", name(&self.kind)),
            format!("--driver={}", self.driver),
            format!("--bytes={}", self.bytes),
            format!("--seconds={}", self.seconds.as_secs_f64()),
            format!("--backend={}", name(&self.backend.backend)),
        ];
        options.extend(self.spin.map(|micros| format!("--spin={micros}")));
        options
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::RoundTrips => "round trips",
            Kind::Streams => "stream",
        };
        write!(f, "{kind} of {}, {}", text::size(self.bytes), self.driver)
    }
}

/// What a measurement came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Packets that the application sent.
    pub(crate) sent: u64,
    /// Packets that came: back to the application, or to the engine.
    pub(crate) received: u64,
    pub(crate) elapsed_ns: u64,
    /// How often the two sides woke each other.
    pub(crate) wakes: u64,
    /// Of round trips.
    pub(crate) times: Option<Summary>,
}

impl Figures {
    /// Packets, or round trips, a second.
    pub(crate) fn rate(&self) -> f64 {
        self.received as f64 / (self.elapsed_ns.max(1) as f64 / 1e9)
    }

    pub(crate) fn wakes_each(&self) -> f64 {
        self.wakes as f64 / self.received.max(1) as f64
    }

    pub(crate) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

impl fmt::Display for Figures {
    /// A line that is parsed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, elapsed_ns, wakes, times } = self;
        write!(f, "{sent} {received} {elapsed_ns} {wakes}")?;
        match times {
            None => Ok(()),
            Some(Summary { count, min, median, p99, max }) => {
                write!(f, " {count} {min} {median} {p99} {max}")
            }
        }
    }
}

impl FromStr for Figures {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let (&[sent, received, elapsed_ns, wakes], times) = numbers
            .as_deref()
            .ok()
            .and_then(|numbers| numbers.split_first_chunk::<4>())
            .ok_or_else(|| format!("no figures: {line:?}"))?;
        let times = match *times {
            [] => None,
            [count, min, median, p99, max] => Some(Summary { count, min, median, p99, max }),
            _ => return Err(format!("no figures: {line:?}")),
        };
        Ok(Self { sent, received, elapsed_ns, wakes, times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_parsed_again() {
        let times = Some(Summary { count: 5, min: 6, median: 7, p99: 8, max: 9 });
        for times in [None, times] {
            let figures = Figures { sent: 1, received: 2, elapsed_ns: 3, wakes: 4, times };
            assert_eq!(figures.to_string().parse(), Ok(figures));
        }
        for bad in ["", "1 2 3", "1 2 3 x", "1 2 3 4 5"] {
            assert!(bad.parse::<Figures>().is_err(), "{bad}");
        }
    }
}
