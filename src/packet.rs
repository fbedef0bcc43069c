//! A packet that is read where it lies.

use std::fmt;

use bytes::Bytes;

use crate::endpoint::Rx;
use crate::region::RingMemory;
use crate::ring::Held;

/// A packet that lies in the ring still, from [`Receiver::recv_ref`] and its kin.
///
/// It has been taken: the next receive gives the next packet. What has not happened is the copy. Parts
/// of it can be copied out, or [put](crate::Grant::put_packet) into another ring, and those who trust
/// the peer can read it in place, by [`as_slice`](Self::as_slice).
///
/// # What holding one does to the sender
///
/// The room of this record, and of all that the peer sends behind it, is not given back while this
/// value lives: the peer goes on until the ring is full, and then waits, until its `send_timeout` if
/// it has one. So drop it before anything that may take long. Dropped, it gives its room back and
/// wakes a sender that waits for that. Forgotten (`std::mem::forget`), it does so with the next
/// receive, of whatever kind.
///
/// # What the peer can do
///
/// The length was judged once and is kept in private memory. The bytes are in shared memory: a lawful
/// peer does not touch them as long as they are held, but a hostile one can change them at any moment.
/// So this is not a [`Buf`](bytes::Buf), whose readers may rely on what they read before. What was
/// copied out by a single call stays what it is.
///
/// ```
/// # use wakering::{SpscFace, SpscHandle};
/// # let (face, descriptor) = SpscFace::pair()?;
/// # let handle = SpscHandle::from_fd(descriptor)?;
/// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
/// tx.try_send("tag: a long body".into())?;
/// let packet = rx.try_recv_ref()?;
/// assert_eq!(packet.len(), 16);
/// let mut tag = [0; 3];
/// packet.copy_to_slice(&mut tag);
/// assert_eq!(&tag, b"tag");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Receiver::recv_ref`]: crate::Receiver::recv_ref
#[must_use = "dropping a packet that was taken loses it"]
pub struct Packet<'a> {
    rx: &'a mut Rx,
    held: Held,
}

impl<'a> Packet<'a> {
    /// What `rx` has just come to hold.
    #[inline]
    pub(crate) fn new(rx: &'a mut Rx, held: Held) -> Self {
        Self { rx, held }
    }

    /// Its length in bytes, which cannot change any more.
    #[inline]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the first bytes to `to`, as many as it has.
    ///
    /// # Panics
    /// If the packet is shorter than `to`.
    #[inline]
    pub fn copy_to_slice(&self, to: &mut [u8]) {
        self.copy_to_slice_at(0, to);
    }

    /// Copies bytes from `offset` on to `to`, as many as it has.
    ///
    /// # Panics
    /// If the packet has not so many bytes behind `offset`.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// tx.try_send("tag: a long body".into())?;
    /// let mut body = [0; 4];
    /// rx.try_recv_ref()?.copy_to_slice_at(12, &mut body);
    /// assert_eq!(&body, b"body");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn copy_to_slice_at(&self, offset: usize, to: &mut [u8]) {
        let len = self.len();
        assert!(
            offset <= len && to.len() <= len - offset,
            "{} bytes at {offset} of a packet of {len}",
            to.len()
        );
        self.memory().copy_to(self.held.offset() + offset, to);
    }

    /// Copies it out, as [`recv`](crate::Receiver::recv) would have done.
    pub fn to_bytes(&self) -> Bytes {
        self.rx.copy(self.held)
    }

    /// The packet where it lies, without a copy.
    ///
    /// # Safety
    /// - The peer does not write to the packet for as long as the slice is used. A peer that follows
    ///   the protocol never does; one that has been taken over, or whose own memory is corrupted, may.
    ///   A change under a shared slice is undefined behaviour in *this* process. So the caller vouches
    ///   for the other process as it would for a thread of its own.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// tx.try_send("read where it lies".into())?;
    /// let packet = rx.try_recv_ref()?;
    /// // SAFETY: the peer is this process, and does not write to what it has sent.
    /// assert_eq!(unsafe { packet.as_slice() }, b"read where it lies");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: nobody writes to these bytes: in this process, a producer writes only to room that
        // was given back, and this record is held for as long as `self` is borrowed; that the peer does
        // not either is the duty of our caller.
        unsafe { self.memory().slice(self.held.offset(), self.len()) }
    }

    /// Where the packet lies.
    #[inline]
    pub(crate) fn memory(&self) -> &RingMemory {
        self.rx.memory()
    }

    /// Where in that it begins.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.held.offset()
    }
}

impl Drop for Packet<'_> {
    #[inline]
    fn drop(&mut self) {
        self.rx.give_back();
    }
}

impl fmt::Debug for Packet<'_> {
    /// Tells the length and nothing of the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("len", &self.len()).finish_non_exhaustive()
    }
}
