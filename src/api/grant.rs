//! Writing a packet in place.

use std::fmt;

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};

use crate::api::packet::Packet;
use crate::channel::{Limit, SendHalf, Tx};
use crate::error::{ShmError, TryReserveError};
use crate::ring::Claim;

/// Room in the ring for a packet that is still to be written; from [`Sender::reserve`] and similar
/// methods.
///
/// It is a [`BufMut`]: bytes are appended straight into shared memory, up to
/// [`remaining_mut`](BufMut::remaining_mut). [`commit`](Self::commit) publishes what was written,
/// which may be less than was reserved: the packet has that length, and the rest stays free.
///
/// Dropping or forgetting the grant gives it up: nothing is sent, the peer sees nothing, and the
/// next packet begins at the same place. While it lives, nothing else can be sent on this half.
///
/// ```
/// # use wakering::{SpscFace, SpscHandle};
/// # let (face, descriptor) = SpscFace::pair()?;
/// # let handle = SpscHandle::from_fd(descriptor)?;
/// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
/// use bytes::BufMut;
///
/// let mut grant = tx.try_reserve(1500)?;
/// grant.put_u16(0xbeef);
/// grant.put_slice(b" and so on");
/// grant.commit()?;
/// assert_eq!(rx.try_recv()?, &b"\xbe\xef and so on"[..]);
///
/// drop(tx.try_reserve(1500)?);
/// assert!(rx.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Write only
///
/// The memory is shared, and a hostile peer can write to it at any moment. No safe call reads it.
/// You may pass the [`UninitSlice`] of [`chunk_mut`](BufMut::chunk_mut) to a system call or a codec
/// that writes there, but they must not read back what was written, as the contract of
/// [`as_uninit_slice_mut`](UninitSlice::as_uninit_slice_mut) requires: it may have changed. Bytes
/// that [`advance_mut`](BufMut::advance_mut) skips without writing have the earlier content of the
/// ring, never memory of this process.
///
/// # Forks
///
/// In a child that was forked without an exec, a grant of the parent's counts what is put and
/// writes nothing to the ring; [`chunk_mut`](BufMut::chunk_mut) gives private memory, and `commit`
/// fails. A slice that `chunk_mut` gave before the fork still leads to the ring: the child must not
/// write to it.
///
/// [`Sender::reserve`]: crate::Sender::reserve
#[must_use = "a grant that is dropped publishes nothing: commit it"]
pub struct Grant<'a> {
    tx: &'a mut Tx,
    claim: Claim,
    written: usize,
    /// The packet becomes part of a batch.
    withheld: bool,
}

impl<'a> Grant<'a> {
    /// Reserves room for a packet of up to `len` bytes, and waits for room if there is none. If
    /// `withheld`, the packet is published with those of a batch.
    #[inline]
    pub(crate) fn reserve(
        half: &'a mut SendHalf,
        len: usize,
        withheld: bool,
    ) -> impl Future<Output = Result<Self, ShmError>> + Send {
        // Not an `async fn`, which would move its arguments once more.
        async move {
            let claim = match half.claim_now(len, Limit::Budget) {
                Some(claim) => claim,
                None => half.room(len).await?,
            };
            Ok(Self { tx: half.tx(), claim, written: 0, withheld })
        }
    }

    /// Like [`reserve`](Self::reserve), but at once or not at all.
    #[inline(always)]
    pub(crate) fn try_reserve(
        half: &'a mut SendHalf,
        len: usize,
        withheld: bool,
    ) -> Result<Self, TryReserveError> {
        let claim = half.try_room(len)?;
        Ok(Self { tx: half.tx(), claim, written: 0, withheld })
    }

    /// Like [`reserve`](Self::reserve), but blocks the thread.
    pub(crate) fn reserve_blocking(
        half: &'a mut SendHalf,
        len: usize,
        withheld: bool,
    ) -> Result<Self, ShmError> {
        let claim = half.room_blocking(len)?;
        Ok(Self { tx: half.tx(), claim, written: 0, withheld })
    }

    /// Returns the number of bytes written so far: the length of the packet that a commit now would
    /// publish.
    #[inline]
    pub fn len(&self) -> usize {
        self.written
    }

