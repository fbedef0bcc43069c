//! Atomics, fences and locks: those of std, or loom's in the models.
//!
//! Everything above takes them from here, so that the very code that ships is what loom explores.
//! Reference counts are std's in both: nothing of the protocol rests on them, and loom's would
//! multiply what it has to explore.

#[cfg(not(all(test, loom)))]
mod imp {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};
}

#[cfg(all(test, loom))]
mod imp {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}

pub(crate) use imp::*;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;

/// Locks `mutex`, whether or not a thread panicked while it held it.
///
/// Every critical section in this crate leaves its data valid at each step, and foreign code (a
/// waker, a predicate) never runs inside one, so a poisoned lock tells nothing that matters.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
