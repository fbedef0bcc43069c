//! Operations on `SOCK_SEQPACKET` Unix sockets. None of them blocks or raises a signal.

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

/// What [`connect_to`] and [`bind`] return if `/proc` is missing, through which they reach sockets.
pub(super) const NO_PROC: Errno = Errno::NOSYS;

const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// Makes a socket that is not bound or connected to anything.
pub(super) fn unbound() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Binds `socket` to `file` in `directory`; the name must be short.
///
/// An address holds 107 bytes, fewer than the path of many directories. The path of an open
/// descriptor through `/proc` is always short. It goes through this thread's entry: the process's
/// own entry refers to its first thread, which may have ended.
pub(super) fn bind(
    socket: &OwnedFd,
    directory: BorrowedFd<'_>,
    file: &'static str,
) -> Result<(), Errno> {
    let path = format!("{}/{file}", path_through_proc(directory));
    match rustix::net::bind(socket, &SocketAddrUnix::new(path)?) {
        // The directory is open, so `/proc` is what is missing.
        Err(Errno::NOENT) => Err(NO_PROC),
        other => other,
    }
}

/// Opens the socket that is called `file` in `directory`, for [`connect_to`].
///
/// # Errors
/// `ENOENT` if there is no such file, `ENOTSOCK` if it is something else or a link, and all other
/// errors of the kernel.
pub(super) fn find(directory: BorrowedFd<'_>, file: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(directory, file, flags, Mode::empty())?;
    if !is_socket(rustix::fs::fstat(&found)?.st_mode) {
        return Err(Errno::NOTSOCK);
    }
    Ok(found)
}

/// Connects to a socket that was [found](find). Returns `None` if the backlog is full. This cannot
/// be waited for, only tried again.
///
/// # Errors
/// `ECONNREFUSED` if nobody listens on the socket, `EPROTOTYPE` if it is of another type,
/// [`NO_PROC`], and all other errors of the kernel.
pub(super) fn connect_to(found: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    // Not through the directory: the name alone may be longer than the rest of an address. This
    // also connects to the very file that was checked.
    let address = SocketAddrUnix::new(path_through_proc(found))?;
    let socket = unbound()?;
    match retry_on_intr(|| rustix::net::connect(&socket, &address)) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::AGAIN) => Ok(None),
        // The file is open, so `/proc` is what is missing.
        Err(Errno::NOENT) => Err(NO_PROC),
        Err(error) => Err(error),
    }
}

/// Changes the permission bits of a socket that was [found](find).
pub(super) fn set_mode(found: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    // `fchmod` does not accept a descriptor that was opened with `O_PATH`.
    rustix::fs::chmod(path_through_proc(found), mode)
}

/// Returns a path to an open descriptor; see [`bind`].
pub(super) fn path_through_proc(open: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", open.as_raw_fd())
}

/// Why [`find`] or [`connect_to`] failed. The same for an application and for an engine that looks
/// for other engines.
#[derive(Debug)]
pub(super) enum ConnectFailure {
    /// There is no file, or nobody listens on the socket: at most an engine has left it behind.
    Nobody,
    /// A program listens on a socket of another type, so it is not an engine of ours.
    Foreign,
    /// The file is something else, or a link.
    NoSocket,
    /// Unknown, for this reason.
    Unknown(ShmError),
}

impl ConnectFailure {
    /// Interprets the kernel's error for the socket at `path`.
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

/// Returns the public error for the kernel's error for the file at `path` in this `step`.
pub(super) fn error(step: &'static str, errno: Errno, path: &Path) -> ShmError {
    match errno {
        NO_PROC => ShmError::Unsupported { reason: "sockets need /proc to be mounted" },
        Errno::ACCESS | Errno::PERM => {
            ShmError::PermissionDenied { cause: DenialCause::FileSystem, path: path.into() }
        }
        // These concern this process, not the file.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => ShmError::io(step)(errno),
        errno => ShmError::io_at(step, path, errno),
    }
}

/// What a peer has done of which a message is expected.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing yet.
    Nothing,
    /// It closed its end. (An empty message looks the same; correct peers never send one.)
    HungUp,
    /// It sent a message.
    Message(Message),
}

/// A message as received, not checked yet.
#[derive(Debug)]
pub(super) struct Message {
    /// Has room for one byte more than a valid message, to detect a longer one.
    bytes: [u8; MESSAGE_BYTES + 1],
    len: usize,
    /// The first descriptor that came with it.
    pub(super) descriptor: Option<Untrusted>,
    /// The process that sent it, if the kernel reported it.
    pub(super) process: Option<Process>,
    /// Whether the kernel could not install all descriptors.
    pub(super) truncated: bool,
}

impl Message {
    /// Returns the bytes that were received. A message that was cut is too long anyway.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.min(MESSAGE_BYTES + 1)]
    }
}

/// Peeks at a message and leaves it queued. Has no room for descriptors, so none is installed.
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

/// Takes the message that was [peeked](peek) at. Returns the process that sent it, if the kernel
/// reports it. The kernel drops descriptors that come with the message and never installs them
/// here.
pub(super) fn take_peeked(socket: BorrowedFd<'_>) -> Option<Process> {
    let process = pidfd::first_sender(socket);
    let _ = retry_on_intr(|| rustix::net::recv(socket, &mut [0; 1], RecvFlags::DONTWAIT));
    process
}

/// The most descriptors that the kernel lets a message carry. With less room, the kernel would
/// close the rest itself, and this thread would wait for that.
const MAX_DESCRIPTORS: usize = 253;

/// Takes a message, the first descriptor that comes with it, and the process that sent it if the
/// kernel was asked to report it. All other descriptors are closed.
pub(super) fn receive_with_descriptor(socket: BorrowedFd<'_>) -> Result<Received, Errno> {
    const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS)) + PROCESS_SPACE;
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
    // A SEQPACKET socket sends a message whole or not at all.
    sent.map(drop)
}

/// Makes two connected sockets.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Ends the connection for the other side now, even if other processes hold a copy of the
/// descriptor.
pub(super) fn hang_up(socket: BorrowedFd<'_>) {
    // This fails if the other side was faster.
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
