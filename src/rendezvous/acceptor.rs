//! The engine's side of the handshake: accepts connections, reads each hello, and answers it.
//!
//! An acceptor does nothing by itself. Its owner is a source of a driver. The owner passes on ready
//! descriptors and timers, and lends its [`Watcher`] and [`Host`] for the call. The acceptor holds
//! no reference to either, so an owner of all three makes no reference cycle.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::listener_socket::ListenerSocket;
use super::message::{self, Status, Versioned};
use super::socket::{self, Received};
use crate::driver::Registration;
use crate::error::ShmError;
use crate::rendezvous::credentials::{self, Allow, PeerCredentials};
use crate::rendezvous::lifeline::Lifeline;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::sys::fork::{self, LeakyLock, Origin};
use crate::sys::trace;

/// The most connections that may be pending, that is, have not sent a hello.
const MAX_PENDING: u16 = 8;
/// How long a pending client may take to send its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the acceptor accepts nobody after the kernel had no descriptor or memory left.
const PAUSE: Duration = Duration::from_millis(100);
/// The most connections accepted in one turn, so that a flood of them does not keep the driver from
/// its other sources. The socket stays readable as long as any are left.
const ACCEPTS_A_TURN: usize = 16;

/// What the acceptor needs of its driver: the registration of the source that owns the acceptor.
pub(crate) trait Watcher {
    /// Reports `fd` as ready under `token` whenever it is readable or hung up.
    ///
    /// # Errors
    /// If the kernel cannot watch another descriptor.
    fn watch(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError>;
    /// Stops reporting `fd`. Does nothing if it was not watched.
    fn unwatch(&self, fd: BorrowedFd<'_>);
    /// Calls [`Acceptor::on_timer`] at this time. May be early; a later call need not forget this
    /// one.
    fn wake_at(&self, at: Instant);
}

impl Watcher for Registration {
    fn watch(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError> {
        self.watch(fd, token)
    }

    fn unwatch(&self, fd: BorrowedFd<'_>) {
        self.unwatch(fd);
    }

    fn wake_at(&self, at: Instant) {
        self.wake_at(at);
    }
}

/// Why a host admits no client now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The face serves another handle.
    Busy,
    /// The host has ended. The client is hung up on, as if it had come a moment later.
    Over,
}

/// The acceptor's user: a face, or a listener that makes a face for each client.
pub(crate) trait Host {
    /// Decides on a client that has sent an acceptable hello. Returns the file of a region, which
    /// then belongs to the client, or a refusal.
    ///
    /// # Errors
    /// The refusal that is sent to the client.
    fn admit(&self, peer: PeerCredentials) -> Result<OwnedFd, Refusal>;
    /// Takes the client's socket after the answer was sent. It is the lifeline now, and no longer
    /// watched.
    fn connected(&self, lifeline: Lifeline);
    /// Takes back the region's file, because the answer could not be delivered: the client that
    /// [`Host::admit`] let in is gone, or the kernel passes no more descriptors for this user,
    /// which is the `failure`.
    fn undelivered(&self, file: OwnedFd, failure: Option<ShmError>);
}

/// How many clients did not connect, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clients {
    /// Were refused: because of the user or the version, or because the host was busy.
    pub(crate) refused: u64,
    /// Sent something that is not a hello.
    pub(crate) hostile: u64,
    /// Hung up before the handshake ended, or took too long.
    pub(crate) half_done: u64,
}

/// A listening socket and its pending clients, which have not sent a hello yet.
#[derive(Debug)]
pub(crate) struct Acceptor {
    path: Box<Path>,
    allow: Option<Allow>,
    state: LeakyLock<Mutex<State>>,
    /// The process that accepts. A forked child does not.
    origin: Origin,
    refused: AtomicU64,
    hostile: AtomicU64,
    half_done: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// `None` once the acceptor is closed.
    socket: Option<ListenerSocket>,
    /// The longest waiting first, and therefore in the order of `until`.
    pending: Vec<Pending>,
    /// When to accept again, after the kernel had no descriptor or memory left.
    resume: Option<Instant>,
}

/// A connection without a hello.
#[derive(Debug)]
struct Pending {
    socket: OwnedFd,
    token: u16,
    until: Instant,
}

impl Acceptor {
    /// The token of the listening socket.
    pub(crate) const LISTENING: u16 = 0;
    /// The last token that an acceptor uses. The tokens past it belong to its owner.
    pub(crate) const LAST_TOKEN: u16 = MAX_PENDING;

