//! A second process at the socket: clients that never complete a handshake, and engines whose offer
//! is not a region.

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use wakering::{Driver, ShmError, SpscFace, SpscHandle, SpscListener};

use super::attacker::Honest;
use crate::common::child::{self, Child, test_path};
use crate::common::raw_peer::{self, Memory};
use crate::common::{self, Dir, SMALL, eventually, on_both_backends, packet, wait};

on_both_backends!(
    a_thousand_silent_connections_keep_nobody_out,
    half_a_hello_and_other_junk_keep_nobody_out,
    descriptors_sent_to_an_engine_are_not_kept,
    an_offer_that_is_no_region_is_refused,
    descriptors_that_are_slow_to_close_hold_nobody_up,
    descriptors_sent_to_the_engine_of_a_pair_are_refused,
    connecting_to_a_silent_engine_times_out,
);

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_is_an_unknown_client() {
    let Some(arguments) = child::arguments() else { return };
    let path = &arguments[0];
    let mut kept: Vec<OwnedFd> = Vec::new();
    let mut listener = None;
    let mut peers = Vec::new();
    while let Some(line) = child::listen() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            // Connections that say nothing, as many as the backlog lets in at once.
            ["silent", count] => {
                for _ in 0..child::parsed::<u32>(count) {
                    kept.push(raw_peer::connect_to(path).unwrap());
                }
            }
            ["junk"] => {
                let hello = raw_peer::hello();
                let mut longer = hello.to_vec();
                longer.push(0);
                for bytes in [&hello[..16], &hello[..31], &longer, b"x", b"", &[0xff; 60_000]] {
                    let line = raw_peer::connect_to(path).unwrap();
                    let _ = rustix::net::send(&line, bytes, SendFlags::NOSIGNAL);
                    kept.push(line);
                }
            }
            // Descriptors with the hello, and after it.
            ["descriptors"] => {
                for count in [1, 253] {
                    let line = raw_peer::connect_to(path).unwrap();
                    let null = File::open("/dev/null").unwrap();
                    let passed = vec![null.as_fd(); count];
                    let with = raw_peer::send_with(&line, &raw_peer::hello(), &passed);
                    for _ in 0..100 {
                        let _ = raw_peer::send_with(&line, &[1], &passed);
                    }
                    child::say(if with.is_ok() { "sent" } else { "refused" });
                    kept.push(line);
                }
            }
            ["forget"] => kept.clear(),
            ["listen"] => listener = Some(raw_peer::listen(path)),
            ["offer", what] => {
                let line = rustix::net::accept(listener.as_ref().unwrap()).unwrap();
                raw_peer::receive(&line).unwrap();
                peers.extend(offer(&line, what));
                kept.push(line);
            }
            _ => panic!("unknown order {line:?}"),
        }
        child::say("ok");
    }
}

const LAWFUL: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

fn sealed(ring_bytes: u64, seals: SealFlags, spoil: impl Fn(&OwnedFd)) -> OwnedFd {
    let file = raw_peer::unsealed_region(ring_bytes, 1016);
    spoil(&file);
    raw_peer::seal(&file, seals);
    file
}

fn with_word(at: usize, value: u64) -> OwnedFd {
    sealed(4096, LAWFUL, |file| {
        let word = Memory::map(file).unwrap();
        word.word64(at).store(value, std::sync::atomic::Ordering::Relaxed);
    })
}

/// Returns a connection whose close takes half a minute, because nothing reads what was sent, and
/// its peer.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 65536]).is_ok() {}
    let linger = Some(Duration::from_secs(30));
    rustix::net::sockopt::set_socket_linger(&stream, linger).unwrap();
    (stream.into(), peer)
}

/// The names of invalid answers of an engine.
const OFFERS: [&str; 17] = [
    "unsealed",
    "may-grow",
    "may-shrink",
    "one-page",
    "short",
    "long",
    "huge-pages",
    "null",
    "pipe",
    "directory",
    "socket",
    "read-only",
    "magic",
    "ring",
    "max-packet",
    "nothing",
    "hang-up",
];

