//! A peer that dies while a forked child of it lives on, with copies of everything that the peer
//! had. The lifeline does not hang up then, but every call that waits for the peer learns of its
//! death.
#![allow(unsafe_code, reason = "fork is unsafe, and no crate here declares it")]

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use wakering::{CloseReason, Driver, Endpoint, RecvTimeoutError, SpscFace, SpscHandle};

use super::{recv_reason, send_reason};
use crate::common::child::{self, Child, test_path};
use crate::common::roles::{beside, open};
use crate::common::{
    self, Dir, PATIENCE, SMALL, eventually, fill, join, number, on_both_backends, packet, wait,
};

on_both_backends!(
    a_death_that_a_living_child_hides_is_noticed,
    a_death_that_a_living_child_hides_is_noticed_where_nobody_runs_the_driver,
    everything_published_arrives_before_a_death_that_a_child_hides,
    an_application_that_comes_late_to_a_pair_is_watched,
    a_living_child_does_not_hide_the_death_of_a_pairs_engine,
    a_process_without_its_first_thread_is_alive,
    the_end_of_a_child_does_not_end_its_parents_channel,
);

// SAFETY: this is the libc's declaration. Except where a comment allows more, a child here only
// makes system calls.
unsafe extern "C" {
    safe fn fork() -> i32;
    safe fn _exit(code: i32) -> !;
}

/// Whether the kernel reports who sent a message. Without that, such a death is hidden.
fn kernel_tells() -> bool {
    common::kernel_can((6, 5), "tell who sent a message")
}

/// Forks a child that answers each line of the test, and ends with the test.
fn leave_a_child() {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    if fork() == 0 {
        let mut byte = [0];
        while let Ok(1) = rustix::io::read(&input, &mut byte) {
            if byte == *b"\n" {
                let _ = rustix::io::write(&output, b"CHILD here\n");
            }
        }
        _exit(0);
    }
}

/// Returns the end of a pair that this process inherited as descriptor `number`.
fn inherited(driver: &Driver, number: &str) -> Endpoint {
    // SAFETY: the parent let this one descriptor pass through the exec and told this process its
    // number. Nothing else in this process uses it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(child::parsed(number)) };
    SpscHandle::builder().driver(driver).from_fd(descriptor).unwrap().into()
}

/// Returns the engine's end of a pair, and a function that starts the application.
fn pair(driver: &Driver) -> (Endpoint, impl FnOnce(u64) -> Child) {
    let face = SpscFace::builder().ring_bytes(SMALL).send_timeout(None).driver(driver);
    let (face, descriptor) = face.pair().unwrap();
    let backend = driver.backend().to_string();
    let start = move |count: u64| {
        rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::empty()).unwrap();
        let (number, count) = (descriptor.as_raw_fd().to_string(), count.to_string());
        Child::start(
            test_path!(child_that_leaves_a_child),
            &[&backend, "application of", &number, &count],
        )
    };
    (face.into(), start)
}

/// Has an end, sends some packets, leaves a child behind and waits to be killed.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_leaves_a_child() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, role, name, count] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let end = match role.as_str() {
        "application of" => inherited(&driver, name),
        role => open(&driver, role, name),
    };
    if role == "engine" {
        child::say("open");
    }
    wait("connected", end.connected()).unwrap();
    for n in 0..child::parsed(count) {
        end.try_send(packet(n, 20)).unwrap();
    }
    leave_a_child();
    child::say("ready");
    common::stay()
}

/// The roles of the end under test.
const ROLES: [&str; 3] = ["engine", "application", "engine of a pair"];

/// Returns an end of ours whose peer has left a child. With `run`, this thread runs its driver
/// until the peer has connected.
fn with_child(driver: &Driver, role: &str, count: u64, run: bool) -> (Endpoint, Child, Dir) {
    let dir = Dir::new();
    if role == "engine of a pair" {
        let (end, start) = pair(driver);
        let mut child = start(count);
        child.expect("ready");
        return (end, child, dir);
    }
    let (name, count) = (dir.name("face"), count.to_string());
    let (end, mut child) =
        beside(driver, role, &name, test_path!(child_that_leaves_a_child), &[&count]);
    if run {
        driver.block_on(end.connected()).unwrap();
    } else {
        wait("connected", end.connected()).unwrap();
    }
    child.expect("ready");
    (end, child, dir)
}

