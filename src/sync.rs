//! Atomics, fences, locks and threads: those of std, or loom's in the models.
//!
//! All modules above take them from here, so that loom explores the very code that ships. Reference
//! counts are std's in both cases: the protocol does not depend on them, and loom's would multiply
//! what it has to explore.

#[cfg(not(all(test, loom)))]
mod imp {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};
    pub(crate) use std::thread_local;

    pub(crate) mod thread {
        pub(crate) use std::thread::{Thread, current, park, park_timeout};
    }
}

#[cfg(all(test, loom))]
mod imp {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    pub(crate) use loom::thread_local;

    pub(crate) mod thread {
        use std::sync::Arc;

        use loom::sync::{Condvar, Mutex};

        loom::thread_local! {
            static CURRENT: Thread = Thread(Arc::default());
        }

        /// Replaces loom's own `Thread`, whose `unpark` also ends waits other than `park`.
        #[derive(Clone)]
        pub(crate) struct Thread(Arc<(Mutex<bool>, Condvar)>);

        impl Thread {
            pub(crate) fn unpark(&self) {
                *self.0.0.lock().unwrap() = true;
                self.0.1.notify_one();
            }
        }

        pub(crate) fn current() -> Thread {
            CURRENT.with(Clone::clone)
        }

        pub(crate) fn park() {
            let Thread(parker) = current();
            let mut token = parker.0.lock().unwrap();
            while !std::mem::take(&mut *token) {
                token = parker.1.wait(token).unwrap();
            }
        }

        /// Lets the other threads run: no time passes in a model.
        pub(crate) fn park_timeout(_timeout: std::time::Duration) {
            loom::thread::yield_now();
        }
    }
}

pub(crate) use imp::*;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;

/// Locks `mutex`, whether or not a thread panicked while it held it.
///
/// Every critical section in this crate leaves its data valid at each step, and foreign code (a
/// waker, a predicate) never runs inside one. So poisoning does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
