//! Sends anything on the socket, to the engine's acceptor and to an application's connector.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix,
    SocketFlags, SocketType,
};

use super::{Input, no_descriptor_leaks, no_thread_closes};
use crate::error::ShmError;
use crate::rendezvous::credentials::PeerCredentials;
use crate::rendezvous::lifeline::Lifeline;
use crate::rendezvous::{
    Acceptor, Clients, Connector, Host, ListenerSocket, Name, Progress, Refusal, Watcher, adopt,
};
use crate::shm::layout::{Geometry, MAGIC, VERSION};
use crate::shm::region::Region;

/// Sends any messages with any descriptors, and hangs up at any moment, in both roles of the
/// handshake.
///
/// # Panics
/// If a client is accepted without a valid hello, or two are, or a descriptor leaks.
pub fn handshake(data: &[u8]) {
    let mut input = Input(data);
    let _ = match input.byte().map(|role| role % 4) {
        Some(0 | 1) => acceptor(&mut input),
        Some(2) => connector(&mut input),
        Some(_) => descriptor(&mut input),
        None => None,
    };
    no_thread_closes();
    no_descriptor_leaks();
}

const QUIET: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// Returns the directory of this process's sockets.
pub(super) fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("wakering-fuzz-{}", std::process::id()))
}

fn path() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let directory = directory();
    let _ = rustix::fs::mkdir(&directory, rustix::fs::Mode::RWXU);
    directory.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string())
}

/// Returns a hello or an answer, often a valid one with a few bytes changed, and sometimes
/// anything.
fn message(input: &mut Input<'_>, kind: u32) -> Option<Vec<u8>> {
    let form = input.byte()?;
    let mut bytes = vec![0; 32];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_ne_bytes());
    bytes[12..16].copy_from_slice(&kind.to_ne_bytes());
    for _ in 0..form & 3 {
        let at = usize::from(input.byte()? % 32);
        bytes[at] = input.byte()?;
    }
    match form >> 2 & 7 {
        0..=4 => {}
        5 => bytes.truncate(usize::from(input.byte()? % 33)),
        6 => bytes.extend(input.bytes(usize::from(form >> 5))),
        _ => {
            let len = usize::from(input.byte()?);
            bytes = input.bytes(len).to_vec();
        }
    }
    Some(bytes)
}

/// Returns descriptors to pass along: good and bad regions, and files that are not regions at all.
fn passed(kind: u8) -> Vec<OwnedFd> {
    let one = || -> Option<OwnedFd> {
        let geometry = Geometry::new(Some(4096), None).ok()?;
        Some(match kind >> 3 & 7 {
            0..=2 => Region::create(geometry, false, None).ok()?.1,
            3 => rustix::fs::memfd_create("empty", rustix::fs::MemfdFlags::ALLOW_SEALING).ok()?,
            4 => std::fs::File::open("/dev/null").ok()?.into(),
            5 => rustix::pipe::pipe().ok()?.1,
            6 => pair()?.0,
            _ => std::fs::File::open("/").ok()?.into(),
        })
    };
    let many = [0, 0, 1, 1, 1, 2, 3, 20][usize::from(kind & 7)];
    (0..many).filter_map(|_| one()).collect()
}

fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[OwnedFd]) {
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room");
    }
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, QUIET);
}

fn pair() -> Option<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()
}

fn unconnected() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .expect("a descriptor")
}

/// Counts what an acceptor watches.
#[derive(Default)]
struct CountingWatcher(Cell<isize>);

impl Watcher for CountingWatcher {
    fn watch(&self, _fd: BorrowedFd<'_>, _token: u16) -> Result<(), ShmError> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }

    fn unwatch(&self, _fd: BorrowedFd<'_>) {
        self.0.set(self.0.get() - 1);
    }

    fn wake_at(&self, at: Instant) {
        assert!(
            at <= Instant::now() + Duration::from_secs(2),
            "a client is patience's length here"
        );
    }
}

/// Hands out one region.
struct Face {
    file: RefCell<Option<OwnedFd>>,
    lifelines: RefCell<Vec<Lifeline>>,
}

impl Host for Face {
    fn admit(&self, _peer: PeerCredentials) -> Result<OwnedFd, Refusal> {
        self.file.take().ok_or(Refusal::Busy)
    }

    fn connected(&self, lifeline: Lifeline) {
        self.lifelines.borrow_mut().push(lifeline);
        assert_eq!(self.lifelines.borrow().len(), 1, "a face serves one handle");
    }