    /// Makes an acceptor for `socket`. It accepts nobody until [`Acceptor::open`].
    pub(crate) fn new(socket: ListenerSocket, allow: Option<Allow>) -> Self {
        Self {
            path: socket.path().into(),
            allow,
            state: LeakyLock::new(Mutex::new(State {
                socket: Some(socket),
                pending: Vec::new(),
                resume: None,
            })),
            origin: Origin::here(),
            refused: AtomicU64::new(0),
            hostile: AtomicU64::new(0),
            half_done: AtomicU64::new(0),
        }
    }

    /// Returns the path that it listens at.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins to accept. The owner calls this once, after it has registered with the driver.
    ///
    /// # Errors
    /// If the driver cannot watch the socket.
    pub(crate) fn open(&self, watcher: &dyn Watcher) -> Result<(), ShmError> {
        match &lock(&self.state).socket {
            Some(socket) => watcher.watch(socket.as_fd(), Self::LISTENING),
            None => Ok(()),
        }
    }

    /// Handles that the descriptor watched under `token` is readable or hung up. Ignores tokens
    /// that are not, or no longer, the acceptor's.
    pub(crate) fn on_ready(&self, token: u16, watcher: &dyn Watcher, host: &dyn Host) {
        if token == Self::LISTENING {
            self.accept(watcher, host);
        } else {
            self.on_client(token, watcher, host);
        }
        self.set_timer(watcher);
    }

    /// Handles a timer. It may come early.
    pub(crate) fn on_timer(&self, watcher: &dyn Watcher, host: &dyn Host) {
        let now = Instant::now();
        let late = lock(&self.state).remove_late(now);
        for client in late {
            self.disconnect_unless_hello(client, watcher, host);
        }
        lock(&self.state).resume_at(now, watcher);
        self.set_timer(watcher);
    }

    /// Returns when the acceptor next needs a call of [`Acceptor::on_timer`].
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        lock(&self.state).next_timer()
    }

    /// Stops accepting, disconnects all pending clients, and gives up the name. Another thread that
    /// does the same has done so, too, when this returns. This waits for nobody else: if another
    /// thread or process binds or gives up a name in the same directory at this moment, the
    /// socket's file stays, and the next engine takes it over.
    ///
    /// In a forked child it closes the child's copy of the socket, unless another thread of the
    /// parent held the lock at the fork. The name and the clients remain the parent's.
    pub(crate) fn close(&self, watcher: &dyn Watcher) {
        if self.origin.has_left() {
            let socket = fork::try_lock(&self.state).and_then(|mut state| state.socket.take());
            return drop(socket);
        }
        // Held to the end: a call on another thread must not return while the name is still taken.
        let mut state = lock(&self.state);
        for client in std::mem::take(&mut state.pending) {
            watcher.unwatch(client.socket.as_fd());
            // A forked child may hold a copy of it.
            socket::hang_up(client.socket.as_fd());
        }
        if let Some(socket) = state.socket.take() {
            watcher.unwatch(socket.as_fd());
        }
    }

    /// Returns how many clients have not connected so far.
    pub(crate) fn clients(&self) -> Clients {
        // ORDERING: Relaxed; counters, which publish nothing.
        Clients {
            refused: self.refused.load(Ordering::Relaxed),
            hostile: self.hostile.load(Ordering::Relaxed),
            half_done: self.half_done.load(Ordering::Relaxed),
        }
    }

    fn accept(&self, watcher: &dyn Watcher, host: &dyn Host) {
        for _ in 0..ACCEPTS_A_TURN {
            let accepted = lock(&self.state).accept(watcher);
            let Some(socket) = accepted else { return };
            self.on_connection(socket, watcher, host);
        }
    }

