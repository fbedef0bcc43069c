//! Packets that are written in place and shown together.

use std::fmt;

use crate::api::grant::Grant;
use crate::channel::SendHalf;
use crate::error::{ShmError, TryReserveError};

/// Packets that are written where they will lie, one after the other, and published together; from
/// [`Sender::batch`](crate::Sender::batch).
///
/// A packet costs a publication, a fence and a look at the peer's bell; a batch costs one of each,
/// and the peer, who sees all of it at once, keeps off the lines that are still being written. In
/// streams of async calls and of packets from 8 KiB on that was a fifth to a half more packets a
/// second (`benches/peers`, two cores); for `try_` calls and 64 bytes it was none.
/// [`Sender::send_batch`](crate::Sender::send_batch) does the same for packets that are `Bytes`
/// already.
///
/// A [`Grant`] of a batch that is committed is withheld until
/// - [`publish`](Self::publish), or the batch is dropped;
/// - an eighth of the ring is withheld, or 128 KiB if that is less;
/// - there is no room for the next one.
///
/// The packets come in order, none before those withheld earlier. A batch that was leaked
/// (`std::mem::forget`) is published with whatever is sent next, or by a `flush` or the end of the
/// [`Sender`](crate::Sender).
///
/// The peer cannot know of what is withheld. So do not wait for its answer, nor for anything else,
/// with a batch that is not published.
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

    /// Reserves room for the next packet, of up to `len` bytes; waits for room if there is none,
    /// after it has published what was withheld.
    ///
    /// # Errors
    /// As [`Sender::reserve`](crate::Sender::reserve).
    ///
    /// # Cancel safety
    /// A future that is dropped before it was ready has reserved nothing. (What was withheld may be
    /// out by then.)
    pub fn reserve(
        &mut self,
        len: usize,
    ) -> impl Future<Output = Result<Grant<'_>, ShmError>> + Send + '_ {
        async move {
            let claim = self.half.room(len).await?;
            Ok(Grant::of_batch(self.half.tx(), claim))
        }
    }

    /// Reserves room for the next packet, of up to `len` bytes, if there is room now. If there is
    /// none, what was withheld is published.
    ///
    /// # Errors
    /// As [`Sender::try_reserve`](crate::Sender::try_reserve).
    #[inline]
    pub fn try_reserve(&mut self, len: usize) -> Result<Grant<'_>, TryReserveError> {
        let claim = self.half.try_room(len)?;
        Ok(Grant::of_batch(self.half.tx(), claim))
    }

    /// As [`reserve`](Self::reserve), blocking the thread.
    ///
    /// # Errors
    /// As [`Sender::reserve`](crate::Sender::reserve).
    pub fn reserve_blocking(&mut self, len: usize) -> Result<Grant<'_>, ShmError> {
        let claim = self.half.room_blocking(len)?;
        Ok(Grant::of_batch(self.half.tx(), claim))
    }

    /// Publishes what was withheld, all at once, and wakes the peer if it sleeps. The batch may go
    /// on.
    ///
    /// Dropping the batch does the same, and tells of no error.
    ///
    /// # Errors
    /// [`Closed`](ShmError::Closed): the channel has ended, or the peer receives no more. What was
    /// withheld then is lost.
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
