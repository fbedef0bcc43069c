//! What happens on the way between the bridges.

use std::time::Duration;

use crate::process::Process;
use crate::world::World;

/// Both sides in full flight.
fn streaming(world: &World) -> (Process, Process) {
    let (mut engine, mut application) = world.connected();
    for party in [&mut engine, &mut application] {
        party.tell("exchange 100000000 1 2000");
    }
    // In the middle of the streams.
    std::thread::sleep(Duration::from_millis(100));
    (engine, application)
}

#[track_caller]
fn are_cancelled(engine: &mut Process, application: &mut Process) {
    for party in [engine, application] {
        let said = party.hear();
        assert!(said.contains("closed (cancelled) at"), "{said}");
        assert!(said.contains(": Some(Cancelled)"), "{said}");
    }
}

#[test]
fn a_link_that_is_cut_cancels_both_sides_and_serves_new_applications_later() {
    let world = World::with(&["--patience", "3600"]);
    let (mut engine, mut application) = streaming(&world);
    world.proxy.cut();
    are_cancelled(&mut engine, &mut application);
    engine.does("next", "over");
    world.proxy.restore();
    world.goes_on(&mut engine);
}

#[test]
fn a_link_that_comes_back_at_once_does_not_go_on_with_what_was_lost() {
    let world = World::with(&["--patience", "3600"]);
    let mut first = streaming(&world);
    for _ in 0..3 {
        world.proxy.restore();
        are_cancelled(&mut first.0, &mut first.1);
        first.0.does("next", "over");
        world.goes_on(&mut first.0);
        let (mut engine, _) = first;
        let mut application = world.connect(&mut engine);
        for party in [&mut engine, &mut application] {
            party.tell("exchange 100000000 1 2000");
        }
        std::thread::sleep(Duration::from_millis(50));
        first = (engine, application);
    }
}

#[test]
fn a_link_that_loses_everything_silently_cancels_both_sides() {
    let world = World::with(&["--patience", "4"]);
    let (mut engine, mut application) = streaming(&world);
    world.proxy.swallow();
    are_cancelled(&mut engine, &mut application);
    engine.does("next", "over");
    world.proxy.restore();
    world.goes_on(&mut engine);
}

#[test]
fn without_a_link_there_is_no_engine_for_applications() {
    let world = World::new();
    let (mut engine, mut application) = world.connected();
    application.kill();
    engine.does("end", "cancelled after 0");
    engine.does("next", "over");
    world.proxy.cut();
    world.wait_until_nothing_is_imported();
    engine.tell("accept");
    let mut application = world.connecting_application();
    world.proxy.restore();
    application.expect("connected");
    engine.expect("accepted");
}

#[test]
fn a_channel_that_nobody_uses_outlasts_the_patience() {
    let world = World::with(&["--patience", "4"]);
    let (mut engine, mut application) = world.connected();
    std::thread::sleep(Duration::from_secs(9));
    application.does("send 50 1 2000", "sent");
    engine.does("receive 50 1 2000", "received");
}