/// A call that waits for the peer, and whether it waits for room.
type Call = (&'static str, bool, fn(&Endpoint) -> Option<CloseReason>);

const BLOCKING: [Call; 3] = [
    ("recv_blocking", false, |end| recv_reason(end, end.recv_blocking())),
    ("recv_timeout", false, |end| match end.recv_timeout(PATIENCE) {
        Err(RecvTimeoutError::Closed(reason)) => Some(reason),
        other => panic!("{other:?}"),
    }),
    ("send_blocking", true, |end| send_reason(end.send_blocking(packet(0, 8)))),
];

const ASYNC: [Call; 3] = [
    ("recv", false, |end| recv_reason(end, pollster::block_on(end.recv()))),
    ("send", true, |end| send_reason(pollster::block_on(end.send(packet(0, 8))))),
    ("closed", false, |end| Some(pollster::block_on(end.closed()))),
];

/// Kills the peer of an end that waits in `call`, while a child of the peer has all that it had.
fn notices(end: Endpoint, mut child: Child, (what, needs_room, call): Call) {
    let end = Arc::new(end);
    if needs_room {
        fill(&end);
    }
    let (waiting, parks) = (end.clone(), end.stats().parks);
    let thread = std::thread::spawn(move || (call(&waiting), Instant::now()));
    if what != "closed" {
        eventually("it parks", || end.stats().parks > parks);
    }
    let killed = child.kill();
    let (reason, noticed) = join(what, thread);
    assert_eq!(reason, Some(CloseReason::PeerDied), "{what}");
    assert_eq!(end.close_reason(), Some(CloseReason::PeerDied), "{what}");
    assert!(!end.is_connected());
    eprintln!("{what}: noticed after {:?}", noticed.saturating_duration_since(killed));
    // The child has survived that.
    child.tell("are you there?");
    child.expect("here");
}

fn a_death_that_a_living_child_hides_is_noticed(driver: &Driver) {
    if !kernel_tells() {
        return;
    }
    for role in ROLES {
        for call in ASYNC.into_iter().chain(BLOCKING) {
            let (end, child, _dir) = with_child(driver, role, 0, false);
            notices(end, child, call);
        }
    }
}

fn a_death_that_a_living_child_hides_is_noticed_where_nobody_runs_the_driver(driver: &Driver) {
    if !kernel_tells() {
        return;
    }
    for role in ROLES {
        for call in BLOCKING {
            let driver = Driver::builder().backend(driver.backend()).build().unwrap();
            let (end, child, _dir) = with_child(&driver, role, 0, true);
            notices(end, child, call);
        }
    }
}

/// No thread runs the driver, and the engine's call sleeps before there is a peer to watch.
fn an_application_that_comes_late_to_a_pair_is_watched(driver: &Driver) {
    if !kernel_tells() {
        return;
    }
    let driver = Driver::builder().backend(driver.backend()).build().unwrap();
    let (end, start) = pair(&driver);
    let end = Arc::new(end);
    let waiting = end.clone();
    let thread = std::thread::spawn(move || waiting.recv_blocking());
    eventually("it parks", || end.stats().parks > 0);
    let mut child = start(0);
    child.expect("ready");
    child.kill();
    assert_eq!(join("recv_blocking", thread), None);
    assert_eq!(end.close_reason(), Some(CloseReason::PeerDied));
    child.tell("are you there?");
    child.expect("here");
}

fn everything_published_arrives_before_a_death_that_a_child_hides(driver: &Driver) {
    if !kernel_tells() {
        return;
    }
    for role in ROLES {
        let (end, mut child, _dir) = with_child(driver, role, 50, false);
        child.kill();
        assert_eq!(wait("closed", end.closed()), CloseReason::PeerDied);
        for n in 0..50 {
            assert_eq!(number(&wait("recv", end.recv()).unwrap()), n);
        }
        assert_eq!(wait("recv", end.recv()), None);
        let reason = send_reason(wait("send", end.send(packet(0, 8))));
        assert_eq!(reason, Some(CloseReason::PeerDied));
        child.tell("are you there?");
        child.expect("here");
    }
}

/// The application of a pair, which the pair's engine starts. Its end is its standard input.
#[test]
#[ignore = "a second process, for another one to start"]
fn child_of_an_engine() {
    // Unlike the other children, this one does not end with the process that started it.
    if std::env::var_os("WAKERING_TEST_PAIR").is_none() {
        return;
    }
    let backend = child::backend(&std::env::var("WAKERING_TEST_PAIR").unwrap());
    let driver = common::driver(backend).unwrap();
    let descriptor = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).unwrap();
    let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor).unwrap();
    child::say("joined");
    let received = handle.recv_timeout(PATIENCE);
    child::say(format!("{received:?} {:?}", handle.close_reason()));
}

