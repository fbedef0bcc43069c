//! The errors of the calls that do not wait, or not for ever.

use std::fmt;
use std::io;

use bytes::Bytes;

use super::{CloseReason, ShmError};

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

impl TryReserveError {
    /// Returns the error of a `try_send`, with the packet for which there was no room.
    pub(crate) fn with(self, packet: Bytes) -> TrySendError {
        match self {
            Self::Full => TrySendError::Full(packet),
            Self::Closed(reason) => TrySendError::Closed(packet, reason),
            Self::TooLarge(_, max) => TrySendError::TooLarge(packet, max),
        }
    }
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
