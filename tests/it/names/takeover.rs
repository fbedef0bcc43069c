//! Engines that are killed, and engines that race for a name.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, SpscListener};

use crate::common::child::{self, Child, test_path};
use crate::common::{self, Dir, PATIENCE, SMALL, number, on_both_backends, packet, wait};

on_both_backends!(one_of_the_engines_that_race_for_a_name_has_it);

/// Takes the name as soon as it is free, and serves until it is killed.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_wants_the_name() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name, number, kind] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let number: u64 = child::parsed(number);
    child::say("ready");
    let faces = || SpscFace::builder().ring_bytes(SMALL).driver(&driver);
    if kind == "listener" {
        let listener = take(|| faces().bind(name));
        child::say("mine");
        serve_all(&listener, number);
    } else {
        let face = take(|| faces().create(name));
        child::say("mine");
        serve(&face, number);
        std::thread::sleep(PATIENCE);
    }
}

/// Tries again and again. The only error may be that another engine has the name.
fn take<T>(attempt: impl Fn() -> Result<T, ShmError>) -> T {
    loop {
        match attempt() {
            Ok(taken) => return taken,
            Err(ShmError::NameInUse { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn serve_all(listener: &SpscListener, number: u64) {
    while let Ok(face) = pollster::block_on(listener.accept()) {
        serve(&face, number);
    }
}

/// Answers every application with the number of this engine.
fn serve(face: &SpscFace, number: u64) {
    pollster::block_on(async {
        while let Some(asked) = face.recv().await {
            assert_eq!(self::number(&asked), 77);
            if face.send(packet(number, 30)).await.is_err() {
                break;
            }
        }
    });
}

/// Returns the number of the engine that `end` reaches, or `None` if it dies meanwhile.
fn ask(end: &Endpoint) -> Option<u64> {
    if let Err(error) = wait("ask", end.send(packet(77, 8))) {
        assert!(matches!(error, ShmError::Closed { .. }), "{error:?}");
        return None;
    }
    let answer = wait("the answer", end.recv());
    if answer.is_none() {
        assert_eq!(end.close_reason(), Some(CloseReason::PeerDied));
    }
    answer.map(|answer| number(&answer))
}

fn one_of_the_engines_that_race_for_a_name_has_it(driver: &Driver) {
    const ROUNDS: u64 = 60;
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("engine");
    let start = |number: u64| {
        let kind = if number.is_multiple_of(2) { "listener" } else { "face" };
        let mut child = Child::start(
            test_path!(child_that_wants_the_name),
            &[&backend, &name, &number.to_string(), kind],
        );
        child.expect("ready");
        child
    };
    let mut owner = start(0);
    owner.expect("mine");
    let mut rivals = [start(1), start(2)].map(Some);
    let (over, mut delays) = (AtomicBool::new(false), Vec::new());
    let (seen, refused) = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let (mut seen, mut refused) = (Vec::new(), 0);
            while !over.load(Ordering::Relaxed) {
                let builder = SpscHandle::builder().driver(driver).connect_timeout(PATIENCE);
                match builder.connect(&name) {
                    Ok(handle) => {
                        if let Some(engine) = ask(&handle) {
                            seen.push(engine);
                        }
                    }
                    Err(ShmError::NotFound { .. } | ShmError::Busy | ShmError::HungUp) => {
                        refused += 1
                    }
                    Err(error) => panic!("{error:?}"),
                }
                std::thread::sleep(Duration::from_micros(300));
            }
            (seen, refused)
        });
        for round in 0..ROUNDS {
            let begin = Instant::now();
            owner.kill();
            let winner = heard_first(&mut rivals, begin);
            delays.push(begin.elapsed());
            // The loser has not taken the name. Otherwise it would have said so by now; it cannot
            // take it while the winner lives.
            std::thread::sleep(Duration::from_millis(10));
            let loser = rivals[1 - winner].as_mut().unwrap();
            assert!(!loser.has_said_something(), "two have the name in round {round}");
            let next = start(round + 3);
            owner = rivals[winner].replace(next).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        connecting.join().unwrap()
    });
    // Owners follow each other: once the next one has answered, the previous one never does again.
    let mut changes = seen.clone();
    changes.dedup();
    let mut distinct = changes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(changes.len(), distinct.len(), "{changes:?}");
    delays.sort_unstable();
    let (median, max) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    let reached = seen.len();
    eprintln!(
        "a killed engine's name on {backend}: taken after {median:?}, at most {max:?}; \
         {reached} handles reached one, {refused} none"
    );
    assert!(reached > 0);
}

/// Returns which of the two has the name.
fn heard_first(rivals: &mut [Option<Child>; 2], since: Instant) -> usize {
    loop {
        for (n, rival) in rivals.iter_mut().enumerate() {
            let rival = rival.as_mut().unwrap();
            if rival.has_said_something() {
                rival.expect("mine");
                return n;
            }
        }
        assert!(since.elapsed() < PATIENCE, "no engine takes the name");
        std::thread::sleep(Duration::from_micros(100));
    }
}
