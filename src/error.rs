//! The errors and close reasons that callers see, and the ways in which a peer can break the
//! protocol.

use std::fmt;
use std::io;
use std::path::Path;

use bytes::Bytes;

/// What can go wrong while a channel is made, or while packets are sent on it.
///
/// Has at most 40 bytes and is cheap to make: the channel's own errors allocate nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShmError {
    /// The name of an engine has a form that is not allowed.
    #[error(
        "invalid name: must be 1 to 100 ASCII letters, digits, dots, underscores and hyphens, \
         not beginning with a dot, or an absolute path without a NUL whose last part has at most \
         255 bytes"
    )]
    InvalidName,

    /// A setting has a number that is not allowed.
    #[error("invalid {what}: given {given}, allowed {allowed}")]
    InvalidConfig {
        /// Which setting, and the rule that it has to follow.
        what: &'static str,
        /// The number that was given.
        given: u64,
        /// The nearest number that would have been accepted.
        allowed: u64,
    },

    /// No engine listens under this name.
    #[error("no engine at {}", path.display())]
    NotFound {
        /// The socket that was looked up.
        path: Box<Path>,
    },

    /// Another engine already serves this name, or a file that is not a socket has it.
    #[error("name in use: another engine serves {}, or it is not a socket", path.display())]
    NameInUse {
        /// The socket that is taken.
        path: Box<Path>,
    },

    /// The file system, this side's own rules or the other side deny access.
    #[error("permission denied at {}: {cause}", path.display())]
    PermissionDenied {
        /// Who denies it, and why.
        cause: DenialCause,
        /// What the cause is about: the socket, its directory, or the directory's lock file.
        path: Box<Path>,
    },

    /// There is no room now, or no packet. Comes from converting the error of a `try_` call:
    /// [`TrySendError::Full`], [`TryReserveError::Full`] or [`TryRecvError::Empty`].
    #[error("would block: no room or no packet now")]
    WouldBlock,

    /// The face already serves a handle. A face serves one handle in its lifetime.
    #[error("busy: the face already serves another handle")]
    Busy,

    /// The other side speaks another version of the protocol, or does not speak the protocol.
    #[error("version mismatch: ours is {ours}, theirs is {theirs}")]
    VersionMismatch {
        /// The protocol version of this library.
        ours: u32,
        /// The version that the other side claimed, or 0 where it made no sense.
        theirs: u32,
    },

    /// A deadline passed.
    #[error("timed out{}", After(*sent))]
    TimedOut {
        /// How many packets of the call were sent before that.
        sent: usize,
    },

    /// The packet is larger than the channel allows. The call sent nothing.
    #[error("packet too large: {len} bytes, at most {max}")]
    PacketTooLarge {
        /// Length of the packet in bytes.
        len: usize,
        /// The channel's `max_packet` in bytes.
        max: usize,
    },

    /// The channel, or the direction that was used, has ended.
    #[error("{}{}", Ended(*reason), After(*sent))]
    Closed {
        /// Why.
        reason: CloseReason,
        /// How many packets of the call were sent before that.
        sent: usize,
    },

    /// The kernel lacks something that the library needs.
    #[error("unsupported: {reason}")]
    Unsupported {
        /// What is missing.
        reason: &'static str,
    },

    /// A system call failed.
    #[error("{step} failed")]
    Io {
        /// What the library was doing.
        step: &'static str,
        /// The kernel's error. If the step was about a file, its text begins with the file's path;
        /// such an error keeps its kind, but its `raw_os_error` is `None`.
        source: io::Error,
    },
}

impl ShmError {
    /// Wraps the kernel's error for `step`; used as `.map_err(ShmError::io("bind"))`.
    pub(crate) fn io<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { step, source: source.into() }
    }

    /// Like [`ShmError::io`], for a step that was about the file at `path`.
    pub(crate) fn io_at<E: Into<io::Error>>(step: &'static str, path: &Path, source: E) -> Self {
        let error = source.into();
        let (kind, path) = (error.kind(), path.into());
        Self::Io { step, source: io::Error::new(kind, AtPath { path, error }) }
    }
}

