//! Many applications at once, each with its own channel.

use crate::process::Process;
use crate::world::World;

#[test]
fn thirty_two_applications_exchange_packets_at_once() {
    let world = World::new();
    let _echo = world.echo();
    let mut applications: Vec<Process> = (0..32).map(|_| world.connecting_application()).collect();
    for application in &mut applications {
        application.expect("connected");
    }
    for (seed, application) in applications.iter_mut().enumerate() {
        application.tell(&format!("exchange 5000 {seed} 5000"));
    }
    for application in &mut applications {
        application.expect("sent and received");
    }
    for application in &mut applications {
        application.does("finish", "finished");
        application.does("end", "complete after 0");
    }
}

#[test]
fn applications_past_the_limit_are_cut_off_and_the_others_stay() {
    let world = World::with(&["--most", "2"]);
    let _echo = world.echo();
    let mut served = [world.application(), world.application()];
    for application in &mut served {
        application.does("exchange 100 1 2000", "sent and received");
    }
    world.application().does("end", "cancelled after 0");
    for application in &mut served {
        application.does("exchange 100 2 2000", "sent and received");
    }
    // A place that becomes free is used.
    drop(served);
    loop {
        let mut application = world.application();
        application.tell("exchange 100 3 2000");
        if application.hear() == "sent and received" {
            break;
        }
    }
}
