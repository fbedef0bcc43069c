//! How a driver waits in the kernel, as the event loop sees it.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::table::Id;
use crate::sync::AtomicU32;

/// How a driver waits in the kernel: with an io_uring ring, or with an epoll set alone.
pub(super) trait Poller: Send {
    /// Waits for a wake on `bell`, from now on or since it held `seen`, and returns true. One
    /// [`Wake`] with this identity follows at some time. Returns false if this poller does not wait
    /// for bells.
    fn arm(&mut self, id: Id, bell: &AtomicU32, seen: u32) -> bool;

    /// Makes the [`Wake`] that follows [`arm`](Self::arm) come soon.
    fn disarm(&mut self, id: Id);

    /// Sleeps until something happens, at most for `timeout`, and appends all of it to `found`. May
    /// return early.
    fn wait(&mut self, timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure>;

    /// Appends to `found` what can be seen without a system call, if anything.
    fn reap_ready(&mut self, _found: &mut Found) {}

    /// Whether a wait would find something at once, as far as that can be seen without a system
    /// call.
    fn is_due(&mut self) -> bool {
        false
    }

    /// Takes back what was armed for the driver itself, once no registration is left.
    fn close(&mut self);

    /// Whether the calling thread may use this poller. A ring to sleep in belongs to the thread
    /// that made it.
    fn is_ours(&self) -> bool {
        true
    }
}

impl<P: Poller + ?Sized> Poller for Box<P> {
    fn arm(&mut self, id: Id, bell: &AtomicU32, seen: u32) -> bool {
        (**self).arm(id, bell, seen)
    }

    fn disarm(&mut self, id: Id) {
        (**self).disarm(id);
    }

    fn wait(&mut self, timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
        (**self).wait(timeout, found)
    }

    fn reap_ready(&mut self, found: &mut Found) {
        (**self).reap_ready(found);
    }

    fn is_due(&mut self) -> bool {
        (**self).is_due()
    }

    fn close(&mut self) {
        (**self).close();
    }

    fn is_ours(&self) -> bool {
        (**self).is_ours()
    }
}

/// What happened during one wait.
#[derive(Default)]
pub(super) struct Found {
    pub(super) wakes: Vec<Wake>,
    /// Events of descriptors: the source and the token.
    pub(super) events: Vec<(Id, u16)>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.wakes.is_empty() && self.events.is_empty()
    }
}

/// A wait on a bell is over.
pub(super) struct Wake {
    pub(super) id: Id,
    pub(super) outcome: Outcome,
}

/// How a wait on a bell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A peer or thread woke it, or had counted the bell up before it began.
    Woken,
    /// It ended without a wake: the kernel ended it, for its own reasons or at our request. Whether
    /// there is news, the bell's count tells.
    #[allow(dead_code, reason = "for io_uring alone")]
    Lapsed,
    /// The kernel cannot wait on this word, and never will.
    Poisoned,
}

/// Returns what the result of a futex wait, or of a poll, in an io_uring means.
///
/// A wait takes memory that the kernel does not wait for. Where memory is short it may fail
/// (ENOMEM), many times in a row. Such a failure is no wake: it would be charged to the peer's
/// budget.
///
/// PEER: a wait fails (EAGAIN) if the bell differs from what it held at our last look. This counts
/// as a wake even if the bell has its former value again by now: only a peer that counts it down
/// can do that, as often as it likes.
#[allow(dead_code, reason = "for io_uring alone")]
pub(super) fn outcome(error: Option<Errno>) -> Outcome {
    match error {
        None | Some(Errno::AGAIN) => Outcome::Woken,
        Some(Errno::CANCELED | Errno::INTR | Errno::NOMEM) => Outcome::Lapsed,
        // It would fail again: the word is not mapped, or a sandbox forbids the operation.
        Some(_) => Outcome::Poisoned,
    }
}

/// How long a driver waits before it tries again when the kernel has no memory for it.
#[allow(dead_code, reason = "for io_uring alone")]
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// How many times in a row the kernel may fail before the driver is given up.
pub(super) const ATTEMPTS: u32 = 8;

/// Returns how long a driver waits after so many failures in
/// a row: about a quarter of a second in all.
pub(super) fn pause_after(failures: u32) -> Duration {
    Duration::from_millis(1 << failures.min(ATTEMPTS)) / 2
}

/// Why a wait in the kernel failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no poller yet; nothing was tried.
    NoPoller(io::Error),
    /// The next wait may succeed.
    Once(io::Error),
    /// Completions were lost: some waits would never end.
    ForGood(io::Error),
}

impl Failure {
    /// Returns the kernel's error.
    #[cfg_attr(all(test, loom), allow(dead_code, reason = "for drivers that wait in the kernel"))]
    pub(super) fn into_error(self) -> io::Error {
        match self {
            Self::NoPoller(error) | Self::Once(error) | Self::ForGood(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_no_wake() {
        assert_eq!(outcome(Some(Errno::NOMEM)), Outcome::Lapsed);
        assert_eq!(outcome(Some(Errno::CANCELED)), Outcome::Lapsed);
        assert_eq!(outcome(Some(Errno::AGAIN)), Outcome::Woken);
        assert_eq!(outcome(None), Outcome::Woken);
        assert_eq!(outcome(Some(Errno::FAULT)), Outcome::Poisoned);
    }
}
