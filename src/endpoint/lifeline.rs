//! The socket that both sides keep open: its hang-up tells of the peer's end.
//!
//! Besides, a side whose driver cannot wait on futex words is rung through it, by one byte.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::credentials::PeerCredentials;

/// A connected, nonblocking Unix socket that keeps message boundaries.
#[derive(Debug)]
pub(crate) struct Lifeline {
    socket: OwnedFd,
    peer: PeerCredentials,
}

/// What had come down the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Messages read: rings.
    pub(crate) messages: u32,
    pub(crate) hung_up: bool,
}

/// Messages read in one go, so that a peer which floods the line does not keep the driver.
const DRAIN_AT_ONCE: u32 = 64;

impl Lifeline {
    pub(crate) fn new(socket: OwnedFd, peer: PeerCredentials) -> Self {
        Self { socket, peer }
    }

    pub(crate) fn peer(&self) -> PeerCredentials {
        self.peer
    }

    /// Rings by a byte. Never blocks: if the line is full, rings enough are pending; if it is cut,
    /// nobody is there.
    pub(crate) fn ring(&self) {
        let _ = rustix::net::send(&self.socket, &[1], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }

    /// Reads what is pending. What the messages say is of no interest.
    pub(crate) fn drain(&self) -> Drained {
        let mut messages = 0;
        let mut byte = [0u8; 1];
        while messages < DRAIN_AT_ONCE {
            match rustix::net::recv(&self.socket, &mut byte, RecvFlags::DONTWAIT) {
                // Also what an empty message looks like. No lawful peer sends one.
                Ok((_, 0)) => return Drained { messages, hung_up: true },
                Ok(_) => messages += 1,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Drained { messages, hung_up: false },
                Err(_) => return Drained { messages, hung_up: true },
            }
        }
        Drained { messages, hung_up: false }
    }

    /// Hangs up, now, whoever else holds a copy of the descriptor.
    pub(crate) fn hang_up(&self) {
        // It fails if the other side was faster.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Lifeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
