//! What is run after what.
//!
//! Systems that are compared run in one *heat*, right after each other: a few systems of a row with
//! their limits. The next time, the heat has another order. Who was best then meets in a final.

use crate::arguments::Options;
use crate::results::{Results, is_rival, reference};
use crate::row::{Measure, Pin, Row};
use crate::system::{Family, System, Way};
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
    let wanted: Vec<&'static System> =
        systems::all().filter(|system| system.is_in(row) && options.wants(system.name)).collect();
    // Limits run with the others, if there are any.
    let is_limit_of_others = |system: &System| {
        system.family == Family::Limit
            && wanted.iter().any(|other| other.limits.contains(&system.name))
    };
    let mut heats: Vec<(Vec<&str>, Heat)> = Vec::new();
    for system in wanted.iter().filter(|system| !is_limit_of_others(system)) {
        let limits = system.limits.iter().filter_map(|name| systems::find(name));
        let limits: Vec<&System> = limits.filter(|limit| limit.is_in(row)).collect();
        let names: Vec<&str> = limits.iter().map(|limit| limit.name).collect();
        let has_room =
            |(others, heat): &&mut (_, Heat)| *others == names && heat.systems.len() < MAX;
        match heats.iter_mut().find(has_room) {
            Some((_, heat)) => heat.systems.push(system),
            None => {
                let systems = limits.into_iter().chain([*system]).collect();
                heats.push((names, Heat { row, systems }));
            }
        }
    }
    heats.into_iter().map(|(_, heat)| heat).collect()
}

/// The best rival of a row, the best of each of wakering's ways, and the limit.
pub(crate) fn finals(results: &Results, row: Row) -> Option<Heat> {
    let limit = reference(row);
    let rival = results.best(row, limit, is_rival)?;
    let best = |way| results.best(row, limit, |system| system.way == Some(way));
    let ways: Vec<&System> = Way::ALL.into_iter().filter_map(best).collect();
    (!ways.is_empty()).then(|| {
        let limit = systems::find(limit).filter(|limit| limit.is_in(row));
        Heat { row, systems: limit.into_iter().chain(ways).chain([rival]).collect() }
    })
}

impl Heat {
    /// The systems in another order each time.
    pub(crate) fn turned(&self, turn: usize) -> impl Iterator<Item = &'static System> {
        let turn = turn % self.systems.len();
        let (end, start) = self.systems.split_at(turn);
        start.iter().chain(end).copied()
    }
}