fn offer(line: &OwnedFd, what: &str) -> Option<TcpStream> {
    let mut peer = None;
    let mut blocks = || {
        let (stream, other) = lingering();
        peer = Some(other);
        stream
    };
    let passed: Vec<OwnedFd> = match what {
        "lawful" => vec![raw_peer::region(4096, 1016)],
        "unsealed" => vec![raw_peer::unsealed_region(4096, 1016)],
        "may-grow" => vec![sealed(4096, SealFlags::SHRINK | SealFlags::SEAL, |_| {})],
        "may-shrink" => vec![sealed(4096, SealFlags::GROW | SealFlags::SEAL, |_| {})],
        "one-page" => vec![sealed(4096, LAWFUL, |file| rustix::fs::ftruncate(file, 4096).unwrap())],
        "short" => vec![sealed(8192, LAWFUL, |file| rustix::fs::ftruncate(file, 16384).unwrap())],
        "long" => vec![sealed(4096, LAWFUL, |file| rustix::fs::ftruncate(file, 1 << 40).unwrap())],
        "huge-pages" => vec![huge_pages()],
        "null" => vec![File::options().read(true).write(true).open("/dev/null").unwrap().into()],
        "pipe" => vec![rustix::pipe::pipe().unwrap().1],
        "directory" => vec![File::open("/").unwrap().into()],
        "socket" => vec![line.try_clone().unwrap()],
        "read-only" => {
            let file = raw_peer::region(4096, 1016);
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            vec![rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()]
        }
        "magic" => vec![with_word(0, 1)],
        "ring" => vec![with_word(0x28, u64::MAX)],
        "max-packet" => vec![with_word(0x30, 1017)],
        "nothing" | "hang-up" => Vec::new(),
        // A lawful region, with other descriptors.
        "many" => {
            let null = || File::open("/dev/null").unwrap().into();
            let region = std::iter::once(raw_peer::region(4096, 1016));
            region.chain((0..252).map(|_| null())).collect()
        }
        "blocks" => vec![blocks()],
        "region-and-blocks" => vec![raw_peer::region(4096, 1016), blocks()],
        "blocks-later" => {
            let region = raw_peer::region(4096, 1016);
            raw_peer::send_with(line, &raw_peer::answer(0), &[region.as_fd()]).unwrap();
            let stream = blocks();
            if raw_peer::send_with(line, &[1], &[stream.as_fd()]).is_err() {
                // The client was faster and has stopped accepting descriptors. Dropping this here
                // would wait for the close.
                std::mem::forget(stream);
            }
            return peer;
        }
        other => panic!("no offer of {other}"),
    };
    if what == "hang-up" {
        rustix::net::shutdown(line, rustix::net::Shutdown::Both).unwrap();
        return None;
    }
    let borrowed: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
    raw_peer::send_with(line, &raw_peer::answer(0), &borrowed).unwrap();
    // If the client was faster, this is the close that takes so long.
    std::thread::spawn(move || drop(passed));
    peer
}

/// Returns a file on huge pages if there are any, or otherwise a file that cannot be mapped.
fn huge_pages() -> OwnedFd {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("huge", flags).unwrap();
    rustix::fs::ftruncate(&file, 2 << 20).unwrap();
    raw_peer::seal(&file, LAWFUL);
    file
}

fn unknown_client(name: &str) -> Child {
    Child::start(test_path!(child_that_is_an_unknown_client), &[name])
}

fn tell(unknown_client: &mut Child, order: &str) {
    unknown_client.tell(order);
    unknown_client.expect("ok");
}

/// Checks that an honest application is let in and served.
fn assert_lets_in(driver: &Driver, name: &str, serve: impl FnOnce() -> SpscFace) {
    let begin = Instant::now();
    let handle = SpscHandle::builder().driver(driver).connect(name).unwrap();
    let face = serve();
    handle.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));
    eprintln!("an honest one was let in after {:?}", begin.elapsed());
}

fn a_thousand_silent_connections_keep_nobody_out(driver: &Driver) {
    let honest = Honest::start(driver);
    let dir = Dir::new();
    let (name, other) = (dir.name("face"), dir.name("listener"));
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
    let mut clients = unknown_client(&name);
    tell(&mut clients, "silent 1000");
    assert_lets_in(driver, &name, || face);
    let listener: SpscListener =
        SpscFace::builder().ring_bytes(SMALL).driver(driver).bind(&other).unwrap();
    let mut clients = unknown_client(&other);
    tell(&mut clients, "silent 1000");
    assert_lets_in(driver, &other, || wait("accept", listener.accept()).unwrap());
    // All are sent away, the last ones after a second.
    eventually("they are counted", || listener.stats().half_done == 1000);
    honest.finish("a thousand silent connections");
}

fn half_a_hello_and_other_junk_keep_nobody_out(driver: &Driver) {
    let honest = Honest::start(driver);
    let dir = Dir::new();
    let name = dir.name("listener");
    let listener = SpscFace::builder().ring_bytes(SMALL).driver(driver).bind(&name).unwrap();
    let mut clients = unknown_client(&name);
    for _ in 0..50 {
        tell(&mut clients, "junk");
        tell(&mut clients, "forget");
    }
    // The empty message is a hang-up. All others are junk.
    eventually("they are counted", || {
        let stats = listener.stats();
        (stats.hostile, stats.half_done) == (250, 50)
    });
    assert_lets_in(driver, &name, || wait("accept", listener.accept()).unwrap());
    honest.finish("junk at the socket");
}

