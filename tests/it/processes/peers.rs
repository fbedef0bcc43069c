//! What an engine and an application exchange, and what one of them learns when the other dies.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, TrySendError};

use super::{as_child, recv_reason, send_reason};
use crate::common::child::{self, Child, test_path};
use crate::common::roles::beside;
use crate::common::{
    Dir, PATIENCE, SMALL, eventually, fill, join, number, on_both_backends, packet, wait,
};

on_both_backends!(
    round_trips_between_processes,
    streams_both_ways_between_processes,
    a_killed_peer_is_noticed_in_recv,
    a_killed_peer_is_noticed_in_send,
    a_killed_peer_is_noticed_in_blocking_recv,
    a_killed_peer_is_noticed_in_blocking_send,
    a_killed_peer_is_noticed_by_every_waiter,
    everything_published_before_the_kill_arrives,
    a_process_that_exits_without_dropping_has_died,
    a_process_that_drops_its_end_has_not_died,
    an_orderly_end_of_one_direction_hides_no_death,
    the_name_of_a_killed_engine_can_be_taken_at_once,
);

/// Returns this process's end, and a child that has the other end and runs the test `child`.
fn with_child(driver: &Driver, child: &str, role: &str, more: &[&str]) -> (Endpoint, Child, Dir) {
    let dir = Dir::new();
    let (here, child) = beside(driver, role, &dir.name("face"), child, more);
    wait("both are connected", here.connected()).unwrap();
    (here, child, dir)
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_echoes() {
    let Some((end, _)) = as_child() else { return };
    pollster::block_on(async {
        while let Some(packet) = end.recv().await {
            end.send(packet).await.unwrap();
        }
    });
    assert_eq!(end.close_reason(), Some(CloseReason::Peer));
    drop(end);
    child::say("done");
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_streams() {
    let Some((end, more)) = as_child() else { return };
    let count = child::parsed(&more[0]);
    stream_both_ways(end, count);
    child::say("done");
}

/// Does nothing until it is told to end in some way.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_waits() {
    let Some((end, more)) = as_child() else { return };
    let count = more.first().map_or(0, |count| child::parsed(count));
    for n in 0..count {
        end.try_send(packet(n, 20)).unwrap();
    }
    child::say("ready");
    match child::listen().as_deref() {
        Some("exit") => std::process::exit(0),
        Some("drop") => drop(end),
        Some("abort") => std::process::abort(),
        _ => {}
    }
}

/// Sends some packets and drops one of its halves. Is killed before it drops the other.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_half_closes() {
    let Some((end, more)) = as_child() else { return };
    let (mut tx, rx) = end.into_split();
    let mut halves = (None, Some(rx));
    if more[0] == "receiver" {
        halves.1 = None;
    }
    for n in 0..50 {
        tx.try_send(packet(n, 20)).unwrap();
    }
    if more[0] == "receiver" {
        halves.0 = Some(tx);
    } else {
        drop(tx);
    }
    child::say("ready");
    let _ = child::listen();
    drop(halves);
}

/// Sends as fast as it can until it is killed.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_sends() {
    let Some((end, _)) = as_child() else { return };
    pollster::block_on(async {
        for n in 0.. {
            if n == 100 {
                child::say("a hundred");
            }
            let len = 8 + usize::try_from(n * 13 % 900).unwrap();
            end.send(packet(n, len)).await.unwrap();
        }
    });
}

fn stream_both_ways(end: Endpoint, count: u64) {
    let end = Arc::new(end);
    let sender = end.clone();
    let thread = std::thread::spawn(move || {
        pollster::block_on(async {
            for n in 0..count {
                let len = 8 + usize::try_from(n % 300).unwrap();
                sender.send(packet(n, len)).await.unwrap();
            }
        });
    });
    pollster::block_on(async {
        for n in 0..count {
            assert_eq!(number(&end.recv().await.unwrap()), n);
        }
    });
    join("the sender", thread);
}

fn round_trips_between_processes(driver: &Driver) {
    for role in ["engine", "application"] {
        let (here, mut child, _dir) = with_child(driver, test_path!(child_that_echoes), role, &[]);
        for n in 0..3000 {
            wait("send", here.send(packet(n, 64))).unwrap();
            assert_eq!(number(&wait("recv", here.recv()).unwrap()), n);
        }
        let peer = here.peer_credentials().unwrap();
        assert_eq!(u32::try_from(peer.pid).unwrap(), child.pid());
        here.close();
        child.expect("done");
        assert!(child.wait().success());
    }
}

