//! A handshake without a name: one process makes both ends of a lifeline.
//!
//! The engine makes a pair of connected sockets and queues its answer, with the region, on the
//! socket that a child process or another thread gets. There is no hello: a process that was given
//! the descriptor was meant to have it. Everything that the other side needs is queued, so neither
//! side ever waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType};

use super::connector::{self, Connection};
use super::message::{self, Status};
use super::socket::{self, Received};
use crate::error::ShmError;
use crate::rendezvous::credentials::PeerCredentials;
use crate::rendezvous::lifeline::Lifeline;
use crate::sys::sockopt;

const ADOPTING: &str = "taking over the descriptor of a pair";

/// Returns the engine's lifeline, and the descriptor for the process that will be the application.
/// It finds `file` in the descriptor, and the kernel reports it with its first wake byte.
///
/// # Errors
/// `Io`, for lack of descriptors or memory.
pub(crate) fn pair(file: BorrowedFd<'_>) -> Result<(Lifeline, OwnedFd), ShmError> {
    const STEP: &str = "making a pair of sockets";
    let (lifeline, theirs) = socket::pair().map_err(ShmError::io(STEP))?;
    // With this, the answer reports who sent it: this process, which need not be the one that
    // receives it.
    sockopt::ask_for_process(theirs.as_fd(), true);
    let asks = sockopt::ask_for_process(lifeline.as_fd(), true);
    socket::send(lifeline.as_fd(), &message::answer(Status::Ok), Some(file))
        .map_err(ShmError::io(STEP))?;
    let peer = PeerCredentials::of(lifeline.as_fd()).map_err(ShmError::io(STEP))?;
    Ok((Lifeline::of_pair(lifeline, peer, asks), theirs))
}

/// Takes the region out of a descriptor that [`pair`] made, in this process or another.
///
/// # Errors
/// `Io` if it is not such a descriptor, or was taken over before; `VersionMismatch` if another
/// version made it, or no version did; and all errors of joining a region.
pub(crate) fn adopt(descriptor: OwnedFd) -> Result<Connection, ShmError> {
    // Checked first, because a message that is read from an unrelated socket is lost.
    let domain = rustix::net::sockopt::socket_domain(&descriptor);
    let kind = rustix::net::sockopt::socket_type(&descriptor);
    let fits = domain.map_err(ShmError::io(ADOPTING))? == AddressFamily::UNIX
        && kind.map_err(ShmError::io(ADOPTING))? == SocketType::SEQPACKET;
    if !fits {
        return Err(ShmError::Io { step: ADOPTING, source: io::ErrorKind::InvalidInput.into() });
    }
    // A program that passed it on through a shell or a `Command` has made it survive an exec.
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)
        .map_err(ShmError::io(ADOPTING))?;
    let peer = PeerCredentials::of(descriptor.as_fd()).map_err(ShmError::io(ADOPTING))?;
    match socket::receive_with_descriptor(descriptor.as_fd()).map_err(ShmError::io(ADOPTING))? {
        Received::Message(mut answer) => {
            let process = answer.process.take();
            let region = connector::welcome(answer, None)?;
            Ok(Connection { region, lifeline: Lifeline::new(descriptor, peer, process) })
        }
        Received::HungUp => Err(ShmError::HungUp),
        Received::Nothing => {
            Err(ShmError::Io { step: ADOPTING, source: io::ErrorKind::WouldBlock.into() })
        }
    }
}
