//! Descriptors from a process that is not trusted yet, and sockets that may hold some.
//!
//! The last close of a file may block: closing a TCP socket that lingers takes as long as its
//! creator likes, even if it is nonblocking. A process that passes one to us must not make our
//! driver, or the thread that connects, wait for that. So descriptors whose close may block are
//! closed on a thread of their own.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvFlags, Shutdown};

use crate::sys::fork::Origin;
use crate::sys::signals;
use crate::sys::sockopt;

/// A descriptor that was passed to us.
#[derive(Debug)]
pub(super) struct Untrusted(Option<OwnedFd>);

impl Untrusted {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self(Some(descriptor))
    }

    /// Returns the descriptor once it is known to be harmless.
    pub(super) fn into_inner(mut self) -> OwnedFd {
        self.0.take().expect("there until it is dropped")
    }
}

impl AsFd for Untrusted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for Untrusted {
    fn drop(&mut self) {
        let Some(descriptor) = self.0.take() else { return };
        // Only memory files have seals, and these close at once.
        if rustix::fs::fcntl_get_seals(&descriptor).is_err() {
            discard(vec![descriptor]);
        }
    }
}

/// A socket whose other end may have passed descriptors that we have not taken: closing the socket
/// closes them too.
#[derive(Debug)]
pub(super) struct UntrustedSocket {
    socket: Option<OwnedFd>,
    /// A forked child only closes its copy.
    origin: Origin,
}

impl UntrustedSocket {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket: Some(socket), origin: Origin::here() }
    }

    /// Refuses all descriptors from now on, as far as the kernel can. Then returns whether nothing
    /// is queued that may hold some.
    pub(super) fn is_quiet(&self) -> bool {
        sockopt::refuse_descriptors(self.as_fd());
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (mut byte, mut control) = ([0; 1], RecvAncillaryBuffer::default());
        let mut bytes = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(self, &mut bytes, &mut control, flags) {
            // An empty message reads like a hang-up, and may hold some. But it has a sender, whose
            // address is the one that the engine listens on.
            Ok(peeked) => peeked.bytes == 0 && peeked.address.is_none(),
            Err(_) => true,
        }
    }

    /// Returns the socket, which is quiet: closing it is harmless.
    pub(super) fn into_inner(mut self) -> OwnedFd {
        self.socket.take().expect("there until it is dropped")
    }
}

impl AsFd for UntrustedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for UntrustedSocket {
    fn drop(&mut self) {
        if self.socket.is_none() || self.origin.has_left() || self.is_quiet() {
            return;
        }
        // The connection ends for the other side at once.
        let _ = rustix::net::shutdown(&*self, Shutdown::Both);
        discard(self.socket.take().into_iter().collect());
    }
}

/// Closes descriptors whose close may block, on a thread of its own, or here if no thread can be
/// started.
pub(super) fn discard(descriptors: Vec<OwnedFd>) {
    if descriptors.is_empty() {
        return;
    }
    let thread = std::thread::Builder::new().name("wakering-close".into());
    drop(signals::blocked(|| thread.spawn(move || drop(descriptors))));
}
