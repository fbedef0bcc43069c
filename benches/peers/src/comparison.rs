//! The whole comparison: heat after heat, then what is left of it.

use std::time::{Duration, Instant};

use crate::Result;
use crate::arguments::Options;
use crate::meters::SystemCalls;
use crate::plan::{self, Heat};
use crate::record::{Record, Status};
use crate::report;
use crate::results::Results;
use crate::row::{Measure, Pin, Row};
use crate::runner::Runner;

/// The time of a run that counts system calls: so long that the few dozen which belong to a ring's
/// first way round, or to a driver's start, do not pass for some of each packet's.
const COUNTING: Duration = Duration::from_millis(200);

/// So many times as often as the heats, there are finals: they judge the goals.
const FINALS: usize = 2;

pub(crate) fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let runner = Runner::new()?;
    let uncounted = SystemCalls::count().err().map(|error| error.to_string());
    let rows = plan::rows(options, runner.cores.len());
    let heats: Vec<Heat> = rows.iter().flat_map(|row| plan::heats(options, *row)).collect();
    if heats.is_empty() {
        Err("nothing to measure: see --list")?;
    }
    let mut all = Comparison { runner, options, records: Vec::new(), heats: 0 };
    all.repeat("heats", &heats, options.repeat)?;
    let results = Results::new(std::mem::take(&mut all.records), uncounted);
    let finals = plan::finals(&results);
    let Results { records, uncounted, .. } = results;
    all.records = records;
    let heats_so_far = all.heats;
    all.repeat("finals", &finals, FINALS * options.repeat)?;
    for record in all.records.iter_mut().filter(|record| record.heat > heats_so_far) {
        record.is_final = true;
    }
    if uncounted.is_none() && !options.is_quick {
        all.count(&heats)?;
    }
    eprintln!("\r\x1b[Kmeasured for {:.0} s", begun.elapsed().as_secs_f64());
    let results = Results::new(all.records, uncounted);
    report::write(&results, options)?;
    let troubled = results.records.iter().filter(|r| r.status != Status::Done);
    let troubled: Vec<&Record> = troubled.collect();
    for Record { system, row: Row { pin, measure, bytes }, heat, status, .. } in &troubled {
        eprintln!("{}, {measure}, {bytes} bytes, {pin}, heat {heat}: {status}", system.name);
    }
    if troubled.is_empty() { Ok(()) } else { Err("some runs did not end well".into()) }
}

struct Comparison<'a> {
    runner: Runner,
    options: &'a Options,
    records: Vec<Record>,
    /// How many heats there were.
    heats: usize,
}

impl Comparison<'_> {
    /// Runs all heats, again and again.
    fn repeat(&mut self, what: &str, heats: &[Heat], times: usize) -> Result<()> {
        for time in 0..times {
            for (nth, heat) in heats.iter().enumerate() {
                let Row { pin, measure, bytes } = heat.row;
                eprint!(
                    "\r\x1b[K{what} {}/{times} {}/{} {measure}, {bytes} bytes, pinned to {pin}",
                    time + 1,
                    nth + 1,
                    heats.len(),
                );
                self.heats += 1;
                for system in heat.turned(time) {
                    let (time, heats) = (self.options.time, self.heats);
                    self.records.push(self.runner.perform(system, heat.row, heats, time, false)?);
                }
            }
        }
        Ok(())
    }

    /// Counts the system calls of streams between two cores, once.
    fn count(&mut self, heats: &[Heat]) -> Result<()> {
        let mut counted = Vec::new();
        for heat in heats {
            let Row { pin, measure, bytes } = heat.row;
            if pin != Pin::Two || measure != Measure::Stream {
                continue;
            }
            for system in &heat.systems {
                if counted.contains(&(system.name, bytes)) {
                    continue;
                }
                counted.push((system.name, bytes));
                eprint!("\r\x1b[Kcounting system calls: {}, {bytes} bytes", system.name);
                self.records.push(self.runner.perform(system, heat.row, 0, COUNTING, true)?);
            }
        }
        Ok(())
    }
}
