//! The application's side of the handshake.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::directory::Directory;
use super::message::{self, Spoken, Status};
use super::name::Name;
use super::socket::{self, Message, Received, Silence};
use super::untrusted::{Line, Untrusted};
use crate::error::{DenialCause, ShmError};
use crate::rendezvous::credentials::{self, Allow, PeerCredentials};
use crate::rendezvous::lifeline::Lifeline;
use crate::shm::layout::VERSION;
use crate::shm::region::Region;
use crate::sys::sockopt;

/// How long to wait at first when the engine's backlog is full; twice as long each time after.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// And at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(32);

/// How often an application that the socket's mode keeps out asks again. An engine that is about to
/// listen has bound the socket and not yet set its mode.
const DENIALS: u32 = 3;

/// An engine waits a second for our hello. If this thread was held up for so long of it, and then
/// finds that the engine has hung up, it was too late, and comes again.
const LATE: Duration = Duration::from_millis(500);

/// What every failure of the conversation itself is called.
const HANDSHAKE: &str = "handshake";

/// What a handshake leads to.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The engine's region, joined and judged.
    pub(crate) region: Region,
    /// The socket, from now on the lifeline, with the engine at its other end.
    pub(crate) lifeline: Lifeline,
}

/// How far a [`Connector`] has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// All is there. Further steps are an error.
    Done(Connection),
    /// Step again when the descriptor is readable or hung up, or at the deadline.
    WaitReadable,
    /// Step again at this time: the backlog is full, which nobody announces the end of, or our
    /// hello came too late.
    RetryAt(Instant),
}

/// A handshake under way. It never blocks; [`Connector::block`] does that on its behalf.
#[derive(Debug)]
pub(crate) struct Connector {
    name: Name,
    directory: Directory,
    allow: Option<Allow>,
    deadline: Instant,
    pause: Duration,
    /// How often the socket's mode has kept us out.
    denials: u32,
    /// Connected, and hello was said.
    engine: Option<(Line, PeerCredentials)>,
    /// The hello came late.
    is_late: bool,
    /// It was too late, and the next step begins anew.
    has_hung_up: bool,
}

impl Connector {
    /// Prepares a handshake with the engine called `name`, to be over by `deadline`.
    ///
    /// # Errors
    /// `NotFound` without a directory, `PermissionDenied` for one that others may write to, or that
    /// belongs to somebody whom nothing here trusts; `Io`.
    pub(crate) fn new(
        name: &Name,
        allow: Option<Allow>,
        deadline: Instant,
    ) -> Result<Self, ShmError> {
        let directory = Directory::for_application(name)?;
        // Somebody else's is accepted if `allow` accepts an engine that runs as its owner.
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

    /// By when it will be over, one way or the other.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What [`Progress::WaitReadable`] waits for, and what is to be waited for no more when that is
    /// over; `None` before there is a connection.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.engine.as_ref().map(|(socket, _)| socket.as_fd())
    }

    /// Whether the last step said to wait for the descriptor.
    pub(crate) fn is_waiting(&self) -> bool {
        self.engine.is_some() && !self.has_hung_up
    }