    /// Whether nothing has been written so far.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// Returns the number of bytes that were reserved.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.claim.len()
    }

    /// Appends a packet that lies in another ring, with a single copy.
    ///
    /// # Panics
    /// If the packet is longer than [`remaining_mut`](BufMut::remaining_mut).
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let (mut tx, mut rx) = face.into_split();
    /// # let (mut far_tx, mut far_rx) = handle.into_split();
    /// far_tx.try_send("back to where it came from".into())?;
    /// let packet = rx.try_recv_ref()?;
    /// let mut grant = tx.try_reserve(packet.len())?;
    /// grant.put_packet(&packet);
    /// grant.commit()?;
    /// drop(packet);
    /// assert_eq!(far_rx.try_recv()?, "back to where it came from");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn put_packet(&mut self, packet: &Packet<'_>) {
        let Some(at) = self.make_way(packet.len()) else { return };
        self.tx.memory().copy_across(at, packet.memory(), packet.offset(), packet.len());
    }

    /// Publishes what was written as one packet, and wakes the peer if it sleeps.
    ///
    /// `Ok` means the same as for [`send`](crate::Sender::send): the packet is in shared memory. A
    /// packet of a [`Batch`](crate::Batch) is not visible there before the batch is published.
    ///
    /// # Errors
    /// [`Closed`](ShmError::Closed): the channel has ended since the room was reserved, or the peer
    /// no longer receives. Nothing was sent.
    #[inline(always)]
    pub fn commit(self) -> Result<(), ShmError> {
        let Self { tx, claim, written, withheld } = self;
        tx.commit(claim, written, withheld).map_err(|reason| ShmError::Closed { reason, sent: 0 })
    }

    /// Whether this process is a child of the one that reserved. Then the room belongs to the
    /// parent, which may have sent more since, and the child writes nothing.
    #[inline]
    fn is_forked(&self) -> bool {
        self.tx.is_forked()
    }

    /// Returns where in the ring the next `len` bytes go, and counts them as written. `None` in a
    /// forked child, which writes nothing.
    #[inline]
    fn make_way(&mut self, len: usize) -> Option<usize> {
        let left = self.claim.len() - self.written;
        assert!(len <= left, "{len} bytes for a grant that has room for {left}");
        let at = self.claim.offset() + self.written;
        self.written += len;
        (!self.is_forked()).then_some(at)
    }
}

// SAFETY: `remaining_mut` never grows and shrinks only by what is written or advanced over, both
// methods stay within the claim, and `chunk_mut` gives exactly the bytes after those written: all
// of `remaining_mut`.
unsafe impl BufMut for Grant<'_> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.claim.len() - self.written
    }

    /// # Panics
    /// If `count` is more than [`remaining_mut`](Self::remaining_mut).
    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        self.make_way(count);
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        let (at, len) = (self.claim.offset() + self.written, self.remaining_mut());
        if self.is_forked() {
            return UninitSlice::new(self.tx.scratch(len));
        }
        // SAFETY: the bytes are free: they were claimed, and nothing has been staged since, because
        // this grant borrows the producer exclusively. Nobody else has a reference to them: a ring
        // has one producer, this borrows the grant that borrows it, and if this process also has
        // the receiving end of the same ring, a packet that it holds there is not free.
        unsafe { self.tx.memory().spare(at, len) }
    }

    #[inline]
    fn put<T: Buf>(&mut self, mut from: T) {
        while from.has_remaining() {
            let chunk = from.chunk();
            let len = chunk.len();
            self.put_slice(chunk);
            from.advance(len);
        }
    }

    #[inline]
    fn put_slice(&mut self, from: &[u8]) {
        let Some(at) = self.make_way(from.len()) else { return };
        self.tx.memory().copy_in(at, from);
    }

    #[inline]
    fn put_bytes(&mut self, byte: u8, count: usize) {
        let Some(at) = self.make_way(count) else { return };
        self.tx.memory().fill(at, byte, count);
    }
}

impl fmt::Debug for Grant<'_> {
    /// Prints the lengths and nothing of the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
