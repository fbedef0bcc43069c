//! Backpressure goes through both rings and the network.

use crate::party::FILLING;
use crate::process::Process;
use crate::world::{LONGEST, NAME, RING, World};

/// What fits in between: a ring at each end, the window, and the message that the sending bridge
/// has in its hands.
const MOST_BYTES: u64 = 4 * RING as u64;

#[track_caller]
fn fills_up(sender: &mut Process, receiver: &mut Process) {
    sender.tell("fill");
    let count: u64 = sender.hear().parse().unwrap();
    assert!(count * FILLING as u64 <= MOST_BYTES, "{count} packets of {FILLING}");
    assert!(count * FILLING as u64 >= RING as u64, "{count} packets of {FILLING}");
    // All of them come, and then there is room for others.
    receiver.does(&format!("drain {count}"), "received");
    sender.does("send 1000 5 200", "sent");
    receiver.does("receive 1000 5 200", "received");
}

#[test]
fn a_side_that_does_not_receive_stops_the_sender_after_bounded_bytes() {
    let world = World::new();
    let (mut engine, mut application) = world.connected();
    fills_up(&mut application, &mut engine);
    fills_up(&mut engine, &mut application);
}

#[test]
fn an_application_that_does_not_receive_holds_up_no_other() {
    let world = World::new();
    let mut echo = world.echo();
    let mut stuck = world.application();
    stuck.tell("fill");
    stuck.hear();
    let mut other = world.application();
    other.does("exchange 20000 3 2000", "sent and received");
    stuck.does("close", "closed");
    other.does("finish", "finished");
    other.does("end", "complete after 0");
    echo.kill();
}

#[test]
fn a_packet_that_is_too_long_for_the_other_end_cancels_the_channel() {
    let world = World::new();
    // A quarter of the ring that import gives to applications.
    let mut engine = Process::party(&world.machine("export"), &["engine", NAME, "16384"]);
    engine.expect("bound");
    let mut application = world.connect(&mut engine);
    application.tell(&format!("send 100000 1 {LONGEST}"));
    let said = application.hear();
    assert!(said.starts_with("closed (cancelled) at "), "{said}");
    engine.tell("end");
    assert!(engine.hear().starts_with("cancelled after "));
}
