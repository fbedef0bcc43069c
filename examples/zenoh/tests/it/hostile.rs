//! A program that speaks zenoh under the bridges' key, and does what no bridge does.

use std::time::Duration;

use zenoh::handlers::FifoChannelHandler;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::sample::Sample;
use zenoh::{Config, Session, Wait};

use crate::PATIENCE;
use crate::process::Process;
use crate::wire::{self, Body, BridgeId, CircuitId, Cut, End, Header, Offer};
use crate::world::{CONGESTION, KEY, LONGEST, RING, World};

/// Pretends to be an import.
struct Stranger {
    id: BridgeId,
    /// What export sends to it.
    inbox: Subscriber<FifoChannelHandler<Sample>>,
    /// To export.
    publisher: Publisher<'static>,
    _session: Session,
}

/// What a channel like those of the other tests offers.
const OFFER: Offer = Offer { window: RING as u64, max_packet: LONGEST as u64 };

impl Stranger {
    fn new(world: &World) -> Self {
        let mut config = Config::default();
        let export = format!("[\"tcp/{}\"]", world.proxy.target());
        config.insert_json5("connect/endpoints", &export).unwrap();
        config.insert_json5("scouting/multicast/enabled", "false").unwrap();
        let session = zenoh::open(config).wait().unwrap();
        let id = BridgeId(u128::from_le_bytes(session.zid().to_le_bytes()));
        let inbox = session.declare_subscriber(format!("{KEY}/import/{id}/in")).wait().unwrap();
        let exports = session.liveliness().declare_subscriber(format!("{KEY}/export/*"));
        let place = exports.history(true).wait().unwrap().recv().unwrap().key_expr().clone();
        let publisher = session.declare_publisher(format!("{place}/in")).wait().unwrap();
        while !publisher.matching_status().wait().unwrap().matching() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { id, inbox, publisher, _session: session }
    }

    fn send(&self, message: Vec<u8>) {
        self.publisher.put(message).wait().unwrap();
    }

    /// Opens a circuit to the engine, which accepts it.
    fn open(&self, circuit: u128, engine: &mut Process) -> Circuit<'_> {
        engine.tell("accept");
        self.ask(circuit, OFFER);
        engine.expect("accepted");
        let (header, answer) = self.hear().unwrap();
        assert_eq!((header.number, answer), (0, Answer::Accept));
        Circuit { stranger: self, id: CircuitId(circuit), number: 1 }
    }

    fn ask(&self, circuit: u128, offer: Offer) {
        let header = Header { circuit: CircuitId(circuit), number: 0, freed: 0 };
        self.send(wire::encode(&header, &Body::Open { from: self.id, offer }));
    }

    /// Returns the next message that is more than a beat, unless none comes.
    fn hear(&self) -> Option<(Header, Answer)> {
        loop {
            let sample = self.inbox.recv_timeout(PATIENCE).unwrap()?;
            let bytes = sample.payload().to_bytes();
            let (header, body) = wire::decode(&bytes).unwrap();
            let answer = match body {
                Body::Accept(_) => Answer::Accept,
                Body::Cancel(cut) => Answer::Cancel(cut),
                Body::Beat => continue,
                _ => Answer::Other,
            };
            return Some((header, answer));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Accept,
    Cancel(Cut),
    Other,
}

/// An open circuit.
struct Circuit<'a> {
    stranger: &'a Stranger,
    id: CircuitId,
    number: u64,
}

impl Circuit<'_> {
    fn say(&mut self, body: &Body<'_>) {
        self.say_with(body, 0);
    }

    fn say_with(&mut self, body: &Body<'_>, freed: u64) {
        let header = Header { circuit: self.id, number: self.number, freed };
        self.number = self.number.wrapping_add(1);
        self.stranger.send(wire::encode(&header, body));
    }

    /// The circuit ends for this reason, at both sides.
    #[track_caller]
    fn expect_cut(self, cut: Cut, engine: &mut Process) {
        assert_eq!(self.stranger.hear().unwrap().1, Answer::Cancel(cut));
        engine.tell("end");
        let said = engine.hear();
        assert!(said.starts_with("cancelled after "), "{said}");
        engine.does("next", "over");
    }
}

/// Packets as they are in a message.
fn packets(lengths: &[usize]) -> Vec<u8> {
    let packet =
        |&len: &usize| [&u32::try_from(len).unwrap().to_le_bytes()[..], &vec![7; len]].concat();
    lengths.iter().flat_map(packet).collect()
}