/// Makes a pair, starts its application, leaves a child behind and waits to be killed.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_with_a_pair() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let (face, descriptor) = SpscFace::builder().ring_bytes(SMALL).driver(&driver).pair().unwrap();
    let application = |descriptor: OwnedFd| {
        Command::new(std::env::current_exe().unwrap())
            .args([
                test_path!(child_of_an_engine),
                "--exact",
                "--ignored",
                "--nocapture",
                "--quiet",
            ])
            .env("WAKERING_TEST_PAIR", &arguments[0])
            .stdin(Stdio::from(descriptor))
            .spawn()
            .unwrap()
    };
    let mut application = application(descriptor);
    leave_a_child();
    application.wait().unwrap();
    drop(face);
}

fn a_living_child_does_not_hide_the_death_of_a_pairs_engine(driver: &Driver) {
    if !kernel_tells() {
        return;
    }
    let mut engine = Child::start(test_path!(child_with_a_pair), &[&driver.backend().to_string()]);
    engine.expect("joined");
    // The child answers from now on, so it has been forked.
    engine.tell("are you there?");
    engine.expect("here");
    engine.kill();
    engine.expect("Err(Closed(PeerDied)) Some(PeerDied)");
    engine.tell("are you there?");
    engine.expect("here");
}

#[cfg(target_arch = "x86_64")]
const SYS_EXIT: i64 = 60;
#[cfg(target_arch = "aarch64")]
const SYS_EXIT: i64 = 93;

/// Echoes in a process with one thread, which is not its first.
#[test]
#[ignore = "a second process, for a test to start"]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn child_without_its_first_thread() {
    // SAFETY: this is the libc's declaration.
    unsafe extern "C" {
        fn syscall(number: i64, ...) -> i64;
    }
    let Some(arguments) = child::arguments() else { return };
    // This thread is not the first either, but after a fork it is the child's first. This process
    // waits for nothing and holds no lock, so the child may do what it likes.
    if fork() == 0 {
        std::thread::spawn(move || {
            let driver = common::driver(child::backend(&arguments[0])).unwrap();
            let end = open(&driver, "application", &arguments[1]);
            while let Some(packet) = end.recv_blocking() {
                end.send_blocking(packet).unwrap();
            }
            _exit(0);
        });
        // SAFETY: ends only this thread, which nothing joins and which owns nothing.
        unsafe { syscall(SYS_EXIT, 0) };
    }
    child::listen();
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn a_process_without_its_first_thread_is_alive(_driver: &Driver) {}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn a_process_without_its_first_thread_is_alive(driver: &Driver) {
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("face");
    let face = open(driver, "engine", &name);
    let _child = Child::start(test_path!(child_without_its_first_thread), &[&backend, &name]);
    let peer = wait("connected", face.connected()).unwrap();
    let first_has_ended = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", peer.pid)).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z')
    };
    eventually("its first thread ends", first_has_ended);
    for n in 0..100 {
        wait("send", face.send(packet(n, 64))).unwrap();
        assert_eq!(number(&wait("recv", face.recv()).unwrap()), n);
    }
    assert_eq!(face.close_reason(), None);
    let pid = rustix::process::Pid::from_raw(peer.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait("closed", face.closed()), CloseReason::PeerDied);
}

/// Forks again and again. Its children end, with copies of all that it has, and it goes on.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_whose_children_end() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let end = open(&driver, &arguments[1], &arguments[2]);
    if arguments[1] == "engine" {
        child::say("open");
    }
    while let Some(packet) = wait("recv", end.recv()) {
        if fork() == 0 {
            _exit(0);
        }
        wait("send", end.send(packet)).unwrap();
    }
    child::say("done");
}

fn the_end_of_a_child_does_not_end_its_parents_channel(driver: &Driver) {
    for role in ["engine", "application"] {
        let dir = Dir::new();
        let name = dir.name("face");
        let (end, mut child) =
            beside(driver, role, &name, test_path!(child_whose_children_end), &[]);
        for n in 0..20 {
            wait("send", end.send(packet(n, 64))).unwrap();
            assert_eq!(number(&wait("recv", end.recv()).unwrap()), n);
        }
        assert_eq!(end.close_reason(), None);
        end.close();
        child.expect("done");
        assert!(child.wait().success());
    }
}
