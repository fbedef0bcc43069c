//! The library against `interop/peer.py`: an end in another language, written from the
//! specification alone. Anything that it had to guess would be a gap in the specification.
//!
//! These tests are skipped without Python 3, and where its atomic operations, which are x86-64
//! code, do not run.

use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;
use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, Violation};

use crate::common::child::{self, Child, test_path};
use crate::common::{self, Dir, PATIENCE, SMALL, eventually, on_both_backends, watched};

on_both_backends!(
    a_hundred_thousand_packets_pass_each_way,
    long_packets_pass_each_way_in_a_large_ring,
    blocking_calls_and_a_peer_wake_each_other,
    a_driver_that_is_parked_in_and_a_peer_wake_each_other,
    a_peer_that_half_closes_still_receives,
    the_peer_sees_our_half_close_after_all_that_was_sent,
    everything_from_a_peer_that_closes_arrives,
    the_peer_sees_our_close_after_all_that_was_sent,
    a_cancel_cuts_both_sides_off,
    a_header_of_an_unknown_kind_is_a_violation,
    everything_from_a_killed_peer_arrives,
    the_peer_learns_of_our_death_from_the_lifeline,
);

/// The longest packet in these tests, unless a test says otherwise.
const LONGEST: usize = 1016;

/// The role of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Engine,
    Application,
}

const ROLES: [Role; 2] = [Role::Application, Role::Engine];

/// Starts the peer, if Python runs here.
fn python(arguments: &[&str]) -> Option<Child> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/interop/peer.py");
    Child::run(Command::new("python3").arg(script).args(arguments)).ok()
}

/// Whether the peer runs here. If not, prints why.
fn is_here() -> bool {
    static IS_HERE: OnceLock<bool> = OnceLock::new();
    *IS_HERE.get_or_init(|| {
        let said = python(&["check"]).map_or("no python3".to_owned(), |mut peer| peer.hear());
        if said != "ready" {
            eprintln!("left out: {said}");
        }
        said == "ready"
    })
}

/// Returns a channel with a peer that does `tasks`, and the peer.
fn meet(driver: &Driver, role: Role, ring_bytes: usize, tasks: &[&str]) -> (Endpoint, Child) {
    meet_with(driver, role, ring_bytes, LONGEST, tasks)
}

fn meet_with(
    driver: &Driver,
    role: Role,
    ring_bytes: usize,
    longest: usize,
    tasks: &[&str],
) -> (Endpoint, Child) {
    let dir = Dir::new();
    let name = dir.name("peer");
    let numbers = [ring_bytes, longest].map(|number| number.to_string());
    let start = |role: &str| {
        let arguments = [&[role, &name, &numbers[0], &numbers[1]], tasks].concat();
        python(&arguments).expect("it ran a moment ago")
    };
    match role {
        Role::Application => {
            let builder = SpscFace::builder().ring_bytes(ring_bytes).driver(driver);
            let face = builder.send_timeout(Some(PATIENCE)).create(&name).unwrap();
            let peer = start("application");
            // This works in whatever way the driver runs.
            driver.block_on(face.connected()).unwrap();
            (face.into(), peer)
        }
        Role::Engine => {
            let mut peer = start("engine");
            peer.expect("open");
            let builder = SpscHandle::builder().send_timeout(Some(PATIENCE)).driver(driver);
            (builder.connect(&name).unwrap().into(), peer)
        }
    }
}

/// Runs a test in both roles, if the peer runs here.
fn in_both_roles(test: impl Fn(Role)) {
    if is_here() {
        ROLES.into_iter().for_each(test);
    }
}

/// Packets as the peer makes them: the number of a packet determines its length and content.
struct Packets {
    content: Bytes,
    longest: usize,
}

impl Packets {
    fn new(longest: usize) -> Self {
        let content = (0..longest + 256).map(|at| u8::try_from(7 * at % 256).unwrap());
        Self { content: content.collect(), longest }
    }

