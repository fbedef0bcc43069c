//! What a `SOCK_SEQPACKET` Unix socket is asked to do. Nothing here blocks or raises a signal.

use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, shutdown,
};

use super::message::MESSAGE_BYTES;
use super::untrusted::{self, Untrusted};
use crate::error::{DenialCause, ShmError};
use crate::sys::pidfd::{self, Control, PROCESS_SPACE, Process};

/// What [`connect_to`] and [`bind`] say where `/proc` is missing, through which sockets are
/// reached.
pub(super) const NO_PROC: Errno = Errno::NOSYS;

const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// A socket that is not bound or connected to anything.
pub(super) fn unbound() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Binds `socket` to `file` below `directory`; the name must be short.
///
/// An address holds 107 bytes, fewer than many a directory's path. The path through `/proc` of an
/// open descriptor is always short. It leads by this thread: the process's own leads by its first
/// one, and that may have ended.
pub(super) fn bind(
    socket: &OwnedFd,
    directory: BorrowedFd<'_>,
    file: &'static str,
) -> Result<(), Errno> {
    let path = format!("{}/{file}", way_to(directory));
    match rustix::net::bind(socket, &SocketAddrUnix::new(path)?) {
        // The directory is open, so what is missing is the way to it.
        Err(Errno::NOENT) => Err(NO_PROC),
        other => other,
    }
}

/// The socket that has the name `file` below `directory`, to [`connect_to`] it.
///
/// # Errors
/// `ENOENT` if there is no such file, `ENOTSOCK` if it is something else or a link, and
/// all that the kernel says besides.
pub(super) fn find(directory: BorrowedFd<'_>, file: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(directory, file, flags, Mode::empty())?;
    if !is_socket(rustix::fs::fstat(&found)?.st_mode) {
        return Err(Errno::NOTSOCK);
    }
    Ok(found)
}

/// Connects to a socket that was [found](find). `None`: nobody accepts at the moment, because the
/// backlog is full; this cannot be waited for, only tried again.
///
/// # Errors
/// `ECONNREFUSED` if nobody listens on the socket, `EPROTOTYPE` if it is of another type,
/// [`NO_PROC`], and all that the kernel says besides.
pub(super) fn connect_to(found: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    // Not through the directory: the name alone may be longer than what an address has left. And
    // so it is this very file that was looked at.
    let address = SocketAddrUnix::new(way_to(found))?;
    let socket = unbound()?;
    match retry_on_intr(|| rustix::net::connect(&socket, &address)) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::AGAIN) => Ok(None),
        // The file is open, so what is missing is the way to it.
        Err(Errno::NOENT) => Err(NO_PROC),
        Err(error) => Err(error),
    }
}

/// Changes the permission bits of a socket that was [found](find).
pub(super) fn set_mode(found: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    // A descriptor that was opened by `O_PATH` is no file to `fchmod`.
    rustix::fs::chmod(way_to(found), mode)
}

/// A path to what is open; see [`bind`].
pub(super) fn way_to(open: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", open.as_raw_fd())
}

/// What it means that [`find`] or [`connect_to`] failed. The same for an engine that looks for
/// others and for an application.
#[derive(Debug)]
pub(super) enum Silence {
    /// There is no file, or nobody listens on the socket: at most it is what an engine left.
    Nobody,
    /// Somebody listens, on a socket of another type: no engine of ours.
    Foreign,
    /// The file is something else, or a link.
    NoSocket,
    /// It cannot be told, for this reason.
    Unknown(ShmError),
}

impl Silence {
    /// Judges what the kernel said of the socket at `path`.
    pub(super) fn of(errno: Errno, step: &'static str, path: &Path) -> Self {
        match errno {
            Errno::NOENT | Errno::CONNREFUSED => Self::Nobody,
            Errno::PROTOTYPE => Self::Foreign,
            Errno::NOTSOCK => Self::NoSocket,
            errno => Self::Unknown(error(step, errno, path)),
        }
    }
}

/// Whether this `st_mode` is that of a socket.
pub(super) fn is_socket(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::Socket
}

/// The public error for what the kernel said of the file at `path` in this `step`.
pub(super) fn error(step: &'static str, errno: Errno, path: &Path) -> ShmError {
    match errno {
        NO_PROC => ShmError::Unsupported { reason: "sockets need /proc to be mounted" },
        Errno::ACCESS | Errno::PERM => {
            ShmError::PermissionDenied { cause: DenialCause::FileSystem, path: path.into() }
        }
        // These tell of this process, not of the file.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => ShmError::io(step)(errno),
        errno => ShmError::io_at(step, path, errno),
    }
}

/// What a peer of whom a message is expected has done.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing yet.
    Nothing,
    /// It closed its end. (An empty message looks the same; lawful peers never send one.)
    HungUp,
    /// It said something.
    Message(Message),
}

/// A message as it came, not judged yet.
#[derive(Debug)]
pub(super) struct Message {
    /// One byte more than a message has, so that a longer one is seen to be longer.
    bytes: [u8; MESSAGE_BYTES + 1],
    len: usize,
    /// The first descriptor that came with it.
    pub(super) descriptor: Option<Untrusted>,
    /// The process that sent it, where the kernel told of it.
    pub(super) process: Option<Process>,
    /// Whether the kernel could not install all descriptors.
    pub(super) truncated: bool,
}

