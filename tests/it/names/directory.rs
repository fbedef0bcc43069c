//! The directory of the sockets, and what other processes do in it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, setrlimit};
use wakering::{DenialCause, Driver, FaceBuilder, ShmError, SpscHandle};

use super::face;
use crate::common::child::{self, Child, test_path};
use crate::common::{self, Dir, SMALL, connects, eventually, on_both_backends, packet, wait};

on_both_backends!(
    a_directory_that_others_may_write_to_is_refused,
    a_link_or_a_file_in_place_of_the_directory_is_refused,
    a_directory_that_is_missing_is_not_made,
    a_file_in_place_of_the_socket_is_left_alone,
    dropping_an_engine_waits_for_no_lock,
    cleaners_spare_a_living_engine,
    an_engine_at_its_file_limit_is_never_seen,
);

fn a_directory_that_others_may_write_to_is_refused(driver: &Driver) {
    for mode in [0o777, 0o770, 0o722, 0o1777, 0o702] {
        let dir = Dir::new();
        let name = dir.name("engine");
        let face_before = face(driver).create(&name).unwrap();
        dir.set_mode(mode);
        let second = dir.name("other");
        let mut refusals = vec![face(driver).create(&second).unwrap_err()];
        refusals.extend(connects(driver, &name).map(Result::unwrap_err));
        for refusal in refusals {
            let text = refusal.to_string();
            assert!(text.contains(&format!("{mode:04o}")), "{text}");
            assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
            let ShmError::PermissionDenied { cause, path } = refusal else { panic!("{text}") };
            assert_eq!(cause, DenialCause::DirectoryWritable { mode });
            assert_eq!(&*path, dir.path());
        }
        dir.set_mode(0o700);
        drop(face_before);
    }
    for mode in [0o755, 0o711, 0o700] {
        let dir = Dir::new();
        dir.set_mode(mode);
        let face = face(driver).create(&dir.name("engine")).unwrap();
        SpscHandle::builder().driver(driver).connect(&dir.name("engine")).unwrap();
        drop(face);
    }
}

fn a_link_or_a_file_in_place_of_the_directory_is_refused(driver: &Driver) {
    let dir = Dir::new();
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&real, dir.path().join("link")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for place in ["link", "link/", "link/.", "file"] {
        let name = dir.name(&format!("{place}/engine"));
        let mut refusals = vec![face(driver).create(&name).unwrap_err()];
        refusals.extend(connects(driver, &name).map(Result::unwrap_err));
        for refusal in refusals {
            let ShmError::Io { source, .. } = refusal else { panic!("{place}: {refusal:?}") };
            assert_eq!(source.kind(), ErrorKind::NotADirectory);
            let text = source.to_string();
            let plain = place.split('/').next().unwrap();
            assert!(text.starts_with(dir.path().join(plain).to_str().unwrap()), "{text}");
            assert_eq!(text.contains("symbolic link"), plain == "link", "{text}");
        }
    }
    assert!(fs::read_dir(real).unwrap().next().is_none());
}

