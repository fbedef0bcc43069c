//! The sending half.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::sink::Sink;

use super::half_calls::half_calls;
use crate::api::batch::Batch;
use crate::api::grant::Grant;
use crate::channel::{Channel, Directions, SendHalf};
use crate::error::{CloseReason, ShmError, TryReserveError, TrySendError};
use crate::sync::Arc;

/// The sending half of an [`Endpoint`](crate::Endpoint): a `Sink<Bytes>`, and the same calls as
/// the whole end has, without its lock.
///
/// # As a `Sink`
///
/// `start_send` publishes the packet at once, and wakes the peer if it sleeps: a packet never
/// waits for a `flush` while there is room. If there is none, the half holds that one packet back,
/// and `poll_ready` and `poll_flush` are pending until it is out. A `Sink` has no deadline:
/// backpressure is not an error.
///
/// So `feed` costs what `send` costs, a publication, a fence and a look at the peer's bell for each
/// packet, and the `flush` behind it has nothing left to do. It has to be so: `forward` flushes
/// only when its source is pending, and `send_all` not at all when its source fails, and the peer
/// would sleep over what was written. Those who have many packets at once, and want one publication
/// and one look for all, use [`send_batch`](Self::send_batch), or [`batch`](Self::batch) to write
/// them in place.
///
/// # How it ends
///
/// [`SinkExt::close`](futures::SinkExt::close), or dropping the half, ends this direction in
/// order: the peer receives everything, then the end. Neither waits until the peer has read it. A
/// half that is dropped while it holds a packet back tries once more to send it. If there is still
/// no room, that packet is lost, and the drop cancels the channel: `flush` or `close` first.
///
/// An orderly end says that the stream is complete. A sender that is dropped while its thread
/// panics says the opposite: it [cancels](Self::cancel) the channel, unless it was closed before.
/// Other ways out of the middle of a stream look like an orderly drop: a `?`, an early `return`, a
/// future that is dropped, a panic that is caught before the sender is dropped. Call
/// [`cancel_on_drop(true)`](Self::cancel_on_drop) and close the sender when all is sent; then each
/// of them cancels the channel.
pub struct Sender {
    half: SendHalf,
}

impl Sender {
    pub(crate) fn new(half: SendHalf) -> Self {
        Self { half }
    }

    fn channel(&self) -> &Arc<Channel> {
        self.half.channel()
    }

