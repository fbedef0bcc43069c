//! How one side wakes the other without a system call as long as nobody sleeps.
//!
//! Each side has two words in the region: `waiting`, whose bits say what its tasks wait for
//! ([`RECV`](crate::shm::layout::RECV): packets, [`SEND`](crate::shm::layout::SEND): room), and
//! `bell`, a futex word that each wake increments.
//!
//! ```text
//! to park:   register the waiter; announce (head, wants); waiting |= bit; fence; look again;
//!            if nothing is there, sleep
//! to wake:   publish; fence; if waiting & bit: clear it; if that cleared it: bell += 1, wake
//! to block:  read the bell; then as to park; sleep as long as the bell is what was read
//! ```
//!
//! A task whose thread parks in the driver may ask the driver to spin first
//! ([`Registration::ask_to_spin`](crate::driver::Registration::ask_to_spin)). It then has not armed
//! the bell. Before the driver sleeps it wakes the task, which parks as above.
//!
//! This is the pattern of Dekker's algorithm: each side writes its word, fences, and reads the
//! other's, so at least one of the two sees the other's write. Either the publisher sees the bit
//! and wakes the parker, or the parker's second look sees what was published.
//!
//! | word | writer | reader | publishes |
//! |---|---|---|---|
//! | `waiting` | owner sets, Release; peer clears, AcqRel | peer, Relaxed around the fence; owner, after the count | `wants`, `RING_BY_BYTE` |
//! | `bell` | peer, Release; owner at an end | owner, Acquire; the kernel | that something was published or ended |
//!
//! Loom does not check two things, which a review for a weakly ordered machine must: the clear is
//! AcqRel, and it comes before the increment, which is Release. A late clear would wipe out the bit
//! of the sleeper's *next* park.

use crate::shm::layout::{BellWords, MAX_WAITERS, Side};
use crate::shm::region::{Region, Words};
use crate::sync::{Arc, AtomicU32, Ordering, fence};
use crate::sys::futex;
use crate::sys::op_counts::{Step, step};

/// The bell of one side: its owner parks by it, and the other side wakes the owner with it.
#[derive(Debug)]
pub(crate) struct Bell {
    words: Words,
}

impl Bell {
    /// Returns the bell that wakes `side`.
    pub(crate) fn new(region: &Arc<Region>, side: Side) -> Self {
        Self { words: region.words(side) }
    }

    /// Returns the futex word, to wait on it.
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.words().bell
    }

    /// Returns the count. A caller that will block reads it before [`arm`](Self::arm).
    pub(crate) fn count(&self) -> u32 {
        // ORDERING: Acquire pairs with the Release in `wake`.
        self.word().load(Ordering::Acquire)
    }

    /// Announces that this side is about to sleep. The caller then looks once more for what it
    /// waits for. Returns `true` if the bit was not set yet.
    pub(crate) fn arm(&self, bit: u32) -> bool {
        // ORDERING: Release carries `wants` to the consumer that sees the bit and then fences.
        let before = self.words().waiting.fetch_or(bit, Ordering::Release);
        // ORDERING: the parker's fence; partner of the one in `wake_if_waiting`.
        fence(Ordering::SeqCst);
        step(Step::Fence);
        before & bit == 0
    }

    /// Takes back [`arm`](Self::arm), if that call set the bit and the second look found something.
    /// Otherwise the next publication would make a system call that wakes nobody.
    pub(crate) fn disarm(&self, bit: u32) {
        // ORDERING: Relaxed; the bit only ever asks for a wake that is no longer needed.
        self.words().waiting.fetch_and(!bit, Ordering::Relaxed);
    }

    /// Whether this side still waits for `bit`: it was not woken for it since it was armed.
    #[inline]
    pub(crate) fn is_armed(&self, bit: u32) -> bool {
        step(Step::Look);
        // ORDERING: Relaxed; to the waker a stale answer costs a second look or a needless wake.
        // The owner asks after it has seen the bell's count.
        self.words().waiting.load(Ordering::Relaxed) & bit != 0
    }

    /// Wakes the side if it sleeps for `bit`, after something was published for it. Returns `true`
    /// if it made the system call.
    #[inline]
    pub(crate) fn wake_if_waiting(&self, bit: u32) -> bool {
        // ORDERING: the publisher's fence; partner of the one in `arm`.
        fence(Ordering::SeqCst);
        step(Step::Fence);
        self.wake_if_waiting_fenced(bit)
    }

    /// Like [`wake_if_waiting`](Self::wake_if_waiting), for a caller that has fenced since it
    /// published.
    #[inline]
    pub(crate) fn wake_if_waiting_fenced(&self, bit: u32) -> bool {
        self.is_armed(bit) && self.clear_and_wake(bit)
    }

    #[cold]
    fn clear_and_wake(&self, bit: u32) -> bool {
        // ORDERING: AcqRel keeps the clear before the increment in `wake`; if several threads wake
        // at once, only one sees the bit.
        if self.words().waiting.fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
            return false;
        }
        self.wake();
        true
    }

    /// Wakes the side whatever the bits say: for an end, after its flag was set.
    pub(crate) fn wake(&self) {
        // ORDERING: Release pairs with the Acquire in `count`: a thread that sees the count sees
        // the reason for it.
        self.word().fetch_add(1, Ordering::Release);
        // PEER: it may have a million waiters there, and a wake walks over all that it wakes, with
        // their queue locked. A conforming side has fewer than this.
        futex::wake_at_most(self.word(), MAX_WAITERS);
    }

    #[inline]
    fn words(&self) -> &BellWords {
        &self.words.bell.0
    }
}
