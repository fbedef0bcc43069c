//! Hundreds of hostile peers leave nothing behind in a process that serves them.

use std::fs;
use std::time::Duration;

use wakering::{CloseReason, Driver, Endpoint};

use super::attacker::{Attacker, BOTH};
use crate::common::child::{self, Child, test_path};
use crate::common::raw_peer::{ENDS, HEAD, JUMP, PACKET};
use crate::common::{self, eventually, fill, on_both_backends};

on_both_backends!(hundreds_of_hostile_peers_leave_nothing_behind);

/// Returns the counts of descriptors, threads and mappings, and KiB of memory.
fn held() -> [usize; 4] {
    let count = |path: &str| fs::read_dir(path).unwrap().count();
    let lines = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = child::parsed(memory.split_whitespace().next().unwrap());
    [count("/proc/self/fd"), count("/proc/self/task"), lines, memory]
}

/// Serves one hostile peer in each role.
fn serve_hostile_peers(attacker: &mut Attacker, driver: &Driver, round: usize) {
    for ours in BOTH {
        let end: Endpoint = attacker.meet(driver, ours);
        let theirs = ours.words().1;
        let script = match round % 6 {
            0 => format!("put 0 {:x}; ring", PACKET | 0xffff),
            1 => format!("put 0 {JUMP:x}; ring"),
            2 => format!("set32 {:x} 70; ring", theirs + ENDS),
            3 => {
                fill(&end);
                format!("set {:x} 3; ring", theirs + HEAD)
            }
            4 => "flood bells 10".to_owned(),
            _ => "flood longs 10".to_owned(),
        };
        attacker.order(&script);
        // A short flood may be over before it breaks the limit.
        let is_flood = round % 6 > 3;
        eventually("it is over", || {
            // These calls check what the peer wrote, as every call does.
            while end.recv_timeout(Duration::from_millis(1)).is_ok() {}
            let _ = end.try_send(common::packet(0, 8));
            is_flood || matches!(end.close_reason(), Some(CloseReason::Violation(_)))
        });
        attacker.done();
        attacker.say("leave");
    }
}

/// Serves hostile peers, in a process that does nothing else.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_serves_hostile_peers() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let mut attacker = Attacker::start();
    for round in 0..30 {
        serve_hostile_peers(&mut attacker, &driver, round);
    }
    // What the driver is about to give back varies.
    let before = held();
    for round in 0..240 {
        serve_hostile_peers(&mut attacker, &driver, round);
    }
    let mut after = held();
    eventually("all is given back", || {
        after = held();
        after[0] <= before[0] && after[1] <= before[1] && after[2] <= before[2] + 4
    });
    assert!(after[3] < before[3] + 4096, "{before:?}, then {after:?}");
    child::say(format!("{before:?}, then {after:?}"));
}

fn hundreds_of_hostile_peers_leave_nothing_behind(driver: &Driver) {
    let backend = driver.backend();
    let mut child =
        Child::start(test_path!(child_that_serves_hostile_peers), &[&backend.to_string()]);
    let held = child.hear();
    eprintln!("descriptors, threads, mappings, KiB on {backend}: {held}");
    assert!(child.wait().success());
}
