//! The three socket options for which rustix has no safe, working call.
//!
//! `SO_PEERCRED`: rustix reads the process id as a number that cannot be 0, but the kernel reports
//! 0 for a process in a PID namespace that we do not see. `SO_PASSRIGHTS` and `SO_PASSPIDFD`:
//! rustix does not know them. The symbols are those of the C library that std is linked with.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

pub(crate) use numbers::SOL_SOCKET;
use numbers::{SO_PASSPIDFD, SO_PASSRIGHTS, SO_PEERCRED};

/// `SO_PASSPIDFD` came with Linux 6.5, `SO_PASSRIGHTS` with Linux 6.16.
mod numbers {
    use std::ffi::c_int;

    const IS_MIPS: bool = cfg!(any(
        target_arch = "mips",
        target_arch = "mips32r6",
        target_arch = "mips64",
        target_arch = "mips64r6"
    ));
    const IS_SPARC: bool = cfg!(any(target_arch = "sparc", target_arch = "sparc64"));
    const IS_POWER: bool = cfg!(any(target_arch = "powerpc", target_arch = "powerpc64"));

    pub(crate) const SOL_SOCKET: c_int = if IS_MIPS || IS_SPARC { 0xffff } else { 1 };
    pub(super) const SO_PEERCRED: c_int = match (IS_MIPS, IS_SPARC, IS_POWER) {
        (true, ..) => 18,
        (_, true, _) => 0x40,
        (_, _, true) => 21,
        _ => 17,
    };
    pub(super) const SO_PASSPIDFD: c_int = if IS_SPARC { 0x55 } else { 76 };
    pub(super) const SO_PASSRIGHTS: c_int = if IS_SPARC { 0x5c } else { 83 };
}

unsafe extern "C" {
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut u32)
    -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: u32) -> c_int;
}

/// The kernel's `struct ucred`.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Ucred {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Returns who is at the other end.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Ucred> {
    let mut ucred = Ucred::default();
    let mut len: u32 = 12;
    let value = (&raw mut ucred).cast();
    // SAFETY: `value` points to `len` writable bytes, for which every bit pattern is valid, and the
    // kernel writes no more than `len`.
    let failed =
        unsafe { getsockopt(socket.as_raw_fd(), SOL_SOCKET, SO_PEERCRED, value, &mut len) };
    match failed {
        0 if len == 12 => Ok(ucred),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells the kernel to refuse descriptors that are sent to `socket`, if it can. Otherwise they are
/// closed here, unseen, and closing some of them takes seconds.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) {
    set(socket, SO_PASSRIGHTS, false);
}

/// Has the kernel report the process that sends to `socket`, or stop doing so. Returns false if it
/// cannot.
pub(crate) fn ask_for_process(socket: BorrowedFd<'_>, ask: bool) -> bool {
    set(socket, SO_PASSPIDFD, ask)
}

/// Turns an option on or off. Fails on a kernel that does not know the option.
fn set(socket: BorrowedFd<'_>, option: c_int, on: bool) -> bool {
    let on = c_int::from(on);
    let value = (&raw const on).cast();
    // SAFETY: `value` points to four readable bytes, as the call says.
    unsafe { setsockopt(socket.as_raw_fd(), SOL_SOCKET, option, value, 4) == 0 }
}
