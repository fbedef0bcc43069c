//! The socket that both sides keep open; its hang-up tells each side that the other is gone.
//!
//! The socket does not hang up as long as a child of the peer holds a copy of it. So if the kernel
//! reported which process spoke in the handshake, the death of that process counts too. It ends the
//! channel even if another process still holds the socket, because ends are of no use in a forked
//! child. (The application of a pair says nothing in the handshake. The kernel reports its process
//! with its first wake byte.)
//!
//! The socket also carries wake bytes: a side whose driver cannot wait on futex words is woken by
//! one byte.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::driver::Registration;
use crate::rendezvous::credentials::PeerCredentials;
use crate::sys::fork::ProcessLock;
use crate::sys::pidfd::{self, Process};
use crate::sys::sockopt;
use crate::sys::trace::Place;

/// The most wake bytes read at once, so that a peer that floods the lifeline does not keep the
/// driver busy.
const DRAIN_AT_ONCE: usize = 64;

/// A connected Unix socket that keeps message boundaries, and who is at its other end.
#[derive(Debug)]
pub(crate) struct Lifeline {
    socket: OwnedFd,
    peer: PeerCredentials,
    /// The peer's process, if it is known. Otherwise only the hang-up tells of the peer's end.
    process: OnceLock<Process>,
    /// Whether the kernel was asked to report the process that sends the first wake byte.
    asks: ProcessLock<bool>,
    place: Place,
}

impl Lifeline {
    /// Makes the lifeline of a finished handshake. `process` is the process that spoke there.
    pub(crate) fn new(socket: OwnedFd, peer: PeerCredentials, process: Option<Process>) -> Self {
        sockopt::ask_for_process(socket.as_fd(), false);
        Self::open(socket, peer, process, false)
    }

    /// Makes the lifeline of a pair, whose other end has not spoken yet. `asks` says whether the
    /// kernel [was asked](sockopt::ask_for_process) to report who speaks first.
    pub(crate) fn of_pair(socket: OwnedFd, peer: PeerCredentials, asks: bool) -> Self {
        Self::open(socket, peer, None, asks)
    }

    fn open(socket: OwnedFd, peer: PeerCredentials, process: Option<Process>, asks: bool) -> Self {
        // The region has arrived; from now on nobody may pass us a descriptor.
        sockopt::refuse_descriptors(socket.as_fd());
        let process = process.map_or_else(OnceLock::new, OnceLock::from);
        Self { socket, peer, process, asks: ProcessLock::new(asks), place: Place::default() }
    }

    /// Notes the path of the socket where the sides met.
    pub(crate) fn at(mut self, path: &Path) -> Self {
        self.place = Place::of(path);
        self
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn peer(&self) -> PeerCredentials {
        self.peer
    }

    /// Wakes the peer by one byte. Never blocks: if the socket is full, enough wakes are pending;
    /// if it is cut, the socket itself tells the peer.
    pub(crate) fn wake(&self) {
        wake_by_byte(self.as_fd());
    }

    /// Finds out the peer's process if it was unknown and has sent a wake byte by now; the byte
    /// stays in the socket. Returns `true` if the process must be watched from now on. To be called
    /// before [`Lifeline::drain`].
    pub(crate) fn learn(&self) -> bool {
        // Held until this is decided: another thread must not drain the socket meanwhile.
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

    /// Takes pending wake bytes. Any that it leaves make the socket readable again.
    pub(crate) fn drain(&self) -> Drained {
        if self.asks.lock().is_none_or(|asks| *asks) {
            // [`Lifeline::learn`] found nothing a moment ago. A byte that came since must not be
            // taken before `learn` has seen it.
            return Drained { wakes: 0, hung_up: false };
        }
        drain(self.as_fd(), DRAIN_AT_ONCE)
    }

    /// Whether the peer is gone, even if there is still something to read.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut line = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut line, Some(&now)).is_ok_and(|ready| ready > 0) || self.is_orphaned()
    }

    /// Whether the peer's process is dead, even if another process holds its socket.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.process.get().is_some_and(Process::has_exited)
    }

    /// Has `driver` report under `token` when the peer's process dies.
    pub(crate) fn watch_process(&self, driver: &Registration, token: u16) {
        match self.process.get().map(Process::as_fd) {
            // If the kernel has no memory for it, we rely on the hang-up, which reports nearly
            // every death as well.
            Some(Some(process)) => _ = driver.watch(process, token),
            // It is dead already: our own hang-up reports it.
            Some(None) => self.hang_up(),
            None => {}
        }
    }

