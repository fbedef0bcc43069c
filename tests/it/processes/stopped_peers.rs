//! A peer that is stopped for a while has not died. The death of a peer in another PID namespace is
//! noticed.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wakering::{CloseReason, Driver, Endpoint, RecvTimeoutError, ShmError, SpscFace, SpscHandle};

use crate::common::child::{self, Child, test_path};
use crate::common::roles::other;
use crate::common::{self, Dir, SMALL, eventually, fill, number, on_both_backends, packet, wait};

on_both_backends!(
    a_stopped_peer_has_not_died,
    connecting_to_a_stopped_engine_times_out,
    packets_and_deaths_cross_pid_namespaces,
);

fn open(driver: &Driver, role: &str, name: &str) -> Endpoint {
    let timeout = Some(Duration::from_millis(200));
    if role == "engine" {
        let face = SpscFace::builder().ring_bytes(SMALL).send_timeout(timeout).driver(driver);
        face.create(name).unwrap().into()
    } else {
        SpscHandle::builder().send_timeout(timeout).driver(driver).connect(name).unwrap().into()
    }
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_echoes() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, role, name] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let end = open(&driver, role, name);
    child::say("open");
    pollster::block_on(async {
        while let Some(packet) = end.recv().await {
            while end.send(packet.clone()).await.is_err() {}
        }
    });
}

/// Starts a child that echoes and has the other role.
fn start(tool: &[&str], driver: &Driver, role: &str, name: &str) -> std::io::Result<Child> {
    let (backend, theirs) = (driver.backend().to_string(), other(role));
    let arguments = [backend.as_str(), theirs, name];
    match tool {
        [] => Ok(Child::start(test_path!(child_that_echoes), &arguments)),
        tool => Child::start_under(tool, test_path!(child_that_echoes), &arguments),
    }
}

/// Returns our end, in this role, and a child that has the other end.
fn meet(
    tool: &[&str],
    driver: &Driver,
    role: &str,
    dir: &Dir,
) -> std::io::Result<(Endpoint, Child)> {
    let name = dir.name("face");
    if role == "engine" {
        let end = open(driver, role, &name);
        let mut child = start(tool, driver, role, &name)?;
        child.expect("open");
        wait("connected", end.connected()).unwrap();
        Ok((end, child))
    } else {
        let mut child = start(tool, driver, role, &name)?;
        child.expect("open");
        Ok((open(driver, role, &name), child))
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

fn echoes(end: &Endpoint, numbers: std::ops::Range<u64>) {
    for n in numbers {
        wait("send", end.send(packet(n, 100))).unwrap();
        assert_eq!(number(&wait("recv", end.recv()).unwrap()), n);
    }
}

fn a_stopped_peer_has_not_died(driver: &Driver) {
    for role in ["engine", "application"] {
        let dir = Dir::new();
        let (end, child) = meet(&[], driver, role, &dir).unwrap();
        for round in 0..3 {
            echoes(&end, 0..100);
            signal(child.pid(), Signal::STOP);
            eventually("it stops", || is_stopped(child.pid()));
            // Sends succeed until the ring is full, and then give up at their deadline.
            let sent = fill(&end);
            assert!(sent > 0);
            match wait("send", end.send(packet(0, 8))) {
                Err(ShmError::TimedOut { sent: 0 }) => {}
                other => panic!("{other:?}"),
            }
            let nothing = end.recv_timeout(Duration::from_millis(300));
            assert_eq!(nothing, Err(RecvTimeoutError::Timeout));
            assert_eq!(end.close_reason(), None, "round {round}");
            assert!(end.is_connected());
            signal(child.pid(), Signal::CONT);
            for n in 0..sent {
                assert_eq!(number(&wait("recv", end.recv()).unwrap()), n);
            }
        }
        echoes(&end, 0..100);
        // A peer that is killed while it is stopped is dead.
        signal(child.pid(), Signal::STOP);
        signal(child.pid(), Signal::KILL);
        assert_eq!(wait("closed", end.closed()), CloseReason::PeerDied);
    }
}

fn connecting_to_a_stopped_engine_times_out(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let mut child = start(&[], driver, "application", &name).unwrap();
    child.expect("open");
    signal(child.pid(), Signal::STOP);
    eventually("it stops", || is_stopped(child.pid()));
    for connected in common::connects_within(driver, &name, Duration::from_millis(100)) {
        assert!(matches!(connected, Err(ShmError::TimedOut { sent: 0 })), "{connected:?}");
    }
    signal(child.pid(), Signal::CONT);
    // The clients that gave up have not used the face up.
    let handle = wait("connect", SpscHandle::builder().driver(driver).connect_async(&name));
    echoes(&handle.unwrap(), 0..10);
}

/// Returns the process that `unshare` runs.
fn inner(unshare: u32) -> u32 {
    let path = format!("/proc/{unshare}/task/{unshare}/children");
    let children = std::fs::read_to_string(path).unwrap();
    child::parsed(children.split_whitespace().next().unwrap())
}

fn packets_and_deaths_cross_pid_namespaces(driver: &Driver) {
    const TOOL: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child"];
    let can = std::process::Command::new(TOOL[0]).args(&TOOL[1..]).arg("true").output();
    match can {
        Ok(output) if output.status.success() => {}
        other => return eprintln!("no PID namespaces here: left out ({other:?})"),
    }
    for mount in [None, Some("--mount-proc")] {
        for role in ["engine", "application"] {
            let dir = Dir::new();
            let tool: Vec<_> = TOOL.into_iter().chain(mount).collect();
            let (end, child) = meet(&tool, driver, role, &dir).unwrap();
            echoes(&end, 0..200);
            let begin = Instant::now();
            signal(inner(child.pid()), Signal::KILL);
            assert_eq!(wait("recv", end.recv()), None);
            eprintln!("a death in another PID namespace was noticed after {:?}", begin.elapsed());
            assert_eq!(end.close_reason(), Some(CloseReason::PeerDied));
        }
    }
}
