//! A packet that was lent, on its way back.

use std::sync::Weak;

use super::shared::Channel;
use crate::ring::Loan;
use crate::shm::layout::SEND;
use crate::sync::{Ordering, fence};

/// Brings a loan back when it is dropped, on whatever thread, and wakes a sender that waits for the
/// room.
#[derive(Debug)]
pub(crate) struct Returning {
    loan: Loan,
    /// Gone once the end is; then nobody waits for room any more.
    channel: Weak<Channel>,
}

impl Returning {
    pub(super) fn new(loan: Loan, channel: Weak<Channel>) -> Self {
        Self { loan, channel }
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        let Some(channel) = self.channel.upgrade() else { return };
        if channel.forked().is_some() {
            // The ring is the parent's, and a thread that does not exist here may have the book.
            return;
        }
        self.loan.bring_back();
        // ORDERING: between the store of `taken` and the look at the bit; partner of the one in
        // `Bell::arm`. Rarer than a take, so it can afford what that leaves to the sender's second
        // look.
        fence(Ordering::SeqCst);
        if channel.peer_bell.is_armed(SEND) && self.loan.gives_what_it_wants() {
            channel.wake_if_waiting(SEND);
        }
    }
}
