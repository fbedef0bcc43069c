//! Acceptor and connector, with each other.

use super::*;

#[test]
fn a_handshake_hands_the_region_over() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let connection = engine.connect(&name).unwrap();
    assert!(same_memory(&engine.face.region, &connection.region));
    assert_eq!(connection.region.geometry(), engine.face.region.geometry());
    assert_eq!(connection.lifeline.peer().pid, i32::try_from(std::process::id()).unwrap());
    {
        let peers = lock(&engine.face.peers);
        let [lifeline] = &peers[..] else { panic!("one peer") };
        assert_eq!(lifeline.peer(), connection.lifeline.peer());
        wake_by_byte(lifeline.as_fd());
        assert_eq!(drain(connection.lifeline.as_fd(), 9).wakes, 1);
        wake_by_byte(connection.lifeline.as_fd());
        assert_eq!(drain(lifeline.as_fd(), 9).wakes, 1);
    }
    let Connection { lifeline, .. } = connection;
    drop(lifeline);
    assert!(soon(|| drain(lock(&engine.face.peers)[0].as_fd(), 9).hung_up));
    assert_eq!(engine.acceptor.clients(), Clients::default());
}

#[test]
fn the_blocking_connect_waits_for_the_engine() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| connector(&name).unwrap().block());
        engine.run_until(|engine| engine.lifelines() == 1);
        let connection = client.join().unwrap().unwrap();
        assert!(same_memory(&engine.face.region, &connection.region));
    });
}

#[test]
fn a_second_client_is_told_busy() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let _first = engine.connect(&name).unwrap();
    assert!(matches!(engine.connect(&name), Err(ShmError::Busy)));
    assert_eq!(engine.acceptor.clients(), Clients { refused: 1, ..Clients::default() });
}

#[test]
fn predicates_of_both_sides_are_asked() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = ListenerSocket::bind(&name, None).unwrap();
    let engine = Engine::with(bound, Some(Allow::new(|_| false)));
    let refused = engine.connect(&name).unwrap_err();
    assert!(is_denied(&refused, DenialCause::Engine, name.path()), "{refused:?}");
    assert_eq!(engine.acceptor.clients().refused, 1);
    let choosy =
        Connector::new(&name, Some(Allow::new(|_| panic!("never"))), Instant::now() + LONG);
    let refused = engine.meet(choosy.unwrap()).unwrap_err();
    let ourselves = DenialCause::EngineUser { uid: rustix::process::geteuid().as_raw() };
    assert!(is_denied(&refused, ourselves, name.path()), "{refused:?}");
    assert_eq!(engine.lifelines(), 0);
}

#[test]
fn a_full_backlog_is_tried_again() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let silent: Vec<_> = std::iter::from_fn(|| raw(&name)).collect();
    assert!(silent.len() >= 128);
    let mut late = Connector::new(&name, None, Instant::now()).unwrap();
    assert!(matches!(late.step(), Err(ShmError::TimedOut { sent: 0 })));
    let mut patient = connector(&name).unwrap();
    assert!(matches!(patient.step(), Ok(Progress::RetryAt(at)) if at > Instant::now()));
    assert!(patient.as_fd().is_none());
    assert!(engine.meet(patient).is_ok());
}

#[test]
fn an_engine_that_never_answers_is_timed_out() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let _bound = ListenerSocket::bind(&name, None).unwrap();
    let start = Instant::now();
    let patience = Duration::from_millis(50);
    let connector = Connector::new(&name, None, start + patience).unwrap();
    assert!(matches!(connector.block(), Err(ShmError::TimedOut { sent: 0 })));
    assert!(start.elapsed() >= patience);
}

#[test]
fn an_engine_that_leaves_half_way_has_hung_up() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = ListenerSocket::bind(&name, None).unwrap();
    let mut connector = connector(&name).unwrap();
    assert!(matches!(connector.step(), Ok(Progress::WaitReadable)));
    drop(bound);
    assert!(matches!(connector.block(), Err(ShmError::HungUp)));
}

#[test]
fn a_closed_acceptor_is_not_found() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let _silent = raw(&name).unwrap();
    engine.settle();
    engine.acceptor.close(&engine.watcher);
    assert_eq!(engine.watcher.watched.load(Ordering::Relaxed), 0);
    assert!(matches!(engine.connect(&name), Err(ShmError::NotFound { .. })));
    assert_eq!(engine.acceptor.next_timer(), None);
}

#[test]
fn a_pair_needs_no_name_and_nobody_waits() {
    let (engine, file) = Region::create(Geometry::new(None, None).unwrap(), false, None).unwrap();
    let (lifeline, theirs) = pair(file.as_fd()).unwrap();
    let connection = adopt(theirs).unwrap();
    assert!(same_memory(&engine, &connection.region));
    wake_by_byte(lifeline.as_fd());
    assert_eq!(drain(connection.lifeline.as_fd(), 9).wakes, 1);
    let again = adopt(connection.lifeline.as_fd().try_clone_to_owned().unwrap());
    assert!(matches!(again, Err(ShmError::Io { .. })), "what was in it was taken");
    let used = connection.lifeline.as_fd().try_clone_to_owned().unwrap();
    leave(lifeline);
    assert!(matches!(adopt(used), Err(ShmError::HungUp)), "and its face is gone");
    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(adopt(one.into()), Err(ShmError::Io { .. })));
    drop(other);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(adopt(file.into()), Err(ShmError::Io { .. })));
}

/// It has come through an exec, and must not go through the next: a copy hides a death.
#[test]
fn a_descriptor_that_is_taken_over_survives_no_exec() {
    let (_region, file) =
        Region::create(Geometry::new(Some(4096), None).unwrap(), false, None).unwrap();
    let (_lifeline, theirs) = pair(file.as_fd()).unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let connection = adopt(theirs).unwrap();
    let flags = rustix::io::fcntl_getfd(&connection.lifeline).unwrap();
    assert_eq!(flags, rustix::io::FdFlags::CLOEXEC);
}
