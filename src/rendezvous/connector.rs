//! The application's side of the handshake.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::directory::Directory;
use super::message::{self, Status, Versioned};
use super::name::Name;
use super::socket::{self, ConnectFailure, Message, Received};
use super::untrusted::{Untrusted, UntrustedSocket};
use crate::error::{DenialCause, ShmError};
use crate::rendezvous::credentials::{self, Allow, PeerCredentials};
use crate::rendezvous::lifeline::Lifeline;
use crate::shm::layout::VERSION;
use crate::shm::region::Region;
use crate::sys::pause::pause;
use crate::sys::sockopt;

/// How long to wait at first when the engine's backlog is full. The pause doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(32);

/// How often to try again when the socket's mode keeps the application out: an engine that is about
/// to listen has bound the socket and may not have set its mode yet.
const DENIALS: u32 = 3;

/// An engine waits one second for our hello. If this thread was delayed by at least this much of
/// it, and then finds that the engine has hung up, the hello was too late, and we connect again.
const LATE: Duration = Duration::from_millis(500);

/// The step that errors of the conversation itself name.
const HANDSHAKE: &str = "handshake";

/// The result of a handshake.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The engine's region, joined and checked.
    pub(crate) region: Region,
    /// The socket, which is the lifeline from now on, with the engine at its other end.
    pub(crate) lifeline: Lifeline,
}

/// How far a [`Connector`] has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The handshake is done. Further steps are an error.
    Done(Connection),
    /// Step again when the descriptor is readable or hung up, or at the deadline.
    WaitReadable,
    /// Step again at this time. Either the backlog is full, and nothing announces when it no longer
    /// is, or our hello came too late.
    RetryAt(Instant),
}

/// A handshake in progress. It never blocks, except in [`Connector::block`].
#[derive(Debug)]
pub(crate) struct Connector {
    name: Name,
    directory: Directory,
    allow: Option<Allow>,
    deadline: Instant,
    pause: Duration,
    /// How often the socket's mode has kept us out.
    denials: u32,
    /// The engine that we are connected to and have sent our hello to.
    engine: Option<(UntrustedSocket, PeerCredentials)>,
    /// The hello came late.
    is_late: bool,
    /// The hello came too late, and the next step connects again.
    has_hung_up: bool,
}

impl Connector {
    /// Prepares a handshake with the engine called `name`, which ends by `deadline`.
    ///
    /// # Errors
    /// `NotFound` if there is no directory, `PermissionDenied` if others may write to it or if its
    /// owner is not trusted; `Io`.
    pub(crate) fn new(
        name: &Name,
        allow: Option<Allow>,
        deadline: Instant,
    ) -> Result<Self, ShmError> {
        let directory = Directory::for_application(name)?;
        // Another user's directory is accepted if `allow` accepts an engine that runs as its owner.
        if !directory.is_trusted() && allow.is_none() {
            return Err(directory.denied(DenialCause::DirectoryOwner { uid: directory.owner() }));
        }
        let name = name.clone();
        Ok(Self {
            name,
            directory,
            allow,
            deadline,
            pause: FIRST_PAUSE,
            denials: 0,
            engine: None,
            is_late: false,
            has_hung_up: false,
        })
    }

