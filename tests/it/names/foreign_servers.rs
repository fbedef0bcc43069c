//! Sockets that answer, but not as an engine does.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, listen, recv, send};
use wakering::{Driver, ShmError, SpscHandle};

use crate::common::{Dir, PATIENCE, connects, connects_within, on_both_backends, raw_peer};

on_both_backends!(
    a_foreign_listener_is_a_version_mismatch,
    a_hang_up_half_way_is_an_error,
    silence_is_a_time_out,
    a_full_backlog_is_a_time_out,
);

/// Returns a listening socket of the right type that does not speak the protocol.
fn impostor(name: &str, backlog: i32) -> OwnedFd {
    let socket = raw_peer::bind(name);
    listen(&socket, backlog).unwrap();
    socket
}

/// Connects in both ways while an impostor runs `action` on each connection.
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
                // Without the flag, processes that other tests start would keep the connection.
                action(accept_with(&socket, SocketFlags::CLOEXEC).unwrap());
            }
        });
        connects_within(driver, &name, timeout)
    })
}

fn read_hello(client: &OwnedFd) {
    let mut hello = [0; 64];
    let (heard, _) = recv(client, &mut hello, RecvFlags::empty()).unwrap();
    assert_eq!(heard, 32);
}

fn a_foreign_listener_is_a_version_mismatch(driver: &Driver) {
    let is_mismatch = |result: Result<SpscHandle, ShmError>, expected| match result {
        Err(ShmError::VersionMismatch { ours, theirs }) => {
            assert_eq!((ours, theirs), (1, expected))
        }
        other => panic!("{other:?}"),
    };
    // A stream socket, and a datagram socket.
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
    // Answers that make no sense; an answer of another version; an acceptance without a region.
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
        let results = against(driver, PATIENCE, |client| {
            read_hello(&client);
            send(&client, &junk, SendFlags::NOSIGNAL).unwrap();
        });
        for result in results {
            is_mismatch(result, theirs);
        }
    }
}

fn a_hang_up_half_way_is_an_error(driver: &Driver) {
    let hang_ups: [fn(OwnedFd); 2] = [drop, |client| read_hello(&client)];
    for hang_up in hang_ups {
        for result in against(driver, PATIENCE, hang_up) {
            assert!(matches!(result, Err(ShmError::HungUp)), "{result:?}");
        }
    }
}

fn silence_is_a_time_out(driver: &Driver) {
    let timeout = Duration::from_millis(150);
    let (tell, told) = std::sync::mpsc::channel::<OwnedFd>();
    let begin = Instant::now();
    // This server neither reads nor answers, and keeps the connection open.
    let results = against(driver, timeout, move |client| tell.send(client).unwrap());
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
    // This server does not accept, and its backlog is short.
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
