//! The two messages of the handshake.
//!
//! The application sends a hello and the engine answers. Both go over a `SOCK_SEQPACKET` Unix
//! socket, each as one message of exactly 32 bytes. Numbers are in the machine's own byte order,
//! because both sides run on it. A message with another length, magic or kind is junk, whatever
//! else it contains.
//!
//! | offset | bytes | hello | answer |
//! |---|---|---|---|
//! | 0 | 8 | magic, `wakering` | magic, `wakering` |
//! | 8 | 4 | version of the application | version of the engine |
//! | 12 | 4 | kind, 1 | kind, 2 |
//! | 16 | 8 | features that the application knows beyond its version, 0 | features in force, 0 |
//! | 24 | 4 | reserved, 0 | status |
//! | 28 | 4 | reserved, 0 | reserved, 0 |
//!
//! The length and the first 16 bytes are the same in all versions, so that any two versions can
//! tell each other that they differ. The rest is checked only if the versions are equal. An engine
//! ignores features in a hello that it does not know. It turns on no feature that was not offered:
//! an application treats such an answer as junk.
//!
//! | status | meaning | carries |
//! |---|---|---|
//! | 0 | welcome | the region's memfd, as one `SCM_RIGHTS` descriptor |
//! | 1 | the face serves another handle | nothing |
//! | 2 | the engine does not let this user in | nothing |
//! | 3 | the engine does not speak the version of the hello | nothing |
//!
//! Every other status is junk. After a status other than 0 the engine closes the socket; after 0
//! the socket is the lifeline.

use crate::shm::layout::{MAGIC, VERSION};

/// The length of a hello and of an answer.
pub(crate) const MESSAGE_BYTES: usize = 32;

/// The kind of the application's message.
const HELLO: u32 = 1;
/// The kind of the engine's message.
const ANSWER: u32 = 2;

/// The engine's answer to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    /// The region comes with this answer.
    Ok = 0,
    /// The face serves another handle.
    Busy = 1,
    /// The engine does not let this user in.
    PermissionDenied = 2,
    /// The engine does not speak the application's version.
    VersionMismatch = 3,
}

impl Status {
    fn from_wire(status: u32) -> Option<Self> {
        [Self::Ok, Self::Busy, Self::PermissionDenied, Self::VersionMismatch]
            .into_iter()
            .find(|known| *known as u32 == status)
    }

    /// Returns why an engine answers with this status, for events.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::Ok => "accepted",
            Self::Busy => "busy",
            Self::PermissionDenied => "its user may not connect",
            Self::VersionMismatch => "it speaks another version of the protocol",
        }
    }
}

/// A message that is invalid in every version of the protocol, or in ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Junk;

/// The result of reading a message that has the right form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versioned<T> {
    /// The other side speaks our version.
    Ours(T),
    /// It speaks another version, which is given. The rest of the message was not checked.
    Other(u32),
}

/// The application's message.
pub(crate) fn hello() -> [u8; MESSAGE_BYTES] {
    message(HELLO, 0)
}

/// The engine's message.
pub(crate) fn answer(status: Status) -> [u8; MESSAGE_BYTES] {
    message(ANSWER, status as u32)
}

/// Checks an application's message.
///
/// # Errors
/// `Junk` if it is not a hello.
pub(crate) fn parse_hello(bytes: &[u8]) -> Result<Versioned<()>, Junk> {
    let fields = Fields::of(bytes, HELLO)?;
    if fields.version != VERSION {
        return Ok(Versioned::Other(fields.version));
    }
    // PEER: features are what the peer can do; we may choose from them, and choose none.
    if fields.status != 0 || fields.reserved != 0 {
        return Err(Junk);
    }
    Ok(Versioned::Ours(()))
}