fn streams_both_ways_between_processes(driver: &Driver) {
    for role in ["engine", "application"] {
        let count = 20_000;
        let more = [count.to_string()];
        let (here, mut child, _dir) =
            with_child(driver, test_path!(child_that_streams), role, &[more[0].as_str()]);
        stream_both_ways(here, count);
        child.expect("done");
        assert!(child.wait().success());
    }
}

const KILLS: usize = 24;

/// Kills the peer of an end that waits in `call`, again and again, and prints how long the call
/// took to return.
fn measure_kills(
    driver: &Driver,
    what: &str,
    parks_full: bool,
    call: fn(&Endpoint) -> Option<CloseReason>,
) {
    let mut delays = Vec::new();
    for round in 0..KILLS {
        let role = ["engine", "application"][round % 2];
        let (here, mut child, _dir) = with_child(driver, test_path!(child_that_waits), role, &[]);
        child.expect("ready");
        let here = Arc::new(here);
        if parks_full {
            fill(&here);
        }
        let (end, parks) = (here.clone(), here.stats().parks);
        let thread = std::thread::spawn(move || {
            let reason = call(&end);
            (reason, Instant::now())
        });
        eventually(what, || here.stats().parks > parks);
        // Longer than until the sender's second look, so that it really sleeps.
        std::thread::sleep(Duration::from_millis(3));
        let killed = child.kill();
        let (reason, noticed) = join(what, thread);
        assert_eq!(reason, Some(CloseReason::PeerDied));
        assert_eq!(here.close_reason(), Some(CloseReason::PeerDied));
        delays.push(noticed.duration_since(killed));
    }
    delays.sort_unstable();
    let (median, p99, max) = (delays[KILLS / 2], delays[KILLS * 99 / 100], delays[KILLS - 1]);
    let backend = driver.backend();
    eprintln!("death noticed in {what} on {backend}: median {median:?} p99 {p99:?} max {max:?}");
    // The figure above is the promise, for an idle machine. On a busy machine, a process waits to
    // be scheduled. The call must not wait for a timer.
    assert!(median < Duration::from_millis(100), "{delays:?}");
}

fn a_killed_peer_is_noticed_in_recv(driver: &Driver) {
    measure_kills(driver, "recv", false, |end| recv_reason(end, pollster::block_on(end.recv())));
}

fn a_killed_peer_is_noticed_in_send(driver: &Driver) {
    measure_kills(driver, "send", true, |end| {
        send_reason(pollster::block_on(end.send(packet(0, 8))))
    });
}

fn a_killed_peer_is_noticed_in_blocking_recv(driver: &Driver) {
    measure_kills(driver, "recv_blocking", false, |end| recv_reason(end, end.recv_blocking()));
}

fn a_killed_peer_is_noticed_in_blocking_send(driver: &Driver) {
    measure_kills(driver, "send_blocking", true, |end| {
        send_reason(end.send_blocking(packet(0, 8)))
    });
}

fn a_killed_peer_is_noticed_by_every_waiter(driver: &Driver) {
    let (here, mut child, _dir) = with_child(driver, test_path!(child_that_waits), "engine", &[]);
    child.expect("ready");
    fill(&here);
    std::thread::scope(|scope| {
        let here = &here;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(scope.spawn(|| recv_reason(here, wait("recv", here.recv()))));
            waiting.push(scope.spawn(|| send_reason(wait("send", here.send(packet(0, 8))))));
            waiting.push(scope.spawn(|| recv_reason(here, here.recv_blocking())));
            waiting.push(scope.spawn(|| send_reason(here.send_blocking(packet(0, 8)))));
            waiting.push(scope.spawn(|| Some(wait("closed", here.closed()))));
        }
        eventually("they park", || here.stats().parks > 1);
        child.kill();
        for waiter in waiting {
            assert_eq!(waiter.join().unwrap(), Some(CloseReason::PeerDied));
        }
    });
    assert!(!here.is_connected());
}

