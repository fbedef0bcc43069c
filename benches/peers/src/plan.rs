//! What is run after what.
//!
//! Systems that are compared run in one *heat*, right after each other: a few systems of a row with
//! their limits. The next time, the heat has another order. Who was best then meets in a final.

use crate::arguments::Options;
use crate::results::{Results, is_rival, is_wakering, reference};
use crate::row::{Measure, Pin, Row};
use crate::system::{Family, System};
use crate::systems;

#[derive(Debug, Clone)]
pub(crate) struct Heat {
    pub(crate) row: Row,
    pub(crate) systems: Vec<&'static System>,
}

/// Runs of a heat, so that it takes less than a second.
const MAX: usize = 5;

/// The rows that are wanted and possible.
pub(crate) fn rows(options: &Options, cores: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for pin in options.pins.iter().copied().filter(|pin| *pin != Pin::Two || cores >= 2) {
        for measure in [Measure::RoundTrip, Measure::Stream, Measure::Idle] {
            let sizes = options.sizes(pin, measure).iter().copied();
            rows.extend(sizes.map(|bytes| Row { pin, measure, bytes }));
        }
    }
    rows
}

/// The heats of a row. Each system that is wanted runs once; limits run with all that are compared
/// with them.
pub(crate) fn heats(options: &Options, row: Row) -> Vec<Heat> {
    let is_wanted = |system: &System| {
        options.only.is_empty()
            || options.only.iter().any(|part| system.name.contains(part.as_str()))
    };
    let limits = |system: &System| -> Vec<&'static System> {
        let limits = system.limits.iter().filter_map(|name| systems::find(name));
        limits.filter(|limit| limit.is_in(row)).collect()
    };
    let wanted: Vec<&'static System> =
        systems::all().filter(|system| system.is_in(row) && is_wanted(system)).collect();
    let mut heats: Vec<Heat> = Vec::new();
    let mut last = Vec::new();
    for system in &wanted {
        let limits = limits(system);
        let names: Vec<&str> = limits.iter().map(|limit| limit.name).collect();
        // Limits run with the others, if there are any.
        let is_limit_of_others = wanted.iter().any(|other| is_compared_with(other, system.name));
        if names.is_empty() && system.family == Family::Limit && is_limit_of_others {
            continue;
        }
        match heats.last_mut() {
            Some(heat) if names == last && heat.systems.len() < MAX => heat.systems.push(system),
            _ => {
                heats.push(Heat { row, systems: limits.into_iter().chain([*system]).collect() });
                last = names;
            }
        }
    }
    heats
}

fn is_compared_with(system: &System, limit: &str) -> bool {
    system.limits.contains(&limit)
}

/// The best rival of a row, the best of each of wakering's ways, and the limit.
pub(crate) fn finals(results: &Results, row: Row) -> Option<Heat> {
    let limit = reference(row);
    let rival = results.best(row, limit, is_rival)?;
    let ways = ["in place", "items", ""].iter().filter_map(|way| {
        results.best(row, limit, |system| is_wakering(system) && is_way(system, way))
    });
    let ways: Vec<&System> = ways.collect();
    let best = ways.first().is_some();
    best.then(|| {
        let limit = systems::find(limit).filter(|limit| limit.is_in(row));
        Heat { row, systems: limit.into_iter().chain(ways).chain([rival]).collect() }
    })
}

/// Whether a system of wakering's goes this way; the empty one is that of `Bytes`.
fn is_way(system: &System, way: &str) -> bool {
    let of = ["in place", "items"].into_iter().find(|way| system.name.contains(way));
    of.unwrap_or_default() == way
}

impl Heat {
    /// The systems in another order each time.
    pub(crate) fn turned(&self, turn: usize) -> impl Iterator<Item = &'static System> {
        let turn = turn % self.systems.len();
        let (end, start) = self.systems.split_at(turn);
        start.iter().chain(end).copied()
    }
}
