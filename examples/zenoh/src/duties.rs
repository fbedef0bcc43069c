//! What the task of a circuit has to do, told by other threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use futures::task::AtomicWaker;

/// A set of things to do, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty(u32);

impl Duty {
    /// Go on: the other side has accepted.
    pub const START: Self = Self(1);
    /// Look for room in the window again.
    pub const ROOM: Self = Self(1 << 1);
    /// Stop sending: nobody receives at the other end.
    pub const STOPPED: Self = Self(1 << 2);
    /// Look at the overflow and the end of what comes in.
    pub const INWARD: Self = Self(1 << 3);
    /// Send a message, so that the other side learns what the header says.
    pub const BEAT: Self = Self(1 << 4);
    /// Tell the other side that nobody receives here.
    pub const STOP: Self = Self(1 << 5);
    /// Leave: the circuit is cut.
    pub const CUT: Self = Self(1 << 6);

    /// Those that stay once they are set.
    const LASTING: Self = Self(Self::STOPPED.0 | Self::CUT.0);

    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The duties of one circuit. All who wait are futures of one task.
#[derive(Debug, Default)]
pub struct Duties {
    bits: AtomicU32,
    waker: AtomicWaker,
}

impl Duties {
    /// Adds duties, and wakes the task if they are new.
    pub fn add(&self, duty: Duty) {
        // ORDERING: AcqRel; Release publishes what the duty is about and pairs with `take`. It is
        // also ordered before the wake, which pairs with `register`.
        if self.bits.fetch_or(duty.0, Ordering::AcqRel) & duty.0 != duty.0 {
            self.waker.wake();
        }
    }

    /// Waits for one of `duties`, and takes those that do not last.
    pub async fn wait(&self, duties: Duty) -> Duty {
        std::future::poll_fn(|cx| {
            let mut taken = self.take(duties);
            if taken.0 == 0 {
                self.waker.register(cx.waker());
                taken = self.take(duties);
            }
            if taken.0 == 0 { Poll::Pending } else { Poll::Ready(taken) }
        })
        .await
    }

    fn take(&self, duties: Duty) -> Duty {
        // ORDERING: Acquire pairs with the Release in `add`. The first load saves the others.
        let found = self.bits.load(Ordering::Acquire) & duties.0;
        let fleeting = found & !Duty::LASTING.0;
        if fleeting != 0 {
            self.bits.fetch_and(!fleeting, Ordering::AcqRel);
        }
        Duty(found)
    }
}
