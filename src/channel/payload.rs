//! What a sender waits for room with: packets, or room itself.

use bytes::Bytes;

use super::budget::Allowance;
use super::tx::Tx;
use crate::error::CloseReason;

/// What a sender waits for room with, one packet after the other.
pub(crate) trait Cargo {
    /// How many packets.
    fn count(&self) -> usize;

    /// The length of one of them.
    fn len_of(&self, packet: usize) -> usize;

    /// Offers as many as fit and are allowed, from the packet `next` on, and tells how many.
    fn offer(&self, tx: &mut Tx, next: usize, most: Allowance) -> Result<usize, CloseReason>;
}

impl<P: AsRef<[Bytes]>> Cargo for P {
    #[inline]
    fn count(&self) -> usize {
        self.as_ref().len()
    }

    fn len_of(&self, packet: usize) -> usize {
        self.as_ref()[packet].len()
    }

    #[inline]
    fn offer(&self, tx: &mut Tx, next: usize, most: Allowance) -> Result<usize, CloseReason> {
        tx.offer(&self.as_ref()[next..], most)
    }
}

/// Room for a packet of this length, which is to be written in place: offered as soon as there is
/// any, and nothing changes by it.
#[derive(Debug)]
pub(crate) struct Room(pub(crate) usize);

impl Cargo for Room {
    fn count(&self) -> usize {
        1
    }

    fn len_of(&self, _packet: usize) -> usize {
        self.0
    }

    fn offer(&self, tx: &mut Tx, _next: usize, _most: Allowance) -> Result<usize, CloseReason> {
        tx.claim(self.0).map(|claim| usize::from(claim.is_some()))
    }
}