    /// Returns the time by which the handshake has ended, with or without success.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns the descriptor that [`Progress::WaitReadable`] waits for, and that must be unwatched
    /// when that wait is over. `None` as long as there is no connection.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.engine.as_ref().map(|(socket, _)| socket.as_fd())
    }

    /// Whether the last step said to wait for the descriptor.
    pub(crate) fn is_waiting(&self) -> bool {
        self.engine.is_some() && !self.has_hung_up
    }

    /// Proceeds as far as possible without waiting.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Busy` and `VersionMismatch` as the engine or the kernel
    /// reports, `TimedOut` at the deadline, `Io` and `Unsupported`. All are final.
    pub(crate) fn step(&mut self) -> Result<Progress, ShmError> {
        if self.has_hung_up {
            (self.engine, self.has_hung_up) = (None, false);
        }
        if self.engine.is_none() {
            self.engine = self.connect()?;
        }
        let now = Instant::now();
        let Some((socket, _)) = &self.engine else {
            self.check_deadline(now)?;
            return Ok(Progress::RetryAt(self.next_try(now)));
        };
        match receive(socket.as_fd())? {
            Received::Nothing => {
                // Checked after the receive: an answer that arrived in time counts, even if we read
                // it late.
                self.check_deadline(now)?;
                Ok(Progress::WaitReadable)
            }
            Received::HungUp if self.is_late => {
                self.has_hung_up = true;
                self.check_deadline(now)?;
                Ok(Progress::RetryAt(now))
            }
            Received::HungUp => Err(ShmError::HungUp),
            Received::Message(message) => self.join(message).map(Progress::Done),
        }
    }

    /// Checks the answer and joins the region. On an error `engine` stays set, because the caller
    /// may still watch its descriptor.
    fn join(&mut self, mut answer: Message) -> Result<Connection, ShmError> {
        let process = answer.process.take();
        let region = welcome(answer, Some(self.name.path()))?;
        // A correct engine sends nothing after its answer until we ask for it.
        let (quiet, peer) =
            self.engine.take_if(|(socket, _)| socket.is_quiet()).ok_or_else(junk)?;
        let lifeline = Lifeline::new(quiet.into_inner(), peer, process).at(self.name.path());
        Ok(Connection { region, lifeline })
    }

    /// Blocks until the handshake ends.
    ///
    /// # Errors
    /// As [`Connector::step`].
    pub(crate) fn block(mut self) -> Result<Connection, ShmError> {
        loop {
            match self.step()? {
                Progress::Done(connection) => return Ok(connection),
                Progress::RetryAt(at) => {
                    pause(at.saturating_duration_since(Instant::now()));
                }
                Progress::WaitReadable => self.wait_readable()?,
            }
        }
    }

    fn wait_readable(&self) -> Result<(), ShmError> {
        let Some(socket) = self.as_fd() else { return Ok(()) };
        let left = self.deadline.saturating_duration_since(Instant::now());
        // A deadline that the kernel's clock cannot express is as good as none.
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(ShmError::io("waiting for the engine")(errno)),
        }
    }

    /// Connects, checks the engine and sends the hello. Returns `None` if the engine's backlog is
    /// full, if it no longer waits for us, or if its socket may not have its mode yet.
    fn connect(&mut self) -> Result<Option<(UntrustedSocket, PeerCredentials)>, ShmError> {
        let begun = Instant::now();
        let found = socket::find(self.directory.as_fd(), self.name.file());
        let found = found.map_err(|errno| self.refused(errno))?;
        let socket = match socket::connect_to(found.as_fd()) {
            Ok(Some(socket)) => UntrustedSocket::new(socket),
            Ok(None) => return Ok(None),
            Err(Errno::ACCESS) if self.denials < DENIALS && begun < self.deadline => {
                self.denials += 1;
                return Ok(None);
            }
            Err(errno) => return Err(self.refused(errno)),
        };
        let peer = PeerCredentials::of(socket.as_fd())
            .map_err(ShmError::io("asking who the engine is"))?;
        self.check_trust(&peer)?;
        // Asked for before the hello, because the answer comes after it.
        sockopt::ask_for_process(socket.as_fd(), true);
        let said = socket::send(socket.as_fd(), &message::hello(), None);
        self.is_late = begun.elapsed() >= LATE;
        match said {
            Ok(()) => Ok(Some((socket, peer))),
            Err(Errno::PIPE | Errno::CONNRESET) if self.is_late => Ok(None),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(ShmError::HungUp),
            Err(errno) => Err(ShmError::io(HANDSHAKE)(errno)),
        }
    }

    /// Checks whether `peer` may be trusted to be an engine.
    fn check_trust(&self, peer: &PeerCredentials) -> Result<(), ShmError> {
        let owner = self.directory.owner();
        // A predicate judges engines, so it covers a directory only if the engine's user owns it.
        if !self.directory.is_trusted() && owner != peer.uid {
            return Err(self.directory.denied(DenialCause::DirectoryOwner { uid: owner }));
        }
        if !credentials::accepts(self.allow.as_ref(), peer) {
            let cause = DenialCause::EngineUser { uid: peer.uid };
            return Err(ShmError::PermissionDenied { cause, path: self.name.path().into() });
        }
        Ok(())
    }

    /// Returns the error for a connection that the kernel did not make.
    fn refused(&self, errno: Errno) -> ShmError {
        const STEP: &str = "connecting";
        match ConnectFailure::of(errno, STEP, self.name.path()) {
            ConnectFailure::Nobody => self.name.not_found(),
            ConnectFailure::Foreign => junk(),
            ConnectFailure::NoSocket => socket::error(STEP, errno, self.name.path()),
            ConnectFailure::Unknown(error) => error,
        }
    }

    fn check_deadline(&self, now: Instant) -> Result<(), ShmError> {
        if now >= self.deadline { Err(ShmError::TimedOut { sent: 0 }) } else { Ok(()) }
    }

    fn next_try(&mut self, now: Instant) -> Instant {
        let at = (now + self.pause).min(self.deadline);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        at
    }
}

/// Receives the engine's answer if it is there.
fn receive(socket: BorrowedFd<'_>) -> Result<Received, ShmError> {
    let received = match socket::receive_with_descriptor(socket) {
        // Reported once if the engine closed without having read everything: it may have answered
        // before.
        Err(Errno::CONNRESET) => socket::receive_with_descriptor(socket),
        received => received,
    };
    received.map_err(ShmError::io(HANDSHAKE))
}

/// Checks an answer, and joins the region if the engine accepted us. `path` is the socket's, if it
/// has one.
pub(super) fn welcome(answer: Message, path: Option<&Path>) -> Result<Region, ShmError> {
    // PEER: the engine is trusted to be who it is, not to be right.
    match message::parse_answer(answer.bytes()) {
        Err(_) => Err(junk()),
        Ok(Versioned::Other(theirs)) => Err(ShmError::VersionMismatch { ours: VERSION, theirs }),
        Ok(Versioned::Ours(Status::Busy)) => Err(ShmError::Busy),
        Ok(Versioned::Ours(Status::PermissionDenied)) => {
            // An engine never refuses an end of a pair, which has no path.
            let path = path.ok_or_else(junk)?.into();
            Err(ShmError::PermissionDenied { cause: DenialCause::Engine, path })
        }
        Ok(Versioned::Ours(Status::VersionMismatch)) => Err(junk()),
        Ok(Versioned::Ours(Status::Ok)) => match answer.descriptor {
            Some(descriptor) => join(descriptor),
            // The kernel had a descriptor for us, but this process has no free number for it.
            None if answer.truncated => {
                Err(ShmError::io("receiving the region's descriptor")(Errno::MFILE))
            }
            None => Err(junk()),
        },
    }
}

fn join(descriptor: Untrusted) -> Result<Region, ShmError> {
    // The file is checked first, while `Untrusted` still holds it: if it is not a region,
    // `Untrusted` closes it so that this thread does not block.
    Region::check_file(descriptor.as_fd())?;
    Region::join(descriptor.into_inner())
}

/// The error for a listener that does not speak the protocol at all.
fn junk() -> ShmError {
    ShmError::VersionMismatch { ours: VERSION, theirs: 0 }
}
