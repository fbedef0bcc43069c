//! How ends find each other by name, and which names do not work.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wakering::{CloseReason, Driver, FaceBuilder, ShmError, SpscFace, SpscHandle};

use super::face;
use crate::common::child::{self, Child, test_path};
use crate::common::{Dir, connects, eventually, on_both_backends, packet, raw_peer, wait};

on_both_backends!(
    an_engine_is_found_by_its_name,
    names_with_a_form_that_is_not_allowed_are_refused,
    a_name_that_nobody_serves_is_not_found,
    a_second_handle_gets_busy,
    a_face_serves_one_handle_in_its_life,
    a_second_face_of_a_name_is_an_error,
    a_dropped_face_gives_its_name_up,
    settings_that_are_not_allowed_are_refused_with_both_numbers,
    one_of_many_handles_that_race_gets_the_face,
    an_application_whose_hello_came_too_late_connects_again,
    long_paths_work,
);

fn an_engine_is_found_by_its_name(driver: &Driver) {
    for is_async in [false, true] {
        let dir = Dir::new();
        let name = dir.name("engine");
        let face = face(driver).create(&name).unwrap();
        let builder = SpscHandle::builder().driver(driver);
        let handle = if is_async {
            wait("connect_async", builder.connect_async(&name)).unwrap()
        } else {
            builder.connect(&name).unwrap()
        };
        face.try_send(packet(1, 8)).unwrap();
        handle.try_send(packet(2, 8)).unwrap();
        assert_eq!(wait("recv", handle.recv()), Some(packet(1, 8)));
        assert_eq!(wait("recv", face.recv()), Some(packet(2, 8)));
    }
}

fn names_with_a_form_that_is_not_allowed_are_refused(driver: &Driver) {
    let long = "x".repeat(101);
    let long_file = format!("/tmp/{}", "x".repeat(256));
    for name in [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a/",
        "a\0b",
        "\0",
        "ä",
        "a b",
        "a\n",
        "a:b",
        &long,
        &long_file,
        "/",
        "/tmp/",
        "/tmp/.",
        "/tmp/..",
        "/tmp/a\0b",
        "//",
        "/tmp/.lock",
    ] {
        let is_invalid = |error: &ShmError| {
            let text = error.to_string();
            assert!(text.contains("1 to 100") && text.contains("absolute path"), "{text}");
            matches!(error, ShmError::InvalidName)
        };
        assert!(is_invalid(&face(driver).create(name).unwrap_err()), "{name:?}");
        for result in connects(driver, name) {
            assert!(is_invalid(&result.unwrap_err()), "{name:?}");
        }
    }
}

fn a_name_that_nobody_serves_is_not_found(driver: &Driver) {
    let dir = Dir::new();
    let missing = dir.name("missing/engine");
    for name in [dir.name("nobody"), missing] {
        for result in connects(driver, &name) {
            match result {
                Err(ShmError::NotFound { path }) => assert_eq!(&*path, Path::new(&name)),
                other => panic!("{other:?}"),
            }
        }
    }
    // A socket that nothing listens on, not even a copy that a process has which another test
    // starts.
    let name = dir.name("stale");
    drop(raw_peer::bind(&name));
    for result in connects(driver, &name) {
        assert!(matches!(result, Err(ShmError::NotFound { .. })), "{result:?}");
    }
    // An engine can take it over.
    assert!(face(driver).create(&name).is_ok());
}

fn a_second_handle_gets_busy(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    let face = face(driver).create(&name).unwrap();
    let first = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    for result in connects(driver, &name) {
        assert!(matches!(result, Err(ShmError::Busy)), "{result:?}");
    }
    // The second one does not disturb the first.
    face.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", first.recv()), Some(packet(1, 8)));
}

fn a_face_serves_one_handle_in_its_life(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    let face = face(driver).create(&name).unwrap();
    drop(SpscHandle::builder().driver(driver).connect(&name).unwrap());
    assert_eq!(wait("recv", face.recv()), None);
    for result in connects(driver, &name) {
        assert!(matches!(result, Err(ShmError::Busy)), "{result:?}");
    }
    drop(face);
    for result in connects(driver, &name) {
        assert!(matches!(result, Err(ShmError::NotFound { .. })), "{result:?}");
    }
}

fn a_second_face_of_a_name_is_an_error(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    let first = face(driver).create(&name).unwrap();
    for _ in 0..3 {
        match face(driver).create(&name) {
            Err(ShmError::NameInUse { path }) => assert_eq!(&*path, Path::new(&name)),
            other => panic!("{other:?}"),
        }
    }
    // The probe does not use the first face up.
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    handle.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", first.recv()), Some(packet(1, 8)));
}

fn a_dropped_face_gives_its_name_up(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    for n in 0..50 {
        let face = face(driver).create(&name).unwrap();
        let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
        face.try_send(packet(n, 8)).unwrap();
        drop(face);
        assert!(!Path::new(&name).exists());
        assert_eq!(wait("recv", handle.recv()), Some(packet(n, 8)));
        assert_eq!(wait("recv", handle.recv()), None);
    }
}

