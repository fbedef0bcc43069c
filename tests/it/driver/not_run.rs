//! Drivers that no thread runs.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wakering::{CloseReason, Driver, RecvTimeoutError, ShmError, SpscFace, SpscHandle};

use super::{ends, park_until, parked, polled};
use crate::common::child::{self, Child, test_path};
use crate::common::{Dir, PATIENCE, SMALL, eventually, number, on_both_backends, packet, stay};

on_both_backends!(
    blocking_calls_learn_of_the_end_though_nobody_runs_the_driver,
    blocking_calls_learn_of_a_death_of_a_peer_that_came_later,
    a_call_that_blocked_first_learns_of_the_death_of_a_silent_peer,
    a_connect_to_a_face_that_nobody_runs_times_out,
    a_drivers_debug_form_tells_whether_anybody_runs_it,
);

fn blocking_calls_learn_of_the_end_though_nobody_runs_the_driver(like: &Driver) {
    let (idle, background) = (parked(like), Driver::builder().background().unwrap());
    // The peer closes.
    let (face, handle) = ends(&idle, &background);
    let receiver = thread::spawn(move || (face.recv_blocking(), face.close_reason()));
    drop(handle);
    assert_eq!(receiver.join().unwrap(), (None, Some(CloseReason::Peer)));
    // Another thread cancels.
    let (face, _handle) = ends(&idle, &background);
    let canceller = face.canceller();
    let receiver = thread::spawn(move || (face.recv_blocking(), face.close_reason()));
    thread::sleep(Duration::from_millis(5));
    canceller.cancel();
    assert_eq!(receiver.join().unwrap(), (None, Some(CloseReason::Cancelled)));
    // Deadlines pass.
    let builder = SpscFace::builder().driver(&idle).send_timeout(Some(Duration::from_millis(20)));
    let (face, _descriptor) = builder.ring_bytes(SMALL).pair().unwrap();
    assert_eq!(face.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
    while face.try_send(packet(0, 8)).is_ok() {}
    assert!(matches!(face.send_blocking(packet(0, 8)), Err(ShmError::TimedOut { sent: 0 })));
    // The peer dies: the process that has the other end is gone and did not close it.
    let (face, descriptor) = SpscFace::builder().driver(&idle).pair().unwrap();
    let receiver = thread::spawn(move || (face.recv_blocking(), face.close_reason()));
    thread::sleep(Duration::from_millis(5));
    drop(descriptor);
    assert_eq!(receiver.join().unwrap(), (None, Some(CloseReason::PeerDied)));
    // The peer dies while a send waits for room.
    let (face, descriptor) = SpscFace::builder().driver(&idle).ring_bytes(SMALL).pair().unwrap();
    while face.try_send(packet(0, 8)).is_ok() {}
    let sender = thread::spawn(move || face.send_blocking(packet(0, 8)));
    thread::sleep(Duration::from_millis(5));
    drop(descriptor);
    let error = sender.join().unwrap().unwrap_err();
    assert!(
        matches!(error, ShmError::Closed { reason: CloseReason::PeerDied, sent: 0 }),
        "{error}"
    );
}

fn blocking_calls_learn_of_a_death_of_a_peer_that_came_later(like: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let driver = parked(like);
    let face = Arc::new(SpscFace::builder().driver(&driver).create(&name).unwrap());
    let blocked = face.clone();
    let receiver = thread::spawn(move || (blocked.recv_blocking(), blocked.close_reason()));
    let mut client = Child::start(test_path!(helper_sends_and_waits), &[&name]);
    park_until(&driver, "connected", || face.is_connected());
    // From here on, no thread runs the driver.
    assert_eq!(number(&receiver.join().unwrap().0.unwrap()), 1);
    let receiver = thread::spawn(move || (face.recv_blocking(), face.close_reason()));
    thread::sleep(Duration::from_millis(5));
    client.kill();
    client.wait();
    assert_eq!(receiver.join().unwrap(), (None, Some(CloseReason::PeerDied)));
}

#[test]
#[ignore = "run by blocking_calls_learn_of_a_death_of_a_peer_that_came_later"]
fn helper_sends_and_waits() {
    let Some(arguments) = child::arguments() else { return };
    let handle = SpscHandle::connect(&arguments[0]).unwrap();
    handle.send_blocking(packet(1, 8)).unwrap();
    assert_eq!(handle.recv_timeout(PATIENCE), Err(RecvTimeoutError::Timeout));
}

/// The call sleeps before anybody is there to watch, and nothing but the death ends its sleep.
fn a_call_that_blocked_first_learns_of_the_death_of_a_silent_peer(like: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let driver = parked(like);
    let face = Arc::new(SpscFace::builder().driver(&driver).create(&name).unwrap());
    let blocked = face.clone();
    let receiver = thread::spawn(move || blocked.recv_timeout(PATIENCE));
    eventually("the call blocks", || face.stats().parks > 0);
    let mut client = Child::start(test_path!(helper_that_is_silent), &[&name]);
    park_until(&driver, "connected", || face.is_connected());
    // From here on, no thread runs the driver.
    client.expect("connected");
    client.kill();
    client.wait();
    let closed = Err(RecvTimeoutError::Closed(CloseReason::PeerDied));
    assert_eq!(receiver.join().unwrap(), closed);
}

#[test]
#[ignore = "run by a_call_that_blocked_first_learns_of_the_death_of_a_silent_peer"]
fn helper_that_is_silent() {
    let Some(arguments) = child::arguments() else { return };
    let _handle = SpscHandle::connect(&arguments[0]).unwrap();
    child::say("connected");
    stay()
}

fn a_connect_to_a_face_that_nobody_runs_times_out(like: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let driver = parked(like);
    let face = SpscFace::builder().driver(&driver).create(&name).unwrap();
    let quick = || SpscHandle::builder().connect_timeout(Duration::from_millis(50));
    assert!(matches!(quick().connect(&name), Err(ShmError::TimedOut { sent: 0 })));
    let connected = pollster::block_on(quick().connect_async(&name));
    assert!(matches!(connected, Err(ShmError::TimedOut { sent: 0 })));
    drop(face);
    let listener = SpscFace::builder().driver(&driver).bind(&name).unwrap();
    assert!(matches!(quick().connect(&name), Err(ShmError::TimedOut { sent: 0 })));
    // When it runs again, it serves the next client.
    let client = thread::spawn(move || SpscHandle::connect(&name).unwrap());
    let face = driver.block_on(listener.accept()).unwrap();
    drop(client.join().unwrap());
    drop(face);
}

/// The `Debug` form helps to find out why a task hangs.
fn a_drivers_debug_form_tells_whether_anybody_runs_it(like: &Driver) {
    let tells = |driver: &Driver, what: &str| format!("{driver:?}").contains(what);
    let driver = parked(like);
    assert!(tells(&driver, "last_run: never") && tells(&driver, "bound: 0"), "{driver:?}");
    let background = Driver::builder().backend(like.backend()).background().unwrap();
    let (face, handle) = ends(&driver, &background);
    assert!(tells(&driver, "last_run: never") && tells(&driver, "bound: 1"), "{driver:?}");
    // The background driver runs by itself.
    assert!(!tells(&background, "last_run") && tells(&background, "bound: 1"), "{background:?}");
    let unparker = driver.unparker();
    thread::scope(|scope| {
        let parks = scope.spawn(|| while driver.park(None).is_ok() && !face.is_closed() {});
        eventually("it is run", || tells(&driver, "last_run: now"));
        handle.close();
        while !parks.is_finished() {
            unparker.unpark();
        }
    });
    assert!(tells(&driver, "s ago"), "{driver:?}");
    drop((face, handle));
    park_until(&driver, "nothing is bound", || tells(&driver, "bound: 0"));

    let driver = polled(like);
    assert!(tells(&driver, "last_run: never"), "{driver:?}");
    driver.turn().unwrap();
    assert!(tells(&driver, "s ago"), "{driver:?}");
}
