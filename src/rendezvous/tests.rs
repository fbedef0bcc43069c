//! Real sockets in directories of their own, with an epoll set in the driver's place.

mod binding;
mod handshake;
mod hostile;
mod processes;
mod trust;

use std::fs::{DirBuilder, Permissions};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::acceptor::{Clients, Watcher};
use super::name::Places;
use super::pair::{adopt, pair};
use super::*;
use crate::error::{DenialCause, ShmError};
use crate::rendezvous::credentials::{Allow, PeerCredentials};
use crate::rendezvous::lifeline::{Lifeline, drain, wake_by_byte};
use crate::shm::layout::Geometry;
use crate::shm::region::Region;
use crate::sync::{Mutex, lock};

/// Longer than anything takes that does not hang.
const LONG: Duration =
    Duration::from_secs(if option_env!("WAKERING_SLOW").is_some() { 200 } else { 20 });

/// A directory that only we may write to, removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("wakering-test-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o755).create(&path) {
                // A process with this ID was killed in an earlier run.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                result => {
                    result.unwrap();
                    return Self(path);
                }
            }
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// A relative name, with this directory as `$WAKERING_DIR`.
    fn name(&self, name: &str) -> Name {
        name_in(&self.0, name)
    }

    fn set_mode(&self, mode: u32) {
        std::fs::set_permissions(&self.0, Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn name_in(directory: &Path, name: &str) -> Name {
    let places = Places { wakering: Some(directory.into()), ..Places::default() };
    Name::resolve(name, &places).unwrap()
}

/// An epoll set and the timer that was asked for.
struct TestWatcher {
    epoll: OwnedFd,
    timer: Mutex<Option<Instant>>,
    /// How many descriptors are watched now.
    watched: AtomicUsize,
    /// How many more calls of `watch` fail.
    refusals: AtomicUsize,
}

impl TestWatcher {
    fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        Self {
            epoll,
            timer: Mutex::new(None),
            watched: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
        }
    }
}

impl Watcher for TestWatcher {
    fn watch(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return Err(ShmError::io("epoll")(rustix::io::Errno::NOMEM));
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.into()), flags)
            .map_err(ShmError::io("epoll"))?;
        self.watched.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn unwatch(&self, fd: BorrowedFd<'_>) {
        if epoll::delete(&self.epoll, fd).is_ok() {
            self.watched.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn wake_at(&self, at: Instant) {
        *lock(&self.timer) = Some(at);
    }
}

/// A face's part: one region, handed out once.
struct Face {
    region: Region,
    file: Mutex<Option<OwnedFd>>,
    peers: Mutex<Vec<Lifeline>>,
    undelivered: AtomicUsize,
}

impl Host for Face {
    fn admit(&self, _peer: PeerCredentials) -> Result<OwnedFd, Refusal> {
        lock(&self.file).take().ok_or(Refusal::Busy)
    }

    fn connected(&self, lifeline: Lifeline) {
        lock(&self.peers).push(lifeline);
    }

    fn undelivered(&self, file: OwnedFd, failure: Option<ShmError>) {
        assert!(failure.is_none(), "{failure:?}");
        *lock(&self.file) = Some(file);
        self.undelivered.fetch_add(1, Ordering::Relaxed);
    }
}

/// An acceptor with all that it needs, driven by hand.
struct Engine {
    watcher: TestWatcher,
    face: Face,
    acceptor: Acceptor,
    turns: AtomicUsize,
}

impl Engine {
    fn new(name: &Name) -> Self {
        Self::with(ListenerSocket::bind(name, None).unwrap(), None)
    }

    fn with(socket: ListenerSocket, allow: Option<Allow>) -> Self {
        let (region, file) =
            Region::create(Geometry::new(Some(4096), None).unwrap(), false, None).unwrap();
        let face = Face {
            region,
            file: Mutex::new(Some(file)),
            peers: Mutex::new(Vec::new()),
            undelivered: AtomicUsize::new(0),
        };
        let engine = Self {
            watcher: TestWatcher::new(),
            face,
            acceptor: Acceptor::new(socket, allow),
            turns: AtomicUsize::new(0),
        };
        engine.acceptor.open(&engine.watcher).unwrap();
        engine
    }

    /// Handles one event or timer; false if there was none until then.
    fn turn(&self, until: Instant) -> bool {
        let timer = *lock(&self.watcher.timer);
        let wake = timer.map_or(until, |timer| timer.min(until));
        let timeout = wake.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(timeout).unwrap();
        let mut space = [MaybeUninit::uninit(); 1];
        let (events, _) = epoll::wait(&self.watcher.epoll, &mut space, Some(&timeout)).unwrap();
        self.turns.fetch_add(1, Ordering::Relaxed);
        if let [event] = events {
            let token = u16::try_from(event.data.u64()).unwrap();
            self.acceptor.on_ready(token, &self.watcher, &self.face);
            return true;
        }
        if timer.is_some_and(|timer| timer <= Instant::now()) {
            *lock(&self.watcher.timer) = None;
            self.acceptor.on_timer(&self.watcher, &self.face);
            return true;
        }
        false
    }

    /// Turns until something is true, or the test has failed.
    fn run_until(&self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !done(self) {
            assert!(self.turn(deadline), "nothing happens: {:?}", self.acceptor);
        }
    }

    /// Turns until nothing more is pending.
    fn settle(&self) {
        while self.turn(Instant::now()) {}
    }

    /// Steps a connector and the acceptor in turn until the connector comes to an end.
    fn meet(&self, mut connector: Connector) -> Result<Connection, ShmError> {
        loop {
            match connector.step()? {
                Progress::Done(connection) => return Ok(connection),
                Progress::RetryAt(at) => while self.turn(at) {},
                Progress::WaitReadable => drop(self.turn(connector.deadline())),
            }
        }
    }

    fn connect(&self, name: &Name) -> Result<Connection, ShmError> {
        self.meet(connector(name)?)
    }

    fn lifelines(&self) -> usize {
        lock(&self.face.peers).len()
    }
}

fn connector(name: &Name) -> Result<Connector, ShmError> {
    Connector::new(name, None, Instant::now() + LONG)
}

/// A bare connection, as a client makes that does not keep to the protocol.
fn raw(name: &Name) -> Option<OwnedFd> {
    let directory = directory::Directory::for_application(name).unwrap();
    let found = socket::find(directory.as_fd(), name.file()).unwrap();
    socket::connect_to(found.as_fd()).unwrap()
}

/// What a dead engine leaves behind. Nobody ever listens, so a copy of the socket, which a process
/// that another test starts may have for a moment, makes no difference.
fn leave_stale_socket(path: &Path) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    drop(socket);
    assert!(path.exists());
}

/// Closes a socket so that its peer learns of it at once, even if a process that another test
/// starts has a copy for a moment.
fn leave(socket: impl AsFd) {
    rustix::net::shutdown(&socket, rustix::net::Shutdown::Both).unwrap();
}

/// Waits for what the close of a descriptor brings about, of which a process that another test
/// starts may have a copy for a moment.
pub(super) fn soon(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + LONG;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Whether this is the denial for this cause, at this path.
fn is_denied(error: &ShmError, expected: DenialCause, at: &Path) -> bool {
    matches!(
        error,
        ShmError::PermissionDenied { cause, path } if *cause == expected && **path == *at
    )
}

/// Whether two regions are the same memory.
fn same_memory(one: &Region, other: &Region) -> bool {
    use crate::shm::layout::Side;
    let word = |region: &Region| region.side(Side::Face).bell.0.bell.load(Ordering::SeqCst);
    let before = word(other);
    one.side(Side::Face).bell.0.bell.fetch_add(1, Ordering::SeqCst);
    word(other) == before + 1
}
