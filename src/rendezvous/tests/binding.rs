//! Taking names over, and giving them up.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::sync::Barrier;

use rustix::fs::{FlockOperation, flock};

use super::*;
use crate::rendezvous::name::{LOCK_FILE, NEW_FILE};

fn bind(name: &Name) -> Result<BoundSocket, ShmError> {
    BoundSocket::bind(name, None)
}

fn is_in_use(result: Result<BoundSocket, ShmError>, name: &Name) -> bool {
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
        matches!(dial(&name).unwrap().block(), Err(ShmError::NotFound { path }) if *path == *name.path())
    );
}

#[test]
fn the_directory_is_made_for_its_owner_alone() {
    let dir = TempDir::new();
    let inner = dir.path().join("inner");
    let name = name_in(&inner, "a");
    assert!(matches!(dial(&name), Err(ShmError::NotFound { .. })));
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
    assert!(matches!(dial(&missing), Err(ShmError::NotFound { .. })));
}

#[test]
fn long_paths_and_long_names_work() {
    let dir = TempDir::new();
    let mut long = dir.path().to_path_buf();
    for _ in 0..30 {
        long.push("d".repeat(100));
    }
    std::fs::create_dir_all(&long).unwrap();
    let name = name_in(&long, &"n".repeat(100));
    let engine = Engine::new(&name);
    assert!(engine.connect(&name).is_ok());
    assert!(is_in_use(bind(&name), &name));
}

#[test]
fn the_mode_is_the_builders() {
    let dir = TempDir::new();
    for (given, expected) in [(None, 0o600), (Some(0o666), 0o666), (Some(0o620), 0o620)] {
        let name = dir.name("a");
        let _bound = BoundSocket::bind(&name, given).unwrap();
        let mode = name.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, expected);
    }
    let odd = BoundSocket::bind(&dir.name("a"), Some(0o4666));
    assert!(matches!(odd, Err(ShmError::InvalidConfig { given: 0o4666, allowed: 0o777, .. })));
}

#[test]
fn a_stale_socket_is_taken_over() {
    let dir = TempDir::new();
    let name = dir.name("a");
    leave_stale_socket(name.path());
    leave_stale_socket(&dir.path().join(NEW_FILE));
    assert!(matches!(dial(&name).unwrap().block(), Err(ShmError::NotFound { .. })));
    let engine = Engine::new(&name);
    assert!(engine.connect(&name).is_ok());
    assert!(!dir.path().join(NEW_FILE).exists());
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

#[test]
fn a_file_in_the_place_of_the_new_socket_is_kept() {
    let dir = TempDir::new();
    let precious = dir.path().join(NEW_FILE);
    std::fs::write(&precious, "precious").unwrap();
    assert!(matches!(bind(&dir.name("a")), Err(ShmError::Io { .. })));
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
    engine.desk.close(&engine.board);
    assert!(!name.path().exists());
    assert_eq!(engine.board.watched.load(Ordering::Relaxed), 0);
}

#[test]
fn a_lock_that_is_never_given_up_is_an_error() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = bind(&name).unwrap();
    let lock_path = dir.path().join(LOCK_FILE);
    let lock = std::fs::File::open(&lock_path).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let error = std::io::Error::from(bind(&dir.name("b")).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(bound);
    assert!(name.path().exists(), "not without the lock");
    // A cleaner unlinks the file: the lock on it excludes nobody any more.
    std::fs::remove_file(&lock_path).unwrap();
    assert!(bind(&name).is_ok());
}
