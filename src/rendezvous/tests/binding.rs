//! Taking names over, and giving them up.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::sync::Barrier;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::*;
use crate::rendezvous::name::{LOCK_FILE, NEW_FILE};

fn bind(name: &Name) -> Result<ListenerSocket, ShmError> {
    ListenerSocket::bind(name, None)
}

fn is_in_use(result: Result<ListenerSocket, ShmError>, name: &Name) -> bool {
    matches!(result, Err(ShmError::NameInUse { path }) if *path == *name.path())
}

#[test]
fn a_bound_name_is_found_and_goes_with_its_engine() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = bind(&name).unwrap();
    assert_eq!(bound.path(), dir.path().join("a.sock"));
    assert!(bound.accept().unwrap().is_none());
    let _client = raw(&name).unwrap();
    assert!(bound.accept().unwrap().is_some());
    drop(bound);
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [LOCK_FILE]);
    assert!(
        matches!(connector(&name).unwrap().block(), Err(ShmError::NotFound { path }) if *path == *name.path())
    );
}

#[test]
fn the_directory_is_made_for_its_owner_alone() {
    let dir = TempDir::new();
    let inner = dir.path().join("inner");
    let name = name_in(&inner, "a");
    assert!(matches!(connector(&name), Err(ShmError::NotFound { .. })));
    let _bound = bind(&name).unwrap();
    assert_eq!(inner.metadata().unwrap().mode() & 0o7777, 0o700);
    let deeper = name_in(&dir.path().join("x/y"), "a");
    assert!(matches!(bind(&deeper), Err(ShmError::Io { .. })), "parents are not made");
}

#[test]
fn an_absolute_name_is_taken_as_it_is() {
    let dir = TempDir::new();
    let path = dir.path().join("plain");
    let name = Name::new(path.to_str().unwrap()).unwrap();
    let engine = Engine::new(&name);
    assert!(
        rustix::fs::FileType::from_raw_mode(path.metadata().unwrap().mode())
            == rustix::fs::FileType::Socket
    );
    assert!(engine.connect(&name).is_ok());
    let missing = dir.path().join("missing/plain");
    let missing = Name::new(missing.to_str().unwrap()).unwrap();
    assert!(matches!(bind(&missing), Err(ShmError::Io { .. })), "its directory is not made");
    assert!(matches!(connector(&missing), Err(ShmError::NotFound { .. })));
}

/// The path of no socket in it fits into an address.
fn long_directory(dir: &TempDir) -> PathBuf {
    let mut long = dir.path().to_path_buf();
    for _ in 0..30 {
        long.push("d".repeat(100));
    }
    std::fs::create_dir_all(&long).unwrap();
    long
}

#[test]
fn long_paths_and_long_names_work() {
    let dir = TempDir::new();
    let name = name_in(&long_directory(&dir), &"n".repeat(100));
    let engine = Engine::new(&name);
    assert!(engine.connect(&name).is_ok());
    assert!(is_in_use(bind(&name), &name));
}

#[test]
fn the_mode_is_the_builders() {
    let dir = TempDir::new();
    let deep = long_directory(&dir);
    for (given, expected) in [(None, 0o600), (Some(0o666), 0o666), (Some(0o620), 0o620)] {
        // The sticky bit protects those that the kernel lists by another path.
        for (name, sticky) in [(dir.name("a"), 0), (name_in(&deep, "a"), 0o1000)] {
            let _bound = ListenerSocket::bind(&name, given).unwrap();
            let mode = name.path().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, expected | sticky);
        }
    }
    let odd = ListenerSocket::bind(&dir.name("a"), Some(0o4666));
    assert!(matches!(odd, Err(ShmError::InvalidConfig { given: 0o4666, allowed: 0o777, .. })));
}

#[test]
fn a_stale_socket_is_taken_over() {
    let dir = TempDir::new();
    let name = dir.name("a");
    leave_stale_socket(name.path());
    assert!(matches!(connector(&name).unwrap().block(), Err(ShmError::NotFound { .. })));
    let engine = Engine::new(&name);
    assert!(engine.connect(&name).is_ok());
}