fn everything_published_before_the_kill_arrives(driver: &Driver) {
    for round in 0..16 {
        let role = ["engine", "application"][round % 2];
        let (here, mut child, _dir) = with_child(driver, test_path!(child_that_sends), role, &[]);
        let mut next = 0;
        let mut check = |packet: bytes::Bytes| {
            assert_eq!(number(&packet), next);
            assert_eq!(packet.len(), 8 + usize::try_from(next * 13 % 900).unwrap());
            next += 1;
            next
        };
        while check(wait("recv", here.recv()).unwrap()) < 150 {}
        child.expect("a hundred");
        // The child may be in the middle of a write, or parked on a full ring.
        std::thread::sleep(Duration::from_micros(u64::try_from(round).unwrap() * 100));
        child.kill();
        if round % 4 < 2 {
            child.wait();
        }
        while let Some(packet) = wait("recv", here.recv()) {
            check(packet);
        }
        assert_eq!(here.close_reason(), Some(CloseReason::PeerDied));
        match here.try_send(packet(0, 8)) {
            Err(TrySendError::Closed(_, CloseReason::PeerDied)) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn a_process_that_exits_without_dropping_has_died(driver: &Driver) {
    for how in ["exit", "abort"] {
        for role in ["engine", "application"] {
            let (here, mut child, _dir) =
                with_child(driver, test_path!(child_that_waits), role, &["50"]);
            child.expect("ready");
            child.tell(how);
            assert_eq!(wait("closed", here.closed()), CloseReason::PeerDied);
            for n in 0..50 {
                assert_eq!(number(&wait("recv", here.recv()).unwrap()), n);
            }
            assert_eq!(wait("recv", here.recv()), None);
            assert_eq!(
                send_reason(wait("send", here.send(packet(0, 8)))),
                Some(CloseReason::PeerDied)
            );
            child.wait();
        }
    }
}

fn a_process_that_drops_its_end_has_not_died(driver: &Driver) {
    for role in ["engine", "application"] {
        let (here, mut child, _dir) =
            with_child(driver, test_path!(child_that_waits), role, &["50"]);
        child.expect("ready");
        child.tell("drop");
        for n in 0..50 {
            assert_eq!(number(&wait("recv", here.recv()).unwrap()), n);
        }
        assert_eq!(wait("recv", here.recv()), None);
        assert!(child.wait().success());
        assert_eq!(here.close_reason(), Some(CloseReason::Peer));
    }
}

fn an_orderly_end_of_one_direction_hides_no_death(driver: &Driver) {
    for half in ["receiver", "sender"] {
        for role in ["engine", "application"] {
            let child = with_child(driver, test_path!(child_that_half_closes), role, &[half]);
            let (here, mut child, _dir) = child;
            child.expect("ready");
            let sent = wait("send", here.send(packet(0, 8)));
            if half == "receiver" {
                // This side learns of the orderly end first.
                assert_eq!(send_reason(sent), Some(CloseReason::Peer));
            }
            child.kill();
            // There are still packets in the ring. They are received although the peer is dead.
            assert_eq!(wait("closed", here.closed()), CloseReason::PeerDied, "{half}");
            assert_eq!(here.finished(), None);
            for n in 0..50 {
                assert_eq!(number(&wait("recv", here.recv()).unwrap()), n);
            }
            assert_eq!(wait("recv", here.recv()), None);
            let [sends, finished] = match half {
                "receiver" => [CloseReason::Peer, CloseReason::PeerDied],
                _ => [CloseReason::PeerDied, CloseReason::Peer],
            };
            let is_whole = finished == CloseReason::Peer;
            assert_eq!(here.finished(), Some(if is_whole { Ok(()) } else { Err(finished) }));
            assert_eq!(send_reason(wait("send", here.send(packet(0, 8)))), Some(sends));
            assert_eq!(here.close_reason(), Some(CloseReason::PeerDied), "{half}");
        }
    }
}

fn the_name_of_a_killed_engine_can_be_taken_at_once(driver: &Driver) {
    let (here, mut child, dir) =
        with_child(driver, test_path!(child_that_waits), "application", &[]);
    child.expect("ready");
    let name = dir.name("face");
    let builder = || SpscFace::builder().ring_bytes(SMALL).driver(driver);
    assert!(matches!(builder().create(&name), Err(ShmError::NameInUse { .. })));
    child.kill();
    child.wait();
    // The socket's file is still there, but nothing serves it.
    assert!(Path::new(&name).exists());
    let connected = SpscHandle::builder().driver(driver).connect(&name);
    assert!(matches!(connected, Err(ShmError::NotFound { .. })), "{connected:?}");
    let face = builder().create(&name).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    handle.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));
    assert_eq!(wait("recv", here.recv()), None);
    drop(face);
    // Only the lock file is left.
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"]);
}

/// This is separate from the deadlines of the tests: a child that hangs must not outlive its
/// parent.
#[test]
fn a_child_ends_with_its_input() {
    let (here, child, _dir) = {
        let driver = Driver::builder().background().unwrap();
        with_child(&driver, test_path!(child_that_waits), "engine", &[])
    };
    assert!(child.wait().success());
    assert_eq!(wait("recv", here.recv()), None);
    assert!(PATIENCE > Duration::from_secs(1));
}