#[test]
fn a_stranger_that_keeps_the_rules_is_served() {
    let world = World::new();
    let mut engine = world.engine();
    let stranger = Stranger::new(&world);
    let mut circuit = stranger.open(1, &mut engine);
    circuit.say(&Body::Data(&packets(&[0, 1, LONGEST])));
    circuit.say(&Body::Fin { packets: 3, end: End::Complete });
    engine.does("end", "complete after 3");
}

#[test]
fn a_message_that_is_missing_or_comes_twice_cancels_the_channel() {
    let world = World::new();
    let mut engine = world.engine();
    let stranger = Stranger::new(&world);
    for (circuit, wrong) in [(1, 3), (2, 1), (3, u64::MAX)] {
        let mut circuit = stranger.open(circuit, &mut engine);
        circuit.say(&Body::Data(&packets(&[5])));
        circuit.number = wrong;
        circuit.say(&Body::Data(&packets(&[6])));
        circuit.expect_cut(Cut::Gap, &mut engine);
    }
    // Also if it is the end that follows.
    let mut circuit = stranger.open(4, &mut engine);
    circuit.number = 2;
    circuit.say(&Body::Fin { packets: 0, end: End::Complete });
    circuit.expect_cut(Cut::Gap, &mut engine);
}

#[test]
fn a_breach_cancels_the_channel() {
    let world = World::new();
    let mut engine = world.engine();
    let stranger = Stranger::new(&world);
    let over_end = [&[200, 0, 0, 0][..], &[7; 100]].concat();
    let second_over_end = [packets(&[10]), vec![255; 8]].concat();
    let breaches: [&dyn Fn(&mut Circuit<'_>); 13] = [
        &|circuit| circuit.say(&Body::Data(&[])),
        &|circuit| circuit.say(&Body::Data(&over_end)),
        &|circuit| circuit.say(&Body::Data(&second_over_end)),
        &|circuit| circuit.say(&Body::Data(&[1, 2, 3])),
        &|circuit| circuit.say(&Body::Data(&packets(&[LONGEST + 1]))),
        &|circuit| circuit.say_with(&Body::Beat, 1),
        &|circuit| circuit.say_with(&Body::Beat, u64::MAX),
        &|circuit| circuit.say(&Body::Accept(OFFER)),
        &|circuit| circuit.say(&Body::Open { from: BridgeId(1), offer: OFFER }),
        &|circuit| circuit.say(&Body::Fin { packets: 1, end: End::Complete }),
        &|circuit| circuit.say(&Body::Fin { packets: 0, end: End::Stopped }),
        &|circuit| {
            // The engine has not taken any, so that the end is not executed before the rest comes.
            circuit.say(&Body::Data(&packets(&[LONGEST; 5])));
            circuit.say(&Body::Fin { packets: 5, end: End::Complete });
            circuit.say(&Body::Data(&packets(&[1])));
        },
        &|circuit| {
            // The ring takes some of them, and the window the others.
            for _ in 0..3 {
                circuit.say(&Body::Data(&packets(&[LONGEST; 3])));
            }
        },
    ];
    for (number, breach) in breaches.iter().enumerate() {
        let mut circuit = stranger.open(number as u128, &mut engine);
        breach(&mut circuit);
        circuit.expect_cut(Cut::Breach, &mut engine);
    }
}

#[test]
fn an_offer_that_no_channel_makes_is_refused() {
    let world = World::new();
    let _engine = world.engine();
    let stranger = Stranger::new(&world);
    for (number, offer) in [
        Offer { window: 0, max_packet: 0 },
        Offer { window: 1000, max_packet: 1000 },
        Offer { window: u64::MAX, max_packet: u64::MAX },
    ]
    .into_iter()
    .enumerate()
    {
        stranger.ask(number as u128, offer);
        let (header, answer) = stranger.hear().unwrap();
        assert_eq!(header.circuit, CircuitId(number as u128));
        assert_eq!(answer, Answer::Cancel(Cut::Breach));
    }
}

#[test]
fn garbage_disturbs_nobody() {
    let world = World::new();
    let (mut engine, mut application) = world.connected();
    for party in [&mut engine, &mut application] {
        party.tell("exchange 100000 9 1000");
    }
    let stranger = Stranger::new(&world);
    let header = Header { circuit: CircuitId(7), number: 0, freed: 0 };
    let open = wire::encode(&header, &Body::Open { from: stranger.id, offer: OFFER });
    for at in 0..open.len() {
        stranger.send(open[..at].to_vec());
        let mut changed = open.clone();
        // The version, the kind, the reserved bytes; circuits that do not exist.
        changed[at] ^= 0xff;
        if at < 4 {
            stranger.send(changed);
        }
        changed = wire::encode(&header, &Body::Data(&packets(&[at])));
        stranger.send(changed);
    }
    stranger.send(vec![0; 1 << 20]);
    engine.expect("sent and received");
    application.expect("sent and received");
}

#[test]
fn a_flood_of_openings_leaves_bounded_circuits_and_hurts_no_other() {
    let world = World::with(&["--most", "4", "--patience", "4"]);
    let _echo = world.echo();
    let mut application = world.application();
    application.does("exchange 100 1 2000", "sent and received");
    {
        let stranger = Stranger::new(&world);
        for circuit in 0..300 {
            stranger.ask(circuit, OFFER);
        }
        // Those past the queue of openings are not answered at all. The circuits that were opened
        // hear nothing of the stranger, and are cut.
        let (mut accepted, mut refused, mut cut) = (0, 0, 0);
        while accepted == 0 || cut < accepted {
            match stranger.hear().expect("an answer").1 {
                Answer::Accept => accepted += 1,
                Answer::Cancel(Cut::TooMany) => refused += 1,
                Answer::Cancel(Cut::Silence) => cut += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(accepted <= 3 && refused > 0, "{accepted} accepted, {refused} refused");
        application.does("exchange 100 2 2000", "sent and received");
    }
    world.application().does("exchange 100 3 2000", "sent and received");
}

#[test]
fn a_stranger_that_reads_nothing_does_not_hold_up_the_openings_of_others() {
    let world = World::with(&["--patience", "3600"]);
    let mut engine = world.engine();
    let stranger = Stranger::new(&world);
    engine.tell("accept");
    stranger.ask(1, Offer { window: 1 << 40, ..OFFER });
    engine.expect("accepted");
    // Until the link to the stranger is congested.
    engine.tell("fill");
    engine.hear();
    engine.does("next", "over");
    // It is to be told that this is refused.
    stranger.ask(2, Offer { window: 0, max_packet: 0 });
    engine.tell("accept");
    let mut application = world.application();
    // Before zenoh gives up the link.
    assert!(engine.says_something_within(CONGESTION / 3));
    engine.expect("accepted");
    application.does("send 50 1 2000", "sent");
    engine.does("receive 50 1 2000", "received");
}

/// Pretends to be an export.
struct FalseExport {
    /// What import sends to it.
    inbox: Subscriber<FifoChannelHandler<Sample>>,
    _token: LivelinessToken,
    session: Session,
}

impl FalseExport {
    /// Takes the place of the export.
    fn new(world: &mut World) -> Self {
        world.export.kill();
        let mut config = Config::default();
        let listen = format!("[\"tcp/{}\"]", world.proxy.target());
        config.insert_json5("listen/endpoints", &listen).unwrap();
        config.insert_json5("scouting/multicast/enabled", "false").unwrap();
        let session = zenoh::open(config).wait().unwrap();
        let id = BridgeId(u128::from_le_bytes(session.zid().to_le_bytes()));
        let inbox = session.declare_subscriber(format!("{KEY}/export/{id}/in")).wait().unwrap();
        let token = session.liveliness().declare_token(format!("{KEY}/export/{id}"));
        Self { inbox, _token: token.wait().unwrap(), session }
    }

    /// Starts an application for which import wants to open a circuit here. The first ones may come
    /// before import has noticed that the former export is gone. They are cut off.
    fn opening(&self, world: &World) -> (Process, (Header, BridgeId)) {
        world.application_until(|within| {
            while let Some(sample) = self.inbox.recv_timeout(within).unwrap() {
                let bytes = sample.payload().to_bytes();
                if let (header, Body::Open { from, .. }) = wire::decode(&bytes).unwrap() {
                    return Some((header, from));
                }
            }
            None
        })
    }
}

#[test]
fn an_export_that_lies_cancels_the_applications_channel() {
    let mut world = World::new();
    let export = FalseExport::new(&mut world);
    let lies: [(u64, Body<'_>); 5] = [
        (0, Body::Accept(Offer { window: 1, max_packet: 1 })),
        (1, Body::Accept(OFFER)),
        (0, Body::Data(&[0, 0, 0, 0])),
        (0, Body::Fin { packets: 0, end: End::Complete }),
        (0, Body::Beat),
    ];
    for (number, lie) in lies {
        let (mut application, (header, from)) = export.opening(&world);
        let header = Header { number, ..header };
        let to = format!("{KEY}/import/{from}/in");
        export.session.put(to, wire::encode(&header, &lie)).wait().unwrap();
        application.does("end", "cancelled after 0");
    }
}

#[test]
fn an_export_that_does_not_answer_cancels_the_applications_channel() {
    let mut world = World::with(&["--patience", "3600"]);
    let export = FalseExport::new(&mut world);
    let (mut application, _) = export.opening(&world);
    application.does("end", "cancelled after 0");
}
