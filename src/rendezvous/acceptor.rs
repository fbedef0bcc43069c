//! The engine's side of the handshake: who comes in, is heard, and answered.
//!
//! An acceptor does nothing by itself. Its owner is a source of a driver: it passes on what is
//! ready and when an alarm goes off, and lends its [`Watcher`] and [`Host`] for the call. So the
//! acceptor holds no reference to either, and whoever owns all three makes no circle.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::listener_socket::ListenerSocket;
use super::message::{self, Spoken, Status};
use super::socket::{self, Received};
use crate::driver::Registration;
use crate::error::ShmError;
use crate::rendezvous::credentials::{self, Allow, PeerCredentials};
use crate::rendezvous::lifeline::Lifeline;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::sys::fork::{self, LeakyLock, Origin};

/// Connections that have not said hello.
const MAX_GUESTS: u16 = 8;
/// How long a connection may take to say it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long nobody is accepted after the kernel had no descriptor or memory for it.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted in one turn, so that a flood of them does not keep the driver from its
/// other sources. The rest keeps the socket readable.
const ACCEPTS_A_TURN: usize = 16;

/// What the acceptor asks of its driver: the registration of the source that owns the acceptor.
pub(crate) trait Watcher {
    /// Reports `fd` as ready under `token` whenever it is readable or hung up.
    ///
    /// # Errors
    /// If the kernel cannot watch one more.
    fn watch(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError>;
    /// Reports `fd` no more; nothing if it was not watched.
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

/// Why a host admits nobody now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The face serves another handle.
    Busy,
}

/// Whom the acceptor works for: a face, or a listener that makes one for each client.
pub(crate) trait Host {
    /// A complete, acceptable hello. The host answers with the file of a region, which is the
    /// client's from then on, or with a refusal.
    ///
    /// # Errors
    /// The refusal that the client is told.
    fn admit(&self, peer: PeerCredentials) -> Result<OwnedFd, Refusal>;
    /// The answer went out; the socket is now the lifeline, and no longer watched.
    fn connected(&self, lifeline: Lifeline);
    /// The answer could not be delivered: whom [`Host::admit`] let in is gone, and here is what it
    /// was to have.
    fn undelivered(&self, file: OwnedFd);
}

/// How many clients came to nothing, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clients {
    /// Were told no: the user, the version, or busy.
    pub(crate) refused: u64,
    /// Said something that is no hello.
    pub(crate) hostile: u64,
    /// Hung up before the end, or took too long.
    pub(crate) half_done: u64,
}

/// A listening socket and those who came in but have not said hello.
#[derive(Debug)]
pub(crate) struct Acceptor {
    path: Box<Path>,
    allow: Option<Allow>,
    room: LeakyLock<Mutex<Room>>,
    /// The process that receives; in a forked child nothing is ready.
    origin: Origin,
    refused: AtomicU64,
    hostile: AtomicU64,
    half_done: AtomicU64,
}

#[derive(Debug)]
struct Room {
    /// `None` once the acceptor is closed.
    socket: Option<ListenerSocket>,
    /// The longest waiting first, so in the order of `until`.
    pending: Vec<Pending>,
    /// Set while nobody is accepted for want of descriptors or memory.
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
    /// Token of the listening socket.
    pub(crate) const LISTENING: u16 = 0;
    /// The last token that an acceptor uses; those behind it are its owner's.
    pub(crate) const LAST_TOKEN: u16 = MAX_GUESTS;

