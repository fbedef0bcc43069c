//! Waits for and wakes on a word that two processes share.
//!
//! Never uses `FUTEX_PRIVATE_FLAG`: with it, the kernel looks the word up by address space, and a
//! wake reaches nobody in the other process.

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slept {
    /// By a wake, by the timeout, or for no reason.
    Through,
    /// By a signal whose handler ran in this thread.
    Interrupted,
}

#[cfg(not(all(test, loom)))]
mod imp {
    use std::ptr;
    use std::time::Duration;

    use rustix::io::Errno;
    use rustix::thread::futex::{self, Flags, Timespec, WaitFlags, WaitPtr, WaitvFlags};
    use rustix::time::{ClockId, clock_gettime};

    use super::Slept;
    use crate::sync::AtomicU32;

    /// Sleeps until woken, as long as `word` holds `seen`, and at most for `timeout`.
    ///
    /// Also returns on signals and for no reason, so callers check again.
    pub(crate) fn wait(word: &AtomicU32, seen: u32, timeout: Option<Duration>) -> Slept {
        // A timeout that the kernel's clock cannot express is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match futex::wait(word, Flags::empty(), seen, timeout.as_ref()) {
            Ok(()) | Err(Errno::AGAIN | Errno::TIMEDOUT) => {}
            Err(Errno::INTR) => return Slept::Interrupted,
            // The word is mapped, aligned and readable, so no other error applies. Callers of this
            // function check their condition and their deadline in any case.
            Err(_) => std::thread::yield_now(),
        }
        Slept::Through
    }

    /// Sleeps until one of the words is woken, as long as both hold what was seen there.
    ///
    /// Returns `None` if the kernel cannot do that: before 5.16, or if it is forbidden to.
    pub(crate) fn wait_for_any(
        words: [(&AtomicU32, u32); 2],
        timeout: Option<Duration>,
    ) -> Option<Slept> {
        let waits = words.map(|(word, seen)| {
            let mut wait = futex::Wait::new();
            wait.val = u64::from(seen);
            wait.uaddr = WaitPtr::new(ptr::from_ref(word).cast_mut().cast());
            wait.flags = WaitFlags::SIZE_U32;
            wait
        });
        let until = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let until =
            until.and_then(|timeout| clock_gettime(ClockId::Monotonic).checked_add(timeout));
        match futex::waitv(&waits, WaitvFlags::empty(), until.as_ref(), ClockId::Monotonic) {
            Ok(_) | Err(Errno::AGAIN | Errno::TIMEDOUT) => Some(Slept::Through),
            Err(Errno::INTR) => Some(Slept::Interrupted),
            Err(_) => None,
        }
    }

    /// Wakes all who sleep on `word`.
    pub(crate) fn wake(word: &AtomicU32) {
        // The kernel takes the count as an `int`. The call cannot fail for a mapped, aligned word.
        wake_at_most(word, i32::MAX as u32);
    }

    /// Wakes the `most` waiters that have slept on `word` for the longest.
    ///
    /// Must not be called for one waiter only: a wait of an io_uring that was just dropped stays
    /// queued for up to a millisecond and would swallow the only wake.
    pub(crate) fn wake_at_most(word: &AtomicU32, most: u32) {
        let _ = futex::wake(word, Flags::empty(), most);
    }
}

#[cfg(all(test, loom))]
mod imp {
    use std::collections::HashMap;
    use std::sync::Mutex as StdMutex;
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    use super::Slept;
    use crate::sync::{Arc, AtomicU32, Ordering, lock};

    loom::lazy_static! {
        /// Waiters by the address of their word, as in the kernel's hash table.
        static ref WAITERS: Mutex<HashMap<usize, Vec<Waiter>>> = Mutex::new(HashMap::new());
    }

    /// A waiter on a word.
    enum Waiter {
        /// A thread that sleeps.
        Thread(Arc<Condvar>),
        /// A wait that is queued in a ring, under a tag.
        Lying(Arc<Ring>, u64),
    }

    /// Futex waits that are queued in the kernel, whether or not a thread sleeps in the ring.
    #[derive(Debug, Default)]
    pub(crate) struct Ring {
        /// Tags of waits that are over. Locked only while `WAITERS` is, so loom need not know.
        over: StdMutex<Vec<(u64, bool)>>,
        arrived: Condvar,
    }

