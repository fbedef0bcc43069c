//! Every run, a line each.

use std::fmt::Write;

use crate::Result;
use crate::record::Record;
use crate::results::Results;

const HEADER: &str = "heat,system,measure,pinned,bytes,counts_calls,status,packets,lost,corrupt,seconds,\
packets_per_second,gigabytes_per_second,cpu_ns_per_packet,calls_per_packet,p50_ns,p99_ns,p999_ns,\
resident_bytes,hop_ns,cores_of_others\n";

pub(super) fn of(results: &Results) -> Result<String> {
    let mut csv = HEADER.to_owned();
    for record in &results.records {
        let Record { system, row, heat, counts_calls, status, outcome, hop, others, .. } = record;
        let status = status.to_string().replace('"', "'");
        write!(csv, "{heat},\"{}\",{},{},{},", system.name, row.measure, row.pin, row.bytes)?;
        write!(csv, "{counts_calls},\"{status}\",{},", record.packets())?;
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
        let hop = hop.map_or(String::new(), |hop| format!("{hop:.0}"));
        writeln!(csv, ",{hop},{others:.2}")?;
    }
    Ok(csv)
}
