//! A lent packet that is to be returned.

use std::sync::Weak;

use super::shared::Channel;
use crate::ring::Loan;
use crate::shm::layout::SEND;
use crate::sync::{Ordering, fence};

/// Returns a loan when it is dropped, on any thread, and wakes a sender that waits for the room.
#[derive(Debug)]
pub(crate) struct LoanGuard {
    loan: Loan,
    /// Gone once the end is; then nobody waits for room any more.
    channel: Weak<Channel>,
}

impl LoanGuard {
    pub(super) fn new(loan: Loan, channel: Weak<Channel>) -> Self {
        Self { loan, channel }
    }
}

impl Drop for LoanGuard {
    fn drop(&mut self) {
        let Some(channel) = self.channel.upgrade() else { return };
        if channel.forked().is_some() {
            // The ring is the parent's, and a thread that does not exist here may hold the lock on
            // the loans.
            return;
        }
        self.loan.bring_back();
        // ORDERING: between the store of `taken` and the load of the bit; partner of the one in
        // `Bell::arm`. Loans are returned less often than packets are taken, so this can afford the
        // fence instead of relying on the sender's second look.
        fence(Ordering::SeqCst);
        if channel.peer_bell.is_armed(SEND) && self.loan.gives_what_it_wants() {
            channel.wake_if_waiting(SEND);
        }
    }
}
