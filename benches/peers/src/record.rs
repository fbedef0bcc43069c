//! One run of one system, as it is kept.

use std::fmt;
use std::time::Instant;

use crate::outcome::Outcome;
use crate::row::Row;
use crate::system::System;

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

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) system: &'static System,
    pub(crate) row: Row,
    /// Runs with the same number were made right after each other.
    pub(crate) heat: usize,
    /// Its heat was a final, of two that a goal compares.
    pub(crate) is_final: bool,
    pub(crate) begun: Instant,
    /// System calls were counted; its times mean nothing.
    pub(crate) counts_calls: bool,
    pub(crate) status: Status,
    pub(crate) outcome: Outcome,
    /// Nanoseconds that a cache line took from core to core right before, if that was measured.
    pub(crate) hop: Option<f64>,
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
        self.packets_per_second() * self.row.bytes as f64 / 1e9
    }

    pub(crate) fn cpu_ns_per_packet(&self) -> f64 {
        self.outcome.cpu_ns as f64 / self.packets().max(1) as f64
    }

    pub(crate) fn calls_per_packet(&self) -> f64 {
        self.outcome.calls as f64 / self.packets().max(1) as f64
    }
}
