//! `bench` measures between two processes that it starts.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use wakering::Driver;

use crate::common::{Dir, eventually, on_both_backends};
use crate::program::{Program, command, run};

on_both_backends!(each_driver_is_measured_with_each_size);

fn each_driver_is_measured_with_each_size(driver: &Driver) {
    let dir = Dir::new();
    let backend = driver.backend();
    let ended =
        run(&dir, &format!("bench --seconds 0.05 --sizes 1,64,64k --json --backend {backend}"));
    let objects = ended.objects();
    ended.succeeded();
    assert_eq!(objects.len(), 2 * 3 * 4, "{objects:?}");
    let mut expected = Vec::new();
    for kind in ["round_trips", "stream"] {
        for bytes in [1, 64, 65536_u64] {
            for driver in ["blocking", "parked", "polled", "background"] {
                expected.push((kind, driver, bytes));
            }
        }
    }
    for (object, (kind, driver, bytes)) in objects.iter().zip(expected) {
        assert_eq!((&object["kind"], &object["driver"]), (&kind.into(), &driver.into()));
        assert_eq!((&object["bytes"], &object["lost"]), (&bytes.into(), &0.into()));
        assert_eq!(object["backend"], backend.to_string());
        assert!(object["packets"].as_u64() > Some(0), "{object}");
        assert!(object["seconds"].as_f64() > Some(0.0), "{object}");
        assert!(object["wakes_per_packet"].as_f64() >= Some(0.0), "{object}");
        if kind == "stream" {
            assert!(object["packets_per_s"].as_f64() > Some(0.0), "{object}");
            assert!(object["gb_per_s"].is_f64(), "{object}");
        } else {
            let times = ["min_ns", "median_ns", "p99_ns", "max_ns"];
            let times = times.map(|name| object[name].as_u64().expect(name));
            assert!(times[0] > 0 && times.is_sorted(), "{object}");
        }
    }
}

#[test]
fn the_table_has_a_row_for_each_measurement() {
    let dir = Dir::new();
    let arguments = "bench --seconds 0.2 --sizes 8k --drivers parked,blocking --spin 0";
    let table = String::from_utf8(run(&dir, arguments).succeeded()).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("8 KiB ")).collect();
    assert_eq!(rows.len(), 4, "{table}");
    for (row, driver) in rows.iter().zip(["parked", "blocking", "parked", "blocking"]) {
        assert_eq!(row.split_whitespace().nth(2), Some(driver), "{table}");
    }
    assert!(table.contains("\nround trips ") && table.contains("\nstreams "), "{table}");
    let table = run(&dir, "bench --seconds 0.01 --sizes 64 --only streams").succeeded();
    let table = String::from_utf8(table).unwrap();
    assert!(!table.contains("round trips"), "{table}");
    assert_eq!(table.lines().filter(|line| line.starts_with("64 B ")).count(), 4, "{table}");
}

/// The processes whose parent is this one.
fn children(parent: u32) -> Vec<Pid> {
    let pids = std::fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may have spaces.
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        fields.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).map(|pid| Pid::from_raw(pid).unwrap()).collect()
}

#[test]
fn a_process_that_is_killed_is_a_failure_and_takes_the_other_with_it() {
    let number = |pid: Pid| u32::try_from(pid.as_raw_nonzero().get()).unwrap();
    for is_engine in [true, false] {
        let dir = Dir::new();
        let arguments = "bench --seconds 1000 --drivers parked --sizes 64";
        let bench = Program::spawn(command(&dir, arguments).stdin(Stdio::null()));
        let (mut engines, mut applications) = (Vec::new(), Vec::new());
        eventually("both processes are there", || {
            engines = children(bench.pid());
            applications = engines.iter().flat_map(|engine| children(number(*engine))).collect();
            applications.len() == 1
        });
        let (engine, application) = (engines[0], applications[0]);
        kill_process(if is_engine { engine } else { application }, Signal::KILL).unwrap();
        bench.wait().failed(1, "round trips of 64 B, parked: ");
        let both = [engine, application].map(number);
        eventually("the other has gone", || both.into_iter().all(is_gone));
    }
}

fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One that nobody has reaped is gone, too.
    stat.rsplit_once(')').is_none_or(|(_, fields)| fields.starts_with(" Z"))
}