/// The kernel's error about a file. This is the payload of an `io::Error`, because a path in
/// `ShmError` itself would make every `ShmError` larger.
///
/// `error` is part of the text and therefore not a source: a chain of sources would print it twice.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
struct AtPath {
    path: Box<Path>,
    error: io::Error,
}

/// Displays how many packets of a call were sent. Displays nothing for 0, because most calls that
/// sent none send at most one packet.
struct After(usize);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" after 1 packet was sent"),
            sent => write!(f, " after {sent} packets were sent"),
        }
    }
}

/// Displays that a channel has ended, and why. Some reasons already say both.
struct Ended(CloseReason);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            CloseReason::Local | CloseReason::Peer => self.0.fmt(f),
            reason => write!(f, "closed ({reason})"),
        }
    }
}

impl From<ShmError> for io::Error {
    fn from(error: ShmError) -> Self {
        use io::ErrorKind as Kind;
        let kind = match &error {
            ShmError::InvalidName
            | ShmError::InvalidConfig { .. }
            | ShmError::PacketTooLarge { .. } => Kind::InvalidInput,
            ShmError::NotFound { .. } => Kind::NotFound,
            ShmError::NameInUse { .. } => Kind::AddrInUse,
            ShmError::PermissionDenied { .. } => Kind::PermissionDenied,
            ShmError::WouldBlock => Kind::WouldBlock,
            ShmError::Busy => Kind::ResourceBusy,
            ShmError::VersionMismatch { .. } => Kind::InvalidData,
            ShmError::TimedOut { .. } => Kind::TimedOut,
            ShmError::Closed { reason, .. } => reason.kind(),
            ShmError::Unsupported { .. } => Kind::Unsupported,
            ShmError::Io { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// Who or what denies access: the cause of [`ShmError::PermissionDenied`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialCause {
    /// The kernel does not let this process reach or change the file, because of its mode or a
    /// security module. For an application, this is usually the mode of the engine's socket.
    FileSystem,
    /// The socket's directory belongs to a user who is not trusted: its owner can pose as the
    /// engine. An engine must own the directory itself. An application accepts a directory that its
    /// own user or root owns, and one that belongs to the engine's user if its `allow` accepts that
    /// user.
    DirectoryOwner {
        /// The user who owns it.
        uid: u32,
    },
    /// The group or others may write to the socket's directory, so they could pose as the engine.
    DirectoryWritable {
        /// The directory's permission bits.
        mode: u32,
    },
    /// The engine runs as a user whom the application does not trust: neither its own user nor
    /// root, or one that its `allow` refuses.
    EngineUser {
        /// The engine's user.
        uid: u32,
    },
    /// The engine refuses this user, by its default rule or by its `allow`.
    Engine,
}

impl fmt::Display for DenialCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileSystem => f.write_str("the file system does not permit it"),
            Self::DirectoryOwner { uid } => {
                write!(f, "the directory belongs to uid {uid}, which is not trusted")
            }
            Self::DirectoryWritable { mode } => {
                write!(f, "the directory has mode {mode:04o}, so that others may write to it")
            }
            Self::EngineUser { uid } => {
                write!(f, "the engine runs as uid {uid}, which is not trusted")
            }
            Self::Engine => f.write_str("the engine does not let this user in"),
        }
    }
}

/// Why a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed or dropped its end.
    Local,
    /// The other side closed or dropped its end, or the half that mattered.
    Peer,
    /// Either side called `cancel`, directly or through a [`Canceller`](crate::Canceller).
    Cancelled,
    /// The other process exited or was killed before it closed its end.
    PeerDied,
    /// The driver of this end stopped, so this end cannot wait for anything any more.
    DriverGone,
    /// This process is a forked child of the process that the channel belongs to.
    Forked,
    /// The other side broke the protocol.
    Violation(Violation),
}

impl CloseReason {
    /// Whether packets may have been lost: true for everything except an orderly close by either
    /// side.
    ///
    /// ```
    /// use wakering::CloseReason;
    /// assert!(CloseReason::PeerDied.is_lossy());
    /// assert!(!CloseReason::Peer.is_lossy());
    /// ```
    pub fn is_lossy(self) -> bool {
        !matches!(self, Self::Local | Self::Peer)
    }

