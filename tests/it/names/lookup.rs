//! How ends find each other by name, and what goes wrong when they should not.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind,
    listen, recv, send, socket_with,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use wakering::{CloseReason, DenialCause, Driver, FaceBuilder, ShmError, SpscFace, SpscHandle};

use crate::common::child::{self, Child, test_path};
use crate::common::{
    self, Dir, PATIENCE, SMALL, connects, connects_within, eventually, on_both_backends, packet,
    wait,
};

on_both_backends!(
    an_engine_is_found_by_its_name,
    names_with_a_form_that_is_not_allowed_are_refused,
    a_name_that_nobody_serves_is_not_found,
    a_second_handle_is_told_busy,
    a_face_serves_one_handle_in_its_life,
    a_second_face_of_a_name_is_told_so,
    a_dropped_face_gives_its_name_up,
    settings_that_are_not_allowed_are_refused_with_both_numbers,
    a_directory_that_others_may_write_to_is_refused,
    a_link_or_a_file_in_place_of_the_directory_is_refused,
    a_directory_that_is_missing_is_not_made,
    a_file_in_place_of_the_socket_is_left_alone,
    a_foreign_listener_is_a_version_mismatch,
    a_hang_up_half_way_is_an_error,
    silence_is_a_time_out,
    a_full_backlog_is_a_time_out,
    many_handles_race_for_one_face,
    long_paths_work,
    a_dropped_engine_waits_for_nobody,
    cleaners_spare_a_living_engine,
    an_engine_at_its_file_limit_is_never_seen,
);

fn face(driver: &Driver) -> FaceBuilder {
    SpscFace::builder().ring_bytes(SMALL).driver(driver)
}

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
    // A socket that nobody listens on.
    let name = dir.name("stale");
    drop(UnixListener::bind(&name).unwrap());
    for result in connects(driver, &name) {
        assert!(matches!(result, Err(ShmError::NotFound { .. })), "{result:?}");
    }
    // An engine can take it over.
    assert!(face(driver).create(&name).is_ok());
}

fn a_second_handle_is_told_busy(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    let face = face(driver).create(&name).unwrap();
    let first = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    for result in connects(driver, &name) {
        assert!(matches!(result, Err(ShmError::Busy)), "{result:?}");
    }
    // Which does not disturb the first.
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

fn a_second_face_of_a_name_is_told_so(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("engine");
    let first = face(driver).create(&name).unwrap();
    for _ in 0..3 {
        match face(driver).create(&name) {
            Err(ShmError::NameInUse { path }) => assert_eq!(&*path, Path::new(&name)),
            other => panic!("{other:?}"),
        }
    }
    // The probe does not use the first one up.
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
            assert!(text.contains(&given.to_string()) && text.contains(&allowed.to_string()));
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
    // Nothing of it was left behind.
    assert!(!Path::new(&name).exists());
    assert!(face(driver).create(&name).is_ok());
}

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

/// A listening socket of the right type, behind which is nothing of ours.
fn impostor(name: &str, backlog: i32) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(name).unwrap()).unwrap();
    listen(&socket, backlog).unwrap();
    socket
}

/// Connects, both ways, while an impostor does something with each connection.
fn against(
    driver: &Driver,
    timeout: Duration,
    action: impl Fn(OwnedFd) + Send,
) -> [Result<SpscHandle, ShmError>; 2] {
    let dir = Dir::new();
    let name = dir.name("impostor");
    let socket = impostor(&name, 8);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..2 {
                action(accept(&socket).unwrap());
            }
        });
        connects_within(driver, &name, timeout)
    })
}

fn hear(guest: &OwnedFd) {
    let mut hello = [0; 64];
    let (heard, _) = recv(guest, &mut hello, RecvFlags::empty()).unwrap();
    assert_eq!(heard, 32);
}

