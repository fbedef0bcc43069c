//! Kernel calls and processor instructions that no other crate offers, and events for `tracing`.

#[allow(unsafe_code, reason = "instructions that the standard library has no name for")]
pub(crate) mod cpu;
#[allow(unsafe_code, reason = "a page that the kernel clears in forked children")]
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod op_counts;
pub(crate) mod pause;
#[allow(unsafe_code, reason = "a descriptor in a control message that rustix does not know")]
pub(crate) mod pidfd;
#[cfg(not(all(test, loom)))]
#[allow(unsafe_code, reason = "the signal mask is set by the libc alone")]
pub(crate) mod signals;
pub(crate) mod shield;
#[allow(unsafe_code, reason = "three socket options that rustix cannot read or set")]
pub(crate) mod sockopt;
pub(crate) mod trace;