    fn kind(self) -> io::ErrorKind {
        match self {
            Self::Local => io::ErrorKind::NotConnected,
            Self::Peer => io::ErrorKind::BrokenPipe,
            Self::Cancelled => io::ErrorKind::ConnectionAborted,
            Self::PeerDied => io::ErrorKind::ConnectionReset,
            Self::DriverGone | Self::Forked => io::ErrorKind::Other,
            Self::Violation(_) => io::ErrorKind::InvalidData,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("closed by this side"),
            Self::Peer => f.write_str("closed by the peer"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::PeerDied => f.write_str("the peer died"),
            Self::DriverGone => f.write_str("the driver is gone"),
            Self::Forked => f.write_str("this process is a forked child"),
            Self::Violation(violation) => write!(f, "protocol violation by the peer: {violation}"),
        }
    }
}

/// Which rule of the protocol the peer broke. The numbers are the peer's claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A record's header has an unknown kind.
    #[error("unknown record header {0:#018x}")]
    UnknownRecord(u64),
    /// A record claims to be longer than the channel's `max_packet`.
    #[error("record of {0} bytes is longer than max_packet")]
    RecordTooLong(u32),
    /// A record extends past the end of the ring.
    #[error("record of {0} bytes extends past the end of the ring")]
    RecordOverEnd(u32),
    /// A marker points to where no record can begin: past the ring's end, or to an offset that is
    /// not a multiple of 8.
    #[error("jump to offset {0}, where no record can begin")]
    JumpAstray(u32),
    /// A marker points to where there is no packet: to nothing, or to another marker.
    #[error("jump to offset {0}, where there is no packet")]
    JumpToNoPacket(u32),
    /// After the peer closed its sending direction, or died, its ring held more bytes of records
    /// and markers than its length, so they form a loop.
    #[error("more than {0} bytes of records after the end, in a ring of that size")]
    EndlessRing(u64),
    /// The consumer's head is not a multiple of 8.
    #[error("head {0} is not a multiple of 8")]
    UnalignedHead(u64),
    /// The consumer's head moved backwards.
    #[error("head moved back to {0}")]
    HeadMovedBack(u64),
    /// The consumer's head is past what was published.
    #[error("head {0} is past what was published")]
    HeadOvertook(u64),
    /// The ends word, which announces ends, has unknown bits.
    #[error("unknown bits in the ends word {0:#010x}")]
    UnknownEnds(u32),
    /// More wakes arrived than this side asked for.
    #[error("woke this side more often than it asked for")]
    WakeFlood,
}

/// Why `try_send` did not send a packet; contains the packet.
#[derive(thiserror::Error)]
pub enum TrySendError {
    /// There is no room, or other tasks are queued for it.
    #[error("full")]
    Full(Bytes),
    /// The channel, or its sending direction, has ended.
    #[error("closed: {1}")]
    Closed(Bytes, CloseReason),
    /// The packet is longer than the maximum, which is the second field.
    #[error("packet too large: {len} bytes, at most {1}", len = .0.len())]
    TooLarge(Bytes, usize),
}

impl TrySendError {
    /// Returns the packet that was not sent.
    ///
    /// ```
    /// # use wakering::TrySendError;
    /// # use bytes::Bytes;
    /// let back = TrySendError::Full(Bytes::from_static(b"again")).into_inner();
    /// assert_eq!(back, "again");
    /// ```
    pub fn into_inner(self) -> Bytes {
        match self {
            Self::Full(packet) | Self::Closed(packet, _) | Self::TooLarge(packet, _) => packet,
        }
    }
}

impl fmt::Debug for TrySendError {
    /// Prints the packet's length and nothing of its content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(packet) => f.debug_struct("Full").field("len", &packet.len()).finish(),
            Self::Closed(packet, reason) => f
                .debug_struct("Closed")
                .field("len", &packet.len())
                .field("reason", reason)
                .finish(),
            Self::TooLarge(packet, max) => {
                f.debug_struct("TooLarge").field("len", &packet.len()).field("max", max).finish()
            }
        }
    }
}