    fn packet(&self, number: u64) -> Bytes {
        let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = usize::try_from(mixed ^ (mixed >> 32)).unwrap();
        let len = if mixed % 16 == 0 {
            (mixed >> 8) % 2 * self.longest
        } else {
            mixed % (self.longest + 1)
        };
        // 7 * 183 is 1 modulo 256, so the first byte is 31 * number.
        let begin = usize::try_from(number % 256 * 31 * 183 % 256).unwrap();
        self.content.slice(begin..begin + len)
    }
}

async fn send(end: &Endpoint, packets: &Packets, numbers: std::ops::Range<u64>) {
    for number in numbers {
        end.send(packets.packet(number)).await.unwrap();
    }
}

async fn receive(end: &Endpoint, packets: &Packets, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let packet = end.recv().await;
        assert!(packet == Some(packets.packet(number)), "packet {number}: {:?}", end);
    }
}

/// Sends and receives this many packets, on two threads.
fn swap(end: &Endpoint, packets: &Packets, count: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| pollster::block_on(send(end, packets, 0..count)));
        pollster::block_on(receive(end, packets, 0..count));
    });
}

/// Asserts that the peer sends nothing more, and that nothing can be sent to it.
fn assert_over(end: &Endpoint, expected: CloseReason) {
    assert_eq!(pollster::block_on(end.recv()), None);
    match pollster::block_on(end.send(Bytes::new())) {
        Err(ShmError::Closed { reason, .. }) => assert_eq!(reason, expected),
        other => panic!("{other:?}"),
    }
    assert_eq!(end.close_reason(), Some(expected));
}

fn a_hundred_thousand_packets_pass_each_way(driver: &Driver) {
    const COUNT: u64 = 100_000;
    in_both_roles(|role| {
        let (end, mut peer) = meet(driver, role, SMALL, &["swap=100000", "close"]);
        swap(&end, &Packets::new(LONGEST), COUNT);
        peer.expect("swapped");
        assert_over(&end, CloseReason::Peer);
        let stats = end.stats();
        assert_eq!((stats.packets_sent, stats.packets_received), (COUNT, COUNT));
    });
}

fn long_packets_pass_each_way_in_a_large_ring(driver: &Driver) {
    const COUNT: u64 = 10_000;
    const LONGEST: usize = 8192;
    in_both_roles(|role| {
        let tasks = ["swap=10000", "close"];
        let (end, mut peer) = meet_with(driver, role, 4 << 20, LONGEST, &tasks);
        swap(&end, &Packets::new(LONGEST), COUNT);
        peer.expect("swapped");
        assert_over(&end, CloseReason::Peer);
        eprintln!("{role:?}: {}", peer.hear());
    });
}

fn blocking_calls_and_a_peer_wake_each_other(driver: &Driver) {
    const COUNT: u64 = 10_000;
    in_both_roles(|role| {
        let (end, mut peer) = meet(driver, role, SMALL, &["swap=10000", "close"]);
        let packets = Packets::new(LONGEST);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..COUNT {
                    end.send_blocking(packets.packet(number)).unwrap();
                }
            });
            for number in 0..COUNT {
                assert!(end.recv_blocking() == Some(packets.packet(number)), "packet {number}");
            }
        });
        peer.expect("swapped");
        assert_over(&end, CloseReason::Peer);
    });
}

fn a_driver_that_is_parked_in_and_a_peer_wake_each_other(driver: &Driver) {
    const COUNT: u64 = 5_000;
    in_both_roles(|role| {
        let parked_in = Driver::builder().backend(driver.backend()).build().unwrap();
        let (end, mut peer) = meet(&parked_in, role, SMALL, &["echo"]);
        let packets = Packets::new(LONGEST);
        parked_in.block_on(async {
            for number in 0..COUNT {
                send(&end, &packets, number..number + 1).await;
                receive(&end, &packets, number..number + 1).await;
            }
        });
        drop(end);
        peer.expect(&format!("echoed {COUNT} then orderly"));
    });
}

