//! All that was measured, and the ratios of runs that were neighbours.

use std::collections::HashMap;
use std::time::Instant;

use crate::quartiles::Quartiles;
use crate::record::{Record, Status};
use crate::regimes::{Regime, Regimes};
use crate::row::{Measure, Pin, Row};
use crate::system::{Family, System};
use crate::systems;

#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) records: Vec<Record>,
    /// Why system calls were not counted, if they were not.
    pub(crate) uncounted: Option<String>,
    /// Hops of a cache line, if they were measured, are of two kinds.
    pub(crate) regimes: Option<Regimes>,
}

/// What of a run is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    /// The median round trip: less is better.
    RoundTrip,
    /// Packets a second: more is better.
    Speed,
}

impl Value {
    /// What counts in a row.
    pub(crate) fn in_row(row: Row) -> Self {
        if row.measure == Measure::RoundTrip { Self::RoundTrip } else { Self::Speed }
    }

    pub(crate) fn of(self, record: &Record) -> f64 {
        match self {
            Self::RoundTrip => record.outcome.p50_ns as f64,
            Self::Speed => record.packets_per_second(),
        }
    }

    pub(crate) fn is_better(self, one: f64, other: f64) -> bool {
        if self == Self::RoundTrip { one < other } else { one > other }
    }
}

impl Results {
    pub(crate) fn new(records: Vec<Record>, uncounted: Option<String>) -> Self {
        let hops: Vec<f64> = records.iter().filter_map(|record| record.hop).collect();
        Self { records, uncounted, regimes: Regimes::of(&hops) }
    }

    /// The runs of a system for a row.
    pub(crate) fn of<'a>(
        &'a self,
        system: &'a str,
        row: Row,
        counts_calls: bool,
    ) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| {
            record.system.name == system && record.row == row && record.counts_calls == counts_calls
        })
    }

    /// The median over those runs that ended, also if they lost something.
    pub(crate) fn median(
        &self,
        system: &str,
        row: Row,
        value: impl Fn(&Record) -> f64,
    ) -> Option<Quartiles> {
        let ended = self.of(system, row, false).filter(|record| record.packets() > 0);
        Quartiles::of(ended.map(value))
    }

    /// The same for system calls a packet.
    pub(crate) fn calls(&self, system: &str, row: Row) -> Option<Quartiles> {
        let counted = self.of(system, row, true).filter(|record| record.packets() > 0);
        Quartiles::of(counted.map(Record::calls_per_packet))
    }

    /// Whether the machine was in this regime right before a run.
    pub(crate) fn was_in(&self, record: &Record, regime: Regime) -> bool {
        let which = || Some(self.regimes?.which(record.hop?));
        which() == Some(regime)
    }

    /// How `ours` compares with `theirs`: the ratio of each pair of runs of one heat, if both runs
    /// are such that count.
    pub(crate) fn ratio(
        &self,
        row: Row,
        ours: &str,
        theirs: &str,
        counts: impl Fn(&Record) -> bool,
    ) -> Option<Quartiles> {
        let value = Value::in_row(row);
        let ratios = self.of(ours, row, false).filter_map(|record| {
            let other = self.of(theirs, row, false).find(|other| other.heat == record.heat)?;
            let is_whole = record.packets() > 0 && other.packets() > 0;
            let is_counted = is_whole && counts(record) && counts(other);
            is_counted.then(|| value.of(record) / value.of(other))
        });
        Quartiles::of(ratios)
    }

    /// The worst that happened to a system in a row.
    pub(crate) fn trouble<'a>(&'a self, system: &'a str, row: Row) -> Option<&'a Status> {
        let in_row =
            [false, true].into_iter().flat_map(move |counted| self.of(system, row, counted));
        in_row.map(|record| &record.status).filter(|status| **status != Status::Done).last()
    }

    /// The best of those that may be chosen, by how they compare with `limit` in the heats.
    pub(crate) fn best(
        &self,
        row: Row,
        limit: &str,
        choice: impl Fn(&System) -> bool,
    ) -> Option<&'static System> {
        let value = Value::in_row(row);
        let mut best: Option<(&System, f64)> = None;
        for system in self.systems().into_iter().filter(|system| choice(system)) {
            let ratio = self.ratio(row, system.name, limit, |record| !record.is_final);
            let Some(ratio) = ratio else { continue };
            if best.is_none_or(|(_, so_far)| value.is_better(ratio.median, so_far)) {
                best = Some((system, ratio.median));
            }
        }
        best.map(|(system, _)| system)
    }

    /// Seconds between the beginnings of the first run and the last of a heat: no pair of runs that
    /// is compared lies further apart.
    pub(crate) fn distance(&self) -> Option<Quartiles> {
        let mut heats: HashMap<usize, (Instant, Instant)> = HashMap::new();
        for Record { heat, begun, .. } in self.records.iter().filter(|run| !run.counts_calls) {
            let (first, last) = heats.entry(*heat).or_insert((*begun, *begun));
            (*first, *last) = ((*first).min(*begun), (*last).max(*begun));
        }
        Quartiles::of(heats.values().map(|(first, last)| (*last - *first).as_secs_f64()))
    }

    /// How many cores other programs kept busy, in the mean over all runs.
    pub(crate) fn others(&self) -> f64 {
        let sum: f64 = self.records.iter().map(|record| record.others).sum();
        sum / self.records.len().max(1) as f64
    }

    /// The systems that were measured, in the order of the tables.
    pub(crate) fn systems(&self) -> Vec<&'static System> {
        let was_measured =
            |system: &&System| self.records.iter().any(|r| r.system.name == system.name);
        systems::all().filter(was_measured).collect()
    }

    /// The rows that were measured, in their order.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.records.iter().map(|record| record.row).collect();
        rows.sort();
        rows.dedup();
        rows
    }
}

/// What all systems of a row are compared with.
pub(crate) fn reference(row: Row) -> &'static str {
    if row.pin == Pin::One { "futex" } else { "bare ring, in place" }
}

pub(crate) fn is_rival(system: &System) -> bool {
    matches!(system.family, Family::Rival | Family::Yardstick)
}

pub(crate) fn is_wakering(system: &System) -> bool {
    system.family == Family::Wakering
}
