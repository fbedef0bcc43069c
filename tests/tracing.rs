//! The events of the feature `tracing`: what is told, at which level, once, and never a packet.

mod common;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

use common::child::{self, Child, passes, test_path};
use common::raw_peer::{PACKET, Raw};
use common::roles::{beside, open};
use common::seccomp::{Refuse, refuse};
use common::{Dir, PATIENCE, SMALL, on_both_backends, wait};
use rustix::io::Errno;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use wakering::{Backend, CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, Violation};

on_both_backends!(
    each_side_tells_who_connected_and_how_each_direction_ended,
    packets_are_not_told,
    refusals_tell_their_cause_on_both_sides,
    a_cancel_is_told_once_for_each_direction,
    the_death_of_a_peer_is_a_warning,
    a_violation_tells_the_rule,
    a_subscriber_that_panics_harms_no_channel,
);

/// An event as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    level: Level,
    target: &'static str,
    fields: BTreeMap<&'static str, String>,
}

impl Event {
    fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

/// Everything that was told in this process.
static EVENTS: Mutex<Vec<Event>> = Mutex::new(Vec::new());

fn events() -> MutexGuard<'static, Vec<Event>> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Recorder;

impl Subscriber for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let mut recorded = Event { level, target, fields: BTreeMap::new() };
        event.record(&mut recorded);
        let is_unwanted = recorded.get("path").ends_with("/panics");
        events().push(recorded);
        assert!(!is_unwanted, "a subscriber that panics");
    }
}

impl Visit for Event {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

fn record() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Recorder).unwrap());
}

/// Returns the events about the socket `path` so far.
fn about(path: &str) -> Vec<Event> {
    events().iter().filter(|event| event.get("path") == path).cloned().collect()
}

/// Waits until there are `count` events about `path`, and returns them.
fn wait_for(path: &str, count: usize) -> Vec<Event> {
    let begun = Instant::now();
    loop {
        let told = about(path);
        if told.len() >= count {
            return told;
        }
        assert!(begun.elapsed() < PATIENCE, "{count} events expected, {told:#?}");
        std::thread::yield_now();
    }
}

/// Returns the level, the side, and the direction and reason of each end, sorted.
fn ends(told: &[Event]) -> Vec<(Level, &str, &str, &str)> {
    let of = |event: &Event| event.get("message") == "ended";
    let mut ends: Vec<_> = told
        .iter()
        .filter(|event| of(event))
        .map(|event| (event.level, event.get("side"), event.get("direction"), event.get("reason")))
        .collect();
    ends.sort_by_key(|end| (end.1, end.2));
    ends
}

fn ends_of(face: Endpoint, handle: Endpoint) {
    drop(face);
    wait("the end", handle.closed());
    drop(handle);
}

fn connected(driver: &Driver, path: &str) -> (Endpoint, Endpoint) {
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(path).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(path).unwrap();
    wait("connected", face.connected()).unwrap();
    (face.into(), handle.into())
}

fn each_side_tells_who_connected_and_how_each_direction_ended(driver: &Driver) {
    record();
    let dir = Dir::new();
    let path = dir.name("orderly");
    let (face, handle) = connected(driver, &path);
    let told = wait_for(&path, 2);
    let (pid, uid) = (std::process::id().to_string(), rustix::process::geteuid().to_string());
    for side in ["engine", "application"] {
        let event = told.iter().find(|event| event.get("side") == side).unwrap();
        assert_eq!((event.level, event.target), (Level::DEBUG, "wakering"));
        assert_eq!(event.get("message"), "connected");
        assert_eq!((event.get("peer_pid"), event.get("peer_uid")), (&*pid, &*uid));
    }

    // Half-closes: each direction is told when it ends.
    let (tx, mut rx) = face.into_split();
    drop(tx);
    assert_eq!(wait("the end", handle.recv()), None);
    let told = wait_for(&path, 4);
    let debug = Level::DEBUG;
    let halves = [
        (debug, "application", "receiving", "closed by the peer"),
        (debug, "engine", "sending", "closed by this side"),
    ];
    assert_eq!(ends(&told), halves);
    drop(handle);
    assert_eq!(wait("the end", rx.recv()), None);
    drop(rx);
    let all = [
        (debug, "application", "receiving", "closed by the peer"),
        (debug, "application", "sending", "closed by this side"),
        (debug, "engine", "receiving", "closed by the peer"),
        (debug, "engine", "sending", "closed by this side"),
    ];
    assert_eq!(ends(&wait_for(&path, 6)), all);
    assert_eq!(about(&path).len(), 6);
}