fn settings_that_are_not_allowed_are_refused_with_both_numbers(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    let refusal = |builder: FaceBuilder| match builder.driver(driver).create(&name) {
        Err(error @ ShmError::InvalidConfig { given, allowed, .. }) => {
            let text = error.to_string();
            // Permissions are told in octal.
            let number = |number: u64| match text.contains("mode") {
                true => format!("{number:#o}"),
                false => number.to_string(),
            };
            assert!(text.contains(&number(given)) && text.contains(&number(allowed)), "{text}");
            (given, allowed)
        }
        other => panic!("{other:?}"),
    };
    let ring = |bytes| SpscFace::builder().ring_bytes(bytes);
    assert_eq!(refusal(ring(4096).max_packet(1017)), (1017, 1016));
    assert_eq!(refusal(ring(5000)), (5000, 8192));
    assert_eq!(refusal(ring(2048)), (2048, 4096));
    let largest = if usize::BITS < 64 { 1 << 29 } else { 1 << 30 };
    assert_eq!(refusal(ring(2 << 30)), (2 << 30, largest));
    assert_eq!(refusal(SpscFace::builder().max_packet(1 << 30)), (1 << 30, largest / 4 - 8));
    assert_eq!(refusal(SpscFace::builder().max_packet(0)), (0, 1));
    assert_eq!(refusal(SpscFace::builder().mode(0o4600)), (0o4600, 0o777));
    match SpscFace::create_for_mtu(&name, usize::MAX) {
        Err(ShmError::InvalidConfig { given: u64::MAX, .. }) => {}
        other => panic!("{other:?}"),
    }
    // The failed calls left nothing behind.
    assert!(!Path::new(&name).exists());
    assert!(face(driver).create(&name).is_ok());
}

fn one_of_many_handles_that_race_gets_the_face(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    for _ in 0..20 {
        let face = face(driver).create(&name).unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|n| {
                    let builder = SpscHandle::builder().driver(driver);
                    let name = &name;
                    scope.spawn(move || {
                        if n % 2 == 0 {
                            builder.connect(name)
                        } else {
                            wait("connect_async", builder.connect_async(name))
                        }
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert!(lost.iter().all(|lost| matches!(lost, Err(ShmError::Busy))), "{lost:?}");
        assert_eq!(won.len(), 1);
        face.try_send(packet(1, 8)).unwrap();
        assert_eq!(wait("recv", won[0].as_ref().unwrap().recv()), Some(packet(1, 8)));
        drop(won);
        assert_eq!(wait("closed", face.closed()), CloseReason::Peer);
    }
}

/// The predicate runs between the connect and the hello, and the first time it takes so long that
/// the engine gives up.
fn an_application_whose_hello_came_too_late_connects_again(driver: &Driver) {
    for is_async in [false, true] {
        let dir = Dir::new();
        let name = dir.name("engine");
        let listener = Arc::new(face(driver).bind(&name).unwrap());
        let (engine, calls) = (listener.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = calls.clone();
        let builder = SpscHandle::builder().allow(move |_| {
            if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                eventually("the engine gives up", || engine.stats().half_done > 0);
            }
            true
        });
        // On a driver of its own, because the predicate holds up the thread that calls it.
        let handle = if is_async {
            wait("connect_async", builder.connect_async(&name)).unwrap()
        } else {
            builder.connect(&name).unwrap()
        };
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        let face = wait("accept", listener.accept()).unwrap();
        handle.try_send(packet(1, 8)).unwrap();
        assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));
    }
}

fn long_paths_work(driver: &Driver) {
    // These paths are longer than a socket address can hold.
    let dir = Dir::new();
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(120));
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    let name = dir.name(&format!("{deep}/{}", "f".repeat(200)));
    let face = face(driver).create(&name).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    handle.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));
}

/// Uses relative names, which depend on the process's environment.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_with_relative_names() {
    let Some(arguments) = child::arguments() else { return };
    let place = Path::new(&arguments[0]);
    let longest = "x".repeat(100);
    for name in ["video", "a.b_c-D9", "-", &longest] {
        match SpscHandle::connect(name) {
            Err(ShmError::NotFound { path }) => {
                assert_eq!(&*path, place.join(format!("{name}.sock")));
            }
            other => panic!("{other:?}"),
        }
        let face = SpscFace::create(name).unwrap();
        let metadata = fs::symlink_metadata(place.join(format!("{name}.sock"))).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(place).unwrap().mode() & 0o777, 0o700);
        let handle = wait("connect_async", SpscHandle::connect_async(name)).unwrap();
        face.try_send(packet(1, 8)).unwrap();
        assert_eq!(wait("recv", handle.recv()), Some(packet(1, 8)));
    }
    child::say("done");
}

#[test]
fn relative_names_use_the_directory_from_the_environment() {
    let dir = Dir::new();
    // The directory is made when it is needed, but only one level of it.
    let place = dir.path().join("place");
    let place = place.to_str().unwrap();
    let variable = ("WAKERING_DIR", place.as_ref());
    let mut child = Child::start_with(variable, test_path!(child_with_relative_names), &[place]);
    child.expect("done");
    assert!(child.wait().success());
    let runtime = dir.path().join("runtime");
    fs::create_dir(&runtime).unwrap();
    let place = runtime.join("wakering");
    let arguments = [place.to_str().unwrap()];
    let variable = ("XDG_RUNTIME_DIR", runtime.as_os_str());
    let mut child = Child::start_with(variable, test_path!(child_with_relative_names), &arguments);
    child.expect("done");
    assert!(child.wait().success());
}