    /// Stops `driver` from reporting the socket and the process.
    pub(crate) fn unwatch(&self, driver: &Registration) {
        driver.unwatch(self.as_fd());
        if let Some(process) = self.process.get().and_then(Process::as_fd) {
            driver.unwatch(process);
        }
    }

    /// Hangs up now, even if other processes hold a copy of the descriptor.
    pub(crate) fn hang_up(&self) {
        // This fails if the other side was faster.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Lifeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Wakes the other end of `line` by one byte.
pub(crate) fn wake_by_byte(line: BorrowedFd<'_>) {
    let flags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
    let _ = retry_on_intr(|| rustix::net::send(line, &[1], flags));
}

/// What was found on a lifeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    /// How many wake bytes were taken.
    pub(crate) wakes: usize,
    /// Whether the peer is gone.
    pub(crate) hung_up: bool,
}

/// Takes at most `max` wake bytes from `line`.
pub(crate) fn drain(line: BorrowedFd<'_>, max: usize) -> Drained {
    let mut byte = [0; 1];
    for wakes in 0..max {
        // PEER: longer messages are cut and count as one; descriptors are never installed. An empty
        // message looks like a hang-up and is treated as one: no correct peer sends it.
        match retry_on_intr(|| rustix::net::recv(line, &mut byte, RecvFlags::DONTWAIT)) {
            Ok((0, _)) => return Drained { wakes, hung_up: true },
            Ok(_) => {}
            Err(Errno::AGAIN) => return Drained { wakes, hung_up: false },
            // ECONNRESET: the peer died without reading our wakes. All other errors are final too.
            Err(_) => return Drained { wakes, hung_up: true },
        }
    }
    Drained { wakes: max, hung_up: false }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::rendezvous::tests::soon;
    use crate::sys::fork::in_child;

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
    fn wake_bytes_are_counted_and_a_hang_up_is_reported() {
        let (one, other) = lifelines();
        assert_eq!(one.drain(), Drained { wakes: 0, hung_up: false });
        for _ in 0..DRAIN_AT_ONCE + 3 {
            other.wake();
        }
        assert_eq!(one.drain(), Drained { wakes: DRAIN_AT_ONCE, hung_up: false });
        assert!(!one.is_hung_up());
        other.hang_up();
        assert!(one.is_hung_up());
        assert_eq!(one.drain(), Drained { wakes: 3, hung_up: true });
        one.wake();
    }

    #[test]
    fn the_first_wake_byte_of_a_pair_tells_its_sender_and_stays_in_the_socket() {
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
        assert_eq!(line.drain(), Drained { wakes: 2, hung_up: false });
    }

    #[test]
    fn a_pair_whose_sender_is_unknown_relies_on_its_hang_up() {
        let (one, other) = sockets();
        let peer = PeerCredentials::of(one.as_fd()).unwrap();
        let line = Lifeline::of_pair(one, peer, true);
        // The kernel was not asked before this was sent.
        wake_by_byte(other.as_fd());
        drop(other);
        assert!(soon(|| line.is_hung_up()));
        assert!(!line.learn());
        assert_eq!(line.drain(), Drained { wakes: 1, hung_up: true });
    }

    #[test]
    fn waking_a_peer_that_never_reads_never_blocks() {
        let (one, other) = lifelines();
        for _ in 0..10_000 {
            one.wake();
        }
        assert!(drain(other.as_fd(), 10_000).wakes < 10_000);
    }

    #[test]
    fn a_death_with_unread_wake_bytes_is_a_hang_up() {
        let (one, other) = lifelines();
        one.wake();
        drop(other);
        assert!(soon(|| one.is_hung_up()));
        assert!(one.drain().hung_up);
    }

    #[test]
    fn a_peer_that_is_dead_has_hung_up_whoever_holds_its_socket() {
        let (one, other) = sockets();
        let peer = PeerCredentials::of(one.as_fd()).unwrap();
        if !sockopt::ask_for_process(one.as_fd(), true) {
            return eprintln!("left out: this kernel does not tell of senders");
        }
        let line = Lifeline::of_pair(one, peer, true);
        in_child(|| wake_by_byte(other.as_fd()));
        assert!(line.learn() && line.is_hung_up());
    }
}