#[test]
fn what_a_crash_left_half_way_is_taken_over() {
    let dir = TempDir::new();
    // Where the path is short: the socket was bound, and nobody listens yet, nor has it its mode.
    let name = dir.name("a");
    leave_stale_socket(name.path());
    std::fs::set_permissions(name.path(), Permissions::from_mode(0o000)).unwrap();
    let _bound = bind(&name).unwrap();
    // Where it is long: the socket was not renamed yet. A path that leads there is short.
    let deep = long_directory(&dir);
    let new = deep.join(NEW_FILE);
    let way = std::fs::File::open(&deep).unwrap();
    let way = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&way)));
    leave_stale_socket(&way.join(NEW_FILE));
    let name = name_in(&deep, "a");
    leave_stale_socket(&way.join(name.file()));
    let engine = Engine::new(&name);
    assert!(engine.connect(&name).is_ok());
    assert!(!new.exists());
}

/// Whether the kernel lists a socket under this path.
fn is_listed(path: &Path) -> bool {
    let list = std::fs::read_to_string("/proc/net/unix").unwrap();
    list.lines().any(|line| line.split_whitespace().last() == path.to_str())
}

#[test]
fn a_socket_is_listed_by_its_real_path_where_that_fits() {
    let dir = TempDir::new();
    let real = dir.path().canonicalize().unwrap().join("real");
    std::fs::create_dir_all(real.join("inner")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    let name = name_in(&dir.path().join("link/inner"), "a");
    let bound = bind(&name).unwrap();
    assert!(is_listed(&real.join("inner/a.sock")));
    drop(bound);
    // An address has room for 107 bytes.
    for (bytes, fits) in [(106, true), (107, true), (108, false), (150, false)] {
        let path = real.join("f".repeat(bytes - real.as_os_str().len() - 1));
        assert_eq!(path.as_os_str().len(), bytes);
        let name = Name::new(path.to_str().unwrap()).unwrap();
        let engine = Engine::new(&name);
        assert_eq!(is_listed(&path), fits, "{bytes}");
        assert!(engine.connect(&name).is_ok());
        assert!(is_in_use(bind(&name), &name));
        engine.acceptor.close(&engine.watcher);
        assert!(!path.exists());
        assert!(!real.join(NEW_FILE).exists());
    }
}

#[test]
fn a_directory_that_is_exchanged_meanwhile_gets_no_socket() {
    let dir = TempDir::new();
    let (checked, moved) = (dir.path().join("checked"), dir.path().join("moved"));
    std::fs::create_dir(&checked).unwrap();
    let name = name_in(&checked, "a");
    let directory = directory::Directory::for_engine(&name).unwrap();
    let path = directory.real_path_of(name.file()).unwrap();
    let check = || listener_socket::expect_bound_below(&directory, name.file(), &path);
    // What is bound by the path lies elsewhere.
    std::fs::rename(&checked, &moved).unwrap();
    std::fs::create_dir(&checked).unwrap();
    let _elsewhere = UnixListener::bind(&path).unwrap();
    let error = check().unwrap_err();
    let ShmError::Io { source, .. } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("moved"), "{source}");
    // Also where something has the name here.
    let _here = UnixListener::bind(moved.join("a.sock")).unwrap();
    assert!(check().is_err());
    // Back again.
    std::fs::remove_dir_all(&checked).unwrap();
    std::fs::rename(&moved, &checked).unwrap();
    assert!(check().is_ok());
    // The kernel tells no path that leads to a directory without a name.
    let gone = dir.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let gone_name = name_in(&gone, "a");
    let directory = directory::Directory::for_engine(&gone_name).unwrap();
    std::fs::remove_dir(&gone).unwrap();
    assert_eq!(directory.real_path_of(gone_name.file()), None);
}

