//! What is left of a comparison: a CSV of all runs, a page with the goals and tables, two charts.

use crate::Result;
use crate::arguments::Options;
use crate::results::Results;

mod charts;
mod csv;
mod goals;
mod machine;
mod tables;
mod text;

/// Writes them all, and shows the page.
pub(crate) fn write(results: &Results, options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.out)?;
    std::fs::write(options.out.join("results.csv"), csv::of(results)?)?;
    let machine = machine::paragraph(results, options);
    let (goals, tables) = (goals::of(results)?, tables::of(results)?);
    let page = format!("# wakering beside others\n\n{machine}\n\n{goals}{tables}");
    println!("{page}");
    std::fs::write(options.out.join("results.md"), page)?;
    charts::write(results, &machine::line(options), &options.out)
}