fn a_peer_that_half_closes_still_receives(driver: &Driver) {
    in_both_roles(|role| {
        let tasks = ["send=1000", "half-close", "receive=1000", "close"];
        let (end, mut peer) = meet(driver, role, SMALL, &tasks);
        let packets = Packets::new(LONGEST);
        pollster::block_on(async {
            receive(&end, &packets, 0..1000).await;
            assert_eq!(end.recv().await, None);
            send(&end, &packets, 0..1000).await;
        });
        peer.expect("sent");
        peer.expect("received");
        assert!(peer.hear().starts_with("done"));
        assert_over(&end, CloseReason::Peer);
    });
}

fn the_peer_sees_our_half_close_after_all_that_was_sent(driver: &Driver) {
    in_both_roles(|role| {
        let tasks = ["receive-all", "send=1000", "send-all"];
        let (end, mut peer) = meet(driver, role, SMALL, &tasks);
        let packets = Packets::new(LONGEST);
        let (mut tx, mut rx) = end.into_split();
        pollster::block_on(async {
            for number in 0..1000 {
                tx.send(packets.packet(number)).await.unwrap();
            }
            drop(tx);
            for number in 0..1000 {
                assert_eq!(rx.recv().await, Some(packets.packet(number)));
            }
        });
        peer.expect("received 1000 then orderly");
        peer.expect("sent");
        drop(rx);
        peer.expect("sent until orderly");
    });
}

fn everything_from_a_peer_that_closes_arrives(driver: &Driver) {
    in_both_roles(|role| {
        // All of it fits into the ring, and the peer is gone before this side looks.
        let (end, mut peer) = meet(driver, role, 4 << 20, &["send=1000", "close"]);
        peer.expect("sent");
        assert!(peer.hear().starts_with("done"));
        assert!(peer.wait().success());
        pollster::block_on(receive(&end, &Packets::new(LONGEST), 0..1000));
        assert_over(&end, CloseReason::Peer);
    });
}

fn the_peer_sees_our_close_after_all_that_was_sent(driver: &Driver) {
    in_both_roles(|role| {
        let (end, mut peer) = meet(driver, role, 4 << 20, &["pause", "receive-all", "send-all"]);
        pollster::block_on(send(&end, &Packets::new(LONGEST), 0..1000));
        end.close();
        drop(end);
        peer.tell("go");
        peer.expect("received 1000 then orderly");
        peer.expect("sent until orderly");
    });
}

fn a_cancel_cuts_both_sides_off(driver: &Driver) {
    in_both_roles(|role| {
        let (end, mut peer) = meet(driver, role, 4 << 20, &["send=1000", "cancel"]);
        peer.expect("sent");
        assert!(peer.hear().starts_with("done"));
        eventually("cancelled", || end.is_closed());
        assert_over(&end, CloseReason::Cancelled);

        let (end, mut peer) = meet(driver, role, SMALL, &["receive-all", "send-all"]);
        end.cancel();
        peer.expect("received 0 then cancelled");
        peer.expect("sent until cancelled");
    });
}

fn a_header_of_an_unknown_kind_is_a_violation(driver: &Driver) {
    in_both_roles(|role| {
        let tasks = ["send=1000", "corrupt", "receive-all"];
        let (end, mut peer) = meet(driver, role, SMALL, &tasks);
        pollster::block_on(receive(&end, &Packets::new(LONGEST), 0..1000));
        peer.expect("sent");
        assert_over(&end, CloseReason::Violation(Violation::UnknownRecord(3 << 32)));
        peer.expect("received 0 then cancelled");
    });
}