fn a_foreign_listener_is_a_version_mismatch(driver: &Driver) {
    let is_mismatch = |result: Result<SpscHandle, ShmError>, expected| match result {
        Err(ShmError::VersionMismatch { ours, theirs }) => {
            assert_eq!((ours, theirs), (1, expected))
        }
        other => panic!("{other:?}"),
    };
    // A stream, and datagrams.
    let dir = Dir::new();
    let name = dir.name("stream");
    let _stream = UnixListener::bind(&name).unwrap();
    for result in connects(driver, &name) {
        is_mismatch(result, 0);
    }
    let name = dir.name("datagrams");
    let _datagrams = UnixDatagram::bind(&name).unwrap();
    for result in connects(driver, &name) {
        is_mismatch(result, 0);
    }
    // What makes no sense; an answer of another version; a welcome without a region.
    let answer = |version: u32, kind: u32, status: u32| {
        let mut answer = *b"wakering________________________";
        answer[8..].fill(0);
        answer[8..12].copy_from_slice(&version.to_ne_bytes());
        answer[12..16].copy_from_slice(&kind.to_ne_bytes());
        answer[24..28].copy_from_slice(&status.to_ne_bytes());
        answer.to_vec()
    };
    for (junk, theirs) in [
        (b"220 mail.example.org ESMTP\r\n".to_vec(), 0),
        (vec![0; 32], 0),
        (vec![7; 4096], 0),
        (answer(9, 2, 0), 9),
        (answer(1, 2, 0), 0),
        (answer(1, 2, 77), 0),
        (answer(1, 1, 0), 0),
    ] {
        let results = against(driver, PATIENCE, |guest| {
            hear(&guest);
            send(&guest, &junk, SendFlags::NOSIGNAL).unwrap();
        });
        for result in results {
            is_mismatch(result, theirs);
        }
    }
}

fn a_hang_up_half_way_is_an_error(driver: &Driver) {
    let hang_ups: [fn(OwnedFd); 2] = [drop, |guest| hear(&guest)];
    for hang_up in hang_ups {
        for result in against(driver, PATIENCE, hang_up) {
            match result {
                Err(ShmError::Io { step: "handshake", .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn silence_is_a_time_out(driver: &Driver) {
    let timeout = Duration::from_millis(150);
    let (tell, told) = std::sync::mpsc::channel::<OwnedFd>();
    let begin = Instant::now();
    // Neither hears nor answers, and keeps the line.
    let results = against(driver, timeout, move |guest| tell.send(guest).unwrap());
    let elapsed = begin.elapsed();
    for result in results {
        assert!(matches!(result, Err(ShmError::TimedOut { sent: 0 })), "{result:?}");
    }
    assert!(elapsed >= 2 * timeout && elapsed < PATIENCE, "{elapsed:?}");
    drop(told);
}

fn a_full_backlog_is_a_time_out(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("overrun");
    // Nobody accepts, and there is room for few.
    let _socket = impostor(&name, 0);
    let timeout = Duration::from_millis(100);
    let begin = Instant::now();
    for _ in 0..3 {
        for result in connects_within(driver, &name, timeout) {
            assert!(matches!(result, Err(ShmError::TimedOut { sent: 0 })), "{result:?}");
        }
    }
    assert!(begin.elapsed() >= 6 * timeout && begin.elapsed() < PATIENCE);
}

fn many_handles_race_for_one_face(driver: &Driver) {
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

fn long_paths_work(driver: &Driver) {
    // Beyond what fits a socket's address.
    let dir = Dir::new();
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(120));
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    let name = dir.name(&format!("{deep}/{}", "f".repeat(200)));
    let face = face(driver).create(&name).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    handle.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));
}

/// An executor's or a driver's thread may be the one that drops it.
fn a_dropped_engine_waits_for_nobody(driver: &Driver) {
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
        // Who waits for the lock does so for 2 s.
        assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
        // The file stays; nobody is behind it, and the next one takes it over.
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

/// Cleans `aged` of all that is older than a second, again and again until what is older than
/// that is gone: a file beside an engine's, which was made after it.
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
        // A directory that is reached from above is left alone altogether.
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

/// Wants to serve, and cannot: no region may be made.
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
            // Somebody may come now.
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

/// Uses relative names, which need an environment of their own.
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
fn relative_names_live_where_the_environment_says() {
    let dir = Dir::new();
    // Made when it is needed, but one level only.
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
