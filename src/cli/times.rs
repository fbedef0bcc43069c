//! Times of many round trips, and what they come to.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::json::Object;

/// Nanoseconds up to a minute, to three digits.
const LONGEST: u64 = 60_000_000_000;

/// The times that were measured.
#[derive(Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_max(LONGEST, 3).expect("the bounds are lawful"))
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(nanoseconds(time));
    }

    /// Returns what they come to, in nanoseconds; `None` if there are none.
    pub(crate) fn summary(&self) -> Option<Summary> {
        (!self.0.is_empty()).then(|| Summary {
            count: self.0.len(),
            min: self.0.min(),
            median: self.0.value_at_quantile(0.5),
            p99: self.0.value_at_quantile(0.99),
            max: self.0.max(),
        })
    }
}

/// A number of times, and some of them in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) min: u64,
    pub(crate) median: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

impl Summary {
    /// Adds them to an object of JSON.
    pub(crate) fn add_to(self, object: Object) -> Object {
        object
            .with("min_ns", self.min)
            .with("median_ns", self.median)
            .with("p99_ns", self.p99)
            .with("max_ns", self.max)
    }
}

/// Returns a time in whole nanoseconds.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_that_of_the_times() {
        let mut times = Times::new();
        assert_eq!(times.summary(), None);
        for micros in 1..=100 {
            times.record(Duration::from_nanos(micros));
        }
        let expected = Summary { count: 100, min: 1, median: 50, p99: 99, max: 100 };
        assert_eq!(times.summary(), Some(expected));
        // Longer than any: counted as the longest.
        times.record(Duration::from_secs(1000));
        assert!(times.summary().unwrap().max >= LONGEST);
    }
}
