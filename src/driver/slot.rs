//! The state that a registration and its driver share without the inbox.
//!
//! | word | written by | read by | what it says |
//! |---|---|---|---|
//! | `timer` | its registration lowers it, the driver clears it | both | the earliest time that is still to come |
//! | `notified` | its registration sets it, the driver clears it | both | a notification is under way |
//! | `cancelled` | its registration, once | the driver | the source must not be called any more |

use super::clock::NEVER;
use super::table::Id;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// One registration, as both sides see it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: Id,
    /// The earliest requested time that the driver has not called the source for yet.
    timer: AtomicU64,
    notified: AtomicU32,
    cancelled: AtomicU32,
}

impl Slot {
    pub(super) fn new(id: Id) -> Self {
        Self {
            id,
            timer: AtomicU64::new(NEVER),
            notified: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
        }
    }

    /// Requests a time. Returns whether it is earlier than the one that the driver knows.
    pub(super) fn lower_timer(&self, at: u64) -> bool {
        // ORDERING: AcqRel, and a read-modify-write even if the value stays. If this comes before
        // the swap in `clear_timer`, that swap makes all that the caller wrote visible to the
        // source. If it comes after, it finds NEVER, and the driver is told.
        self.timer.fetch_min(at, Ordering::AcqRel) > at
    }

    /// Clears the time, before the source is called for it. Requests after this are new ones.
    pub(super) fn clear_timer(&self) {
        // ORDERING: AcqRel; pairs with `lower_timer`.
        self.timer.swap(NEVER, Ordering::AcqRel);
    }

    /// Marks a notification as under way. Returns whether none was before.
    pub(super) fn begin_notify(&self) -> bool {
        // ORDERING: AcqRel; pairs with `end_notify` as `lower_timer` does with `clear_timer`.
        self.notified.swap(1, Ordering::AcqRel) == 0
    }

    /// Clears the mark, before the source is called for the notification.
    pub(super) fn end_notify(&self) {
        // ORDERING: AcqRel; pairs with `begin_notify`.
        self.notified.swap(0, Ordering::AcqRel);
    }

    /// Marks the registration as cancelled. Returns whether it was not before.
    pub(super) fn begin_cancel(&self) -> bool {
        // ORDERING: Relaxed; the flag publishes nothing, and the inbox orders the command that
        // follows.
        self.cancelled.swap(1, Ordering::Relaxed) == 0
    }

    pub(super) fn is_cancelled(&self) -> bool {
        // ORDERING: Relaxed, as in `begin_cancel`. The cancelling thread itself sees its own write.
        self.cancelled.load(Ordering::Relaxed) != 0
    }
}
