//! Every end of a channel means at the other end of the bridge what it means without one.

use crate::world::World;

#[test]
fn packets_go_both_ways() {
    let world = World::new();
    let mut engine = world.engine();
    let mut application = world.connect(&mut engine);
    application.tell("send 1000 7 10000");
    engine.does("receive 1000 7 10000", "received");
    application.expect("sent");
    engine.tell("send 1000 8 10000");
    application.does("receive 1000 8 10000", "received");
    engine.expect("sent");
}
