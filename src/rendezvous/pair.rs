//! A handshake without a name: both ends of a lifeline made by one process.
//!
//! The engine makes a pair of connected sockets and queues its answer, with the region, on the one
//! that a child process or another thread gets. There is no hello: whoever was given the
//! descriptor was meant to have it. Everything that the other side needs is queued, so neither
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

/// The engine's lifeline, and the descriptor for whoever shall be the application, who finds
/// `file` in it and introduces itself by its first ring.
///
/// # Errors
/// `Io`, for want of descriptors or memory.
pub(crate) fn pair(file: BorrowedFd<'_>) -> Result<(Lifeline, OwnedFd), ShmError> {
    const STEP: &str = "making a pair of sockets";
    let (lifeline, theirs) = socket::pair().map_err(ShmError::io(STEP))?;
    // The answer says then whose it is: this process, which need not be the one that takes it out.
    sockopt::ask_for_process(theirs.as_fd(), true);
    let asks = sockopt::ask_for_process(lifeline.as_fd(), true);
    socket::send(lifeline.as_fd(), &message::answer(Status::Ok), Some(file))
        .map_err(ShmError::io(STEP))?;
    let peer = PeerCredentials::of(lifeline.as_fd()).map_err(ShmError::io(STEP))?;
    Ok((Lifeline::of_pair(lifeline, peer, asks), theirs))
}

/// Takes the region out of a descriptor that [`pair`] made, here or in another process.
///
/// # Errors
/// `Io` if it is no such descriptor, or was taken over before; `VersionMismatch` if another
/// version made it, or none; and all that joining a region may say.
pub(crate) fn adopt(descriptor: OwnedFd) -> Result<Connection, ShmError> {
    // Asked first: a message that is read from somebody else's socket is lost.
    let domain = rustix::net::sockopt::socket_domain(&descriptor);
    let kind = rustix::net::sockopt::socket_type(&descriptor);
    let fits = domain.map_err(ShmError::io(ADOPTING))? == AddressFamily::UNIX
        && kind.map_err(ShmError::io(ADOPTING))? == SocketType::SEQPACKET;
    if !fits {
        return Err(ShmError::Io { step: ADOPTING, source: io::ErrorKind::InvalidInput.into() });
    }
    // Whoever passed it on through a shell or a `Command` has made it survive an exec.
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)
        .map_err(ShmError::io(ADOPTING))?;
    let peer = PeerCredentials::of(descriptor.as_fd()).map_err(ShmError::io(ADOPTING))?;
    match socket::receive_with_descriptor(descriptor.as_fd()).map_err(ShmError::io(ADOPTING))? {
        Received::Message(mut answer) => {
            let process = answer.process.take();
            let region = connector::welcome(answer, None)?;
            Ok(Connection { region, lifeline: Lifeline::new(descriptor, peer, process) })
        }
        Received::HungUp => Err(connector::hung_up()),
        Received::Nothing => {
            Err(ShmError::Io { step: ADOPTING, source: io::ErrorKind::WouldBlock.into() })
        }
    }
}