/// Checks an engine's message.
///
/// # Errors
/// `Junk` if it is not an answer to our hello.
pub(crate) fn parse_answer(bytes: &[u8]) -> Result<Versioned<Status>, Junk> {
    let fields = Fields::of(bytes, ANSWER)?;
    if fields.version != VERSION {
        return Ok(Versioned::Other(fields.version));
    }
    // PEER: we offered no features, so none can be in force.
    if fields.features != 0 || fields.reserved != 0 {
        return Err(Junk);
    }
    match Status::from_wire(fields.status).ok_or(Junk)? {
        // It names the very version that it claims not to speak.
        Status::VersionMismatch => Err(Junk),
        status => Ok(Versioned::Ours(status)),
    }
}

/// A message's numbers, as read.
struct Fields {
    version: u32,
    features: u64,
    status: u32,
    reserved: u32,
}

impl Fields {
    fn of(bytes: &[u8], kind: u32) -> Result<Self, Junk> {
        let bytes: &[u8; MESSAGE_BYTES] = bytes.try_into().map_err(|_| Junk)?;
        if bytes[..8] != MAGIC || word(bytes, 12) != kind {
            return Err(Junk);
        }
        Ok(Self {
            version: word(bytes, 8),
            features: u64::from_ne_bytes(field(bytes, 16)),
            status: word(bytes, 24),
            reserved: word(bytes, 28),
        })
    }
}

fn word(bytes: &[u8; MESSAGE_BYTES], at: usize) -> u32 {
    u32::from_ne_bytes(field(bytes, at))
}

fn field<const N: usize>(bytes: &[u8; MESSAGE_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

fn message(kind: u32, status: u32) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_ne_bytes());
    bytes[12..16].copy_from_slice(&kind.to_ne_bytes());
    bytes[24..28].copy_from_slice(&status.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(mut bytes: [u8; MESSAGE_BYTES], at: usize, word: u32) -> [u8; MESSAGE_BYTES] {
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        bytes
    }

    #[test]
    fn what_is_said_is_understood() {
        assert_eq!(parse_hello(&hello()), Ok(Versioned::Ours(())));
        for status in [Status::Ok, Status::Busy, Status::PermissionDenied] {
            assert_eq!(parse_answer(&answer(status)), Ok(Versioned::Ours(status)));
        }
    }

    #[test]
    fn another_version_is_told_whatever_follows() {
        let other = with(with(hello(), 8, 9), 24, 77);
        assert_eq!(parse_hello(&other), Ok(Versioned::Other(9)));
        let other = with(with(answer(Status::VersionMismatch), 8, 9), 28, 77);
        assert_eq!(parse_answer(&other), Ok(Versioned::Other(9)));
    }

    #[test]
    fn junk_is_junk() {
        for (at, value) in [(0, 0), (4, 7), (12, 2), (12, 0), (24, 1), (28, 1)] {
            assert_eq!(parse_hello(&with(hello(), at, value)), Err(Junk), "{at} {value}");
        }
        for (at, value) in [(0, 0), (12, 1), (16, 1), (20, 1), (24, 3), (24, 4), (28, 1)] {
            let bytes = with(answer(Status::Ok), at, value);
            assert_eq!(parse_answer(&bytes), Err(Junk), "{at} {value}");
        }
        let mut longer = hello().to_vec();
        longer.push(0);
        for bytes in [&longer[..], &longer[..31], &[], &[0; 32]] {
            assert_eq!(parse_hello(bytes), Err(Junk));
            assert_eq!(parse_answer(bytes), Err(Junk));
        }
    }

    #[test]
    fn features_that_are_offered_may_be_ignored() {
        assert_eq!(parse_hello(&with(hello(), 16, 0xffff)), Ok(Versioned::Ours(())));
    }

    /// The specification's test vector, on a machine that stores the lowest byte first.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_hello_looks_like_this() {
        let mut bytes = *b"wakering\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(hello(), bytes);
        bytes[12] = 2;
        bytes[24] = 1;
        assert_eq!(answer(Status::Busy), bytes);
    }
}
