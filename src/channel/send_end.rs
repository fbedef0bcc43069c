//! What a send goes through: a whole end, where senders queue for room, or a half.

use std::task::Poll;

use bytes::Bytes;

use super::budget::Limit;
use super::deadline::Deadline;
use super::shared::Channel;
use super::tx::Tx;
use super::wait::Wait;
use crate::error::{ShmError, TryReserveError};
use crate::sync::{Mutex, lock};

/// What a send goes through: a whole end or a half.
pub(crate) trait SendEnd<'a> {
    fn channel(&self) -> &'a Channel;

    /// Accesses the sending half and its queue. The `work` must be short and must not call foreign
    /// code.
    fn with<R>(&mut self, work: impl FnOnce(&mut Tx, &mut Places) -> R) -> R;

    /// Sends a packet as [`Tx::send_now`] does, unless something has to go first.
    #[inline]
    fn send_now(&mut self, packet: &[u8], limit: Limit) -> bool {
        // The lock of a forked child may be one that nobody unlocks.
        self.channel().forked().is_none()
            && self.with(|tx, places| places.is_free() && tx.send_now(packet, limit))
    }

    /// Sends what has to go first.
    #[inline]
    fn poll_before<W: Wait>(
        &mut self,
        _deadline: &mut Deadline,
        _wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        Poll::Ready(Ok(()))
    }
}

/// The senders that wait for room.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// A sender is at the front.
    pub(super) is_taken: bool,
    /// How many senders queue for the front.
    pub(super) queued: usize,
}

impl Places {
    #[inline]
    pub(super) fn is_free(&self) -> bool {
        !self.is_taken && self.queued == 0
    }

    pub(super) fn leave_queue(&mut self) {
        self.queued = self.queued.saturating_sub(1);
    }
}

/// The sending half of a whole end, and the queue for it.
#[derive(Debug)]
pub(crate) struct SharedTx {
    tx: Tx,
    places: Places,
}

impl SharedTx {
    pub(crate) fn new(tx: Tx) -> Self {
        Self { tx, places: Places::default() }
    }

    /// Sends at once or not at all, and not before senders that wait for room. The caller drops the
    /// packet after the lock: its owner is foreign code, and may call this end.
    #[inline]
    pub(crate) fn try_send(&mut self, packet: &Bytes) -> Result<(), TryReserveError> {
        self.tx.try_send_unless(!self.places.is_free(), packet)
    }

    /// Returns the half itself, to ask it about the ring.
    pub(crate) fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    pub(crate) fn into_tx(self) -> Tx {
        self.tx
    }
}

/// A whole end, which many may send through.
#[derive(Debug)]
pub(crate) struct Whole<'a> {
    pub(crate) channel: &'a Channel,
    pub(crate) tx: &'a Mutex<SharedTx>,
}

impl<'a> SendEnd<'a> for Whole<'a> {
    #[inline]
    fn channel(&self) -> &'a Channel {
        self.channel
    }

    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut Tx, &mut Places) -> R) -> R {
        let SharedTx { tx, places } = &mut *lock(self.tx);
        work(tx, places)
    }
}

/// A half, which one sender uses.
#[derive(Debug)]
pub(crate) struct Half<'a> {
    pub(super) channel: &'a Channel,
    pub(super) tx: &'a mut Tx,
}

impl<'a> SendEnd<'a> for Half<'a> {
    #[inline]
    fn channel(&self) -> &'a Channel {
        self.channel
    }

    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut Tx, &mut Places) -> R) -> R {
        work(self.tx, &mut Places::default())
    }
}
