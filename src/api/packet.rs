//! Reading a packet in place.

use std::fmt;
use std::mem::ManuallyDrop;

use bytes::Bytes;

use crate::channel::{LoanGuard, Rx};
use crate::ring::Held;
use crate::shm::region::{Kept, RingMemory};

/// A packet that still lies in the ring; from [`Receiver::recv_ref`] and similar methods.
///
/// The packet has been taken, so the next receive gives the next packet, but it has not been
/// copied. Parts of it can be copied out, or [put](crate::Grant::put_packet) into another ring. If
/// you trust the peer, you can read it in place with [`as_slice`](Self::as_slice), or make it a
/// `Bytes` that points into the ring with [`into_lent_bytes`](Self::into_lent_bytes).
///
/// # Effect on the sender
///
/// While this value lives, the room of this record, and of everything that the peer sends after it,
/// is not given back. The peer goes on until the ring is full, and then waits, until its
/// `send_timeout` if it has one. So drop this value before anything that may take long. Dropping it
/// gives its room back and wakes a sender that waits for it. If it is forgotten
/// (`std::mem::forget`), the next receive of any kind does so.
///
/// # What the peer can do
///
/// The length was checked once and is kept in private memory. The bytes are in shared memory: a
/// well-behaved peer does not touch them while they are held, but a hostile one can change them at
/// any moment. So this is not a [`Buf`](bytes::Buf), whose readers may rely on reading the same
/// bytes again. Bytes that were copied out by a single call no longer change.
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
    /// Wraps the packet that `rx` has just begun to hold.
    #[inline]
    pub(crate) fn new(rx: &'a mut Rx, held: Held) -> Self {
        Self { rx, held }
    }

    /// Returns the packet's length in bytes, which cannot change any more.
    #[inline]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether the packet has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the packet's first `to.len()` bytes to `to`.
    ///
    /// # Panics
    /// If the packet is shorter than `to`.
    #[inline]
    pub fn copy_to_slice(&self, to: &mut [u8]) {
        self.copy_to_slice_at(0, to);
    }

    /// Copies `to.len()` bytes, from `offset` on, to `to`.
    ///
    /// # Panics
    /// If the packet has fewer bytes than that after `offset`.
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

    /// Copies the packet out, as [`recv`](crate::Receiver::recv) does.
    pub fn to_bytes(&self) -> Bytes {
        self.rx.copy(self.held)
    }

    /// Returns the packet in place, without a copy.
    ///
    /// # Safety
    /// - The peer must not write to the packet while the slice is used. A peer that follows the
    ///   protocol never does; one that has been taken over, or whose own memory is corrupted, may.
    ///   A change under a shared slice is undefined behaviour in *this* process. So the caller
    ///   vouches for the other process as for a thread of its own.
    /// - In a child that was forked while the packet was held, the parent holds the packet too. The
    ///   parent may give the room back, and the peer writes there after that.
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
        // SAFETY: nobody writes to these bytes. In this process, a producer writes only to room
        // that was given back, and this record is held for as long as `self` is borrowed. Our
        // caller ensures that the peer does not write to them either.
        unsafe { self.memory().slice(self.held.offset(), self.len()) }
    }

    /// Turns the packet into a `Bytes` that points into the ring, without a copy.
    ///
    /// The `Bytes` may be kept, cloned, sliced, sent on, and dropped on any thread, even after the
    /// [`Receiver`](crate::Receiver) and the whole channel are gone: it keeps the memory mapped.
    /// Receiving goes on meanwhile, and any number of them may exist.
    ///
    /// Room returns in the order of the ring. The room of this packet, and of everything that was
    /// received after it in any way, returns when this `Bytes` and all that were lent before it are
    /// dropped. So a `Bytes` that is kept stops the peer once the ring has filled up after it; make
    /// a copy of what you keep. Each costs an allocation and a lock, which is more than copying a
    /// small packet: use this for large packets.
    ///
    /// # Safety
    /// - The peer must not write to the packet while the `Bytes` or any part or clone of it lives,
    ///   even after the channel has ended. As for [`as_slice`](Self::as_slice), the caller vouches
    ///   for the other process, and for all code that the `Bytes` is given to. In a child that is
    ///   forked meanwhile, it is valid only as long as the parent has its own.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// tx.try_send("one".into())?;
    /// tx.try_send("other".into())?;
    /// // SAFETY: the peer is this process, and does not write to what it has sent.
    /// let one = unsafe { rx.try_recv_ref()?.into_lent_bytes() };
    /// // SAFETY: the same.
    /// let other = unsafe { rx.try_recv_ref()?.into_lent_bytes() };
    /// drop((tx, rx));
    /// assert_eq!((one, other.slice(1..)), ("one".into(), "ther".into()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn into_lent_bytes(self) -> Bytes {
        if self.is_empty() {
            return Bytes::new();
        }
        if self.rx.is_forked() {
            // The parent gives the room back at any time.
            return self.to_bytes();
        }
        // The room is not given back, but lent.
        let mut packet = ManuallyDrop::new(self);
        let kept = packet.memory().keep(packet.offset(), packet.len());
        let held = packet.held;
        Bytes::from_owner(Lent { kept, _guard: packet.rx.lend(held) })
    }

    /// Returns the ring in which the packet lies.
    #[inline]
    pub(crate) fn memory(&self) -> &RingMemory {
        self.rx.memory()
    }

    /// Returns where in that ring the packet begins.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.held.offset()
    }
}

impl Drop for Packet<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.rx.give_back();
    }
}

/// What a lent `Bytes` owns.
struct Lent {
    kept: Kept,
    _guard: LoanGuard,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: nobody writes to these bytes. In this process, a producer writes only to room
        // that was given back, and this record is lent for as long as `self` lives. The caller of
        // `into_lent_bytes` has vouched that the peer does not write to them either.
        unsafe { self.kept.as_slice() }
    }
}

impl fmt::Debug for Packet<'_> {
    /// Prints the length and nothing of the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("len", &self.len()).finish_non_exhaustive()
    }
}
