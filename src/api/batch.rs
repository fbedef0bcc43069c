//! Packets that are written in place and published together.

use std::fmt;

use crate::api::grant::Grant;
use crate::channel::SendHalf;
use crate::error::{ShmError, TryReserveError};

/// Packets that are written in place, one after another, and published together; from
/// [`Sender::batch`](crate::Sender::batch).
///
/// Each separate packet costs a publication, a fence and a check of the peer's bell; a batch costs
/// one of each. The peer sees the whole batch at once, so it does not touch cache lines that are
/// still being written. In benchmarks of streams (`benches/peers`, two cores), async calls with
/// packets of 8 KiB or more sent a fifth to a half more packets a second with batches; `try_` calls
/// with 64 bytes gained nothing. [`Sender::send_batch`](crate::Sender::send_batch) does the same
/// for packets that are already `Bytes`.
///
/// A committed [`Grant`] of a batch is withheld until one of these happens:
/// - [`publish`](Self::publish) is called, or the batch is dropped;
/// - an eighth of the ring is withheld, or 128 KiB if that is less;
/// - there is no room for the next packet.
///
/// Packets arrive in order: none overtakes packets that were withheld earlier. A batch that is
/// leaked (`std::mem::forget`) is published with the next send, by a `flush`, or at the end of the
/// [`Sender`](crate::Sender).
///
/// The peer cannot see withheld packets. So do not wait for its answer, or for anything else,
/// before the batch is published.
///
/// # Examples
/// ```
/// # use wakering::{SpscFace, SpscHandle};
/// # let (face, descriptor) = SpscFace::pair()?;
/// # let handle = SpscHandle::from_fd(descriptor)?;
/// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
/// use bytes::BufMut;
///
/// let mut batch = tx.batch();
/// for number in 0..3 {
///     let mut grant = batch.try_reserve(8)?;
///     grant.put_u64(number);
///     grant.commit()?;
/// }
/// assert!(rx.is_empty());
/// batch.publish()?;
/// assert_eq!(rx.try_recv()?, &0_u64.to_be_bytes()[..]);
/// assert_eq!(rx.readable(), Some(8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a batch is what its packets are reserved from"]
pub struct Batch<'a> {
    half: &'a mut SendHalf,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(half: &'a mut SendHalf) -> Self {
        Self { half }
    }

    /// Reserves room for the next packet, of up to `len` bytes. If there is none, publishes the
    /// withheld packets and waits for room.
    ///
    /// # Errors
    /// As [`Sender::reserve`](crate::Sender::reserve).
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has reserved nothing. (It may have published
    /// the withheld packets.)
    pub fn reserve(
        &mut self,
        len: usize,
    ) -> impl Future<Output = Result<Grant<'_>, ShmError>> + Send + '_ {
        Grant::reserve(self.half, len, true)
    }

    /// Reserves room for the next packet, of up to `len` bytes, if there is room now. If there is
    /// none, publishes the withheld packets.
    ///
    /// # Errors
    /// As [`Sender::try_reserve`](crate::Sender::try_reserve).
    #[inline(always)]
    pub fn try_reserve(&mut self, len: usize) -> Result<Grant<'_>, TryReserveError> {
        Grant::try_reserve(self.half, len, true)
    }

    /// Like [`reserve`](Self::reserve), but blocks the thread.
    ///
    /// # Errors
    /// As [`Sender::reserve`](crate::Sender::reserve).
    pub fn reserve_blocking(&mut self, len: usize) -> Result<Grant<'_>, ShmError> {
        Grant::reserve_blocking(self.half, len, true)
    }

    /// Publishes the withheld packets, all at once, and wakes the peer if it sleeps. The batch can
    /// be used further.
    ///
    /// Dropping the batch does the same, but reports no error.
    ///
    /// # Errors
    /// [`Closed`](ShmError::Closed): the channel has ended, or the peer no longer receives. The
    /// withheld packets are lost.
    pub fn publish(&mut self) -> Result<(), ShmError> {
        self.half.publish_withheld()
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let _ = self.publish();
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}