    fn undelivered(&self, file: OwnedFd, _failure: Option<ShmError>) {
        assert!(self.file.replace(Some(file)).is_none(), "nobody was let in");
    }
}

fn acceptor(input: &mut Input<'_>) -> Option<()> {
    let path = path();
    let name = Name::new(path.to_str()?).ok()?;
    let geometry = Geometry::new(Some(4096), None).ok()?;
    let face = Face {
        file: RefCell::new(Some(Region::create(geometry, false, None).ok()?.1)),
        lifelines: RefCell::default(),
    };
    let watcher = CountingWatcher::default();
    let acceptor =
        Acceptor::new(ListenerSocket::bind(&name, None).expect("a name of our own"), None);
    acceptor.open(&watcher).ok()?;
    let address = SocketAddrUnix::new(&path).ok()?;
    let mut clients = Vec::new();
    let mut lawful = 0;
    while let Some(op) = input.byte() {
        match op % 8 {
            0 => {
                let client = unconnected();
                if clients.len() < 24 && rustix::net::connect(&client, &address).is_ok() {
                    clients.push(client);
                }
            }
            1 | 2 => {
                let descriptors = input.byte().map(passed)?;
                let Some(bytes) = message(input, 1) else { break };
                // No lawful hello can be told from these without judging as the acceptor does; so
                // the length and the constant part alone.
                lawful += usize::from(bytes.len() == 32 && bytes[..8] == MAGIC);
                if let Some(client) = clients.get(usize::from(op >> 3) % clients.len().max(1)) {
                    send(client, &bytes, &descriptors);
                }
            }
            3 if !clients.is_empty() => {
                clients.remove(usize::from(op >> 3) % clients.len());
            }
            4 if !clients.is_empty() => {
                let client = &clients[usize::from(op >> 3) % clients.len()];
                let _ = rustix::net::shutdown(client, Shutdown::Write);
            }
            5 => acceptor.on_timer(&watcher, &face),
            6 => acceptor.on_ready(Acceptor::LISTENING, &watcher, &face),
            _ => {
                acceptor.on_ready(u16::from(op >> 3) % (Acceptor::LAST_TOKEN + 2), &watcher, &face)
            }
        }
        // The listening socket, and at most eight pending clients.
        assert!((1..=9).contains(&watcher.0.get()), "{} are watched", watcher.0.get());
    }
    for token in 0..=Acceptor::LAST_TOKEN {
        acceptor.on_ready(token, &watcher, &face);
    }
    let Clients { refused, hostile, half_done } = acceptor.clients();
    assert!(face.lifelines.borrow().len() <= lawful, "somebody came in without a hello");
    assert!(refused + hostile + half_done <= 10_000);
    acceptor.close(&watcher);
    assert_eq!(watcher.0.get(), 0, "nothing is watched any more");
    Some(())
}

fn connector(input: &mut Input<'_>) -> Option<()> {
    let path = path();
    let name = Name::new(path.to_str()?).ok()?;
    let listener = unconnected();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).ok()?).ok()?;
    rustix::net::listen(&listener, 1).ok()?;
    let mut connector =
        Connector::new(&name, None, Instant::now() + Duration::from_secs(60)).ok()?;
    let first = connector.step();
    let _ = std::fs::remove_file(&path);
    assert!(matches!(first, Ok(Progress::WaitReadable)), "{first:?}");
    let mut client = rustix::net::accept(&listener).ok();
    while let Some(op) = input.byte() {
        match op % 4 {
            0 | 1 => {
                let descriptors = input.byte().map(passed)?;
                let Some(bytes) = message(input, 2) else { break };
                if let Some(client) = &client {
                    send(client, &bytes, &descriptors);
                }
            }
            2 => drop(client.take()),
            _ => match connector.step() {
                Ok(Progress::WaitReadable) => {}
                Ok(Progress::Done(connection)) => return check(&connection.region),
                Ok(Progress::RetryAt(_)) => panic!("it was connected"),
                Err(_) => return Some(()),
            },
        }
    }
    if let Ok(Progress::Done(connection)) = connector.step() {
        check(&connection.region)?;
    }
    Some(())
}

fn descriptor(input: &mut Input<'_>) -> Option<()> {
    let (one, other) = pair()?;
    let mut one = Some(one);
    while let Some(op) = input.byte() {
        let Some(socket) = &one else { break };
        match op % 4 {
            0 | 1 => {
                let descriptors = input.byte().map(passed)?;
                let Some(bytes) = message(input, 2) else { break };
                send(socket, &bytes, &descriptors);
            }
            2 => one = None,
            _ => break,
        }
    }
    let odd = passed(input.byte().unwrap_or(0)).pop();
    if let Ok(connection) = adopt(odd.filter(|_| input.byte() == Some(1)).unwrap_or(other)) {
        check(&connection.region)?;
    }
    Some(())
}

/// Checks that a region that was accepted is a whole one.
fn check(region: &Region) -> Option<()> {
    assert_eq!(region.geometry().ring_bytes(), 4096);
    Some(())
}
