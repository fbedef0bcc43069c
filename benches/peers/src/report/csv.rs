//! Every run, a line each.

use std::fmt::Write;

use crate::Result;
use crate::results::{Record, Results};

const HEADER: &str = "system,measure,pinned,bytes,repeat,counts_calls,status,packets,lost,corrupt,seconds,\
packets_per_second,gigabytes_per_second,cpu_ns_per_packet,calls_per_packet,p50_ns,p99_ns,p999_ns,\
resident_bytes,cores_of_others\n";

pub(crate) fn of(results: &Results) -> Result<String> {
    let mut csv = HEADER.to_owned();
    for record in &results.records {
        let Record { cell, repeat, counts_calls, status, outcome, others } = record;
        let status = status.to_string().replace('"', "'");
        write!(csv, "\"{}\",{},{},{},", cell.system.name, cell.measure, cell.pin, cell.bytes)?;
        write!(csv, "{repeat},{counts_calls},\"{status}\",{},", record.packets())?;
        write!(csv, "{},{},", outcome.lost, outcome.corrupt)?;
        write!(csv, "{:.6},", outcome.elapsed_ns as f64 / 1e9)?;
        write!(csv, "{:.0},", record.packets_per_second())?;
        write!(csv, "{:.6},", record.gigabytes_per_second())?;
        write!(csv, "{:.2},", record.cpu_ns_per_packet())?;
        if *counts_calls {
            write!(csv, "{:.6}", record.calls_per_packet())?;
        }
        let times = [outcome.p50_ns, outcome.p99_ns, outcome.p999_ns, outcome.resident];
        times.iter().try_for_each(|number| write!(csv, ",{number}"))?;
        writeln!(csv, ",{others:.2}")?;
    }
    Ok(csv)
}