/// Why `try_reserve` reserved no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryReserveError {
    /// There is no room now, or a packet that the half holds back as a `Sink` waits for it.
    #[error("full")]
    Full,
    /// The channel, or its sending direction, has ended.
    #[error("closed: {0}")]
    Closed(CloseReason),
    /// The first number of bytes was asked for; a packet has at most the second.
    #[error("packet too large: {0} bytes, at most {1}")]
    TooLarge(usize, usize),
}

/// Why `try_recv` returned no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// No packet is there now.
    #[error("empty")]
    Empty,
    /// No packet will ever come. The reason is that of the receiving direction.
    #[error("closed: {0}")]
    Closed(CloseReason),
}

/// Why `recv_timeout` returned no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecvTimeoutError {
    /// No packet came in time.
    #[error("timed out")]
    Timeout,
    /// No packet will ever come. The reason is that of the receiving direction.
    #[error("closed: {0}")]
    Closed(CloseReason),
}

impl From<TrySendError> for ShmError {
    /// Drops the packet that was not sent. To send it again, take it out with
    /// [`TrySendError::into_inner`] instead.
    fn from(error: TrySendError) -> Self {
        match error {
            TrySendError::Full(_) => Self::WouldBlock,
            TrySendError::Closed(_, reason) => Self::Closed { reason, sent: 0 },
            TrySendError::TooLarge(packet, max) => Self::PacketTooLarge { len: packet.len(), max },
        }
    }
}

impl From<TryReserveError> for ShmError {
    fn from(error: TryReserveError) -> Self {
        match error {
            TryReserveError::Full => Self::WouldBlock,
            TryReserveError::Closed(reason) => Self::Closed { reason, sent: 0 },
            TryReserveError::TooLarge(len, max) => Self::PacketTooLarge { len, max },
        }
    }
}

impl From<TryRecvError> for ShmError {
    fn from(error: TryRecvError) -> Self {
        match error {
            TryRecvError::Empty => Self::WouldBlock,
            TryRecvError::Closed(reason) => Self::Closed { reason, sent: 0 },
        }
    }
}

impl From<RecvTimeoutError> for ShmError {
    fn from(error: RecvTimeoutError) -> Self {
        match error {
            RecvTimeoutError::Timeout => Self::TimedOut { sent: 0 },
            RecvTimeoutError::Closed(reason) => Self::Closed { reason, sent: 0 },
        }
    }
}

impl From<TrySendError> for io::Error {
    /// Drops the packet that was not sent, as the conversion to [`ShmError`] does.
    fn from(error: TrySendError) -> Self {
        ShmError::from(error).into()
    }
}

impl From<TryReserveError> for io::Error {
    fn from(error: TryReserveError) -> Self {
        ShmError::from(error).into()
    }
}

impl From<TryRecvError> for io::Error {
    fn from(error: TryRecvError) -> Self {
        ShmError::from(error).into()
    }
}