    /// Handles a new connection. Most have sent their hello by now, because a client sends it right
    /// after it connects.
    fn on_connection(&self, socket: OwnedFd, watcher: &dyn Watcher, host: &dyn Host) {
        let Some(socket) = self.read_hello(socket, host) else { return };
        let oldest = lock(&self.state).remove_oldest_if_full();
        if let Some(oldest) = oldest {
            self.disconnect_unless_hello(oldest, watcher, host);
        }
        let until = Instant::now() + HELLO_TIMEOUT;
        if !lock(&self.state).add(socket, until, watcher) {
            self.note_half_done();
        }
    }

    /// Reads from a client that seems to have sent something. Runs outside the lock, because it
    /// calls a predicate and the host. A client that has sent nothing after all becomes pending
    /// again.
    fn on_client(&self, token: u16, watcher: &dyn Watcher, host: &dyn Host) {
        let client = lock(&self.state).remove(token);
        let Some(Pending { socket, until, .. }) = client else { return };
        watcher.unwatch(socket.as_fd());
        let Some(socket) = self.read_hello(socket, host) else { return };
        if !lock(&self.state).add(socket, until, watcher) {
            self.note_half_done();
        }
    }

    /// Checks a client once more for a hello, which may have just arrived; otherwise disconnects
    /// it.
    fn disconnect_unless_hello(&self, client: Pending, watcher: &dyn Watcher, host: &dyn Host) {
        watcher.unwatch(client.socket.as_fd());
        if let Some(socket) = self.read_hello(client.socket, host) {
            self.send_off(&socket);
        }
    }

    /// Disconnects a client without an answer. A forked child, or a process that is just being
    /// started, may hold a copy of its socket.
    fn send_off(&self, socket: &OwnedFd) {
        socket::hang_up(socket.as_fd());
        self.note_half_done();
    }

    /// Reads and answers the hello. Returns the socket if there is no hello yet.
    fn read_hello(&self, socket: OwnedFd, host: &dyn Host) -> Option<OwnedFd> {
        match socket::peek(socket.as_fd()) {
            Ok(Received::Nothing) => return Some(socket),
            Ok(Received::Message(message)) => self.answer(socket, message.bytes(), host),
            Ok(Received::HungUp) | Err(_) => self.note_half_done(),
        }
        None
    }

    fn answer(&self, socket: OwnedFd, hello: &[u8], host: &dyn Host) {
        let judged =
            message::parse_hello(hello).map(|hello| self.judge(socket.as_fd(), hello, host));
        // Comes after the host has made the region: if one descriptor is left, the region needs it
        // more than this does.
        let process = socket::take_peeked(socket.as_fd());
        let (peer, file) = match judged {
            Ok(Ok(admitted)) => admitted,
            // PEER: a message that is no hello gets no answer: we do not know what the other side
            // speaks.
            Err(message::Junk) => {
                let peer = PeerCredentials::of(socket.as_fd()).ok();
                self.trace_refusal(peer, "what it sent is not a hello");
                return count(&self.hostile);
            }
            Ok(Err((_, None))) => return self.send_off(&socket),
            Ok(Err((peer, Some(status)))) => {
                self.trace_refusal(peer, status.cause());
                count(&self.refused);
                // Fails if the client has not waited for it.
                let _ = socket::send(socket.as_fd(), &message::answer(status), None);
                return;
            }
        };
        let welcome = message::answer(Status::Ok);
        match socket::send(socket.as_fd(), &welcome, Some(file.as_fd())) {
            Ok(()) => host.connected(Lifeline::new(socket, peer, process).at(&self.path)),
            // Too many descriptors of this user are on their way, or there is no memory.
            Err(errno @ (Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)) => {
                // Without a descriptor, an answer may still pass.
                let _ = socket::send(socket.as_fd(), &message::answer(Status::Busy), None);
                self.trace_refusal(Some(peer), "the kernel passes no more descriptors");
                count(&self.refused);
                let failure = ShmError::io("passing the region's descriptor")(errno);
                host.undelivered(file, Some(failure));
            }
            Err(_) => {
                self.note_half_done();
                host.undelivered(file, None);
            }
        }
    }

