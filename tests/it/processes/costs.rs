//! What channels between processes cost: processor time and system calls.

use std::fs;
use std::time::Duration;

use wakering::{Driver, TrySendError};

use super::as_child;
use crate::common::child::{self, Child, test_path};
use crate::common::roles::open_with;
use crate::common::{self, Dir, number, on_both_backends, packet};

on_both_backends!(an_idle_pair_uses_no_processor, a_stream_makes_hardly_any_system_calls,);

/// Parks in `recv` after one round trip, and says so.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_idles() {
    let Some((end, more)) = as_child() else { return };
    pollster::block_on(async {
        if more[0] == "first" {
            end.connected().await.unwrap();
            end.send(packet(1, 8)).await.unwrap();
            assert!(end.recv().await.is_some());
        } else {
            let packet = end.recv().await.unwrap();
            end.send(packet).await.unwrap();
        }
        child::say("idle");
        end.recv().await;
    });
}

/// Returns ticks of processor time, and how often the process's threads went to sleep.
fn usage(pid: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = child::parsed::<u64>(fields[11]) + child::parsed::<u64>(fields[12]);
    let mut sleeps = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sleeps += child::parsed::<u64>(line.unwrap().trim());
    }
    (ticks, sleeps)
}

fn an_idle_pair_uses_no_processor(driver: &Driver) {
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("face");
    let mut engine =
        Child::start(test_path!(child_that_idles), &[&backend, "engine", &name, "first"]);
    engine.expect("open");
    let arguments = [backend.as_str(), "application", &name, "second"];
    let mut application = Child::start(test_path!(child_that_idles), &arguments);
    for child in [&mut engine, &mut application] {
        child.expect("idle");
    }
    let both = || (usage(engine.pid()), usage(application.pid()));
    // They may still be on their way to sleep, and the counters may miss the last of their work.
    let mut before = both();
    common::eventually("they have settled", || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut before, both()) == before
    });
    std::thread::sleep(Duration::from_secs(10));
    let after = both();
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        // A tick is sampled, and may be another process's.
        assert!(after.0 - before.0 <= 1, "{} ticks", after.0 - before.0);
        assert!(after.1 - before.1 <= 1, "{} sleeps", after.1 - before.1);
    }
}

const STREAM: u64 = 150_000;

/// Sends or receives a stream without ever sleeping: it polls again instead.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_in_a_busy_stream() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let end = open_with(&driver, &arguments[1], &arguments[2], 1 << 20);
    child::say("open");
    if arguments[1] == "engine" {
        for n in 0..STREAM {
            let mut next = packet(n, 64);
            while let Err(TrySendError::Full(back)) = end.try_send(next) {
                next = back;
                std::hint::spin_loop();
            }
        }
        assert_eq!(end.recv_blocking(), None);
    } else {
        for n in 0..STREAM {
            let received = loop {
                if let Ok(packet) = end.try_recv() {
                    break packet;
                }
                std::hint::spin_loop();
            };
            assert_eq!(number(&received), n);
        }
    }
    let stats = end.stats();
    assert_eq!(stats.wakes_sent, 0, "{stats:?}");
    drop(end);
    child::say("done");
}

fn a_stream_makes_hardly_any_system_calls(driver: &Driver) {
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("face");
    let counts = dir.path().join("counts");
    let tool = ["strace", "-f", "-c", "-o", counts.to_str().unwrap()];
    let start = |tool: &[&str], role: &str| {
        let arguments = [backend.as_str(), role, &name];
        if tool.is_empty() {
            Ok(Child::start(test_path!(child_in_a_busy_stream), &arguments))
        } else {
            Child::start_under(tool, test_path!(child_in_a_busy_stream), &arguments)
        }
    };
    for traced in ["engine", "application"] {
        let tool_for = |role| if role == traced { &tool[..] } else { &[] };
        let mut children = Vec::new();
        for role in ["engine", "application"] {
            let mut child = match start(tool_for(role), role) {
                Ok(child) => child,
                Err(error) => {
                    eprintln!("no strace here ({error}): system calls are not counted");
                    return;
                }
            };
            child.expect("open");
            children.push(child);
        }
        for mut child in children.into_iter().rev() {
            child.expect("done");
            assert!(child.wait().success());
        }
        let table = fs::read_to_string(&counts).unwrap();
        let total = table.lines().last().unwrap();
        // "100.00  0.001234  3  412  40 total"
        let calls: u64 = child::parsed(total.split_whitespace().nth(3).unwrap());
        eprintln!("{backend}: {calls} system calls for {STREAM} packets in the {traced}");
        // To start a process and a test in it takes a few hundred.
        assert!(calls < STREAM / 100, "{table}");
    }
}
