//! What is left of a run: a CSV of all measurements, a page with the tables, two charts.

use crate::Result;
use crate::arguments::Wish;
use crate::results::Results;

mod charts;
mod csv;
mod ratios;
mod tables;

/// Writes them all, and shows the tables.
pub(crate) fn write(results: &Results, wish: &Wish) -> Result<()> {
    std::fs::create_dir_all(&wish.out)?;
    std::fs::write(wish.out.join("results.csv"), csv::of(results)?)?;
    let page = tables::of(results, wish)?;
    println!("{page}");
    std::fs::write(wish.out.join("results.md"), page)?;
    charts::write(results, &tables::machine(results, wish), &wish.out)
}