    /// Decides whether the client gets a region. Returns the region's file, or the status that the
    /// client is told, if it is told any.
    fn judge(
        &self,
        socket: BorrowedFd<'_>,
        hello: Versioned<()>,
        host: &dyn Host,
    ) -> Result<(PeerCredentials, OwnedFd), (Option<PeerCredentials>, Option<Status>)> {
        // The user first: other users learn nothing else.
        let peer =
            PeerCredentials::of(socket).map_err(|_| (None, Some(Status::PermissionDenied)))?;
        if !credentials::accepts(self.allow.as_ref(), &peer) {
            return Err((Some(peer), Some(Status::PermissionDenied)));
        }
        match hello {
            Versioned::Ours(()) => {}
            Versioned::Other(_) => return Err((Some(peer), Some(Status::VersionMismatch))),
        }
        match host.admit(peer) {
            Ok(file) => Ok((peer, file)),
            Err(Refusal::Busy) => Err((Some(peer), Some(Status::Busy))),
            Err(Refusal::Over) => Err((Some(peer), None)),
        }
    }

    fn trace_refusal(&self, peer: Option<PeerCredentials>, cause: &str) {
        let (pid, uid) = (peer.map(|peer| peer.pid), peer.map(|peer| peer.uid));
        trace::refused(&self.path, pid, uid, cause);
    }

    fn note_half_done(&self) {
        trace::half_done(&self.path);
        count(&self.half_done);
    }

    fn set_timer(&self, watcher: &dyn Watcher) {
        if let Some(at) = self.next_timer() {
            watcher.wake_at(at);
        }
    }
}

impl State {
    /// Accepts the next connection. If the kernel has no descriptor or memory for it, stops
    /// watching the socket for a while: it stays readable, and watching it would spin.
    fn accept(&mut self, watcher: &dyn Watcher) -> Option<OwnedFd> {
        let socket = self.socket.as_ref()?;
        match socket.accept() {
            Ok(client) => client,
            Err(_) => {
                watcher.unwatch(socket.as_fd());
                self.resume = Some(Instant::now() + PAUSE);
                None
            }
        }
    }

    /// Accepts again if the pause is over.
    fn resume_at(&mut self, now: Instant, watcher: &dyn Watcher) {
        let (Some(at), Some(socket)) = (self.resume, &self.socket) else { return };
        if at <= now {
            let watched = watcher.watch(socket.as_fd(), Acceptor::LISTENING);
            self.resume = watched.is_err().then(|| now + PAUSE);
        }
    }

    /// Removes and returns the oldest pending client if there is no room for another one.
    fn remove_oldest_if_full(&mut self) -> Option<Pending> {
        (self.pending.len() >= usize::from(MAX_PENDING)).then(|| self.pending.remove(0))
    }

    /// Makes a client pending: gives it a token and inserts it by age. Returns false if the driver
    /// cannot watch it, or if the acceptor was closed meanwhile.
    fn add(&mut self, socket: OwnedFd, until: Instant, watcher: &dyn Watcher) -> bool {
        let taken = |token: &u16| self.pending.iter().any(|client| client.token == *token);
        let free = (1..=Acceptor::LAST_TOKEN).find(|token| !taken(token));
        let Some(token) = free.filter(|_| self.socket.is_some()) else { return false };
        if watcher.watch(socket.as_fd(), token).is_err() {
            return false;
        }
        let place = self.pending.partition_point(|other| other.until <= until);
        self.pending.insert(place, Pending { socket, token, until });
        true
    }

    /// Removes the client with this token.
    fn remove(&mut self, token: u16) -> Option<Pending> {
        let place = self.pending.iter().position(|client| client.token == token)?;
        Some(self.pending.remove(place))
    }

    /// Removes the clients whose time is over.
    fn remove_late(&mut self, now: Instant) -> Vec<Pending> {
        let late = self.pending.partition_point(|client| client.until <= now);
        self.pending.drain(..late).collect()
    }

    fn next_timer(&self) -> Option<Instant> {
        let client = self.pending.first().map(|client| client.until);
        client.into_iter().chain(self.resume.filter(|_| self.socket.is_some())).min()
    }
}

fn count(counter: &AtomicU64) {
    // ORDERING: Relaxed; a counter, which publishes nothing.
    counter.fetch_add(1, Ordering::Relaxed);
}