#[test]
fn an_engine_holds_its_directory_against_cleaners() {
    let dir = TempDir::new();
    let file = std::fs::File::open(dir.path()).unwrap();
    let clean = || flock(&file, FlockOperation::NonBlockingLockExclusive);
    let (one, other) = (bind(&dir.name("a")).unwrap(), bind(&dir.name("b")).unwrap());
    assert!(clean().is_err());
    drop(one);
    assert!(clean().is_err(), "the other one holds it, too");
    drop(other);
    // A process that is just being started has copies of all descriptors for a moment.
    let deadline = Instant::now() + LONG;
    while clean().is_err() {
        assert!(Instant::now() < deadline, "nobody is left to hold it");
        std::thread::yield_now();
    }
    // Nobody keeps an engine away by that, and what the owner may not list is not locked.
    drop(bind(&dir.name("a")).unwrap());
    flock(&file, FlockOperation::Unlock).unwrap();
    dir.set_mode(0o300);
    drop(bind(&dir.name("a")).unwrap());
    dir.set_mode(0o700);
}

#[test]
fn each_answer_of_the_kernel_means_the_same_to_both_sides() {
    use super::socket::ConnectFailure;
    let path = Path::new("/somewhere/a.sock");
    let judge = |errno| ConnectFailure::of(errno, "step", path);
    for errno in [Errno::NOENT, Errno::CONNREFUSED] {
        assert!(matches!(judge(errno), ConnectFailure::Nobody), "{errno}");
    }
    assert!(matches!(judge(Errno::PROTOTYPE), ConnectFailure::Foreign));
    assert!(matches!(judge(Errno::NOTSOCK), ConnectFailure::NoSocket));
    for errno in [Errno::ACCESS, Errno::PERM] {
        let ConnectFailure::Unknown(error) = judge(errno) else { panic!("{errno}") };
        assert!(is_denied(&error, DenialCause::FileSystem, path), "{error:?}");
    }
    let no_proc = judge(socket::NO_PROC);
    assert!(matches!(no_proc, ConnectFailure::Unknown(ShmError::Unsupported { .. })));
    for errno in [Errno::NAMETOOLONG, Errno::IO, Errno::STALE, Errno::LOOP, Errno::ROFS] {
        let ConnectFailure::Unknown(ShmError::Io { step: "step", source }) = judge(errno) else {
            panic!("{errno}")
        };
        assert_eq!(source.kind(), std::io::Error::from(errno).kind());
        assert!(source.to_string().starts_with("/somewhere/a.sock: "), "{source}");
    }
    // These are not about the file.
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS] {
        let ConnectFailure::Unknown(ShmError::Io { step: "step", source }) = judge(errno) else {
            panic!("{errno}")
        };
        assert_eq!(source.raw_os_error(), Some(errno.raw_os_error()));
    }
}

#[test]
fn whatever_else_has_the_name_keeps_it() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let check = || {
        assert!(is_in_use(bind(&name), &name));
        assert!(name.path().symlink_metadata().is_ok(), "it was not unlinked");
    };
    {
        let _bound = bind(&name).unwrap();
        check();
        // Not even when its backlog is full.
        let _clients: Vec<_> = std::iter::from_fn(|| raw(&name)).collect();
        check();
    }
    let stream = UnixListener::bind(name.path()).unwrap();
    check();
    drop(stream);
    std::fs::remove_file(name.path()).unwrap();
    std::fs::write(name.path(), "precious").unwrap();
    check();
    std::fs::remove_file(name.path()).unwrap();
    symlink("/nowhere", name.path()).unwrap();
    check();
    std::fs::remove_file(name.path()).unwrap();
    std::fs::create_dir(name.path()).unwrap();
    check();
}

/// Its maker knows nothing of the directory's lock.
#[test]
fn a_file_that_comes_after_the_look_is_kept() {
    let dir = TempDir::new();
    for name in [dir.name("a"), name_in(&long_directory(&dir), "a")] {
        let directory = directory::Directory::for_engine(&name).unwrap();
        for is_stale in [false, true] {
            // A path that leads there is short.
            let way = PathBuf::from(socket::path_through_proc(directory.as_fd())).join(name.file());
            if is_stale {
                leave_stale_socket(&way);
            }
            let stale = listener_socket::expect_stale(&directory, &name).unwrap();
            assert_eq!(stale.is_some(), is_stale);
            let precious = dir.path().join("precious");
            std::fs::write(&precious, "precious").unwrap();
            std::fs::rename(&precious, &way).unwrap();
            let mode = rustix::fs::Mode::RWXU;
            let listening = listener_socket::listen(&directory, &name, stale, mode);
            let in_use = matches!(listening, Err(ShmError::NameInUse { .. }));
            assert!(in_use, "{is_stale}: {listening:?}");
            assert_eq!(std::fs::read(&way).unwrap(), b"precious");
            assert!(!name.directory().join(NEW_FILE).exists());
            std::fs::remove_file(&way).unwrap();
        }
    }
}

