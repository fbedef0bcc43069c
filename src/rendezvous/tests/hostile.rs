//! Clients and listeners that do not keep to the protocol.

use std::os::unix::net::UnixListener;

use super::super::message::{self, MESSAGE_BYTES, Status};
use super::super::socket::Received;
use super::super::untrusted::UntrustedSocket;
use super::*;
use crate::shm::layout::VERSION;

fn say(client: &OwnedFd, bytes: &[u8]) {
    rustix::net::send(client, bytes, rustix::net::SendFlags::NOSIGNAL).unwrap();
}

fn with_version(mut message: [u8; MESSAGE_BYTES], version: u32) -> [u8; MESSAGE_BYTES] {
    message[8..12].copy_from_slice(&version.to_ne_bytes());
    message
}

/// Whether the engine has closed its end.
fn was_sent_off(client: &OwnedFd) -> bool {
    match socket::receive_with_descriptor(client.as_fd()) {
        Ok(Received::HungUp) => true,
        // Told when the engine closes without having read everything.
        Err(errno) => errno == rustix::io::Errno::CONNRESET,
        Ok(_) => false,
    }
}

/// Waits until the engine has closed its end, and returns whether it has done so without a word.
fn is_sent_off(client: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec::try_from(LONG).unwrap();
    let mut line = [PollFd::new(client, PollFlags::RDHUP)];
    poll(&mut line, Some(&patience)).unwrap() == 1 && was_sent_off(client)
}

#[test]
fn junk_is_counted_and_changes_nothing() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let mut longer = message::hello().to_vec();
    longer.push(0);
    let enormous = vec![0xff; 60_000];
    let junk = [&b"x"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 32], &longer, &enormous];
    for bytes in junk {
        let client = raw(&name).unwrap();
        say(&client, bytes);
        engine.settle();
        assert!(is_sent_off(&client));
    }
    assert_eq!(engine.acceptor.clients(), Clients { hostile: 5, ..Clients::default() });
    assert!(engine.connect(&name).is_ok());
}

#[test]
fn junk_from_a_pending_client_is_counted_too() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let client = raw(&name).unwrap();
    engine.settle();
    assert_eq!(engine.watcher.watched.load(Ordering::Relaxed), 2);
    say(&client, b"junk");
    engine.settle();
    assert!(is_sent_off(&client));
    assert_eq!(engine.watcher.watched.load(Ordering::Relaxed), 1);
    assert_eq!(engine.acceptor.clients().hostile, 1);
}

#[test]
fn another_version_is_told_ours() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let client = raw(&name).unwrap();
    say(&client, &with_version(message::hello(), 9));
    engine.settle();
    let Ok(Received::Message(answer)) = socket::receive_with_descriptor(client.as_fd()) else {
        panic!("no answer");
    };
    assert_eq!(answer.bytes(), message::answer(Status::VersionMismatch));
    assert!(is_sent_off(&client));
    assert_eq!(engine.acceptor.clients().refused, 1);
}

#[test]
fn hang_ups_of_pending_clients_are_counted_and_make_room() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    leave(raw(&name).unwrap());
    engine.settle();
    let client = raw(&name).unwrap();
    engine.settle();
    leave(client);
    engine.settle();
    // An empty message reads like a hang-up.
    let client = raw(&name).unwrap();
    say(&client, b"");
    engine.settle();
    assert!(is_sent_off(&client));
    assert_eq!(engine.acceptor.clients(), Clients { half_done: 3, ..Clients::default() });
    assert_eq!(engine.watcher.watched.load(Ordering::Relaxed), 1);
}

#[test]
fn silence_is_borne_for_a_second() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let start = Instant::now();
    let client = raw(&name).unwrap();
    engine.run_until(|engine| engine.acceptor.clients().half_done == 1);
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(is_sent_off(&client));
    assert_eq!(engine.acceptor.next_timer(), None);
    assert!(engine.turns.load(Ordering::Relaxed) < 20, "it slept meanwhile");
}

#[test]
fn a_hundred_silent_clients_keep_nobody_out() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let silent: Vec<_> = (0..100).map(|_| raw(&name).unwrap()).collect();
    engine.settle();
    assert_eq!(engine.watcher.watched.load(Ordering::Relaxed), 9);
    assert_eq!(engine.acceptor.clients().half_done, 92);
    assert!(silent[..92].iter().all(is_sent_off), "the oldest went");
    assert!(!silent[92..].iter().any(was_sent_off));
    assert!(engine.connect(&name).is_ok());
}

#[test]
fn a_flood_of_connections_leaves_the_driver_to_others_in_between() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let _flood: Vec<_> = (0..100).map(|_| raw(&name).unwrap()).collect();
    let mut turns = 0;
    while engine.acceptor.clients().half_done < 92 {
        let before = engine.acceptor.clients().half_done;
        engine.acceptor.on_ready(Acceptor::LISTENING, &engine.watcher, &engine.face);
        assert!(engine.acceptor.clients().half_done - before <= 16, "all in one turn");
        turns += 1;
    }
    assert_eq!(turns, 7);
}

