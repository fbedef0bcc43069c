//! The signal mask of the library's own threads, and of calls that no signal may break off.
//!
//! Declared here by hand, because rustix has this call only in its `runtime` module, whose name it
//! changes between releases.

use std::ffi::c_int;

use rustix::process::Signal;

/// A `sigset_t`, as large as that of any libc.
#[repr(C, align(16))]
struct SignalSet([u8; 128]);

/// For `pthread_sigmask`.
const SIG_SETMASK: c_int = if cfg!(any(
    target_arch = "mips",
    target_arch = "mips32r6",
    target_arch = "mips64",
    target_arch = "mips64r6"
)) {
    3
} else if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) {
    4
} else {
    2
};

/// The signals that a thread itself raises, by a fault or by a system call. If one of them is
/// blocked, the kernel kills the process instead of calling its handler. A seccomp filter raises
/// `SIGSYS` for a call that it traps; the handler lets the call fail, and a driver then does
/// without io_uring.
const OWN: [Signal; 7] =
    [Signal::SEGV, Signal::BUS, Signal::FPE, Signal::ILL, Signal::TRAP, Signal::ABORT, Signal::SYS];

/// The signals that a libc reserves: `setuid` and `pthread_cancel` wait for every thread to take
/// them. A libc that reserves them, or 34 as well, as musl does, leaves them out in any case and
/// refuses to change them. Elsewhere 34 is the program's `SIGRTMIN`.
const RESERVED: [c_int; 2] = [32, 33];

// SAFETY: these are the libc's own, with pointers to `sigset_t`, for which `SignalSet` is large and
// aligned enough; a set that is read was filled before. None of them keeps a pointer.
unsafe extern "C" {
    safe fn sigfillset(set: &mut SignalSet) -> c_int;
    safe fn sigdelset(set: &mut SignalSet, signal: c_int) -> c_int;
    safe fn pthread_sigmask(how: c_int, set: &SignalSet, old: Option<&mut SignalSet>) -> c_int;
}

/// Runs `call` with all asynchronous signals blocked. A thread that it starts then never takes one,
/// so they go to the program's own threads.
pub(crate) fn blocked<T>(call: impl FnOnce() -> T) -> T {
    let mut all = SignalSet([0; 128]);
    sigfillset(&mut all);
    for signal in OWN.map(Signal::as_raw).into_iter().chain(RESERVED) {
        sigdelset(&mut all, signal);
    }
    let mut before = SignalSet([0; 128]);
    let changed = pthread_sigmask(SIG_SETMASK, &all, Some(&mut before)) == 0;
    let result = call();
    if changed {
        pthread_sigmask(SIG_SETMASK, &before, None);
    }
    result
}