fn packets_are_not_told(driver: &Driver) {
    record();
    const SECRET: &str = "correct horse battery staple";
    let dir = Dir::new();
    let path = dir.name("packets");
    let (face, handle) = connected(driver, &path);
    let before = wait_for(&path, 2).len();
    for _ in 0..1000 {
        wait("send", handle.send(SECRET.into())).unwrap();
        assert_eq!(wait("recv", face.recv()).unwrap(), SECRET);
    }
    assert_eq!(about(&path).len(), before);
    // One that nobody receives.
    wait("send", handle.send(SECRET.into())).unwrap();
    face.cancel();
    wait("the end", handle.closed());
    drop((face, handle));
    wait_for(&path, before + 4);
    let bytes = format!("{:?}", SECRET.as_bytes());
    for event in events().iter() {
        let text = format!("{event:?}");
        assert!(!text.contains(SECRET) && !text.contains(&bytes), "{text}");
    }
}

fn refusals_tell_their_cause_on_both_sides(driver: &Driver) {
    record();
    let dir = Dir::new();
    let connect = |path: &str| SpscHandle::builder().driver(driver).connect(path);
    let assert_told = |path: &str, engine: &str, application: &str| {
        let told: Vec<_> = wait_for(path, 2);
        let of = |side| told.iter().find(move |event| event.get("side") == side).unwrap();
        for (side, cause) in [("engine", engine), ("application", application)] {
            let event = of(side);
            assert_eq!((event.level, event.get("message")), (Level::WARN, "refused"));
            assert!(event.get("cause").contains(cause), "{event:?}");
        }
        assert_eq!(of("engine").get("peer_pid"), std::process::id().to_string());
    };

    let path = dir.name("users");
    let face = SpscFace::builder().driver(driver).allow(|_| false).create(&path).unwrap();
    assert!(matches!(connect(&path), Err(ShmError::PermissionDenied { .. })));
    assert_told(&path, "its user may not connect", "the engine");
    drop(face);

    let path = dir.name("busy");
    let (face, handle) = connected(driver, &path);
    wait_for(&path, 2);
    events().retain(|event| event.get("path") != path);
    let refused = wait("connect", SpscHandle::builder().driver(driver).connect_async(&path));
    assert!(matches!(refused, Err(ShmError::Busy)));
    assert_told(&path, "busy", "no more applications");
    ends_of(face, handle);

    // Nobody refused anything here.
    let path = dir.name("nobody");
    assert!(matches!(connect(&path), Err(ShmError::NotFound { .. })));
    let told = wait_for(&path, 1);
    assert_eq!((told[0].level, told[0].get("message")), (Level::DEBUG, "did not connect"));
}

fn a_cancel_is_told_once_for_each_direction(driver: &Driver) {
    record();
    let dir = Dir::new();
    let path = dir.name("cancel");
    let (face, handle) = connected(driver, &path);
    face.cancel();
    handle.cancel();
    assert_eq!(wait("the end", handle.closed()), CloseReason::Cancelled);
    ends_of(face, handle);
    // An end is told by the thread that has found it, which may be the driver's, a moment later.
    let told = wait_for(&path, 6);
    assert_eq!(ends(&told).len(), 4, "{told:#?}");
    for end in ends(&told) {
        assert_eq!((end.0, end.3), (Level::DEBUG, "cancelled"));
    }
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_is_killed() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, role, name] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let end = open(&driver, role, name);
    child::say("open");
    pollster::block_on(end.connected()).unwrap();
    child::say("connected");
    pollster::block_on(std::future::pending::<()>());
}

