//! The socket that both sides keep open: its hang-up tells of the peer's end.
//!
//! It does not hang up as long as a child of the peer holds a copy. So where the kernel told who
//! spoke in the handshake, that process's death tells, too. It ends the channel, whoever holds
//! what: ends are of no use in a forked child. (The application of a pair says nothing in the
//! handshake. It introduces itself by its first ring.)
//!
//! Besides, a side whose driver cannot wait on futex words is rung through it, by one byte.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::driver::Registration;
use crate::rendezvous::credentials::PeerCredentials;
use crate::sys::fork::ProcessLock;
use crate::sys::pidfd::{self, Process};
use crate::sys::sockopt;

/// Rings read in one go, so that a peer which floods the line does not keep the driver.
const DRAIN_AT_ONCE: usize = 64;

/// A connected Unix socket that keeps message boundaries, and who is at its other end.
#[derive(Debug)]
pub(crate) struct Lifeline {
    socket: OwnedFd,
    peer: PeerCredentials,
    /// The peer, where that is known. Without it the hang-up has to do.
    process: OnceLock<Process>,
    /// The kernel will tell of the process that rings first.
    asks: ProcessLock<bool>,
}

impl Lifeline {
    /// The line of a handshake that is through, and who spoke there.
    pub(crate) fn new(socket: OwnedFd, peer: PeerCredentials, process: Option<Process>) -> Self {
        sockopt::ask_for_process(socket.as_fd(), false);
        Self::open(socket, peer, process, false)
    }

    /// The line of a pair, whose other end somebody was given and has not spoken yet. It was
    /// [asked](sockopt::ask_for_process) who will.
    pub(crate) fn of_pair(socket: OwnedFd, peer: PeerCredentials, asks: bool) -> Self {
        Self::open(socket, peer, None, asks)
    }

    fn open(socket: OwnedFd, peer: PeerCredentials, process: Option<Process>, asks: bool) -> Self {
        // The region has come; from now on nobody may pass us anything.
        sockopt::refuse_descriptors(socket.as_fd());
        let process = process.map_or_else(OnceLock::new, OnceLock::from);
        Self { socket, peer, process, asks: ProcessLock::new(asks) }
    }

    pub(crate) fn peer(&self) -> PeerCredentials {
        self.peer
    }

    /// Rings by a byte. Never blocks: if the line is full, rings enough are pending; if it is cut,
    /// the line itself tells so.
    pub(crate) fn wake(&self) {
        wake_by_byte(self.as_fd());
    }

    /// Learns of the peer's process, if that was not known and has rung by now; its ring stays on
    /// the line. `true` if it is to be watched from now on. To be called before the line is
    /// drained.
    pub(crate) fn learn(&self) -> bool {
        // Held until it is settled: another thread must not drain the line meanwhile.
        let Some(mut asks) = self.asks.lock() else { return false };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peek = || retry_on_intr(|| rustix::net::recv(self, &mut [0; 1], flags));
        if !*asks || matches!(peek(), Err(Errno::AGAIN)) {
            return false;
        }
        *asks = false;
        let process = pidfd::first_sender(self.as_fd());
        sockopt::ask_for_process(self.as_fd(), false);
        process.is_some_and(|process| self.process.set(process).is_ok())
    }

    /// Takes rings that are pending; what is left over makes the line readable again.
    pub(crate) fn drain(&self) -> Drained {
        if self.asks.lock().is_none_or(|asks| *asks) {
            // Nothing was there a moment ago; what has come since is not to be taken unlearnt.
            return Drained { rings: 0, hung_up: false };
        }
        drain(self.as_fd(), DRAIN_AT_ONCE)
    }

