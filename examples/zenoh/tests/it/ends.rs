//! Every end of a channel means at the other end of the bridges what it means without them.

use crate::world::{LONGEST, World};

#[test]
fn a_million_packets_of_all_sizes_arrive_both_ways() {
    let world = World::new();
    let (mut engine, mut application) = world.connected();
    // In parts, because a slow machine may need minutes for all of them.
    for seed in 0..20 {
        let exchange = format!("exchange 50000 {seed} {LONGEST}");
        engine.tell(&exchange);
        application.tell(&exchange);
        engine.expect("sent and received");
        application.expect("sent and received");
    }
    engine.does("close", "closed");
    application.does("end", "complete after 0");
}

#[test]
fn an_application_that_has_finished_sending_still_receives() {
    let world = World::new();
    let (mut engine, mut application) = world.connected();
    application.does("send 100 1 2000", "sent");
    application.does("finish", "finished");
    engine.does("end", "complete after 100");
    engine.does("send 100 2 2000", "sent");
    application.does("receive 100 2 2000", "received");
    engine.does("finish", "finished");
    application.does("end", "complete after 0");
}

#[test]
fn an_engine_that_has_finished_sending_still_receives() {
    let world = World::new();
    let (mut engine, mut application) = world.connected();
    engine.does("finish", "finished");
    application.does("end", "complete after 0");
    application.does("send 100 2 2000", "sent");
    engine.does("receive 100 2 2000", "received");
    application.does("close", "closed");
    engine.does("end", "complete after 0");
}

#[test]
fn a_close_lets_the_other_side_receive_everything_and_send_nothing() {
    let world = World::new();
    let (mut engine, mut application) = world.connected();
    application.does("send 100 1 200", "sent");
    application.does("close", "closed");
    engine.does("receive 100 1 200", "received");
    engine.does("end", "complete after 0");
    engine.does("refused", "closed by the peer");
    engine.does("next", "over");
    let mut application = world.connect(&mut engine);
    engine.does("send 100 1 200", "sent");
    engine.does("close", "closed");
    application.does("receive 100 1 200", "received");
    application.does("end", "complete after 0");
    application.does("refused", "closed by the peer");
}

#[test]
fn a_side_that_stops_receiving_stops_the_other_ones_sends_and_goes_on_sending() {
    let world = World::new();
    let (mut engine, mut application) = world.connected();
    application.does("stop", "stopped");
    engine.does("refused", "closed by the peer");
    application.does("send 100 1 200", "sent");
    engine.does("receive 100 1 200", "received");
    engine.does("stop", "stopped");
    application.does("refused", "closed by the peer");
    engine.does("next", "over");

    // In the middle of a stream, with everything full.
    let mut application = world.connect(&mut engine);
    engine.tell("fill");
    engine.hear();
    engine.tell("send 1000 1 200");
    application.does("stop", "stopped");
    let said = engine.hear();
    assert!(said.starts_with("closed by the peer at "), "{said}");
    application.does("finish", "finished");
    engine.does("end", "complete after 0");
}

#[test]
fn a_cancel_cuts_off_both_sides_at_once() {
    for engine_cancels in [false, true] {
        let world = World::new();
        let (mut engine, mut application) = world.connected();
        let (one, other) = match engine_cancels {
            true => (&mut engine, &mut application),
            false => (&mut application, &mut engine),
        };
        one.does("send 100 1 200", "sent");
        other.does("receive 1 1 200", "received");
        one.does("cancel", "cancelled");
        other.does("refused", "cancelled");
        other.does("end", "cancelled after 0");
        one.does("end", "cancelled after 0");
    }
}

#[test]
fn a_cancel_does_not_wait_behind_packets_that_nobody_receives() {
    for engine_cancels in [false, true] {
        let world = World::new();
        let (mut engine, mut application) = world.connected();
        let (one, other) = match engine_cancels {
            true => (&mut engine, &mut application),
            false => (&mut application, &mut engine),
        };
        one.tell("fill");
        one.hear();
        one.does("cancel", "cancelled");
        other.does("refused", "cancelled");
        other.does("end", "cancelled after 0");
    }
}

#[test]
fn a_stream_that_is_cancelled_never_looks_complete() {
    let world = World::new();
    let mut engine = world.engine();
    for turn in 0..20 {
        let mut application = world.connect(&mut engine);
        engine.tell("end");
        application.tell(&format!("send {} 1 200", 1 + turn * 37));
        application.expect("sent");
        application.does("cancel", "cancelled");
        let said = engine.hear();
        assert!(said.starts_with("cancelled after "), "{said}");
        engine.does("next", "over");
    }
}
