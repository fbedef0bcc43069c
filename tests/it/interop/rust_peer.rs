//! A client and an engine that were written from the specification alone, in other processes,
//! against the library.

use wakering::{CloseReason, Driver, Endpoint, SpscFace, SpscHandle};

use crate::common::child::{self, Child, test_path};
use crate::common::raw_peer::{self, End, Raw};
use crate::common::{Dir, SMALL, join, length, number, on_both_backends, packet, wait};

on_both_backends!(
    an_independent_end_echoes_what_is_sent_to_it,
    an_independent_end_and_ours_stream_both_ways_at_once,
    everything_from_an_independent_end_that_closes_arrives,
    an_independent_end_learns_how_ours_ended,
);

/// Returns an end that was written from the specification, and its task.
fn raw_end() -> Option<(Raw, String)> {
    let arguments = child::arguments()?;
    let [role, path, sleeps, task] = &arguments[..] else { panic!("{arguments:?}") };
    let by_byte = sleeps == "by byte";
    let raw = if role == "engine" {
        let listener = raw_peer::listen(path);
        child::say("open");
        Raw::serve(&listener, &raw_peer::region(4096, 1016), by_byte)
    } else {
        Raw::connect(path, by_byte)
    };
    Some((raw, task.clone()))
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_was_written_from_the_specification() {
    let Some((mut raw, task)) = raw_end() else { return };
    let end = match task.as_str() {
        "echo" => loop {
            match raw.recv() {
                Ok(packet) => raw.send(&packet).unwrap(),
                Err(end) => break end,
            }
        },
        "send" => {
            for n in 0..500 {
                raw.send(&packet(n, length(n))).unwrap();
            }
            raw.close();
            return child::say("done");
        }
        other => panic!("no task {other}"),
    };
    child::say(match end {
        End::Orderly => "orderly",
        End::Cancelled => "cancelled",
        End::Died => "died",
    });
}

/// Runs `test` on an end of ours, for each role and each way in which the other may sleep.
fn against_each(driver: &Driver, task: &str, test: impl Fn(Endpoint, Child)) {
    for sleeps in ["by byte", "on the bell"] {
        for theirs in ["application", "engine"] {
            let dir = Dir::new();
            let name = dir.name("face");
            let arguments = [theirs, &name, sleeps, task];
            let start = || {
                Child::start(test_path!(child_that_was_written_from_the_specification), &arguments)
            };
            if theirs == "application" {
                let face = SpscFace::builder().ring_bytes(SMALL).driver(driver);
                let face = face.create(&name).unwrap();
                test(face.into(), start());
            } else {
                let mut child = start();
                child.expect("open");
                test(SpscHandle::builder().driver(driver).connect(&name).unwrap().into(), child);
            }
        }
    }
}

fn an_independent_end_echoes_what_is_sent_to_it(driver: &Driver) {
    against_each(driver, "echo", |end, mut child| {
        for n in 0..2000 {
            wait("send", end.send(packet(n, length(n)))).unwrap();
            let back = wait("recv", end.recv()).unwrap();
            assert_eq!((number(&back), back.len()), (n, length(n)));
        }
        drop(end);
        child.expect("orderly");
    });
}

fn an_independent_end_and_ours_stream_both_ways_at_once(driver: &Driver) {
    const COUNT: u64 = 20_000;
    against_each(driver, "echo", |end, mut child| {
        let (mut tx, mut rx) = end.into_split();
        let sender = std::thread::spawn(move || {
            for n in 0..COUNT {
                wait("send", tx.send(packet(n, length(n)))).unwrap();
            }
            tx
        });
        for n in 0..COUNT {
            let back = wait("recv", rx.recv()).unwrap();
            assert_eq!((number(&back), back.len()), (n, length(n)));
        }
        drop((join("the sender", sender), rx));
        child.expect("orderly");
    });
}

fn everything_from_an_independent_end_that_closes_arrives(driver: &Driver) {
    against_each(driver, "send", |end, mut child| {
        for n in 0..500 {
            let got = wait("recv", end.recv()).unwrap();
            assert_eq!((number(&got), got.len()), (n, length(n)));
        }
        assert_eq!(wait("the end", end.recv()), None);
        assert_eq!(end.close_reason(), Some(CloseReason::Peer));
        child.expect("done");
    });
}

fn an_independent_end_learns_how_ours_ended(driver: &Driver) {
    against_each(driver, "echo", |end, mut child| {
        wait("connected", end.connected()).unwrap();
        end.cancel();
        child.expect("cancelled");
    });
}
