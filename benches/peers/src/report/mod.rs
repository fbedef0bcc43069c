//! What is left of a run: a CSV of all measurements, a page with the tables, two charts.

use crate::Result;
use crate::arguments::Options;
use crate::results::Results;

mod charts;
mod csv;
mod ratios;
mod tables;

/// Writes them all, and shows the tables.
pub(crate) fn write(results: &Results, options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.out)?;
    std::fs::write(options.out.join("results.csv"), csv::of(results)?)?;
    let page = tables::of(results, options)?;
    println!("{page}");
    std::fs::write(options.out.join("results.md"), page)?;
    charts::write(results, &tables::machine(results, options), &options.out)
}
