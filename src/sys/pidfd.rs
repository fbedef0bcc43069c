//! The peer's process, which the kernel reports along with a message (`SCM_PIDFD`, Linux 6.5).
//!
//! A lifeline hangs up when the last copy of the peer's socket is closed, and a child that the peer
//! has forked may hold a copy for as long as it likes. So we also watch the process that spoke to
//! us: its descriptor becomes readable when all threads of that process are dead, even if other
//! processes have copies of its descriptors. (`SO_PEERPIDFD` would be simpler to ask for, but it
//! names the process that made a pair or that began to listen, which need not be the one that
//! speaks.)
//!
//! rustix does not know this kind of control message and would lose the descriptor. So this module
//! parses what the kernel wrote once more.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, RecvMsg, ReturnFlags, recvmsg};

use crate::sys::sockopt::{self, SOL_SOCKET};

const SCM_PIDFD: i32 = 4;

/// Room for the control message that reports a process, and for nothing else.
pub(crate) const PROCESS_SPACE: usize = rustix::cmsg_space!(ScmRights(1));

/// The process that sent a message. `None` if it was dead and reaped before we asked.
#[derive(Debug)]
pub(crate) struct Process(Option<OwnedFd>);

impl Process {
    /// Whether it is dead. A process that was not reaped yet counts as dead; a process of which
    /// only the first thread has ended does not.
    pub(crate) fn has_exited(&self) -> bool {
        let Some(process) = &self.0 else { return true };
        let mut process = [PollFd::new(process, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut process, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Returns the descriptor that becomes readable when the process is dead.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(OwnedFd::as_fd)
    }
}

/// Room for the control messages that come with one message.
#[repr(C, align(8))]
pub(crate) struct Control<const N: usize>([MaybeUninit<u8>; N]);

impl<const N: usize> Control<N> {
    pub(crate) fn new() -> Self {
        Self([MaybeUninit::new(0); N])
    }

    /// Returns a buffer to receive into, once.
    pub(crate) fn buffer(&mut self) -> RecvAncillaryBuffer<'_> {
        RecvAncillaryBuffer::new(&mut self.0)
    }

    /// Returns the process that sent what was received, if the kernel was asked for it and had a
    /// descriptor.
    pub(crate) fn into_process(self) -> Option<Process> {
        // SAFETY: all bytes were initialised in `new`; since then only the kernel has written here,
        // and it writes bytes.
        let bytes = self.0.map(|byte| unsafe { byte.assume_init() });
        let descriptor = match find(&bytes)? {
            // A negative number is the reason why there is no descriptor.
            error if error < 0 => return is_of_the_dead(error).then_some(Process(None)),
            descriptor => descriptor,
        };
        // SAFETY: the kernel opened it for this message and reported it only here. Nobody else has
        // taken it: rustix skips messages of this kind, and `self` is consumed.
        Some(Process(Some(unsafe { OwnedFd::from_raw_fd(descriptor) })))
    }
}

/// Returns the process that sent the first of the messages queued on `socket`, and leaves the
/// message queued. The kernel must have been asked for it before the message was sent; afterwards
/// it may still be asked for it. Returns `None` if the kernel does not report it, and for a message
/// that carries descriptors: none of these is installed.
pub(crate) fn first_sender(socket: BorrowedFd<'_>) -> Option<Process> {
    let peek = |control: &mut RecvAncillaryBuffer<'_>| -> Result<RecvMsg, Errno> {
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], control, flags))
    };
    // The room for a process would fit a descriptor as well. Without room, and while no process is
    // asked for, a descriptor is the only thing that the kernel can have to leave out.
    sockopt::ask_for_process(socket, false);
    let peeked = peek(&mut RecvAncillaryBuffer::default()).ok()?;
    if peeked.flags.contains(ReturnFlags::CTRUNC) || !sockopt::ask_for_process(socket, true) {
        return None;
    }
    let mut control = Control::<PROCESS_SPACE>::new();
    peek(&mut control.buffer()).ok()?;
    control.into_process()
}

