//! Processor instructions that the standard library has no name for.
//!
//! The models use none of them, and processors other than those named here do without.

use crate::sync::{AtomicU64, Ordering};

/// The bytes of a cache line, as far as anything here depends on it. Only speed does.
pub(crate) const CACHE_LINE: usize = 64;

/// Stores `value` with Release, and then fences as `fence(SeqCst)` does.
///
/// On x86-64 the fence is a locked instruction on the stack. No load or store is reordered with a
/// locked instruction (Intel, Software Developer's Manual, volume 3A, 9.2.2), and it costs half of
/// the `MFENCE` that `fence` emits there. Linux and the JVM fence the same way. The store itself is
/// not locked. A locked store would begin to fetch its cache line only after all earlier stores are
/// done, and meanwhile the consumer may look at the line once more. A plain store fetches its line
/// in parallel with theirs. This saves a tenth of a round trip on two cores.
#[inline(always)]
pub(crate) fn store_and_fence(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Release);
    full_fence();
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
#[inline(always)]
fn full_fence() {
    // SAFETY: it adds nothing to the word on top of this thread's own stack, so the word keeps its
    // value. It changes no register except the flags, and no option here denies that. Like any
    // `asm!` that may touch memory, it also keeps the compiler from moving accesses across it.
    unsafe { std::arch::asm!("lock or dword ptr [rsp], 0", options(nostack)) };
}

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
#[inline(always)]
fn full_fence() {
    crate::sync::fence(Ordering::SeqCst);
}

/// Whether this is a processor by AMD.
#[inline]
pub(crate) fn is_amd() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::atomic::{AtomicU8, Ordering};

        const UNKNOWN: u8 = 0;
        const NO: u8 = 1;
        const YES: u8 = 2;

        // Kept, because a hypervisor answers the instruction, which takes microseconds. Not a
        // `LazyLock`: a forked child would wait for a thread that was about to fill it.
        static IS_AMD: AtomicU8 = AtomicU8::new(UNKNOWN);
        // ORDERING: Relaxed; the answer publishes nothing, and all threads find the same one.
        let mut known = IS_AMD.load(Ordering::Relaxed);
        if known == UNKNOWN {
            known = if has_vendor(b"AuthenticAMD") { YES } else { NO };
            IS_AMD.store(known, Ordering::Relaxed);
        }
        known == YES
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the processor names this vendor.
#[cfg(target_arch = "x86_64")]
#[cold]
fn has_vendor(name: &[u8; 12]) -> bool {
    #[allow(unused_unsafe, reason = "newer compilers take it for a safe function")]
    // SAFETY: every processor of this architecture has the instruction and its leaf 0.
    let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == name
}

/// Whether this process runs under valgrind, as far as this processor can tell.
///
/// Valgrind recognises a sequence of instructions that has no effect otherwise, and answers it as a
/// request (valgrind's manual, "The Client Request mechanism").
pub(crate) fn is_under_valgrind() -> bool {
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(loom)))]
    {
        const RUNNING_ON_VALGRIND: u64 = 0x1001;
        let question = [RUNNING_ON_VALGRIND, 0, 0, 0, 0, 0];
        let mut depth = 0_u64;
        // SAFETY: the instructions rotate a register by 128 bits in all, and exchange a register
        // with itself: neither changes anything except the flags. Valgrind reads the six words and
        // sets RDX.
        unsafe {
            std::arch::asm!(
                "rol rdi, 3",
                "rol rdi, 13",
                "rol rdi, 61",
                "rol rdi, 51",
                "xchg rbx, rbx",
                in("rax") &raw const question,
                inout("rdx") depth,
                out("rdi") _,
                options(nostack),
            );
        }
        depth != 0
    }
    #[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64", not(loom))))]
    false
}

/// Makes this core fetch the cache line at `address`, to write to it soon. A hint.
#[inline(always)]
pub(crate) fn fetch_to_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that faults at no address and changes neither memory nor registers. Processors
    // that do not have it do nothing (Intel, volume 2B, PREFETCHW).
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address,
            options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; PRFM is architectural.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address,
            options(nostack, preserves_flags, readonly));
    }
    let _ = address;
}

/// Makes this core fetch the cache line at `address`, to read it soon. A hint.
#[inline(always)]
pub(crate) fn fetch_to_read(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that faults at no address and changes neither memory nor registers.
    unsafe {
        std::arch::asm!("prefetcht0 [{}]", in(reg) address,
            options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address,
            options(nostack, preserves_flags, readonly));
    }
    let _ = address;
}
