//! Who may connect to whom: the socket's mode, the default rule, and the predicates of both sides.
//!
//! Only root can act as another user. Without root, the parts that need a second user are left out,
//! with a message.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::Mode;
use wakering::{DenialCause, Driver, PeerCredentials, ShmError, SpscHandle, SpscListener};

use super::face;
use crate::common::child::{self, Child, test_path};
use crate::common::{self, Dir, SMALL, connects, on_both_backends, wait};

on_both_backends!(
    the_sockets_mode_is_what_was_asked_for,
    the_predicates_decide,
    another_user_is_refused,
    no_predicate_overrides_the_mode,
    the_mode_can_let_a_group_in,
    a_predicate_refuses_another_user_who_may_reach_the_socket,
    a_listener_serves_users_side_by_side,
    an_engine_of_another_user_is_refused,
    a_handles_predicate_sees_who_the_engine_is,
    a_name_is_taken_back_whatever_its_mode,
    a_socket_has_its_mode_whatever_the_umask,
);

/// Asserts that the error says why, and which file is concerned.
#[track_caller]
fn assert_denied<T: std::fmt::Debug>(
    result: Result<T, ShmError>,
    expected: DenialCause,
    at: impl AsRef<Path>,
) {
    match result {
        Err(ShmError::PermissionDenied { cause, path }) => {
            assert_eq!((cause, &*path), (expected, at.as_ref()));
        }
        other => panic!("{other:?}"),
    }
}

/// Returns the text in which a child reports the error.
fn denied(cause: DenialCause, path: &str) -> String {
    format!("{:?}", ShmError::PermissionDenied { cause, path: Path::new(path).into() })
}

/// Returns a directory that every user may look into.
fn open_dir() -> Dir {
    let dir = Dir::new();
    dir.set_mode(0o755);
    dir
}

fn the_sockets_mode_is_what_was_asked_for(driver: &Driver) {
    let dir = Dir::new();
    for (mode, expected) in [(None, 0o600), (Some(0o660), 0o660), (Some(0o666), 0o666)] {
        let builder = face(driver);
        let builder = match mode {
            Some(mode) => builder.mode(mode),
            None => builder,
        };
        let face = builder.create(&dir.name("engine")).unwrap();
        let metadata = fs::symlink_metadata(dir.name("engine")).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.mode() & 0o777, expected);
        drop(face);
    }
}

fn the_predicates_decide(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    let own = i32::try_from(std::process::id()).unwrap();
    let refusing = face(driver).allow(|_| false).create(&name).unwrap();
    for result in connects(driver, &name) {
        assert_denied(result, DenialCause::Engine, &name);
    }
    drop(refusing);
    let panicking = face(driver).allow(|_| resume_unwind(Box::new(1)));
    let panicking = panicking.create(&name).unwrap();
    for result in connects(driver, &name) {
        assert_denied(result, DenialCause::Engine, &name);
    }
    drop(panicking);
    // Neither refusal used the face up.
    let picky = face(driver).allow(move |peer| peer.pid == own).create(&name).unwrap();
    let refusing = SpscHandle::builder().driver(driver).allow(|_| false);
    let ourselves = DenialCause::EngineUser { uid: rustix::process::geteuid().as_raw() };
    assert_denied(refusing.clone().connect(&name), ourselves, &name);
    let result = wait("connect_async", refusing.connect_async(&name));
    assert_denied(result, ourselves, &name);
    let accepting = SpscHandle::builder().driver(driver).allow(move |engine| engine.pid == own);
    let handle = accepting.connect(&name).unwrap();
    assert_eq!(handle.peer_credentials().unwrap().pid, own);
    drop(picky);
}

/// A user who is neither this process's, nor root, nor nobody.
const ANOTHER: u32 = 65533;