    /// Whether the peer has gone, whatever there is to read before it.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut line = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut line, Some(&now)).is_ok_and(|ready| ready > 0) || self.is_orphaned()
    }

    /// Whether the peer's process is dead, whoever holds its socket.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.process.get().is_some_and(Process::has_exited)
    }

    /// Has `driver` call under `token` when the peer's process is dead.
    pub(crate) fn watch_process(&self, driver: &Registration, token: u16) {
        match self.process.get().map(Process::as_fd) {
            // If the kernel has no memory for it: nearly every death is told by the hang-up as
            // well.
            Some(Some(process)) => _ = driver.watch(process, token),
            // Dead already: the hang-up tells of it.
            Some(None) => self.hang_up(),
            None => {}
        }
    }

    /// Has `driver` call no more, for neither.
    pub(crate) fn unwatch(&self, driver: &Registration) {
        driver.unwatch(self.as_fd());
        if let Some(process) = self.process.get().and_then(Process::as_fd) {
            driver.unwatch(process);
        }
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

/// Rings whoever is at the other end of `line`.
pub(crate) fn wake_by_byte(line: BorrowedFd<'_>) {
    let flags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
    let _ = retry_on_intr(|| rustix::net::send(line, &[1], flags));
}

/// What was found on a lifeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    /// How many rings were taken.
    pub(crate) rings: usize,
    /// Whether the peer has gone.
    pub(crate) hung_up: bool,
}

/// Takes at most `max` rings from `line`.
pub(crate) fn drain(line: BorrowedFd<'_>, max: usize) -> Drained {
    let mut byte = [0; 1];
    for rings in 0..max {
        // PEER: longer messages are cut and count as one; descriptors are never installed. An empty
        // one looks like a hang-up and is taken for it: no lawful peer sends one.
        match retry_on_intr(|| rustix::net::recv(line, &mut byte, RecvFlags::DONTWAIT)) {
            Ok((0, _)) => return Drained { rings, hung_up: true },
            Ok(_) => {}
            Err(Errno::AGAIN) => return Drained { rings, hung_up: false },
            // ECONNRESET: it died without reading our rings. Nothing else leaves hope either.
            Err(_) => return Drained { rings, hung_up: true },
        }
    }
    Drained { rings: max, hung_up: false }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn sockets() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn lifelines() -> (Lifeline, Lifeline) {
        let (one, other) = sockets();
        let peer = PeerCredentials::of(one.as_fd()).unwrap();
        (Lifeline::new(one, peer, None), Lifeline::new(other, peer, None))
    }

    #[test]
    fn rings_are_counted_and_a_hang_up_is_told() {
        let (one, other) = lifelines();
        assert_eq!(one.drain(), Drained { rings: 0, hung_up: false });
        for _ in 0..DRAIN_AT_ONCE + 3 {
            other.wake();
        }
        assert_eq!(one.drain(), Drained { rings: DRAIN_AT_ONCE, hung_up: false });
        assert!(!one.is_hung_up());
        other.hang_up();
        assert!(one.is_hung_up());
        assert_eq!(one.drain(), Drained { rings: 3, hung_up: true });
        one.wake();
    }

    #[test]
    fn the_first_ring_of_a_pair_tells_who_rang_and_stays_on_the_line() {
        let (one, other) = sockets();
        let peer = PeerCredentials::of(one.as_fd()).unwrap();
        if !sockopt::ask_for_process(one.as_fd(), true) {
            return eprintln!("left out: this kernel does not tell of senders");
        }
        let line = Lifeline::of_pair(one, peer, true);
        assert!(!line.learn(), "nobody has rung");
        wake_by_byte(other.as_fd());
        wake_by_byte(other.as_fd());
        assert!(line.learn());
        assert!(!line.learn(), "it is known");
        assert!(!line.is_orphaned(), "it is ourselves");
        assert_eq!(line.drain(), Drained { rings: 2, hung_up: false });
    }

    #[test]
    fn a_pair_without_a_ring_to_tell_of_goes_by_its_hang_up() {
        let (one, other) = sockets();
        let peer = PeerCredentials::of(one.as_fd()).unwrap();
        let line = Lifeline::of_pair(one, peer, true);
        // The kernel was not asked before this was sent.
        wake_by_byte(other.as_fd());
        drop(other);
        assert!(!line.learn());
        assert!(line.is_hung_up());
        assert_eq!(line.drain(), Drained { rings: 1, hung_up: true });
    }

    #[test]
    fn ringing_a_peer_that_never_reads_never_blocks() {
        let (one, other) = lifelines();
        for _ in 0..10_000 {
            one.wake();
        }
        assert!(drain(other.as_fd(), 10_000).rings < 10_000);
    }

    #[test]
    fn a_death_with_unread_rings_is_a_hang_up() {
        let (one, other) = lifelines();
        one.wake();
        drop(other);
        assert!(one.drain().hung_up);
    }
}
