//! Copies of packets, on AMD's processors in pieces that glibc copies by plain loads and stores.
//!
//! glibc copies long blocks by `rep movsb` where the processor calls that fast (from 2 KiB on, by
//! `glibc.cpu.x86_rep_movsb_threshold`). On AMD's Zen 3 and 4 it is not always: where the target
//! lies up to 63 bytes past the source, modulo 4096, it was seen to move 1.7 GB/s in place of 45,
//! and lines that another core has just written come slowly. (glibc's bug 30994; since its
//! correction, glibc does not use the instruction on AMD's processors.) Records of a stream begin
//! at all multiples of 8, so they meet every such place.
//!
//! With glibc 2.36 and two cores, packets a second with pieces over without, medians of 6 to 15
//! pairs:
//!
//! | | Zen 3 | Ice Lake |
//! |---|---|---|
//! | 8 KiB by `send` and `recv` | 1.1 to 1.6 | 0.86 |
//! | 8 KiB by batches | 1.8 | 0.83 |
//! | 64 KiB by `send` and `recv` | 1.9 | 0.82 |
//! | 8 KiB in place | 1.0 | 0.87 |
//! | items of 64 bytes, copied out by 4 KiB | | 0.82 |
//!
//! So Intel's processors are left to glibc. While the Zen 3 moves each line four times as slowly,
//! as between distant cores, the instruction has more lines under way at once there, too: 0.85 to
//! 1.0, and 0.5 for 32 KiB that are copied out by 4 KiB.

use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::sys::cpu;

/// The length of a piece: few calls, and below glibc's threshold.
const PIECE: usize = 1024;

/// Shorter blocks are copied by one call.
const LONG: usize = 2 * PIECE;

/// Copies `len` bytes.
///
/// # Safety
/// - As for [`NonNull::copy_to_nonoverlapping`].
#[inline]
pub(super) unsafe fn in_pieces(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    if cfg!(target_env = "gnu") && len >= LONG && cpu::is_amd() {
        // SAFETY: the caller's duty.
        unsafe { copy_long(from, to, len) }
    } else {
        // SAFETY: the caller's duty.
        unsafe { from.copy_to_nonoverlapping(to, len) }
    }
}

/// # Safety
/// - As for [`NonNull::copy_to_nonoverlapping`].
#[inline(never)]
unsafe fn copy_long(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    for at in (0..len).step_by(PIECE) {
        // SAFETY: `at` is less than `len`, so the address lies in its block.
        let from = unsafe { from.add(at) };
        // SAFETY: as above.
        let to = unsafe { to.add(at) };
        // SAFETY: a part of what the caller vouches for, as it ends at `len` at most.
        unsafe { from.copy_to_nonoverlapping(to, PIECE.min(len - at)) };
        // Otherwise the optimizer may make one long copy of the loop.
        compiler_fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_and_no_other() {
        let source: Vec<u8> = (0..=250).cycle().take(5 * PIECE).collect();
        for len in [0, 1, PIECE, LONG - 1, LONG, LONG + 1, 3 * PIECE, 5 * PIECE - 7] {
            for at in [0, 1, 7] {
                let mut target = vec![255; source.len() + 8];
                for copy in [in_pieces, copy_long] {
                    target.fill(255);
                    let from = NonNull::from(&source[..len]);
                    let to = NonNull::from(&mut target[at..]);
                    // SAFETY: both blocks have at least `len` bytes, and are two allocations.
                    unsafe { copy(from.cast(), to.cast(), len) };
                    assert_eq!(target[at..at + len], source[..len]);
                    let others = target[..at].iter().chain(&target[at + len..]);
                    assert!(others.copied().all(|byte| byte == 255), "{len} bytes to {at}");
                }
            }
        }
    }
}