    /// Sends a packet, waiting for room if there is none.
    ///
    /// # Errors
    /// As [`Endpoint::send`](crate::Endpoint::send).
    ///
    /// # Cancel safety
    /// A future that is dropped before it was ready has not sent this packet. (One that the half
    /// held back as a `Sink` may be out by then.)
    #[inline]
    pub fn send(
        &mut self,
        packet: Bytes,
    ) -> impl Future<Output = Result<(), ShmError>> + Send + '_ {
        async move {
            match self.half.send_within_budget(packet) {
                Ok(done) => done,
                Err(packet) => self.half.wait_to_send([packet]).await,
            }
        }
    }

    /// Sends packets one after the other, with one publication, one fence and one look at the
    /// peer's bell for as many as fit, and at most an eighth of the ring, or 128 KiB if that is
    /// less: see [`Endpoint::send_batch`](crate::Endpoint::send_batch).
    ///
    /// # Errors
    /// As [`Endpoint::send_batch`](crate::Endpoint::send_batch).
    ///
    /// # Cancel safety
    /// A future that is dropped before it was ready has sent the first so many of the packets.
    #[inline]
    pub fn send_batch<'a>(
        &'a mut self,
        packets: &'a [Bytes],
    ) -> impl Future<Output = Result<(), ShmError>> + Send + 'a {
        self.half.wait_to_send(packets)
    }

    /// Sends a packet if there is room for it now.
    ///
    /// # Errors
    /// The packet comes back in the error: see [`TrySendError`].
    pub fn try_send(&mut self, packet: Bytes) -> Result<(), TrySendError> {
        self.half.try_send(packet)
    }

    /// As [`send`](Self::send), blocking the thread.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_blocking(&mut self, packet: Bytes) -> Result<(), ShmError> {
        self.half.send_blocking(packet)
    }

    /// As [`send_batch`](Self::send_batch), blocking the thread.
    ///
    /// # Errors
    /// As [`send_batch`](Self::send_batch).
    pub fn send_batch_blocking(&mut self, packets: &[Bytes]) -> Result<(), ShmError> {
        self.half.send_batch_blocking(packets)
    }

    /// Reserves room for a packet of up to `len` bytes, to be written in place; waits for room if
    /// there is none.
    ///
    /// Saves the copy from a buffer of one's own. The packet's length is what is written in the
    /// end: see [`Grant`].
    ///
    /// # Errors
    /// - [`PacketTooLarge`](ShmError::PacketTooLarge): longer than
    ///   [`max_packet`](Self::max_packet).
    /// - [`TimedOut`](ShmError::TimedOut): no room for the builder's `send_timeout` (5 s unless
    ///   set), counted from when the call first had to wait.
    /// - [`Closed`](ShmError::Closed): the channel has ended, or the peer receives no more.
    ///
    /// # Cancel safety
    /// A future that is dropped before it was ready has reserved nothing. (A packet that the half
    /// held back as a `Sink` may be out by then.)
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// use bytes::BufMut;
    ///
    /// pollster::block_on(async {
    ///     let mut grant = tx.reserve(64).await?;
    ///     grant.put_slice(b"written where it will lie");
    ///     grant.commit()?;
    ///     assert_eq!(rx.recv().await.unwrap(), "written where it will lie");
    ///     Ok::<_, wakering::ShmError>(())
    /// })?;
    /// # Ok::<(), wakering::ShmError>(())
    /// ```
    pub fn reserve(
        &mut self,
        len: usize,
    ) -> impl Future<Output = Result<Grant<'_>, ShmError>> + Send + '_ {
        async move {
            let claim = self.half.room(len).await?;
            Ok(Grant::new(self.half.tx(), claim))
        }
    }

    /// Reserves room for a packet of up to `len` bytes if there is room now.
    ///
    /// # Errors
    /// See [`TryReserveError`]. It is `Full` also while a packet that the half holds back as a
    /// `Sink` finds no room.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// use bytes::BufMut;
    /// use wakering::TryReserveError;
    ///
    /// assert_eq!(tx.try_reserve(5000).unwrap_err(), TryReserveError::TooLarge(5000, 1016));
    /// let mut grant = tx.try_reserve(1000)?;
    /// grant.put_bytes(7, 3);
    /// grant.commit()?;
    /// assert_eq!(rx.try_recv()?, vec![7; 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_reserve(&mut self, len: usize) -> Result<Grant<'_>, TryReserveError> {
        let claim = self.half.try_room(len)?;
        Ok(Grant::new(self.half.tx(), claim))
    }

    /// As [`reserve`](Self::reserve), blocking the thread.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_blocking(&mut self, len: usize) -> Result<Grant<'_>, ShmError> {
        let claim = self.half.room_blocking(len)?;
        Ok(Grant::new(self.half.tx(), claim))
    }

    /// Begins a batch: packets that are written in place, and published together.
    ///
    /// See [`Batch`] for when that is. One that is dropped at once does nothing.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(&mut self.half)
    }

    /// Whether dropping this sender without [`SinkExt::close`](futures::SinkExt::close) cancels the
    /// channel, both directions, instead of ending this one in order. `false` unless set.
    ///
    /// A sender that is dropped while its thread panics cancels the channel in any case. The
    /// setting is the end's: [`Endpoint::cancel_on_drop`](crate::Endpoint::cancel_on_drop) sets
    /// the same.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// use wakering::{CloseReason, Sender, ShmError};
    ///
    /// async fn send_all(mut tx: Sender, lines: &str) -> Result<(), Box<dyn std::error::Error>> {
    ///     tx.cancel_on_drop(true);
    ///     for line in lines.lines() {
    ///         // Without the setting, a number that cannot be read would look like the last one.
    ///         let number: u64 = line.parse()?;
    ///         tx.send(number.to_le_bytes().to_vec().into()).await?;
    ///     }
    ///     Ok(futures::SinkExt::close(&mut tx).await?)
    /// }
    ///
    /// pollster::block_on(async {
    ///     assert!(send_all(tx, "1\n2\nthree\n4").await.is_err());
    ///     while rx.recv().await.is_some() {}
    ///     assert_eq!(rx.finished(), Some(Err(CloseReason::Cancelled)));
    /// });
    /// # Ok::<(), ShmError>(())
    /// ```
    pub fn cancel_on_drop(&self, cancel: bool) {
        self.channel().cancel_on_drop(cancel);
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.channel().direction_end(Directions::TX).is_some()
    }

    /// Waits until nothing can be sent any more: the peer receives no longer, or the channel is
    /// over.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + '_ {
        self.channel().wait_for(|channel| channel.direction_end(Directions::TX))
    }

    /// Why nothing can be sent any more, or `None` while something can. Once `Some`, it never
    /// changes.
    ///
    /// It is the reason of this direction alone, and the one that failed sends have in
    /// [`ShmError::Closed`].
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.channel().tx_end()
    }

    /// Bytes that are free in the ring now, less what the next record takes for its header. Room
    /// for one packet of that size is not promised: they may lie in a few pieces, and a record does
    /// not go around the ring's end. Once all was read, any packet finds room. 0 in a forked
    /// child.
    pub fn free_bytes(&mut self) -> usize {
        self.half.tx().free_bytes()
    }

    half_calls!();
}

impl Sink<Bytes> for Sender {
    type Error = ShmError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        self.half.poll_ready(cx)
    }

    /// # Panics
    /// If a packet is still held back, because `poll_ready` was not asked.
    fn start_send(mut self: Pin<&mut Self>, packet: Bytes) -> Result<(), ShmError> {
        assert!(!self.half.holds(), "start_send without a poll_ready that was ready");
        self.half.start_send(packet)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        self.half.poll_flush(cx)
    }

    /// Waits for the packet that is held back, then marks the end. Does not wait for the peer.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        self.half.poll_close(cx)
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel().describe("Sender", f)
    }
}
