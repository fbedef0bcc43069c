//! The errors and the reasons that callers see, and the ways in which a peer can break the protocol.

use std::fmt;
use std::io;
use std::path::Path;

use bytes::Bytes;

/// What can go wrong while a channel is made, or while packets are sent on it.
///
/// At most 40 bytes, and cheap to make: the channel's own errors hold no allocation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShmError {
    /// The name of an engine has a form that is not allowed.
    #[error(
        "invalid name: allowed are 1 to 100 ASCII letters, digits, dots, underscores and hyphens, \
         not beginning with a dot, or an absolute path without a NUL"
    )]
    InvalidName,

    /// A builder was given a number that it cannot work with.
    #[error("invalid {what}: given {given}, allowed {allowed}")]
    InvalidConfig {
        /// Which setting, and the rule it has to follow.
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

    /// Another engine already serves this name.
    #[error("name in use: another engine serves {}", path.display())]
    NameInUse {
        /// The socket that is taken.
        path: Box<Path>,
    },

    /// The file system or the other side does not let this process in.
    ///
    /// Also the answer for a socket directory that belongs to somebody else or that others may
    /// write to, because whoever can write there can pose as the engine.
    #[error("permission denied: by the peer, or a directory that others own or may write to")]
    PermissionDenied,

    /// There is no room now, or no packet. From a `try_` call, whose error was converted:
    /// [`TrySendError::Full`], [`TryReserveError::Full`] or [`TryRecvError::Empty`].
    #[error("would block: no room, or no packet, at present")]
    WouldBlock,

    /// The face already serves a handle. One face serves one handle in its life.
    #[error("busy: the face already serves another handle")]
    Busy,

    /// The other side does not speak this version of the protocol, or none at all.
    #[error("version mismatch: ours is {ours}, theirs is {theirs}")]
    VersionMismatch {
        /// The protocol version of this library.
        ours: u32,
        /// What the other side claimed; 0 where it made no sense.
        theirs: u32,
    },

    /// A deadline passed.
    #[error("timed out after {sent} packets were sent")]
    TimedOut {
        /// How many packets of the call went before that.
        sent: usize,
    },

    /// The packet is larger than the channel carries. Nothing of the call was sent.
    #[error("packet too large: {len} bytes, at most {max}")]
    PacketTooLarge {
        /// Length of the packet in bytes.
        len: usize,
        /// The channel's `max_packet` in bytes.
        max: usize,
    },

    /// The channel, or the direction that was used, has ended.
    #[error("closed ({reason}) after {sent} packets were sent")]
    Closed {
        /// Why.
        reason: CloseReason,
        /// How many packets of the call went before that.
        sent: usize,
    },

    /// The kernel lacks something that the library cannot do without.
    #[error("unsupported: {reason}")]
    Unsupported {
        /// What is missing.
        reason: &'static str,
    },

    /// A system call failed.
    #[error("{step} failed")]
    Io {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ShmError {
    /// Wraps the kernel's answer to `step`; used as `.map_err(ShmError::io("bind"))`.
    pub(crate) fn io<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { step, source: source.into() }
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
            ShmError::PermissionDenied => Kind::PermissionDenied,
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

/// Why a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed or dropped its end.
    Local,
    /// The other side closed or dropped its end, or the half that mattered.
    Peer,
    /// Either side called `cancel`, itself or through a [`Canceller`](crate::Canceller).
    Cancelled,
    /// The other process exited, or was killed, without closing its end.
    PeerDied,
    /// The driver of this end stopped, so that nothing could be waited for any more.
    DriverGone,
    /// This process is a forked child of the one that the channel belongs to.
    Forked,
    /// The other side broke the protocol.
    Violation(Violation),
}

impl CloseReason {
    /// Whether packets may have been lost: everything but an orderly close by either side.
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
            Self::Forked => f.write_str("it belongs to the process that forked this one"),
            Self::Violation(violation) => write!(f, "protocol violation by the peer: {violation}"),
        }
    }
}

/// Which rule of the protocol the peer broke. The numbers are its claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A record's header has a kind that does not exist.
    #[error("unknown record header {0:#018x}")]
    UnknownRecord(u64),
    /// A record claims to be longer than the channel's `max_packet`.
    #[error("record of {0} bytes, longer than a packet may be")]
    RecordTooLong(u32),
    /// A record runs over the end of the ring.
    #[error("record of {0} bytes runs over the end of the ring")]
    RecordOverEnd(u32),
    /// A marker leads to where no record can begin: over the ring's end, or to an offset that is not
    /// a multiple of 8.
    #[error("jump to offset {0}, where no record can be")]
    JumpAstray(u32),
    /// A marker leads to where no packet is: to nothing, or to another marker.
    #[error("jump to offset {0}, where no packet is")]
    JumpToNoPacket(u32),
    /// After the peer closed its sending direction, or died, its ring held more bytes of records and
    /// markers than it is long: they lead round in a circle.
    #[error("more than {0} bytes of records after the end, in a ring of that length")]
    EndlessRing(u64),
    /// The consumer's head is not a multiple of 8.
    #[error("head {0} is not a multiple of 8")]
    UnalignedHead(u64),
    /// The consumer's head went backwards.
    #[error("head went back to {0}")]
    HeadMovedBack(u64),
    /// The consumer's head is beyond what was published.
    #[error("head {0} is beyond what was published")]
    HeadOvertook(u64),
    /// The word that announces ends has bits that mean nothing.
    #[error("unknown bits in the ends word {0:#010x}")]
    UnknownEnds(u32),
    /// More wakes arrived than were asked for.
    #[error("woke this side more often than it asked for")]
    WakeFlood,
}

/// Why a packet was not sent by `try_send`; it comes back inside.
#[derive(thiserror::Error)]
pub enum TrySendError {
    /// There is no room, or other tasks queue for it.
    #[error("full")]
    Full(Bytes),
    /// The channel, or its sending direction, has ended.
    #[error("closed: {1}")]
    Closed(Bytes, CloseReason),
    /// The packet is longer than the number of bytes given here.
    #[error("packet too large: {len} bytes, at most {1}", len = .0.len())]
    TooLarge(Bytes, usize),
}

impl TrySendError {
    /// The packet that was not sent.
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
    /// Tells the packet's length and nothing of its content.
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

/// Why `try_reserve` gave no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryReserveError {
    /// There is no room now, or a packet that the half holds back as a `Sink` waits for it.
    #[error("full")]
    Full,
    /// The channel, or its sending direction, has ended.
    #[error("closed: {0}")]
    Closed(CloseReason),
    /// So many bytes were asked for, and a packet has at most so many.
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
    /// None came in time.
    #[error("timed out")]
    Timeout,
    /// No packet will ever come. The reason is that of the receiving direction.
    #[error("closed: {0}")]
    Closed(CloseReason),
}

impl From<TrySendError> for ShmError {
    /// Drops the packet that was not sent. Take it out by [`TrySendError::into_inner`] instead if it
    /// is to be sent again.
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
    /// Drops the packet that was not sent, as the conversion into [`ShmError`] does.
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
}