impl Message {
    /// The bytes that came, as far as they matter: a message that was cut here is too long anyhow.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.min(MESSAGE_BYTES + 1)]
    }
}

/// Looks at a message and leaves it there. There is no room for descriptors: none is installed.
pub(super) fn peek(socket: BorrowedFd<'_>) -> Result<Received, Errno> {
    let mut bytes = [0; MESSAGE_BYTES + 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match retry_on_intr(|| rustix::net::recv(socket, &mut bytes, flags)) {
        Ok((0, _)) => Ok(Received::HungUp),
        Ok((len, _)) => {
            let message = Message { bytes, len, descriptor: None, process: None, truncated: false };
            Ok(Received::Message(message))
        }
        Err(Errno::AGAIN) => Ok(Received::Nothing),
        Err(error) => Err(error),
    }
}

/// Takes the message that was [peeked](peek) at, and the process that sent it, if the kernel tells
/// of it. Descriptors that come with it are dropped by the kernel and never installed here.
pub(super) fn take_peeked(socket: BorrowedFd<'_>) -> Option<Process> {
    let process = pidfd::first_sender(socket);
    let _ = retry_on_intr(|| rustix::net::recv(socket, &mut [0; 1], RecvFlags::DONTWAIT));
    process
}

/// All that the kernel lets a message carry: more than there is room for, it would close itself,
/// and this thread would wait for it.
const MOST_DESCRIPTORS: usize = 253;

/// Takes a message, the first descriptor that comes with it, and the process that sent it, if the
/// kernel was asked for that. All others are closed.
pub(super) fn receive_with_descriptor(socket: BorrowedFd<'_>) -> Result<Received, Errno> {
    const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS)) + PROCESS_SPACE;
    let mut bytes = [0; MESSAGE_BYTES + 1];
    let mut space = Control::<SPACE>::new();
    let mut control = space.buffer();
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
    });
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Ok(Received::Nothing),
        Err(error) => return Err(error),
    };
    let mut passed = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            passed.extend(descriptors);
        }
    }
    drop(control);
    let process = space.into_process();
    // PEER: it may have sent many. They are closed where that blocks nobody.
    let others = passed.split_off(passed.len().min(1));
    untrusted::discard(others);
    let descriptor = passed.pop().map(Untrusted::new);
    if received.bytes == 0 {
        return Ok(Received::HungUp);
    }
    let (len, truncated) = (received.bytes, received.flags.contains(ReturnFlags::CTRUNC));
    Ok(Received::Message(Message { bytes, len, descriptor, process, truncated }))
}

/// Sends a message, with a descriptor if there is one.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &[u8; MESSAGE_BYTES],
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        let fits = control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
        assert!(fits, "the space was made for it");
    }
    let sent = retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SEND)
    });
    // A message of a SEQPACKET socket goes whole or not at all.
    sent.map(drop)
}

/// Two connected sockets.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Ends the connection for the other side now, whoever else holds a copy of the descriptor.
pub(super) fn hang_up(socket: BorrowedFd<'_>) {
    // It fails if the other side was faster.
    let _ = shutdown(socket, Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::rendezvous::lifeline::drain;
    use crate::sys::sockopt;

    fn sockets() -> (OwnedFd, OwnedFd) {
        pair().unwrap()
    }

    #[test]
    fn one_descriptor_is_taken_and_no_more() {
        let (one, other) = sockets();
        let (passed, watched) = sockets();
        let three = [passed.as_fd(), passed.as_fd(), passed.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&three)));
        let iov = [IoSlice::new(b"x")];
        rustix::net::sendmsg(&one, &iov, &mut control, SEND).unwrap();
        drop(passed);
        let Received::Message(message) = receive_with_descriptor(other.as_fd()).unwrap() else {
            panic!("a message was sent");
        };
        assert_eq!(message.bytes(), b"x");
        assert!(!drain(watched.as_fd(), 1).hung_up, "the descriptor is open");
        drop(message);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !drain(watched.as_fd(), 1).hung_up {
            assert!(std::time::Instant::now() < deadline, "one of them is open");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_message_that_is_peeked_at_is_taken_without_its_descriptors() {
        let (one, other) = sockets();
        let (passed, watched) = sockets();
        send(one.as_fd(), &[7; MESSAGE_BYTES], Some(passed.as_fd())).unwrap();
        drop(passed);
        let peeked = peek(other.as_fd()).unwrap();
        assert!(matches!(peeked, Received::Message(message) if message.descriptor.is_none()));
        assert!(!drain(watched.as_fd(), 1).hung_up, "still on its way");
        assert!(take_peeked(other.as_fd()).is_none(), "who sends such things is not asked");
        assert!(drain(watched.as_fd(), 1).hung_up);
        assert!(matches!(peek(other.as_fd()).unwrap(), Received::Nothing));
    }

    #[test]
    fn a_message_that_is_peeked_at_tells_who_sent_it() {
        let (one, other) = sockets();
        let tells = sockopt::ask_for_process(other.as_fd(), true);
        send(one.as_fd(), &[7; MESSAGE_BYTES], None).unwrap();
        let Received::Message(message) = peek(other.as_fd()).unwrap() else { panic!("nothing") };
        assert_eq!(message.bytes(), [7; MESSAGE_BYTES]);
        assert_eq!(take_peeked(other.as_fd()).is_some(), tells);
        assert!(matches!(peek(other.as_fd()).unwrap(), Received::Nothing));
    }
}