fn descriptors_sent_to_an_engine_are_not_kept(driver: &Driver) {
    let honest = Honest::start(driver);
    let dir = Dir::new();
    let name = dir.name("listener");
    let listener = SpscFace::builder().ring_bytes(SMALL).driver(driver).bind(&name).unwrap();
    let mut clients = unknown_client(&name);
    for _ in 0..20 {
        clients.tell("descriptors");
        for _ in 0..2 {
            // Where the kernel lets them be sent at all, the hello counts.
            if clients.hear() == "sent" {
                drop(wait("accept", listener.accept()).unwrap());
            }
        }
        clients.expect("ok");
        tell(&mut clients, "forget");
    }
    assert_lets_in(driver, &name, || wait("accept", listener.accept()).unwrap());
    honest.finish("descriptors for the engine");
}

/// Connects in both ways to an engine that offers `what`, and returns how long each took.
fn connect_to(
    driver: &Driver,
    engine: &mut Child,
    name: &str,
    what: &str,
) -> [(Result<SpscHandle, ShmError>, Duration); 2] {
    let builder = || SpscHandle::builder().driver(driver).connect_timeout(Duration::from_secs(10));
    [false, true].map(|is_async| {
        engine.tell(&format!("offer {what}"));
        let begin = Instant::now();
        let connected = if is_async {
            wait("connect_async", builder().connect_async(name))
        } else {
            builder().connect(name)
        };
        let took = begin.elapsed();
        engine.expect("ok");
        (connected, took)
    })
}

fn an_offer_that_is_no_region_is_refused(driver: &Driver) {
    let honest = Honest::start(driver);
    let dir = Dir::new();
    let name = dir.name("engine");
    let mut engine = unknown_client(&name);
    tell(&mut engine, "listen");
    for what in OFFERS {
        for (connected, took) in connect_to(driver, &mut engine, &name, what) {
            assert!(took < Duration::from_secs(5), "{what}: {took:?}");
            match connected {
                Err(
                    ShmError::Io { .. }
                    | ShmError::HungUp
                    | ShmError::VersionMismatch { .. }
                    | ShmError::InvalidConfig { .. },
                ) => {}
                other => panic!("{what}: {other:?}"),
            }
        }
        tell(&mut engine, "forget");
    }
    for what in ["lawful", "many"] {
        for (connected, _) in connect_to(driver, &mut engine, &name, what) {
            assert!(connected.unwrap().is_connected(), "{what}");
        }
    }
    honest.finish("offers that are no region");
}

/// Before Linux 6.16, the thread that reads the socket closes them: see SECURITY.md.
fn descriptors_that_are_slow_to_close_hold_nobody_up(driver: &Driver) {
    if !common::kernel_can((6, 16), "refuse descriptors on a socket") {
        return;
    }
    let honest = Honest::start(driver);
    let dir = Dir::new();
    let name = dir.name("engine");
    let mut engine = unknown_client(&name);
    tell(&mut engine, "listen");
    for what in ["blocks", "region-and-blocks", "blocks-later"] {
        for (connected, took) in connect_to(driver, &mut engine, &name, what) {
            assert!(took < Duration::from_secs(5), "{what}: {took:?}");
            match (what, connected) {
                ("blocks", Err(ShmError::Io { .. }))
                | ("region-and-blocks" | "blocks-later", Ok(_))
                // The message arrived before we could refuse it.
                | ("blocks-later", Err(ShmError::VersionMismatch { theirs: 0, .. })) => {}
                (_, other) => panic!("{what}: {other:?}"),
            }
        }
    }
    honest.finish("descriptors that block");
}

fn descriptors_sent_to_the_engine_of_a_pair_are_refused(driver: &Driver) {
    if !common::kernel_can((6, 16), "refuse descriptors on a socket") {
        return;
    }
    let (face, line) = SpscFace::builder().driver(driver).pair().unwrap();
    let passed = File::open("/dev/null").unwrap();
    assert_eq!(raw_peer::send_with(&line, &[1], &[passed.as_fd()]), Err(Errno::PERM));
    let handle = SpscHandle::builder().driver(driver).from_fd(line).unwrap();
    handle.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));
}

fn connecting_to_a_silent_engine_times_out(driver: &Driver) {
    let honest = Honest::start(driver);
    let dir = Dir::new();
    let name = dir.name("engine");
    let mut engine = unknown_client(&name);
    tell(&mut engine, "listen");
    for _ in 0..3 {
        for connected in common::connects_within(driver, &name, Duration::from_millis(60)) {
            assert!(matches!(connected, Err(ShmError::TimedOut { sent: 0 })), "{connected:?}");
        }
    }
    honest.finish("an engine that says nothing");
}
