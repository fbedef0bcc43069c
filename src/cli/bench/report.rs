//! What was measured, as tables or as JSON.

use std::time::Duration;

use wakering::Backend;

use super::measurement::{Figures, Kind, Measurement};
use crate::failure::Failure;
use crate::json::{Object, Value};
use crate::say;
use crate::text;

/// Writes each measurement as it comes.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    backend: Backend,
    seconds: Duration,
    /// What the table that was begun is about.
    begun: Option<Kind>,
    lost: u64,
}

impl Report {
    pub(crate) fn new(json: bool, backend: Backend, seconds: Duration) -> Self {
        Self { json, backend, seconds, begun: None, lost: 0 }
    }

    pub(crate) fn add(
        &mut self,
        measurement: &Measurement,
        figures: Figures,
    ) -> Result<(), Failure> {
        self.lost += figures.lost();
        if self.json {
            return say(&self.object(measurement, &figures).text());
        }
        if self.begun != Some(measurement.kind) {
            self.begin(measurement.kind)?;
        }
        say(&row(measurement, &figures))
    }

    /// Fails if packets were lost.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        match self.lost {
            0 => Ok(()),
            lost => Err(Failure::new(format!("{} lost or changed", text::count(lost, "packet")))),
        }
    }

    fn begin(&mut self, kind: Kind) -> Result<(), Failure> {
        if self.begun.is_none() {
            let seconds = self.seconds.as_secs_f64();
            say(&format!("two processes, {}, {seconds} s each", self.backend))?;
        }
        self.begun = Some(kind);
        say("")?;
        say(&match kind {
            Kind::RoundTrips => columns(
                "round trips",
                "driver",
                ["count", "min", "median", "p99", "max", "wakes each"],
            ),
            Kind::Streams => {
                columns("streams", "driver", ["packets", "packets/s", "GB/s", "", "", "wakes each"])
            }
        })
    }

    fn object(&self, measurement: &Measurement, figures: &Figures) -> Object {
        let kind = match measurement.kind {
            Kind::RoundTrips => "round_trips",
            Kind::Streams => "stream",
        };
        let object = Object::new()
            .with("kind", kind)
            .with("driver", measurement.driver.to_string())
            .with("backend", self.backend.to_string())
            .with("bytes", measurement.bytes)
            .with("seconds", Value::fixed(figures.elapsed_ns as f64 / 1e9, 3))
            .with("packets", figures.received)
            .with("lost", figures.lost())
            .with("wakes_per_packet", Value::fixed(figures.wakes_each(), 6));
        match figures.times {
            Some(times) => times.add_to(object),
            None => object
                .with("packets_per_s", Value::fixed(figures.rate(), 0))
                .with("gb_per_s", Value::fixed(gigabytes(measurement, figures), 3)),
        }
    }
}

/// Of a thousand million bytes, a second.
fn gigabytes(measurement: &Measurement, figures: &Figures) -> f64 {
    figures.rate() * measurement.bytes as f64 / 1e9
}

fn row(measurement: &Measurement, figures: &Figures) -> String {
    let (title, driver) = (text::size(measurement.bytes), measurement.driver.to_string());
    let (count, wakes) = (text::grouped(figures.received), format!("{:.4}", figures.wakes_each()));
    let middle = match figures.times {
        Some(times) => [times.min, times.median, times.p99, times.max].map(text::time),
        None => {
            let rate = format!("{:.0}", figures.rate()).parse().unwrap_or(0);
            let gigabytes = format!("{:.2}", gigabytes(measurement, figures));
            [text::grouped(rate), gigabytes, String::new(), String::new()]
        }
    };
    let [a, b, c, d] = middle.each_ref().map(String::as_str);
    columns(&title, &driver, [&count, a, b, c, d, &wakes])
}

fn columns(title: &str, driver: &str, [count, a, b, c, d, wakes]: [&str; 6]) -> String {
    format!("{title:<12} {driver:<11} {count:>11} {a:>12} {b:>9} {c:>9} {d:>9} {wakes:>11}")
}