    /// Goes on as far as possible without waiting.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Busy` and `VersionMismatch` as the engine or the kernel
    /// say so, `TimedOut` at the deadline, `Io` and `Unsupported`. All are final.
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
                // After the look: an answer in time counts, even if we come late to read it.
                self.check_deadline(now)?;
                Ok(Progress::WaitReadable)
            }
            Received::HungUp if self.is_late => {
                self.has_hung_up = true;
                self.check_deadline(now)?;
                Ok(Progress::RetryAt(now))
            }
            Received::HungUp => Err(hung_up()),
            Received::Message(message) => self.join(message).map(Progress::Done),
        }
    }

    /// Judges the answer. On an error the engine stays, for who watches it.
    fn join(&mut self, mut answer: Message) -> Result<Connection, ShmError> {
        let process = answer.process.take();
        let region = welcome(answer, Some(self.name.path()))?;
        // A lawful engine says nothing behind its answer before we ask for it.
        let (quiet, peer) =
            self.engine.take_if(|(socket, _)| socket.is_quiet()).ok_or_else(junk)?;
        Ok(Connection { region, lifeline: Lifeline::new(quiet.into_inner(), peer, process) })
    }

    /// Waits for the end of the handshake.
    ///
    /// # Errors
    /// As [`Connector::step`].
    pub(crate) fn block(mut self) -> Result<Connection, ShmError> {
        loop {
            match self.step()? {
                Progress::Done(connection) => return Ok(connection),
                Progress::RetryAt(at) => {
                    std::thread::sleep(at.saturating_duration_since(Instant::now()));
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

    /// Connects, looks at the engine and says hello. `None`: its backlog is full, it has no
    /// patience left, or its socket may not have its mode yet.
    fn connect(&mut self) -> Result<Option<(Line, PeerCredentials)>, ShmError> {
        let begun = Instant::now();
        let found = socket::find(self.directory.as_fd(), self.name.file());
        let found = found.map_err(|errno| self.refused(errno))?;
        let socket = match socket::connect_to(found.as_fd()) {
            Ok(Some(socket)) => Line::new(socket),
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
        // Before the hello: what comes after it is the answer.
        sockopt::ask_for_process(socket.as_fd(), true);
        let said = socket::send(socket.as_fd(), &message::hello(), None);
        self.is_late = begun.elapsed() >= LATE;
        match said {
            Ok(()) => Ok(Some((socket, peer))),
            Err(Errno::PIPE | Errno::CONNRESET) if self.is_late => Ok(None),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(hung_up()),
            Err(errno) => Err(ShmError::io(HANDSHAKE)(errno)),
        }
    }

    /// Whether what `peer` sends may be believed as far as the protocol goes.
    fn check_trust(&self, peer: &PeerCredentials) -> Result<(), ShmError> {
        let owner = self.directory.owner();
        // A predicate speaks of engines, so of a directory only as far as it is the engine's.
        if !self.directory.is_trusted() && owner != peer.uid {
            return Err(self.directory.denied(DenialCause::DirectoryOwner { uid: owner }));
        }
        if !credentials::accepts(self.allow.as_ref(), peer) {
            let cause = DenialCause::EngineUser { uid: peer.uid };
            return Err(ShmError::PermissionDenied { cause, path: self.name.path().into() });
        }
        Ok(())
    }

    /// What it means that the kernel did not connect us.
    fn refused(&self, errno: Errno) -> ShmError {
        const STEP: &str = "connecting";
        match Silence::of(errno, STEP, self.name.path()) {
            Silence::Nobody => self.name.not_found(),
            Silence::Foreign => junk(),
            Silence::NoSocket => socket::error(STEP, errno, self.name.path()),
            Silence::Unknown(error) => error,
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

/// Takes the engine's answer, if it is there.
fn receive(socket: BorrowedFd<'_>) -> Result<Received, ShmError> {
    let received = match socket::receive_with_descriptor(socket) {
        // Told once, if the engine closed without having read all: it may have spoken before.
        Err(Errno::CONNRESET) => socket::receive_with_descriptor(socket),
        received => received,
    };
    received.map_err(ShmError::io(HANDSHAKE))
}

/// Judges an answer, and joins the region if it is a welcome. `path` is the socket's, if it has
/// one.
pub(super) fn welcome(answer: Message, path: Option<&Path>) -> Result<Region, ShmError> {
    // PEER: the engine is trusted to be who it is, not to be right.
    match message::parse_answer(answer.bytes()) {
        Err(_) => Err(junk()),
        Ok(Spoken::Other(theirs)) => Err(ShmError::VersionMismatch { ours: VERSION, theirs }),
        Ok(Spoken::Ours(Status::Busy)) => Err(ShmError::Busy),
        Ok(Spoken::Ours(Status::PermissionDenied)) => {
            // Who was given an end of a pair is let in.
            let path = path.ok_or_else(junk)?.into();
            Err(ShmError::PermissionDenied { cause: DenialCause::Engine, path })
        }
        Ok(Spoken::Ours(Status::VersionMismatch)) => Err(junk()),
        Ok(Spoken::Ours(Status::Ok)) => match answer.descriptor {
            Some(descriptor) => join(descriptor),
            // The kernel had one for us, but we have no number left for it.
            None if answer.truncated => {
                Err(ShmError::io("receiving the region's descriptor")(Errno::MFILE))
            }
            None => Err(junk()),
        },
    }
}

fn join(descriptor: Untrusted) -> Result<Region, ShmError> {
    // First: what is no region after all is not closed by who finds that out.
    Region::check_file(descriptor.as_fd())?;
    Region::join(descriptor.into_inner())
}

/// The error for a listener that does not speak the protocol at all.
fn junk() -> ShmError {
    ShmError::VersionMismatch { ours: VERSION, theirs: 0 }
}

/// The error for an engine that went away in the middle.
pub(super) fn hung_up() -> ShmError {
    ShmError::Io { step: HANDSHAKE, source: io::ErrorKind::UnexpectedEof.into() }
}
