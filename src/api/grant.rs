//! A packet that is written where it will lie.

use std::fmt;

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};

use crate::api::packet::Packet;
use crate::channel::Tx;
use crate::error::ShmError;
use crate::ring::Claim;

/// Room in the ring for a packet that is still to be written, from [`Sender::reserve`] and its kin.
///
/// It is a [`BufMut`]: bytes are put into it one behind the other, straight into shared memory, as
/// far as [`remaining_mut`](BufMut::remaining_mut) goes. [`commit`](Self::commit) publishes what
/// was put, which may be less than was reserved: the packet is that long, and the rest stays free.
///
/// Dropped or forgotten, it is given up: nothing was sent, the peer sees nothing, and the next
/// packet begins at the same place. While it lives, nothing else can be sent on this half.
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
/// Who takes the [`UninitSlice`] of [`chunk_mut`](BufMut::chunk_mut) apart, to let a system call or
/// a codec write there, must not read back what was written, as the contract of
/// [`as_uninit_slice_mut`](UninitSlice::as_uninit_slice_mut) has it: it may be something else by
/// then. What is skipped by [`advance_mut`](BufMut::advance_mut) without having been written is
/// what the ring held before, never memory of this process.
///
/// [`Sender::reserve`]: crate::Sender::reserve
#[must_use = "a grant that is dropped publishes nothing: commit it"]
pub struct Grant<'a> {
    tx: &'a mut Tx,
    claim: Claim,
    written: usize,
    /// It becomes one of a batch.
    withheld: bool,
}

impl<'a> Grant<'a> {
    /// What `tx` has just claimed.
    #[inline]
    pub(crate) fn new(tx: &'a mut Tx, claim: Claim) -> Self {
        Self { tx, claim, written: 0, withheld: false }
    }

    /// As [`new`](Self::new), for a packet that is published with those of a batch.
    #[inline]
    pub(crate) fn of_batch(tx: &'a mut Tx, claim: Claim) -> Self {
        Self { tx, claim, written: 0, withheld: true }
    }

    /// Bytes written so far: the length of the packet that a commit now would publish.
    #[inline]
    pub fn len(&self) -> usize {
        self.written
    }

    /// Whether nothing was written so far.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// Bytes that were reserved.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.claim.len()
    }

    /// Appends a packet that lies in another ring, by one copy from there to here.
    ///
    /// # Panics
    /// If it is longer than [`remaining_mut`](BufMut::remaining_mut).
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
        let at = self.make_way(packet.len());
        if self.is_forked() {
            return;
        }
        self.tx.memory().copy_across(at, packet.memory(), packet.offset(), packet.len());
    }

    /// Publishes what was written as one packet, and wakes the peer if it sleeps.
    ///
    /// `Ok` means what it does for [`send`](crate::Sender::send): the packet is in shared memory.
    /// One of a [`Batch`](crate::Batch) is not seen there before the batch is published.
    ///
    /// # Errors
    /// [`Closed`](ShmError::Closed): the channel has ended since the room was reserved, or the peer
    /// receives no more. Nothing was sent.
    #[inline]
    pub fn commit(self) -> Result<(), ShmError> {
        let Self { tx, claim, written, withheld } = self;
        tx.commit(claim, written, withheld).map_err(|reason| ShmError::Closed { reason, sent: 0 })
    }

    /// Whether this process is a child of the one that reserved. Then the room is the parent's, who
    /// may have sent more since, and nothing is written.
    #[inline]
    fn is_forked(&self) -> bool {
        self.tx.is_forked()
    }

    /// Where in the ring the next `len` bytes go; they count as written.
    #[inline]
    fn make_way(&mut self, len: usize) -> usize {
        let left = self.claim.len() - self.written;
        assert!(len <= left, "{len} bytes for a grant that has room for {left}");
        let at = self.claim.offset() + self.written;
        self.written += len;
        at
    }
}

// SAFETY: `remaining_mut` never grows but by what `advance_mut` has not taken, both stay within the
// claim, and `chunk_mut` gives the very bytes behind those written: all of `remaining_mut`.
unsafe impl BufMut for Grant<'_> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.claim.len() - self.written
    }

    /// # Panics
    /// If that is more than [`remaining_mut`](Self::remaining_mut).
    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        self.make_way(count);
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        let (at, len) = (self.claim.offset() + self.written, self.remaining_mut());
        if self.is_forked() {
            // Leaked: what the child writes here goes nowhere.
            return UninitSlice::new(vec![0; len].leak());
        }
        // SAFETY: the bytes are free: they were claimed, and nothing has been staged since, as this
        // grant has the producer to itself. Nobody else has a reference to them: there is one
        // producer for a ring, this borrows the grant that borrows it, and a packet of the
        // same ring that is held, should this process have that end as well, is not free.
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
        let at = self.make_way(from.len());
        if self.is_forked() {
            return;
        }
        self.tx.memory().copy_in(at, from);
    }

    #[inline]
    fn put_bytes(&mut self, byte: u8, count: usize) {
        let at = self.make_way(count);
        if self.is_forked() {
            return;
        }
        self.tx.memory().fill(at, byte, count);
    }
}

impl fmt::Debug for Grant<'_> {
    /// Tells the lengths and nothing of the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