fn the_death_of_a_peer_is_a_warning(driver: &Driver) {
    record();
    for role in ["engine", "application"] {
        let dir = Dir::new();
        let path = dir.name("killed");
        let (end, mut child): (Endpoint, Child) =
            beside(driver, role, &path, test_path!(child_that_is_killed), &[]);
        while child.hear() != "connected" {}
        wait("connected", end.connected()).unwrap();
        child.kill();
        assert_eq!(wait("the end", end.closed()), CloseReason::PeerDied);
        let told = wait_for(&path, 3);
        assert_eq!(told[0].get("peer_pid"), child.pid().to_string());
        let dead = |direction| (Level::WARN, role, direction, "the peer died");
        assert_eq!(ends(&told), [dead("receiving"), dead("sending")]);
        assert_eq!(told.len(), 3);
    }
}

fn a_violation_tells_the_rule(driver: &Driver) {
    record();
    let dir = Dir::new();
    let path = dir.name("broken");
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&path).unwrap();
    let by_byte = driver.backend() == Backend::Epoll;
    let raw = Raw::connect(&path, by_byte);
    wait("connected", face.connected()).unwrap();
    raw.memory.word64(raw.tx).store(PACKET | 4000, std::sync::atomic::Ordering::Release);
    raw.ring();
    assert_eq!(wait("the end", face.recv()), None);
    let violation = Violation::RecordTooLong(4000);
    assert_eq!(face.close_reason(), Some(CloseReason::Violation(violation)));
    let told = wait_for(&path, 4);
    let broken: Vec<_> = told.iter().filter(|event| event.fields.contains_key("rule")).collect();
    assert_eq!(broken.len(), 1, "{told:#?}");
    assert_eq!((broken[0].level, broken[0].get("side")), (Level::WARN, "engine"));
    assert_eq!(broken[0].get("rule"), violation.to_string());
    let reason = CloseReason::Violation(violation).to_string();
    let end = |direction| (Level::WARN, "engine", direction, &*reason);
    assert_eq!(ends(&told), [end("receiving"), end("sending")]);

    // What is no hello at all.
    let path = dir.name("junk");
    let face = SpscFace::builder().driver(driver).create(&path).unwrap();
    let line = common::raw_peer::connect_to(&path).unwrap();
    common::raw_peer::send_with(&line, b"GET / HTTP/1.1", &[]).unwrap();
    let told = wait_for(&path, 1);
    assert_eq!((told[0].level, told[0].get("message")), (Level::WARN, "refused"));
    assert_eq!(told[0].get("cause"), "what it sent is not a hello");
    drop(face);
}

fn a_subscriber_that_panics_harms_no_channel(driver: &Driver) {
    record();
    let dir = Dir::new();
    let path = dir.name("panics");
    let (face, handle) = connected(driver, &path);
    wait("send", handle.send("still works".into())).unwrap();
    assert_eq!(wait("recv", face.recv()).unwrap(), "still works");
    face.close();
    assert_eq!(wait("the end", handle.closed()), CloseReason::Peer);
    drop((face, handle));
    assert_eq!(wait_for(&path, 6).len(), 6);
}

/// Where io_uring is forbidden, in a process of its own.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_without_io_uring() {
    let Some(_) = child::arguments() else { return };
    refuse(&[Refuse::io_uring_setup(Errno::PERM)]).unwrap();
    record();
    for make in [|| Driver::new().map(drop), || Driver::builder().background().map(drop)] {
        events().clear();
        make().unwrap();
        let told = events().clone();
        let [fallback, made] = &told[..] else { panic!("{told:#?}") };
        assert_eq!((fallback.level, fallback.get("message")), (Level::INFO, "fell back to epoll"));
        let why = if cfg!(feature = "io-uring") { "EPERM" } else { "without io_uring" };
        assert!(fallback.get("reason").contains(why), "{fallback:?}");
        assert_eq!((made.level, made.get("message")), (Level::DEBUG, "made a driver"));
        assert_eq!(made.get("backend"), "epoll");
    }
    events().clear();
    // Asked for, so nothing to explain.
    Driver::builder().backend(Backend::Epoll).build().unwrap();
    let told = events().clone();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].get("run"), "parked in");
}

#[test]
fn a_fallback_to_epoll_tells_the_reason() {
    passes(test_path!(child_without_io_uring), &[]);
}