fn a_directory_that_is_missing_is_not_made(driver: &Driver) {
    let dir = Dir::new();
    match face(driver).create(&dir.name("missing/engine")) {
        Err(ShmError::Io { source, .. }) => {
            assert_eq!(source.kind(), ErrorKind::NotFound);
            assert!(source.to_string().starts_with(&dir.name("missing")), "{source}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!dir.path().join("missing").exists());
}

fn a_file_in_place_of_the_socket_is_left_alone(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    fs::write(&name, "precious").unwrap();
    let result = face(driver).create(&name);
    assert!(matches!(result, Err(ShmError::NameInUse { .. })), "{result:?}");
    for result in connects(driver, &name) {
        assert!(result.is_err());
    }
    assert_eq!(fs::read_to_string(&name).unwrap(), "precious");
}

/// A thread of an executor or a driver may be the one that drops an engine.
fn dropping_an_engine_waits_for_no_lock(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    type Engine = fn(FaceBuilder, &str) -> Box<dyn Send>;
    let engines: [Engine; 2] = [
        |builder, name| Box::new(builder.create(name).unwrap()),
        |builder, name| Box::new(builder.bind(name).unwrap()),
    ];
    for engine in engines {
        let engine = engine(face(driver), &name);
        let lock = fs::File::open(dir.path().join(".lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let begin = Instant::now();
        drop(engine);
        let elapsed = begin.elapsed();
        // A call that waits for the lock waits for 2 s.
        assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
        // The file stays. No engine serves it, and the next one takes it over.
        assert!(Path::new(&name).exists());
        for result in connects(driver, &name) {
            assert!(matches!(result, Err(ShmError::NotFound { .. })), "{result:?}");
        }
        flock(&lock, FlockOperation::Unlock).unwrap();
    }
    let face = face(driver).create(&name).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    handle.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));
}

/// Removes everything in `aged` that is older than a second, until `beside` is removed. That is a
/// file next to an engine's, and was made after it.
fn clean(dir: &Dir, aged: &Path, beside: &Path) {
    let config = dir.path().join("tmpfiles.conf");
    fs::write(&config, format!("d {} - - - 1s\n", aged.display())).unwrap();
    fs::write(beside, "").unwrap();
    eventually("it is cleaned", || {
        let clean = Command::new("systemd-tmpfiles").arg("--clean").arg(&config).status().unwrap();
        assert!(clean.success());
        !beside.exists()
    });
}

fn cleaners_spare_a_living_engine(driver: &Driver) {
    if Command::new("systemd-tmpfiles").arg("--version").output().is_err() {
        return eprintln!("no systemd-tmpfiles here: left out");
    }
    let dir = Dir::new();
    let long = "d".repeat(120);
    for place in ["own", "own/a/b/c", &long, &format!("{long}/a/b/c")] {
        let place = dir.path().join(place);
        fs::create_dir_all(&place).unwrap();
        let name = place.join("engine").to_str().unwrap().to_owned();
        let listener = face(driver).bind(&name).unwrap();
        let top = place.ancestors().find(|path| path.parent() == Some(dir.path())).unwrap();
        let is_ancestor = top != place;
        clean(&dir, top, &top.join("beside"));
        // The cleaner skips this whole directory when it reaches it from above.
        assert!(!is_ancestor || place.join(".lock").exists(), "{name}");
        let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
        let face_of_it = wait("accept", listener.accept()).unwrap();
        handle.try_send(packet(1, 8)).unwrap();
        assert_eq!(wait("recv", face_of_it.recv()), Some(packet(1, 8)));
        let second = face(driver).create(&name);
        assert!(matches!(second, Err(ShmError::NameInUse { .. })), "{second:?}");
        drop(listener);
        assert!(!Path::new(&name).exists());
        fs::remove_dir_all(top).unwrap();
    }
}

/// Tries to serve and fails, because it can make no region.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_at_its_file_limit() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let limit = Rlimit { current: Some(SMALL as u64), maximum: None };
    setrlimit(Resource::Fsize, limit).unwrap();
    child::say("ready");
    let is_refused = |error| match error {
        ShmError::Io { source, .. } => assert_eq!(source.kind(), ErrorKind::FileTooLarge),
        other => panic!("{other:?}"),
    };
    for _ in 0..500 {
        is_refused(face(&driver).create(&arguments[1]).unwrap_err());
        match face(&driver).bind(&arguments[1]) {
            Err(error) => is_refused(error),
            // An application may connect at this moment.
            Ok(listener) => is_refused(wait("accept", listener.accept()).unwrap_err()),
        }
    }
    child::say("done");
}

fn an_engine_at_its_file_limit_is_never_seen(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    let mut child =
        Child::start(test_path!(child_at_its_file_limit), &[&driver.backend().to_string(), &name]);
    child.expect("ready");
    while !child.has_said_something() {
        for result in connects(driver, &name) {
            assert!(matches!(result, Err(ShmError::NotFound { .. })), "{result:?}");
        }
    }
    child.expect("done");
}