    impl Ring {
        /// Begins to wait on `word`, as long as it holds `seen`.
        pub(crate) fn wait_on(self: &Arc<Self>, word: &AtomicU32, seen: u32, tag: u64) {
            let mut waiters = lock(&WAITERS);
            if is_changed(&[(word, seen)]) {
                return self.end(tag, false);
            }
            waiters.entry(key(word)).or_default().push(Waiter::Lying(self.clone(), tag));
        }

        /// Ends the wait without a wake.
        pub(crate) fn cancel(self: &Arc<Self>, tag: u64) {
            let mut waiters = lock(&WAITERS);
            for queue in waiters.values_mut() {
                queue.retain(|waiter| !matches!(waiter, Waiter::Lying(_, other) if *other == tag));
            }
            self.end(tag, false);
        }

        /// Takes the waits that are over, and whether each was woken. If there is none and
        /// `may_sleep`, sleeps until there is one.
        pub(crate) fn enter(&self, may_sleep: bool) -> Vec<(u64, bool)> {
            let mut waiters = lock(&WAITERS);
            loop {
                let over = std::mem::take(&mut *self.over.lock().unwrap());
                if !over.is_empty() || !may_sleep {
                    return over;
                }
                waiters = self.arrived.wait(waiters).unwrap();
            }
        }

        /// Ends all waits, and reports them to nobody.
        pub(crate) fn close(self: &Arc<Self>) {
            for queue in lock(&WAITERS).values_mut() {
                queue.retain(
                    |waiter| !matches!(waiter, Waiter::Lying(ring, _) if Arc::ptr_eq(ring, self)),
                );
            }
        }

        fn end(&self, tag: u64, woken: bool) {
            self.over.lock().unwrap().push((tag, woken));
            self.arrived.notify_one();
        }
    }

    fn key(word: &AtomicU32) -> usize {
        std::ptr::from_ref(word).addr()
    }

    fn is_changed(words: &[(&AtomicU32, u32)]) -> bool {
        // ORDERING: Relaxed; the kernel's compare orders nothing for us either.
        words.iter().any(|(word, seen)| word.load(Ordering::Relaxed) != *seen)
    }

    /// Waits as the kernel does: compares and sleeps under one lock. Timeouts never expire.
    pub(crate) fn wait(word: &AtomicU32, seen: u32, _timeout: Option<Duration>) -> Slept {
        sleep(&[(word, seen)]);
        Slept::Through
    }

    /// Waits on two words at once.
    pub(crate) fn wait_for_any(
        words: [(&AtomicU32, u32); 2],
        _timeout: Option<Duration>,
    ) -> Option<Slept> {
        sleep(&words);
        Some(Slept::Through)
    }

    fn sleep(words: &[(&AtomicU32, u32)]) {
        let mut waiters = lock(&WAITERS);
        if is_changed(words) {
            return;
        }
        let sleeper = Arc::new(Condvar::new());
        for (word, _) in words {
            waiters.entry(key(word)).or_default().push(Waiter::Thread(sleeper.clone()));
        }
        let mut waiters = sleeper.wait(waiters).unwrap();
        for queue in waiters.values_mut() {
            queue.retain(
                |waiter| !matches!(waiter, Waiter::Thread(one) if Arc::ptr_eq(one, &sleeper)),
            );
        }
    }

    /// Wakes all who wait on `word`.
    pub(crate) fn wake(word: &AtomicU32) {
        for waiter in lock(&WAITERS).remove(&key(word)).into_iter().flatten() {
            match waiter {
                Waiter::Thread(sleeper) => sleeper.notify_one(),
                Waiter::Lying(ring, tag) => ring.end(tag, true),
            }
        }
    }

    /// Like [`wake`], because no model has that many waiters.
    pub(crate) fn wake_at_most(word: &AtomicU32, _most: u32) {
        wake(word);
    }
}

#[cfg(all(test, loom))]
pub(crate) use imp::Ring;
pub(crate) use imp::{wait, wait_for_any, wake, wake_at_most};