/// Whether the kernel has no descriptor because the process no longer exists, and not for lack of
/// descriptors or memory. (Newer kernels have one even then.)
fn is_of_the_dead(error: RawFd) -> bool {
    let error = Errno::from_raw_os_error(error.wrapping_neg());
    !matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// Returns the descriptor among the kernel's control messages, or the error in its place. Zeros
/// follow the last message.
fn find(mut control: &[u8]) -> Option<RawFd> {
    const WORD: usize = size_of::<usize>();
    loop {
        let (len, head) = control.split_first_chunk::<WORD>()?;
        let len = usize::from_ne_bytes(*len);
        let message = control.get(..len)?;
        let (level, head) = head.split_first_chunk()?;
        let (kind, _) = head.split_first_chunk()?;
        let data = message.get(WORD + 8..)?;
        if (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind)) == (SOL_SOCKET, SCM_PIDFD) {
            return Some(i32::from_ne_bytes(*data.first_chunk()?));
        }
        control = control.get(len.next_multiple_of(WORD)..)?;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::IoSliceMut;

    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvmsg, send, socketpair,
    };

    use super::*;
    use crate::sys::sockopt;

    fn message(kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (size_of::<usize>() + 8 + data.len()).to_ne_bytes().to_vec();
        bytes.extend(SOL_SOCKET.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    #[test]
    fn the_descriptor_is_found_wherever_it_stands() {
        let (rights, process) = (message(1, &[4, 0, 0, 0]), message(SCM_PIDFD, &[7, 0, 0, 0]));
        let seven = i32::from_ne_bytes([7, 0, 0, 0]);
        let zeros = [0; 64];
        assert_eq!(find(&[&process[..], &zeros].concat()), Some(seven));
        assert_eq!(find(&[&rights[..], &process, &zeros].concat()), Some(seven));
        assert_eq!(find(&[&message(1, &[4; 12])[..], &process].concat()), Some(seven));
        assert_eq!(find(&[&rights[..], &zeros].concat()), None);
        assert_eq!(find(&zeros), None);
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn what_is_no_descriptor_is_none() {
        assert_eq!(find(&message(SCM_PIDFD, &[7])), None);
        let mut longer = message(SCM_PIDFD, &[7, 0, 0, 0]);
        longer[..8].copy_from_slice(&1000_u64.to_ne_bytes());
        assert_eq!(find(&longer), None);
    }

    #[test]
    fn what_the_kernel_has_no_descriptor_for_is_dead_or_not_known() {
        let process = |error: Errno| {
            let mut control = Control::<PROCESS_SPACE>::new();
            let bytes = message(SCM_PIDFD, &error.raw_os_error().wrapping_neg().to_ne_bytes());
            for (to, from) in control.0.iter_mut().zip(bytes) {
                to.write(from);
            }
            control.into_process()
        };
        assert!(process(Errno::SRCH).unwrap().has_exited());
        assert!(process(Errno::INVAL).unwrap().has_exited());
        assert!(process(Errno::MFILE).is_none());
    }

    #[test]
    fn a_sender_is_told_of_if_that_was_asked_for_before_it_sent() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let receive = || {
            send(&one, b"x", SendFlags::NOSIGNAL).unwrap();
            let mut control = Control::<PROCESS_SPACE>::new();
            let (mut byte, mut buffer) = ([0; 1], control.buffer());
            let mut bytes = [IoSliceMut::new(&mut byte)];
            recvmsg(&other, &mut bytes, &mut buffer, RecvFlags::empty()).unwrap();
            drop(buffer);
            control.into_process()
        };
        assert!(receive().is_none());
        if !sockopt::ask_for_process(other.as_fd(), true) {
            return eprintln!("left out: this kernel does not tell of senders");
        }
        let process = receive().expect("ourselves");
        assert!(!process.has_exited());
        let flags = rustix::io::fcntl_getfd(process.as_fd().unwrap()).unwrap();
        assert_eq!(flags, rustix::io::FdFlags::CLOEXEC);
        sockopt::ask_for_process(other.as_fd(), false);
        assert!(receive().is_none());
    }
}
