//! The death of each process reaches the others, and never looks like an orderly end.

use std::time::Duration;

use crate::process::Process;
use crate::world::World;

/// Bridges that are not cut by silence, so that something else has to notice.
const UNSUSPICIOUS: [&str; 2] = ["--patience", "3600"];

/// An engine and an application in the middle of a conversation.
fn talking(world: &World) -> (Process, Process) {
    let (mut engine, mut application) = world.connected();
    application.does("send 50 1 2000", "sent");
    engine.does("receive 50 1 2000", "received");
    engine.does("send 50 2 2000", "sent");
    application.does("receive 50 2 2000", "received");
    (engine, application)
}

#[test]
fn a_killed_application_ends_the_engines_channel_after_all_that_it_sent() {
    let world = World::with(&UNSUSPICIOUS);
    let (mut engine, mut application) = talking(&world);
    application.does("send 1000 3 200", "sent");
    application.kill();
    engine.does("receive 1000 3 200", "received");
    engine.does("end", "cancelled after 0");
    let refused = ["closed by the peer", "cancelled"];
    engine.tell("refused");
    assert!(refused.contains(&engine.hear().as_str()));
    engine.does("next", "over");
    world.goes_on(&mut engine);
}

#[test]
fn a_killed_engine_ends_the_applications_channel_after_all_that_it_sent() {
    let world = World::with(&UNSUSPICIOUS);
    let (mut engine, mut application) = talking(&world);
    engine.does("send 1000 3 200", "sent");
    engine.kill();
    application.does("receive 1000 3 200", "received");
    application.does("end", "cancelled after 0");
    // While there is no engine, applications are cut off.
    let mut early = world.application();
    early.does("end", "cancelled after 0");
    world.goes_on(&mut world.engine());
}

#[test]
fn a_killed_engine_leaves_nothing_waiting_for_room() {
    let world = World::with(&UNSUSPICIOUS);
    let (mut engine, mut application) = talking(&world);
    application.tell("fill");
    application.hear();
    application.tell("send 1000 1 200");
    engine.kill();
    let said = application.hear();
    assert!(said.starts_with("closed"), "{said}");
    application.does("end", "cancelled after 0");
}

/// What a process sends before it dies: its own bridge then waits for room in the window, or only
/// the other bridge for room in its ring.
const UNREAD: [&str; 2] = ["fill", "send 100 1 2000"];

/// Longer than the 5 seconds for which README.md lets the other side read it.
const PAST_ITS_TIME: Duration = Duration::from_secs(9);

#[test]
fn a_killed_application_ends_the_channel_of_an_engine_that_reads_nothing() {
    let worlds = UNREAD.map(|sends| {
        let world = World::with(&[&UNSUSPICIOUS[..], &["--most", "1"]].concat());
        let (engine, mut application) = talking(&world);
        application.tell(sends);
        application.hear();
        application.kill();
        (world, engine)
    });
    std::thread::sleep(PAST_ITS_TIME);
    for (world, mut engine) in worlds {
        engine.does("end", "cancelled after 0");
        engine.does("next", "over");
        // In the only place that there is.
        world.goes_on(&mut engine);
    }
}

#[test]
fn a_killed_engine_ends_the_channel_of_an_application_that_reads_nothing() {
    let worlds = UNREAD.map(|sends| {
        let world = World::with(&UNSUSPICIOUS);
        let (mut engine, application) = talking(&world);
        engine.tell(sends);
        engine.hear();
        engine.kill();
        (world, application)
    });
    std::thread::sleep(PAST_ITS_TIME);
    for (_world, mut application) in worlds {
        application.does("end", "cancelled after 0");
    }
}

#[test]
fn the_time_for_what_a_dead_application_has_sent_does_not_begin_anew_at_the_other_bridge() {
    let world = World::with(&UNSUSPICIOUS);
    let (mut engine, mut application) = talking(&world);
    application.tell("fill");
    let count: u64 = application.hear().parse().unwrap();
    application.kill();
    std::thread::sleep(Duration::from_secs(4));
    // Makes room for all the rest, so that the other bridge learns of the death now.
    engine.tell(&format!("drain {}", count / 2));
    engine.hear();
    std::thread::sleep(Duration::from_secs(3));
    engine.does("end", "cancelled after 0");
}

/// A process that has closed its end owes nothing, so there is no hurry.
#[test]
fn what_a_killed_application_had_finished_stays_until_it_is_read() {
    let world = World::with(&UNSUSPICIOUS);
    let (mut engine, mut application) = talking(&world);
    application.tell("fill");
    let count: u64 = application.hear().parse().unwrap();
    application.does("finish", "finished");
    application.kill();
    std::thread::sleep(PAST_ITS_TIME);
    engine.does("end", &format!("complete after {count}"));
}

#[test]
fn a_killed_export_cancels_the_applications_channel() {
    let mut world = World::with(&UNSUSPICIOUS);
    let (mut engine, mut application) = talking(&world);
    world.export.kill();
    application.does("end", "cancelled after 0");
    application.does("refused", "cancelled");
    engine.does("end", "the peer died after 0");
    engine.does("next", "over");
    world.restart_export();
    world.goes_on(&mut engine);
}

#[test]
fn a_killed_import_cancels_the_engines_channel() {
    let mut world = World::with(&UNSUSPICIOUS);
    let (mut engine, mut application) = talking(&world);
    world.import.kill();
    engine.does("end", "cancelled after 0");
    engine.does("refused", "cancelled");
    application.does("end", "the peer died after 0");
    engine.does("next", "over");
    world.restart_import();
    world.goes_on(&mut engine);
}

#[test]
fn a_stream_that_is_cut_by_a_kill_never_looks_complete() {
    for kill_export in [false, true] {
        let mut world = World::with(&UNSUSPICIOUS);
        let (mut engine, mut application) = talking(&world);
        engine.tell("end");
        application.tell("send 100000000 1 200");
        // In the middle of the stream.
        std::thread::sleep(Duration::from_millis(100));
        let (killed, expected) = match kill_export {
            true => (&mut world.export, "the peer died after"),
            false => (&mut world.import, "cancelled after"),
        };
        killed.kill();
        let said = engine.hear();
        assert!(said.starts_with(expected), "{said}");
        assert!(application.hear().contains(" at "));
    }
}