    /// An acceptor at `socket`. It takes no notice of anybody until [`Acceptor::open`].
    pub(crate) fn new(socket: ListenerSocket, allow: Option<Allow>) -> Self {
        Self {
            path: socket.path().into(),
            allow,
            room: LeakyLock::new(Mutex::new(Room {
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

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins to accept. To be called once, when the owner's registration is there.
    ///
    /// # Errors
    /// If the driver cannot watch the socket.
    pub(crate) fn open(&self, watcher: &dyn Watcher) -> Result<(), ShmError> {
        match &lock(&self.room).socket {
            Some(socket) => watcher.watch(socket.as_fd(), Self::LISTENING),
            None => Ok(()),
        }
    }

    /// What is watched under `token` is readable or hung up. Tokens that are not the acceptor's, or
    /// no longer, do no harm.
    pub(crate) fn on_ready(&self, token: u16, watcher: &dyn Watcher, host: &dyn Host) {
        if token == Self::LISTENING {
            self.accept(watcher, host);
        } else {
            self.attend(token, watcher, host);
        }
        self.set_timer(watcher);
    }

    /// An alarm went off, perhaps early or for somebody else.
    pub(crate) fn on_timer(&self, watcher: &dyn Watcher, host: &dyn Host) {
        let now = Instant::now();
        let late = lock(&self.room).leave_late(now);
        for client in late {
            self.send_off(client, watcher, host);
        }
        lock(&self.room).resume_at(now, watcher);
        self.set_timer(watcher);
    }

    /// When the acceptor next wants [`Acceptor::on_timer`] to be called.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        lock(&self.room).next_timer()
    }

    /// Stops accepting, sends everybody off and gives the name up. If somebody else binds or gives
    /// up a name in the same directory at this moment, the socket's file stays, for the next engine
    /// to take over: this waits for nobody.
    ///
    /// In a forked child it closes the child's copy of the socket, unless a thread of the parent's
    /// held the lock at the fork. The name and the clients stay the parent's.
    pub(crate) fn close(&self, watcher: &dyn Watcher) {
        if self.origin.has_left() {
            let socket = fork::try_lock(&self.room).and_then(|mut room| room.socket.take());
            return drop(socket);
        }
        let (socket, pending) = {
            let mut room = lock(&self.room);
            (room.socket.take(), std::mem::take(&mut room.pending))
        };
        for client in pending {
            watcher.unwatch(client.socket.as_fd());
            // A forked child may have a copy of it.
            socket::hang_up(client.socket.as_fd());
        }
        if let Some(socket) = socket {
            watcher.unwatch(socket.as_fd());
        }
    }

    /// How many clients came to nothing so far.
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
            let accepted = lock(&self.room).accept(watcher);
            let Some(socket) = accepted else { return };
            self.listen_to(socket, watcher, host);
        }
    }

    /// Takes care of a new connection. Most have said hello by now: a client does so right behind
    /// its connect.
    fn listen_to(&self, socket: OwnedFd, watcher: &dyn Watcher, host: &dyn Host) {
        let Some(socket) = self.hear(socket, host) else { return };
        let oldest = lock(&self.room).make_room();
        if let Some(oldest) = oldest {
            self.send_off(oldest, watcher, host);
        }
        let until = Instant::now() + PATIENCE;
        if !lock(&self.room).seat(socket, until, watcher) {
            count(&self.half_done);
        }
    }

    /// Hears a client that seems to say something. Outside of the lock, because a predicate and the
    /// host are asked; one who says nothing after all gets a seat again.
    fn attend(&self, token: u16, watcher: &dyn Watcher, host: &dyn Host) {
        let client = lock(&self.room).leave(token);
        let Some(Pending { socket, until, .. }) = client else { return };
        watcher.unwatch(socket.as_fd());
        let Some(socket) = self.hear(socket, host) else { return };
        if !lock(&self.room).seat(socket, until, watcher) {
            count(&self.half_done);
        }
    }

    /// Hears a client for the last time: its hello may have come a moment ago.
    fn send_off(&self, client: Pending, watcher: &dyn Watcher, host: &dyn Host) {
        watcher.unwatch(client.socket.as_fd());
        if let Some(socket) = self.hear(client.socket, host) {
            // A process that is just being started may have a copy of it for a moment.
            socket::hang_up(socket.as_fd());
            count(&self.half_done);
        }
    }

    /// Reads and answers the hello. Gives the socket back if there is none yet.
    fn hear(&self, socket: OwnedFd, host: &dyn Host) -> Option<OwnedFd> {
        match socket::peek(socket.as_fd()) {
            Ok(Received::Nothing) => return Some(socket),
            Ok(Received::Message(message)) => self.answer(socket, message.bytes(), host),
            Ok(Received::HungUp) | Err(_) => count(&self.half_done),
        }
        None
    }

    fn answer(&self, socket: OwnedFd, hello: &[u8], host: &dyn Host) {
        let judged =
            message::parse_hello(hello).map(|spoken| self.judge(socket.as_fd(), spoken, host));
        // Behind the region, which needs the last descriptor more.
        let process = socket::take_peeked(socket.as_fd());
        let (peer, file) = match judged {
            Ok(Ok(admitted)) => admitted,
            // PEER: what makes no sense is not answered: who knows to whom we would talk.
            Err(message::Junk) => return count(&self.hostile),
            Ok(Err(status)) => {
                count(&self.refused);
                // A client that does not wait for its refusal needs none.
                let _ = socket::send(socket.as_fd(), &message::answer(status), None);
                return;
            }
        };
        let welcome = message::answer(Status::Ok);
        match socket::send(socket.as_fd(), &welcome, Some(file.as_fd())) {
            Ok(()) => host.connected(Lifeline::new(socket, peer, process)),
            Err(_) => {
                count(&self.half_done);
                host.undelivered(file);
            }
        }
    }

    /// Whether the client may have a region, and its file; if not, what it is told.
    fn judge(
        &self,
        socket: BorrowedFd<'_>,
        spoken: Spoken<()>,
        host: &dyn Host,
    ) -> Result<(PeerCredentials, OwnedFd), Status> {
        // The user first: strangers are told nothing else.
        let peer = PeerCredentials::of(socket).map_err(|_| Status::PermissionDenied)?;
        if !credentials::accepts(self.allow.as_ref(), &peer) {
            return Err(Status::PermissionDenied);
        }
        match spoken {
            Spoken::Ours(()) => {}
            Spoken::Other(_) => return Err(Status::VersionMismatch),
        }
        match host.admit(peer) {
            Ok(file) => Ok((peer, file)),
            Err(Refusal::Busy) => Err(Status::Busy),
        }
    }

    fn set_timer(&self, watcher: &dyn Watcher) {
        if let Some(at) = self.next_timer() {
            watcher.wake_at(at);
        }
    }
}

impl Room {
    /// The next connection. When the kernel has no descriptor or memory for it, the socket stays
    /// readable: watching it further would spin.
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

    /// Accepts again, if the pause is over.
    fn resume_at(&mut self, now: Instant, watcher: &dyn Watcher) {
        let (Some(at), Some(socket)) = (self.resume, &self.socket) else { return };
        if at <= now {
            let watched = watcher.watch(socket.as_fd(), Acceptor::LISTENING);
            self.resume = watched.is_err().then(|| now + PAUSE);
        }
    }

    /// The oldest client, if there is no seat for another one.
    fn make_room(&mut self) -> Option<Pending> {
        (self.pending.len() >= usize::from(MAX_GUESTS)).then(|| self.pending.remove(0))
    }

    /// Gives a client a token and a place by age. False if the driver cannot watch it, or if the
    /// acceptor was closed meanwhile.
    fn seat(&mut self, socket: OwnedFd, until: Instant, watcher: &dyn Watcher) -> bool {
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

    /// Takes out the client with this token.
    fn leave(&mut self, token: u16) -> Option<Pending> {
        let place = self.pending.iter().position(|client| client.token == token)?;
        Some(self.pending.remove(place))
    }

    /// Takes out the clients whose time is over.
    fn leave_late(&mut self, now: Instant) -> Vec<Pending> {
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
