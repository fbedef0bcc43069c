//! Thousands of waits on one bell, which only an io_uring can hold.
#![allow(unsafe_code, reason = "the waits of a crowd are the kernel's")]

pub(super) use imp::{expect_woken, gather};

// As in Cargo.toml.
#[cfg(all(
    feature = "io-uring",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    )
))]
mod imp {
    use std::cell::RefCell;
    use std::sync::atomic::Ordering;

    use io_uring::{IoUring, opcode};

    use crate::common::raw_peer::{self, Raw};

    thread_local! {
        static CROWD: RefCell<Option<(IoUring, usize)>> = const { RefCell::new(None) };
    }

    /// Puts `count` waits on our bell.
    pub(crate) fn gather(raw: &Raw, count: u64) {
        let mut ring: IoUring = IoUring::builder().setup_cqsize(1 << 16).build(4096).unwrap();
        let bell = raw.own32(raw_peer::BELL);
        // No other process increments the bell yet.
        let seen = u64::from(bell.load(Ordering::Acquire));
        for n in 0..count {
            let all = u64::from(u32::MAX);
            let wait = opcode::FutexWait::new(bell.as_ptr(), seen, all, 2).build();
            // SAFETY: the word stays mapped, because `raw` is kept as long as this process lives.
            unsafe { ring.submission().push(&wait).unwrap() };
            if n % 4096 == 4095 || n + 1 == count {
                ring.submit().unwrap();
            }
        }
        CROWD.set(Some((ring, 0)));
    }

    /// Checks that some of the waits were woken so far, and at most `most`.
    pub(crate) fn expect_woken(most: usize) {
        CROWD.with_borrow_mut(|ring| {
            let (ring, woken) = ring.as_mut().unwrap();
            // A wait for which the kernel had no memory was not woken.
            *woken += ring.completion().filter(|it| it.result() == 0).count();
            assert!((1..=most).contains(woken), "{woken}");
        });
    }
}

#[cfg(not(all(
    feature = "io-uring",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    )
)))]
mod imp {
    use crate::common::raw_peer::Raw;

    pub(crate) fn gather(_raw: &Raw, _count: u64) {
        unimplemented!("a build without io_uring");
    }

    pub(crate) fn expect_woken(_most: usize) {
        unimplemented!("a build without io_uring");
    }
}