impl From<RecvTimeoutError> for io::Error {
    fn from(error: RecvTimeoutError) -> Self {
        ShmError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_small() {
        assert!(size_of::<ShmError>() <= 40, "{} bytes", size_of::<ShmError>());
        assert!(size_of::<TrySendError>() <= 64);
    }

    #[test]
    fn try_errors_become_shm_errors_and_io_errors() {
        fn kinds<E: Into<ShmError> + Into<io::Error>>(
            error: impl Fn() -> E,
        ) -> (ShmError, io::ErrorKind) {
            let (shm, io): (ShmError, io::Error) = (error().into(), error().into());
            (shm, io.kind())
        }
        use io::ErrorKind as Kind;
        let packet = || Bytes::from_static(b"packet");
        let died = CloseReason::PeerDied;
        for (shm, io) in [
            kinds(|| TrySendError::Full(packet())),
            kinds(|| TryReserveError::Full),
            kinds(|| TryRecvError::Empty),
        ] {
            assert!(matches!(shm, ShmError::WouldBlock), "{shm:?}");
            assert_eq!(io, Kind::WouldBlock);
        }
        for (shm, io) in [
            kinds(|| TrySendError::Closed(packet(), died)),
            kinds(|| TryReserveError::Closed(died)),
            kinds(|| TryRecvError::Closed(died)),
            kinds(|| RecvTimeoutError::Closed(died)),
        ] {
            let ShmError::Closed { reason, sent: 0 } = shm else { panic!("{shm:?}") };
            assert_eq!((reason, io), (died, Kind::ConnectionReset));
        }
        for (shm, io) in [
            kinds(|| TrySendError::TooLarge(packet(), 3)),
            kinds(|| TryReserveError::TooLarge(6, 3)),
        ] {
            assert!(matches!(shm, ShmError::PacketTooLarge { len: 6, max: 3 }), "{shm:?}");
            assert_eq!(io, Kind::InvalidInput);
        }
        let (shm, io) = kinds(|| RecvTimeoutError::Timeout);
        assert!(matches!(shm, ShmError::TimedOut { sent: 0 }), "{shm:?}");
        assert_eq!(io, Kind::TimedOut);
    }

    #[test]
    fn no_error_prints_a_payload() {
        let secret = || Bytes::from_static(b"secret");
        for error in [
            TrySendError::Full(secret()),
            TrySendError::Closed(secret(), CloseReason::Peer),
            TrySendError::TooLarge(secret(), 3),
        ] {
            let text = format!("{error} {error:?}");
            assert!(!text.contains("secret"), "{text}");
            assert_eq!(error.into_inner(), "secret");
        }
    }

    #[test]
    fn io_errors_keep_the_kind_and_the_source() {
        let error = ShmError::io("open")(io::Error::from(io::ErrorKind::NotADirectory));
        assert_eq!(error.to_string(), "open failed");
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        let closed = ShmError::Closed { reason: CloseReason::PeerDied, sent: 3 };
        assert_eq!(closed.to_string(), "closed (the peer died) after 3 packets were sent");
        assert_eq!(io::Error::from(closed).kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn an_error_tells_what_applies_and_no_more() {
        let timed_out = |sent| ShmError::TimedOut { sent }.to_string();
        // From a connect, or from a single send.
        assert_eq!(timed_out(0), "timed out");
        assert_eq!(timed_out(1), "timed out after 1 packet was sent");
        assert_eq!(timed_out(7), "timed out after 7 packets were sent");
        let closed = |reason, sent| ShmError::Closed { reason, sent }.to_string();
        assert_eq!(closed(CloseReason::Peer, 0), "closed by the peer");
        assert_eq!(closed(CloseReason::Local, 0), "closed by this side");
        assert_eq!(closed(CloseReason::Peer, 2), "closed by the peer after 2 packets were sent");
        assert_eq!(closed(CloseReason::Cancelled, 0), "closed (cancelled)");
    }

    #[test]
    fn an_io_error_of_a_file_names_it_once() {
        let path = Path::new("/run/wakering");
        let kernels = io::Error::from(rustix::io::Errno::ROFS);
        let text = format!("/run/wakering: {kernels}");
        let error = ShmError::io_at("making the socket directory", path, kernels);
        assert_eq!(error.to_string(), "making the socket directory failed");
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), text);
        assert!(source.source().is_none(), "a chain of sources would tell it twice");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ReadOnlyFilesystem);
    }

    #[test]
    fn a_denial_tells_its_cause_and_where() {
        for (cause, text) in [
            (DenialCause::FileSystem, "the file system does not permit it"),
            (
                DenialCause::DirectoryOwner { uid: 7 },
                "the directory belongs to uid 7, which is not trusted",
            ),
            (
                DenialCause::DirectoryWritable { mode: 0o777 },
                "the directory has mode 0777, so that others may write to it",
            ),
            (DenialCause::EngineUser { uid: 7 }, "the engine runs as uid 7, which is not trusted"),
            (DenialCause::Engine, "the engine does not let this user in"),
        ] {
            let error = ShmError::PermissionDenied { cause, path: Path::new("/x/a.sock").into() };
            assert_eq!(error.to_string(), format!("permission denied at /x/a.sock: {text}"));
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
        }
    }
}
