//! Makes system calls fail, by a filter that this thread and all that it starts can never remove.
#![allow(unsafe_code, reason = "no crate here declares prctl")]
#![allow(dead_code, unreachable_pub, reason = "no file needs all of it")]

use std::ffi::{c_int, c_ulong};
use std::io;

use rustix::io::Errno;

/// A system call to refuse, and how.
#[derive(Debug, Clone, Copy)]
pub struct Refuse {
    number: u32,
    /// Refuses the call only if its first argument has one of these bits.
    flags: Option<u32>,
    /// What the filter answers.
    action: u32,
}

/// The call fails; the error is in the low half.
const FAIL: u32 = 0x0005_0000;
/// The thread gets a `SIGSYS`.
const TRAP: u32 = 0x0003_0000;

impl Refuse {
    const fn call(number: u32, errno: Errno) -> Self {
        Self { number, flags: None, action: fail(errno) }
    }

    /// Refuses the call with a `SIGSYS` instead of an error.
    pub const fn by_a_signal(self) -> Self {
        Self { action: TRAP, ..self }
    }

    // The next three have the same numbers on every architecture except alpha, as all calls since
    // 2019 do.

    pub const fn io_uring_setup(errno: Errno) -> Self {
        Self::call(425, errno)
    }

    pub const fn io_uring_enter(errno: Errno) -> Self {
        Self::call(426, errno)
    }

    pub const fn io_uring_register(errno: Errno) -> Self {
        Self::call(427, errno)
    }

    pub const fn fallocate(errno: Errno) -> Self {
        const FALLOCATE: u32 = match () {
            () if cfg!(target_arch = "x86_64") => 285,
            () if cfg!(target_arch = "x86") => 324,
            () if cfg!(target_arch = "arm") => 352,
            () if cfg!(target_arch = "powerpc64") => 309,
            () if cfg!(target_arch = "s390x") => 314,
            () => 47,
        };
        Self::call(FALLOCATE, errno)
    }

    /// Refuses to start threads, but not processes.
    pub const fn threads() -> [Self; 2] {
        const CLONE: u32 = if cfg!(target_arch = "x86_64") { 56 } else { 220 };
        const CLONE_THREAD: u32 = 0x0001_0000;
        // A filter cannot see the flags of clone3, because they lie in memory. Every libc then
        // tries clone.
        let thread = Self { number: CLONE, flags: Some(CLONE_THREAD), action: fail(Errno::AGAIN) };
        [Self::call(435, Errno::NOSYS), thread]
    }
}

const fn fail(errno: Errno) -> u32 {
    FAIL | errno.raw_os_error().unsigned_abs()
}

/// A `sock_filter`: one instruction of the filter.
#[repr(C)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    k: u32,
}

/// A `sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    instructions: *const Instruction,
}

// SAFETY: this is the libc's declaration. The kernel checks the pointer, and copies what it points
// to.
unsafe extern "C" {
    safe fn prctl(option: c_int, mode: c_ulong, program: *const Program) -> c_int;
}

/// Refuses these calls from now on, in this thread and in all threads and processes that it starts.
pub fn refuse(calls: &[Refuse]) -> io::Result<()> {
    const PR_SET_SECCOMP: c_int = 22;
    const SECCOMP_MODE_FILTER: c_ulong = 2;
    // Without this, the filter would need a privilege.
    rustix::thread::set_no_new_privs(true)?;
    let instructions = assemble(calls);
    let len = u16::try_from(instructions.len()).map_err(io::Error::other)?;
    let program = Program { len, instructions: instructions.as_ptr() };
    match prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn assemble(calls: &[Refuse]) -> Vec<Instruction> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    /// The offset of the call's number in `seccomp_data`.
    const NUMBER: u32 = 0;
    /// The offset of the low half of the first argument.
    const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
    const ALLOW: u32 = 0x7fff_0000;
    let plain = |code, k| Instruction { code, if_true: 0, if_false: 0, k };
    let unless = |code, k, skip| Instruction { code, if_true: 0, if_false: skip, k };
    let mut program = Vec::new();
    for Refuse { number, flags, action } in calls {
        let refusal = plain(RETURN, *action);
        program.push(plain(LOAD_WORD, NUMBER));
        match flags {
            None => program.extend([unless(JUMP_IF_EQUAL, *number, 1), refusal]),
            Some(flags) => program.extend([
                unless(JUMP_IF_EQUAL, *number, 3),
                plain(LOAD_WORD, FIRST_ARGUMENT),
                unless(JUMP_IF_SET, *flags, 1),
                refusal,
            ]),
        }
    }
    program.push(plain(RETURN, ALLOW));
    program
}
