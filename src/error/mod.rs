//! The errors and close reasons that callers see, and the ways in which a peer can break the
//! protocol.

mod close_reason;
mod try_errors;

use std::fmt;
use std::io;
use std::path::Path;

pub use close_reason::{CloseReason, Violation};
pub use try_errors::{RecvTimeoutError, TryRecvError, TryReserveError, TrySendError};

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
    #[error(
        "invalid {what}: given {}, allowed for example {}",
        Number(what, *given),
        Number(what, *allowed)
    )]
    InvalidConfig {
        /// Which setting, and the rule that it has to follow.
        what: &'static str,
        /// The number that was given.
        given: u64,
        /// A number that is accepted: the limit that was passed, or the next power of two.
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

    /// The face already serves a handle, and serves one in its lifetime. Or a listener cannot serve
    /// another application now: too many wait to be accepted, or it lacks what a face needs.
    #[error("busy: the engine serves no more applications under this name at present")]
    Busy,

    /// The engine hung up during the handshake: it has ended, or closes its name. Another one may
    /// follow, so this is worth another try wherever [`NotFound`](Self::NotFound) is. (Something
    /// else than an engine may do that, too, each time.)
    #[error("the engine hung up during the handshake")]
    HungUp,

    /// The other side speaks another version of the protocol, or does not speak the protocol.
    #[error("version mismatch: ours is {ours}, {}", Theirs(*theirs))]
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

    /// A system call failed. The text of this error is the step alone; that of its
    /// [`source`](std::error::Error::source) tells why, and which file it was about.
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

/// The setting whose numbers are octal.
pub(crate) const MODE: &str = "mode (permission bits)";

/// Displays the number of a setting.
struct Number<'a>(&'a str, u64);

impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == MODE { write!(f, "{:#o}", self.1) } else { self.1.fmt(f) }
    }
}

/// Displays the version that the other side claimed.
struct Theirs(u32);

impl fmt::Display for Theirs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("and the other side does not speak this protocol"),
            theirs => write!(f, "theirs is {theirs}"),
        }
    }
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

/// The error becomes the payload of the `io::Error`, whose kind is
///
/// | error | kind |
/// |---|---|
/// | `InvalidName`, `InvalidConfig`, `PacketTooLarge` | `InvalidInput` |
/// | `NotFound`, `PermissionDenied`, `WouldBlock`, `TimedOut`, `Unsupported` | that of the same name |
/// | `NameInUse` | `AddrInUse` |
/// | `Busy` | `ResourceBusy` |
/// | `HungUp` | `ConnectionReset` |
/// | `VersionMismatch` | `InvalidData` |
/// | `Closed` by this side | `NotConnected` |
/// | `Closed` by the peer | `BrokenPipe` |
/// | `Closed` by a cancel | `ConnectionAborted` |
/// | `Closed` by the peer's death | `ConnectionReset` |
/// | `Closed` by a violation | `InvalidData` |
/// | `Closed` because the driver is gone, or after a fork | `Other` |
/// | `Io` | that of its source |
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
            ShmError::HungUp => Kind::ConnectionReset,
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

#[cfg(test)]
mod tests;