#[test]
fn a_file_in_the_place_of_the_new_socket_is_kept() {
    let dir = TempDir::new();
    let deep = long_directory(&dir);
    let precious = deep.join(NEW_FILE);
    std::fs::write(&precious, "precious").unwrap();
    assert!(matches!(bind(&name_in(&deep, "a")), Err(ShmError::Io { .. })));
    assert!(precious.exists());
}

#[test]
fn of_two_engines_that_race_for_a_stale_name_one_wins() {
    let dir = TempDir::new();
    let name = dir.name("a");
    for round in 0..200 {
        // The third start in three is without a file.
        if round % 3 != 0 {
            leave_stale_socket(name.path());
        }
        let start = Barrier::new(2);
        let compete = || {
            start.wait();
            bind(&name)
        };
        let (one, other) = std::thread::scope(|scope| {
            let other = scope.spawn(compete);
            (compete(), other.join().unwrap())
        });
        let (winner, loser) = if one.is_ok() { (one, other) } else { (other, one) };
        let winner = winner.unwrap();
        assert!(is_in_use(loser, &name), "round {round}");
        let _client = raw(&name).unwrap();
        // The loser's probe may be in front.
        assert!(winner.accept().unwrap().is_some());
    }
}

#[test]
fn engines_that_come_and_go_never_hurt_each_other() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    match bind(&name) {
                        Ok(socket) => {
                            // The others' probes may have filled the backlog.
                            while raw(&name).is_none() {
                                while socket.accept().unwrap().is_some() {}
                            }
                            assert_eq!(bound.fetch_add(1, Ordering::SeqCst) % 2, 0, "alone");
                            bound.fetch_add(1, Ordering::SeqCst);
                            drop(socket);
                        }
                        Err(ShmError::NameInUse { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
    });
    assert!(bound.into_inner() > 0);
}

#[test]
fn a_drop_unlinks_only_what_it_bound() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let first = bind(&name).unwrap();
    std::fs::remove_file(name.path()).unwrap();
    let engine = Engine::new(&name);
    drop(first);
    assert!(engine.connect(&name).is_ok());
    engine.acceptor.close(&engine.watcher);
    assert!(!name.path().exists());
    assert_eq!(engine.watcher.watched.load(Ordering::Relaxed), 0);
}

/// As a child has one that was forked by any thread.
#[test]
fn a_copy_of_a_dropped_engines_socket_keeps_no_name() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = bind(&name).unwrap();
    let copy = bound.as_fd().try_clone_to_owned().unwrap();
    let (first, second) = (raw(&name).unwrap(), raw(&name).unwrap());
    let lock = std::fs::File::open(dir.path().join(LOCK_FILE)).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    drop(bound);
    assert!(name.path().exists(), "not without the lock");
    assert!(drain(first.as_fd(), 1).hung_up && drain(second.as_fd(), 1).hung_up);
    assert!(matches!(connector(&name).unwrap().block(), Err(ShmError::NotFound { .. })));
    flock(&lock, FlockOperation::Unlock).unwrap();
    let engine = Engine::new(&name);
    assert!(engine.connect(&name).is_ok());
    drop(copy);
}

#[test]
fn a_lock_that_is_never_given_up_is_an_error() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = bind(&name).unwrap();
    let lock_path = dir.path().join(LOCK_FILE);
    let lock = std::fs::File::open(&lock_path).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let error = bind(&dir.name("b")).unwrap_err();
    let ShmError::Io { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().starts_with(lock_path.to_str().unwrap()), "{source}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
    drop(bound);
    assert!(name.path().exists(), "not without the lock");
    // A cleaner unlinks the file: the lock on it excludes nobody any more.
    std::fs::remove_file(&lock_path).unwrap();
    assert!(bind(&name).is_ok());
}