#[test]
fn a_client_that_is_removed_is_read_a_last_time() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let mut honest = connector(&name).unwrap();
    // Accepted while it says nothing: the hello is held back until the acceptor is full.
    let early = raw(&name).unwrap();
    engine.settle();
    say(&early, &message::hello());
    let _crowd: Vec<_> = (0..8).map(|_| raw(&name).unwrap()).collect();
    // The listening socket comes first, whatever epoll thinks.
    engine.acceptor.on_ready(Acceptor::LISTENING, &engine.watcher, &engine.face);
    assert_eq!(engine.lifelines(), 1);
    assert!(matches!(socket::receive_with_descriptor(early.as_fd()), Ok(Received::Message(_))));
    assert!(matches!(honest.step(), Ok(Progress::WaitReadable)));
    assert!(matches!(engine.meet(honest), Err(ShmError::Busy)));
}

#[test]
fn passed_descriptors_are_not_accepted() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let (passed, watched) = socket::pair().unwrap();
    let client = raw(&name).unwrap();
    let sent = socket::send(client.as_fd(), &message::hello(), Some(passed.as_fd()));
    drop(passed);
    engine.settle();
    // Since Linux 6.16 it cannot even be sent.
    assert_eq!(engine.lifelines(), usize::from(sent.is_ok()), "the hello counts");
    assert!(soon(|| drain(watched.as_fd(), 1).hung_up), "the descriptor does not");
}

#[test]
fn a_client_that_does_not_wait_leaves_the_face_free() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    let client = raw(&name).unwrap();
    say(&client, &message::hello());
    leave(client);
    engine.settle();
    assert_eq!(engine.face.undelivered.load(Ordering::Relaxed), 1);
    assert_eq!(engine.acceptor.clients().half_done, 1);
    assert!(engine.connect(&name).is_ok());
}

#[test]
fn foreign_tokens_and_early_timers_do_no_harm() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    for token in [0, 1, Acceptor::LAST_TOKEN, Acceptor::LAST_TOKEN + 1, u16::MAX] {
        engine.acceptor.on_ready(token, &engine.watcher, &engine.face);
        engine.acceptor.on_timer(&engine.watcher, &engine.face);
    }
    let client = raw(&name).unwrap();
    engine.settle();
    engine.acceptor.on_ready(1, &engine.watcher, &engine.face);
    engine.acceptor.on_timer(&engine.watcher, &engine.face);
    assert!(!was_sent_off(&client));
    assert!(engine.connect(&name).is_ok());
}

/// What a connector makes of a listener that does this with its client.
fn connect_to_foreign(act: impl FnOnce(OwnedFd)) -> ShmError {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = ListenerSocket::bind(&name, None).unwrap();
    let mut connector = connector(&name).unwrap();
    assert!(matches!(connector.step(), Ok(Progress::WaitReadable)));
    act(bound.accept().unwrap().unwrap());
    connector.block().unwrap_err()
}

#[test]
fn foreign_listeners_are_told_apart() {
    let junk = [
        message::hello(),
        [0; 32],
        // A welcome without a region, and a mismatch that is none.
        message::answer(Status::Ok),
        message::answer(Status::VersionMismatch),
    ];
    for bytes in junk {
        let error = connect_to_foreign(|client| say(&client, &bytes));
        assert!(matches!(error, ShmError::VersionMismatch { ours: VERSION, theirs: 0 }));
    }
    let newer = with_version(message::answer(Status::VersionMismatch), 9);
    let error = connect_to_foreign(|client| say(&client, &newer));
    assert!(matches!(error, ShmError::VersionMismatch { ours: VERSION, theirs: 9 }));
    let error = connect_to_foreign(drop);
    assert!(matches!(error, ShmError::HungUp), "{error:?}");
    let error =
        connect_to_foreign(|client| say(&client, &message::answer(Status::PermissionDenied)));
    assert!(matches!(error, ShmError::PermissionDenied { cause: DenialCause::Engine, .. }));
}

#[test]
fn what_may_hold_descriptors_is_told_from_a_hang_up() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let bound = ListenerSocket::bind(&name, None).unwrap();
    let line = |act: fn(OwnedFd)| {
        let line = UntrustedSocket::new(raw(&name).unwrap());
        act(bound.accept().unwrap().unwrap());
        line.is_quiet()
    };
    assert!(line(std::mem::forget));
    assert!(line(drop));
    assert!(!line(|engine| say(&engine, b"x")));
    assert!(!line(|engine| say(&engine, b"")));
    assert!(!line(|engine| {
        say(&engine, b"");
        std::mem::forget(engine);
    }));
}

#[test]
fn what_is_passed_as_a_region_is_judged() {
    let welcome = message::answer(Status::Ok);
    let error = connect_to_foreign(|client| {
        let file = std::fs::File::open("/dev/null").unwrap();
        socket::send(client.as_fd(), &welcome, Some(file.as_fd())).unwrap();
    });
    assert!(matches!(error, ShmError::Io { .. }), "{error:?}");
    let error = connect_to_foreign(|client| {
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
        let unsealed = rustix::fs::memfd_create("unsealed", flags).unwrap();
        socket::send(client.as_fd(), &welcome, Some(unsealed.as_fd())).unwrap();
    });
    assert!(matches!(error, ShmError::Io { .. }), "{error:?}");
}

#[test]
fn a_listener_of_another_type_is_no_engine() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let _stream = UnixListener::bind(name.path()).unwrap();
    let error = connector(&name).unwrap().block().unwrap_err();
    assert!(matches!(error, ShmError::VersionMismatch { theirs: 0, .. }));
}