/// Connects in both ways, and says what came of it.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_connects() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    for result in connects(&driver, &arguments[1]) {
        match result {
            Ok(handle) => child::say(format!("{:?}", wait("recv", handle.recv()))),
            Err(error) => child::say(format!("{error:?}")),
        }
    }
}

/// Serves a name until its input ends.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_serves() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let face = face(&driver).mode(0o666).allow(|_| true).create(&arguments[1]).unwrap();
    child::say("serves");
    child::listen();
    drop(face);
}

/// Starts a child as another user, if that is possible.
fn another(driver: &Driver, name: &str, arguments: &[&str]) -> Option<Child> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("only root can act as another user: left out");
        return None;
    }
    let backend = driver.backend().to_string();
    match Child::start_as(ANOTHER, name, &[&[backend.as_str()], arguments].concat()) {
        Ok(child) => Some(child),
        Err(error) => {
            eprintln!("this binary cannot be run by another user ({error}): left out");
            None
        }
    }
}

fn another_user_is_refused(driver: &Driver) {
    let dir = open_dir();
    let name = dir.name("engine");
    // The first is refused by the socket's mode. The mode lets the second in, and the default rule
    // refuses it.
    for (mode, cause) in [(0o600, DenialCause::FileSystem), (0o666, DenialCause::Engine)] {
        let face = face(driver).mode(mode).create(&name).unwrap();
        if !another_is_denied(driver, &name, cause) {
            return;
        }
        drop(face);
    }
    let builder = face(driver).mode(0o666).allow(|peer| peer.uid == ANOTHER);
    let face = builder.create(&name).unwrap();
    face.try_send("hello".into()).unwrap();
    let Some(mut child) = another(driver, test_path!(child_that_connects), &[&name]) else {
        return;
    };
    assert_eq!(child.hear(), r#"Some(b"hello")"#);
    assert_eq!(child.hear(), "Busy");
    assert_eq!(face.peer_credentials().unwrap().uid, ANOTHER);
}

/// Has a child of another user connect in both ways and checks that both fail. Returns false if
/// there is no other user.
fn another_is_denied(driver: &Driver, name: &str, cause: DenialCause) -> bool {
    let Some(mut child) = another(driver, test_path!(child_that_connects), &[name]) else {
        return false;
    };
    for _ in 0..2 {
        assert_eq!(child.hear(), denied(cause, name));
    }
    assert!(child.wait().success());
    true
}

fn no_predicate_overrides_the_mode(driver: &Driver) {
    let dir = open_dir();
    let name = dir.name("engine");
    for mode in [None, Some(0o600), Some(0o660)] {
        let builder = face(driver).allow(|_| panic!("the mode should have refused the client"));
        let builder = match mode {
            Some(mode) => builder.mode(mode),
            None => builder,
        };
        let _face = builder.create(&name).unwrap();
        if !another_is_denied(driver, &name, DenialCause::FileSystem) {
            return;
        }
    }
}

fn the_mode_can_let_a_group_in(driver: &Driver) {
    let dir = open_dir();
    let name = dir.name("engine");
    let builder = face(driver).mode(0o660).allow(|peer| peer.gid == ANOTHER);
    let face = builder.create(&name).unwrap();
    if chown(&name, None, Some(ANOTHER)).is_err() {
        return eprintln!("only root can give a socket to another group: left out");
    }
    face.try_send("hello".into()).unwrap();
    let Some(mut child) = another(driver, test_path!(child_that_connects), &[&name]) else {
        return;
    };
    assert_eq!(child.hear(), r#"Some(b"hello")"#);
    assert_eq!(face.peer_credentials().unwrap().gid, ANOTHER);
}

fn a_predicate_refuses_another_user_who_may_reach_the_socket(driver: &Driver) {
    let dir = open_dir();
    let name = dir.name("engine");
    let own = rustix::process::geteuid().as_raw();
    type Predicate = fn(&PeerCredentials) -> bool;
    let predicates: [Predicate; 3] =
        [|_| false, |peer| peer.uid != ANOTHER, |_| resume_unwind(Box::new("a bad predicate"))];
    for predicate in predicates {
        let _face = face(driver).mode(0o666).allow(predicate).create(&name).unwrap();
        if !another_is_denied(driver, &name, DenialCause::Engine) {
            return;
        }
    }
    // The predicate replaces the default rule: it can refuse even our own user.
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let builder = face(driver).mode(0o666).allow(move |peer| {
        noted.lock().unwrap().push(*peer);
        peer.uid == ANOTHER
    });
    let face = builder.create(&name).unwrap();
    for result in connects(driver, &name) {
        assert_denied(result, DenialCause::Engine, &name);
    }
    face.try_send("hello".into()).unwrap();
    let Some(mut child) = another(driver, test_path!(child_that_connects), &[&name]) else {
        return;
    };
    assert_eq!(child.hear(), r#"Some(b"hello")"#);
    let peer = face.peer_credentials().unwrap();
    assert_eq!(wait("connected", face.connected()).unwrap(), peer);
    assert_eq!(
        (u32::try_from(peer.pid).unwrap(), peer.uid, peer.gid),
        (child.pid(), ANOTHER, ANOTHER)
    );
    child.expect("Busy");
    // The predicate is asked about each of them.
    let asked = asked.lock().unwrap();
    assert_eq!(asked.iter().map(|peer| peer.uid).collect::<Vec<_>>(), [own, own, ANOTHER, ANOTHER]);
    assert_eq!(asked[2], peer);
}

fn a_listener_serves_users_side_by_side(driver: &Driver) {
    let dir = open_dir();
    let name = dir.name("engine");
    let builder = SpscListener::builder().ring_bytes(SMALL).driver(driver).mode(0o666);
    let own = rustix::process::geteuid().as_raw();
    {
        let strict = builder.clone().bind(&name).unwrap();
        if !another_is_denied(driver, &name, DenialCause::Engine) {
            return;
        }
        assert_eq!(strict.stats().refused, 2);
        assert_eq!(strict.stats().accepted, 0);
    }
    let listener = builder.allow(move |peer| [own, ANOTHER].contains(&peer.uid)).bind(&name);
    let listener = listener.unwrap();
    let ours = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    let Some(mut child) = another(driver, test_path!(child_that_connects), &[&name]) else {
        return;
    };
    let mut faces = Vec::new();
    for uid in [own, ANOTHER, ANOTHER] {
        let face = wait("accept", listener.accept()).unwrap();
        assert_eq!(face.peer_credentials().unwrap().uid, uid);
        face.try_send(uid.to_string().into()).unwrap();
        if uid == ANOTHER {
            assert_eq!(child.hear(), format!("Some(b\"{ANOTHER}\")"));
        }
        faces.push(face);
    }
    assert_eq!(wait("recv", ours.recv()).unwrap(), own.to_string());
    assert_eq!(listener.stats().refused, 0);
}

fn an_engine_of_another_user_is_refused(driver: &Driver) {
    let dir = open_dir();
    let name = dir.name("engine");
    if chown(dir.path(), Some(ANOTHER), None).is_err() {
        eprintln!("only root can give a directory away: left out");
        return;
    }
    // Even root makes no name in another user's directory.
    let its_owner = DenialCause::DirectoryOwner { uid: ANOTHER };
    assert_denied(face(driver).create(&name), its_owner, dir.path());
    let Some(mut child) = another(driver, test_path!(child_that_serves), &[&name]) else { return };
    child.expect("serves");
    for result in connects(driver, &name) {
        assert_denied(result, its_owner, dir.path());
    }
    let builder = SpscHandle::builder().driver(driver);
    let result = builder.clone().allow(|engine| engine.uid == 1).connect(&name);
    assert_denied(result, DenialCause::EngineUser { uid: ANOTHER }, &name);
    let handle = builder.allow(|engine| engine.uid == ANOTHER).connect(&name).unwrap();
    assert_eq!(handle.peer_credentials().unwrap().uid, ANOTHER);
}

fn a_handles_predicate_sees_who_the_engine_is(driver: &Driver) {
    let dir = open_dir();
    let name = dir.name("engine");
    if chown(dir.path(), Some(ANOTHER), None).is_err() {
        return eprintln!("only root can give a directory away: left out");
    }
    let Some(mut child) = another(driver, test_path!(child_that_serves), &[&name]) else { return };
    child.expect("serves");
    let builder = SpscHandle::builder().driver(driver);
    // A panic refuses, and does not use the face up.
    let panicking = builder.clone().allow(|_| resume_unwind(Box::new("a bad predicate")));
    let its_user = DenialCause::EngineUser { uid: ANOTHER };
    assert_denied(panicking.clone().connect(&name), its_user, &name);
    assert_denied(wait("connect_async", panicking.connect_async(&name)), its_user, &name);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let accepting = builder.allow(move |engine| {
        noted.lock().unwrap().push(*engine);
        true
    });
    let handle = wait("connect_async", accepting.connect_async(&name)).unwrap();
    let engine = handle.peer_credentials().unwrap();
    assert_eq!(u32::try_from(engine.pid).unwrap(), child.pid());
    assert_eq!((engine.uid, engine.gid), (ANOTHER, ANOTHER));
    let asked = asked.lock().unwrap();
    assert!(asked.iter().all(|asked| asked.uid == ANOTHER), "{asked:?}");
    assert!(asked.contains(&engine), "{asked:?}");
}

/// Tries to take a name with a mode, says what came of it, and serves until it is killed.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_takes() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name, mode] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let mode = u32::from_str_radix(mode, 8).unwrap();
    match face(&driver).mode(mode).create(name) {
        Ok(_face) => {
            child::say("serves");
            common::stay();
        }
        Err(error) => child::say(format!("{error:?}")),
    }
}

/// The kernel lets root connect whatever the mode, but not another owner of the socket.
fn a_name_is_taken_back_whatever_its_mode(driver: &Driver) {
    let dir = open_dir();
    let name = dir.name("engine");
    if chown(dir.path(), Some(ANOTHER), Some(ANOTHER)).is_err() {
        return eprintln!("only root can give a directory away: left out");
    }
    for mode in [0o060, 0, 0o400, 0o600] {
        let octal = format!("{mode:o}");
        let take = || another(driver, test_path!(child_that_takes), &[&name, &octal]);
        let Some(mut first) = take() else { return };
        first.expect("serves");
        // The engine lives: no other engine gets the name, and the mode stays the same.
        let mut second = take().unwrap();
        assert!(second.hear().starts_with("NameInUse"), "{octal}");
        assert!(second.wait().success());
        assert_eq!(fs::metadata(&name).unwrap().mode() & 0o7777, mode);
        first.kill();
        drop(first);
        assert_eq!(fs::metadata(&name).unwrap().mode() & 0o7777, mode);
        let mut third = take().unwrap();
        third.expect("serves");
        assert_eq!(fs::metadata(&name).unwrap().mode() & 0o7777, mode);
    }
}

/// The umask belongs to the process.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_with_a_umask() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name, umask] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    rustix::process::umask(Mode::from_raw_mode(u32::from_str_radix(umask, 8).unwrap()));
    let _face = face(&driver).mode(0o666).create(name).unwrap();
    assert_eq!(fs::metadata(name).unwrap().mode() & 0o7777, 0o666);
    SpscHandle::builder().driver(&driver).connect(name).unwrap();
}

fn a_socket_has_its_mode_whatever_the_umask(driver: &Driver) {
    let dir = Dir::new();
    for umask in ["0", "77", "177", "777"] {
        let arguments = [&driver.backend().to_string(), &*dir.name("engine"), umask];
        child::passes(test_path!(child_with_a_umask), &arguments);
    }
}
