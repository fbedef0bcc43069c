//! All that was measured, and the medians of it.

use std::fmt;

use crate::cell::{Cell, Measure, Pin};
use crate::outcome::Outcome;
use crate::systems::{Family, System};

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    /// Packets were lost, or came otherwise than they were sent.
    Lossy {
        lost: u64,
        corrupt: u64,
    },
    /// It had not ended after its time and much more, and was killed.
    Hung,
    Failed(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("ok"),
            Self::Lossy { lost, corrupt: 0 } => write!(f, "lost {lost}"),
            Self::Lossy { lost, corrupt } => write!(f, "lost {lost}, corrupt {corrupt}"),
            Self::Hung => f.write_str("hung"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) cell: Cell,
    pub(crate) repeat: usize,
    /// System calls were counted; its times mean nothing.
    pub(crate) counts_calls: bool,
    pub(crate) status: Status,
    pub(crate) outcome: Outcome,
    /// How many cores other programs kept busy meanwhile.
    pub(crate) others: f64,
}

impl Record {
    /// Packets that arrived, or went there and back.
    pub(crate) fn packets(&self) -> u64 {
        self.outcome.taken
    }

    pub(crate) fn packets_per_second(&self) -> f64 {
        self.packets() as f64 * 1e9 / self.outcome.elapsed_ns.max(1) as f64
    }

    pub(crate) fn gigabytes_per_second(&self) -> f64 {
        self.packets_per_second() * self.cell.bytes as f64 / 1e9
    }

    pub(crate) fn cpu_ns_per_packet(&self) -> f64 {
        self.outcome.cpu_ns as f64 / self.packets().max(1) as f64
    }

    pub(crate) fn calls_per_packet(&self) -> f64 {
        self.outcome.calls as f64 / self.packets().max(1) as f64
    }
}

/// The middle one of several measurements, and the least and the largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Median {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Median {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, least, most })
    }
}

/// Which row of which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) measure: Measure,
    pub(crate) pin: Pin,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) records: Vec<Record>,
    /// Why system calls were not counted, if they were not.
    pub(crate) uncounted: Option<String>,
}

impl Results {
    /// The runs of a system for a row.
    pub(crate) fn of<'a>(
        &'a self,
        system: &'a str,
        row: Row,
        counts_calls: bool,
    ) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| {
            let Cell { system: of, measure, pin, bytes } = record.cell;
            of.name == system
                && Row { measure, pin, bytes } == row
                && record.counts_calls == counts_calls
        })
    }

    /// The median over those runs that ended, also if they lost something.
    pub(crate) fn median(
        &self,
        system: &str,
        row: Row,
        value: impl Fn(&Record) -> f64,
    ) -> Option<Median> {
        let ended = self.of(system, row, false).filter(|record| record.packets() > 0);
        Median::of(ended.map(value))
    }

    /// The same for system calls a packet.
    pub(crate) fn calls(&self, system: &str, row: Row) -> Option<Median> {
        let counted = self.of(system, row, true).filter(|record| record.packets() > 0);
        Median::of(counted.map(Record::calls_per_packet))
    }

    /// The worst that happened to a system in a row.
    pub(crate) fn trouble<'a>(&'a self, system: &'a str, row: Row) -> Option<&'a Status> {
        let in_row =
            [false, true].into_iter().flat_map(move |counted| self.of(system, row, counted));
        in_row.map(|record| &record.status).filter(|status| **status != Status::Done).last()
    }

    /// How many cores other programs kept busy, in the mean over all runs.
    pub(crate) fn others(&self) -> f64 {
        let sum: f64 = self.records.iter().map(|record| record.others).sum();
        sum / self.records.len().max(1) as f64
    }

    /// The systems that were measured, in their order, and of these families.
    pub(crate) fn systems(&self, families: &[Family]) -> Vec<&'static System> {
        crate::systems::all()
            .filter(|system| families.contains(&system.family))
            .filter(|system| self.records.iter().any(|r| r.cell.system.name == system.name))
            .collect()
    }

    /// The rows that were measured, in their order.
    pub(crate) fn rows(&self, measure: Measure) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for Cell { measure, pin, bytes, .. } in self.records.iter().map(|record| record.cell) {
            let row = Row { measure, pin, bytes };
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows.retain(|row| row.measure == measure);
        rows.sort_by_key(|row| (row.pin, row.bytes));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |values: &[f64]| Median::of(values.iter().copied()).map(|m| m.median);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
