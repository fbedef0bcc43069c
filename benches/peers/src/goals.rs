//! What is to be reached, and who stands for the two sides of it.

use crate::results::{Results, is_rival, is_wakering, reference};
use crate::row::{Measure, Pin, Row, SIZES, size};
use crate::system::{System, Way};
use crate::systems;

/// The systems that may stand for wakering: the best of them does.
type Choice = fn(&System) -> bool;

/// What wakering is compared with.
#[derive(Clone, Copy)]
enum With {
    System(&'static str),
    BestRival,
}

pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) row: Row,
    ours: Choice,
    with: With,
    /// At most, for round trips; at least, for streams.
    pub(crate) bound: f64,
}

const BYTES_ASYNC: Choice = |system| {
    is_bytes(system) && !is_batch(system) && !has(system, "blocking") && !has(system, "try")
};
const BYTES_BATCH: Choice = |system| is_bytes(system) && is_batch(system);
const BYTES_SINGLE: Choice = |system| is_bytes(system) && !is_batch(system);
const IN_PLACE: Choice = |system| is_in_place(system) && !is_batch(system);
const IN_PLACE_BATCH: Choice = |system| is_in_place(system) && is_batch(system);
const ITEMS: Choice = |system| system.way == Some(Way::Items) && !has(system, "in place");
const ITEMS_IN_PLACE: Choice = |system| system.way == Some(Way::Items) && has(system, "in place");
const PARKED_IN: Choice = |system| system.name == "wakering, parked in";
const EMBEDDED: Choice = |system| system.name == "wakering, embedded";
const POLLED: Choice = |system| system.name == "wakering, polled, smol";
const BACKGROUND: Choice = |system| system.name == "wakering, background, smol";
const BLOCKING: Choice = |system| system.name == "wakering, blocking";

fn has(system: &System, part: &str) -> bool {
    system.name.contains(part)
}

fn is_in_place(system: &System) -> bool {
    system.way == Some(Way::InPlace)
}

fn is_bytes(system: &System) -> bool {
    system.way == Some(Way::Bytes)
}

fn is_batch(system: &System) -> bool {
    has(system, "batch")
}

/// All of them, in the order of the table.
pub(crate) fn all() -> Vec<Goal> {
    let stream = |bytes: usize, way: &str, ours: Choice, limit: &'static str, bound: f64| Goal {
        what: format!("stream of {}, {way}", size(bytes)),
        row: Row { measure: Measure::Stream, pin: Pin::Two, bytes },
        ours,
        with: With::System(limit),
        bound,
    };
    let trip = |pin: Pin, way: &str, ours: Choice, with: With, bound: f64| {
        let place = if pin == Pin::Two { "awake" } else { "asleep, one core" };
        Goal {
            what: format!("round trip of 64 B, {place}, {way}"),
            row: Row { measure: Measure::RoundTrip, pin, bytes: 64 },
            ours,
            with,
            bound,
        }
    };
    let limit = With::System;
    let mut goals = Vec::new();
    for (bytes, single, batch) in [(64, 0.9, 1.0), (1024, 0.9, 0.95), (8192, 0.95, 1.0)] {
        goals.push(stream(bytes, "in place", IN_PLACE, "bare ring, in place", single));
        let limit = "bare ring, in place, batch";
        goals.push(stream(bytes, "in place, batch", IN_PLACE_BATCH, limit, batch));
    }
    for (bytes, single, batch) in [(64, 0.8, 0.9), (1024, 0.85, 0.85), (8192, 0.9, 0.9)] {
        let ours = if bytes == 64 { BYTES_ASYNC } else { BYTES_SINGLE };
        let way = if bytes == 64 { "`Bytes`, async" } else { "`Bytes`" };
        goals.push(stream(bytes, way, ours, "bare ring, Bytes", single));
        let limit = "bare ring, Bytes, batch";
        goals.push(stream(bytes, "`Bytes`, batch", BYTES_BATCH, limit, batch));
    }
    goals.push(stream(64, "items in packets", ITEMS, "bare ring, items", 0.95));
    goals.push(stream(
        64,
        "items in packets, in place",
        ITEMS_IN_PLACE,
        "bare ring, items in place",
        0.95,
    ));
    for bytes in SIZES {
        let with = With::BestRival;
        let row = Row { measure: Measure::Stream, pin: Pin::Two, bytes };
        let what = format!("stream of {}, any way", size(bytes));
        goals.push(Goal { what, row, ours: is_wakering, with, bound: 1.05 });
    }
    goals.extend([
        trip(Pin::Two, "`Bytes`, async", BYTES_ASYNC, limit("bare ring, Bytes"), 1.2),
        trip(Pin::Two, "in place", IN_PLACE, limit("bare ring, in place"), 1.0),
        trip(Pin::Two, "any way", is_wakering, With::BestRival, 1.0),
        trip(Pin::One, "parked in", PARKED_IN, limit("futex, in a ring"), 1.1),
        trip(Pin::One, "in an executor's ring", EMBEDDED, limit("futex, in a ring"), 1.1),
        trip(Pin::One, "polled in smol", POLLED, limit("futex, in a ring in smol"), 1.05),
        trip(
            Pin::One,
            "background under smol",
            BACKGROUND,
            limit("futex, in a thread's ring, smol"),
            1.15,
        ),
        trip(Pin::One, "blocking", BLOCKING, limit("futex"), 1.1),
        trip(Pin::One, "any way", is_wakering, With::BestRival, 1.0),
    ]);
    goals
}

impl Goal {
    /// Who is compared with whom: the best of those that may be chosen, by the heats alone. The
    /// final of the two judges the goal: otherwise the best would be the luckiest.
    pub(crate) fn sides(&self, results: &Results) -> Option<[&'static System; 2]> {
        let best = |limit, choice: Choice| results.best(self.row, limit, choice);
        match self.with {
            With::System(limit) => Some([best(limit, self.ours)?, systems::find(limit)?]),
            With::BestRival => {
                let limit = reference(self.row);
                Some([best(limit, self.ours)?, best(limit, is_rival)?])
            }
        }
    }
}
