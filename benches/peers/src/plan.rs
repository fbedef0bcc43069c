//! What is run after what.
//!
//! Systems that are compared run in one *heat*, right after each other: a few systems of a row with
//! their limits. The next time, the heat has another order. Who was best then meets its limit, or
//! the best rival, in a final.

use crate::arguments::Options;
use crate::goals;
use crate::results::Results;
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

/// The finals: who stands for the two sides of each goal meets once more.
pub(crate) fn finals(results: &Results) -> Vec<Heat> {
    let mut finals: Vec<Heat> = Vec::new();
    for goal in goals::all() {
        let Some(sides) = goal.sides(results) else { continue };
        let heat = Heat { row: goal.row, systems: sides.into() };
        if !finals.contains(&heat) {
            finals.push(heat);
        }
    }
    finals
}

impl PartialEq for Heat {
    fn eq(&self, other: &Self) -> bool {
        let names = |heat: &Self| heat.systems.iter().map(|system| system.name).collect::<Vec<_>>();
        self.row == other.row && names(self) == names(other)
    }
}

impl Heat {
    /// The systems in another order each time.
    pub(crate) fn turned(&self, turn: usize) -> impl Iterator<Item = &'static System> {
        let turn = turn % self.systems.len();
        let (end, start) = self.systems.split_at(turn);
        start.iter().chain(end).copied()
    }
}
