//! Why a channel ended, and the ways in which a peer can break the protocol.

use std::fmt;
use std::io;

/// Why a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed or dropped its end.
    Local,
    /// The other side closed or dropped its end, or, for one direction, the half of that direction.
    Peer,
    /// Either side called `cancel`, directly or through a [`Canceller`](crate::Canceller), or left
    /// in the middle: by a panic, by a drop after
    /// [`cancel_on_drop`](crate::Sender::cancel_on_drop), or by dropping a listener that had not
    /// accepted this application.
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
    /// Whether this is something else than an orderly close by either side, so that packets may
    /// have been lost.
    ///
    /// Packets may be lost after an orderly close, too: those that were on their way to the side
    /// that closed. A receiver learns from `finished` whether it has everything.
    ///
    /// ```
    /// use wakering::CloseReason;
    /// assert!(CloseReason::PeerDied.is_lossy());
    /// assert!(!CloseReason::Peer.is_lossy());
    /// ```
    pub fn is_lossy(self) -> bool {
        !matches!(self, Self::Local | Self::Peer)
    }

    pub(super) fn kind(self) -> io::ErrorKind {
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