fn everything_from_a_killed_peer_arrives(driver: &Driver) {
    in_both_roles(|role| {
        let (end, mut peer) = meet(driver, role, SMALL, &["send-all"]);
        let packets = Packets::new(LONGEST);
        pollster::block_on(receive(&end, &packets, 0..1000));
        peer.kill();
        let mut received = 1000;
        while let Some(packet) = pollster::block_on(end.recv()) {
            assert_eq!(packet, packets.packet(received));
            received += 1;
        }
        assert_over(&end, CloseReason::PeerDied);
    });
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_streams_until_it_is_killed() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, role, path] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let end: Endpoint = if role == "engine" {
        let face = SpscFace::builder().ring_bytes(SMALL).driver(&driver).create(path).unwrap();
        child::say("open");
        face.into()
    } else {
        SpscHandle::builder().driver(&driver).connect(path).unwrap().into()
    };
    let packets = Packets::new(LONGEST);
    pollster::block_on(async {
        receive(&end, &packets, 0..1000).await;
        child::say("streaming");
        send(&end, &packets, 0..u64::MAX).await;
    });
}

fn the_peer_learns_of_our_death_from_the_lifeline(driver: &Driver) {
    let backend = driver.backend().to_string();
    in_both_roles(|role| {
        let dir = Dir::new();
        let name = dir.name("peer");
        let start_ours = |role: &str| {
            let arguments = [backend.as_str(), role, &name];
            Child::start(test_path!(child_that_streams_until_it_is_killed), &arguments)
        };
        let start_theirs = |role: &str| {
            let (ring, longest) = (SMALL.to_string(), LONGEST.to_string());
            let tasks = ["send=1000", "receive=1000", "receive-all", "send-all"];
            python(&[&[role, &name, &ring, &longest], &tasks[..]].concat()).unwrap()
        };
        let (mut ours, mut theirs);
        if role == Role::Application {
            ours = start_ours("engine");
            ours.expect("open");
            theirs = start_theirs("application");
        } else {
            theirs = start_theirs("engine");
            theirs.expect("open");
            ours = start_ours("application");
        }
        theirs.expect("sent");
        ours.expect("streaming");
        theirs.expect("received");
        ours.kill();
        let said = theirs.hear();
        assert!(said.starts_with("received ") && said.ends_with(" then died"), "{said}");
        theirs.expect("sent until died");
    });
}

/// Both ends are the Python peer. It keeps the bound that the specification demands of a receiver.
#[test]
fn the_peer_bounds_what_follows_an_end() {
    watched(|| {
        if !is_here() {
            return;
        }
        let dir = Dir::new();
        let name = dir.name("peer");
        let start = |role: &str, tasks: &[&str]| {
            python(&[&[role, &name, "4096", "1016"], tasks].concat()).unwrap()
        };
        let mut engine = start("engine", &["discard-all"]);
        engine.expect("open");
        let mut application = start("application", &["cycle", "receive-all"]);
        engine.expect("discarded until violation: a ring without an end");
        application.expect("received 0 then cancelled");
    });
}

#[test]
fn a_name_goes_from_engine_to_engine() {
    watched(|| {
        if !is_here() {
            return;
        }
        // The first path fits into a socket address, and the second is too long for one.
        for length in [4, 100] {
            let dir = Dir::new();
            let name = dir.name(&"n".repeat(length));
            let engine = || python(&["engine", &name, "4096", "1016", "receive-all"]).unwrap();
            let face = SpscFace::create(&name).unwrap();
            engine().expect("no name: EADDRINUSE");
            drop(face);
            let mut peer = engine();
            peer.expect("open");
            match SpscFace::create(&name) {
                Err(ShmError::NameInUse { .. }) => {}
                other => panic!("{other:?}"),
            }
            // The killed peer leaves its file behind.
            peer.kill();
            assert!(!peer.wait().success());
            let face = SpscFace::create(&name).unwrap();
            drop(face);
            let mut peer = engine();
            peer.expect("open");
            let handle = SpscHandle::connect(&name).unwrap();
            drop(handle);
            peer.expect("received 0 then orderly");
            assert!(!std::fs::exists(&name).unwrap(), "it has given its name up");
        }
    });
}
