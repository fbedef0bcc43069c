//! The sending half of an end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::sink::Sink;

use super::end_calls::end_calls;
use crate::api::batch::Batch;
use crate::api::grant::Grant;
use crate::api::packet_writer::PacketWriter;
use crate::channel::{self, Channel, Deadline, Directions, SendHalf};
use crate::error::{CloseReason, ShmError, TryReserveError, TrySendError};
use crate::sync::Arc;

/// The sending half of an [`Endpoint`](crate::Endpoint): a `Sink<Bytes>`, with the same calls as
/// the whole end, but without its lock.
///
/// # As a `Sink`
///
/// `start_send` publishes the packet at once, and wakes the peer if it sleeps: while there is room,
/// a packet never waits for a `flush`. If there is no room, the half holds that one packet back,
/// and `poll_ready` and `poll_flush` are pending until it is sent. A `Sink` has no deadline:
/// backpressure is not an error.
///
/// So `feed` costs the same as `send`: a publication, a fence and a check of the peer's bell for
/// each packet. The `flush` after it has nothing left to do. This is necessary: `forward` flushes
/// only when its source is pending, and `send_all` does not flush when its source fails, so the
/// peer would sleep although packets were written. To send many packets with one publication and
/// one check, use [`send_batch`](Self::send_batch), or [`batch`](Self::batch) to write them in
/// place.
///
/// # How it ends
///
/// [`SinkExt::close`](futures::SinkExt::close), or dropping the half, ends this direction in order:
/// the peer receives everything, then the end. Neither waits until the peer has read it. A half
/// that is dropped while it holds a packet back tries once more to send it. If there is still no
/// room, that packet is lost, and the drop cancels the channel: `flush` or `close` first.
///
/// An orderly end says that the stream is complete. A sender that is dropped while its thread
/// panics [cancels](Self::cancel) the channel instead, unless it was closed before. Other ways to
/// leave a stream in the middle look like an orderly drop: a `?`, an early `return`, a future that
/// is dropped, a panic that is caught before the sender is dropped. Call
/// [`cancel_on_drop(true)`](Self::cancel_on_drop) and close the sender when everything is sent;
/// then each of them cancels the channel.
pub struct Sender {
    half: SendHalf,
}

impl Sender {
    pub(crate) fn new(half: SendHalf) -> Self {
        Self { half }
    }

    pub(super) fn channel(&self) -> &Arc<Channel> {
        self.half.channel()
    }

    /// Sends a packet, and waits for room if there is none.
    ///
    /// # Errors
    /// As [`Endpoint::send`](crate::Endpoint::send).
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has not sent this packet. (It may have sent
    /// the packet that the half held back as a `Sink`.)
    #[inline]
    pub fn send(
        &mut self,
        packet: Bytes,
    ) -> impl Future<Output = Result<(), ShmError>> + Send + '_ {
        channel::send(self.half.after_held(), packet, Deadline::Unset)
    }

    /// Like [`send`](Self::send), but waits at most `timeout` for room, whatever the builder's
    /// `send_timeout` is.
    ///
    /// If the half holds back a packet as a `Sink`, the time includes the wait for that one.
    ///
    /// # Errors
    /// As [`Endpoint::send_timeout`](crate::Endpoint::send_timeout).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub fn send_timeout(
        &mut self,
        packet: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ShmError>> + Send + '_ {
        channel::send(self.half.after_held(), packet, Deadline::After(timeout))
    }

    /// Sends packets one after another, with one publication, one fence and one check of the peer's
    /// bell for as many as fit, and at most an eighth of the ring (or 128 KiB if that is less): see
    /// [`Endpoint::send_batch`](crate::Endpoint::send_batch).
    ///
    /// # Errors
    /// As [`Endpoint::send_batch`](crate::Endpoint::send_batch).
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has sent the first N packets (N may be 0).
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

    /// Like [`send`](Self::send), but blocks the thread.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_blocking(&mut self, packet: Bytes) -> Result<(), ShmError> {
        channel::send_blocking(self.half.after_held(), packet, Deadline::Unset)
    }

    /// Like [`send_timeout`](Self::send_timeout), but blocks the thread.
    ///
    /// # Errors
    /// As [`Endpoint::send_timeout`](crate::Endpoint::send_timeout).
    pub fn send_timeout_blocking(
        &mut self,
        packet: Bytes,
        timeout: Duration,
    ) -> Result<(), ShmError> {
        channel::send_blocking(self.half.after_held(), packet, Deadline::After(timeout))
    }

    /// Like [`send_batch`](Self::send_batch), but blocks the thread.
    ///
    /// # Errors
    /// As [`send_batch`](Self::send_batch).
    pub fn send_batch_blocking(&mut self, packets: &[Bytes]) -> Result<(), ShmError> {
        self.half.wait_to_send(packets).block()
    }

    /// Reserves room for a packet of up to `len` bytes, to be written in place, and waits for room
    /// if there is none.
    ///
    /// This saves the copy from a separate buffer. The packet has the length that is finally
    /// written: see [`Grant`].
    ///
    /// # Errors
    /// - [`PacketTooLarge`](ShmError::PacketTooLarge): `len` is more than
    ///   [`max_packet`](Self::max_packet).
    /// - [`TimedOut`](ShmError::TimedOut): there was no room for the builder's `send_timeout` (5 s
    ///   unless set). The time runs from when the call first had to wait.
    /// - [`Closed`](ShmError::Closed): the channel has ended, or the peer no longer receives.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has reserved nothing. (It may have sent the
    /// packet that the half held back as a `Sink`.)
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
        Grant::reserve(&mut self.half, len, false)
    }

    /// Reserves room for a packet of up to `len` bytes if there is room now.
    ///
    /// # Errors
    /// See [`TryReserveError`]. It is also `Full` while there is no room for a packet that the half
    /// holds back as a `Sink`.
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
    #[inline(always)]
    pub fn try_reserve(&mut self, len: usize) -> Result<Grant<'_>, TryReserveError> {
        Grant::try_reserve(&mut self.half, len, false)
    }

    /// Like [`reserve`](Self::reserve), but blocks the thread.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_blocking(&mut self, len: usize) -> Result<Grant<'_>, ShmError> {
        Grant::reserve_blocking(&mut self.half, len, false)
    }

    /// Begins a batch: packets that are written in place, and published together.
    ///
    /// See [`Batch`] for when they are published. A batch that is dropped at once does nothing.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(&mut self.half)
    }

    /// Sets whether dropping this sender without [`SinkExt::close`](futures::SinkExt::close)
    /// cancels the channel, both directions, instead of ending this direction in order. `false`
    /// unless set.
    ///
    /// A sender that is dropped while its thread panics cancels the channel in any case. The
    /// setting belongs to the end: [`Endpoint::cancel_on_drop`](crate::Endpoint::cancel_on_drop)
    /// sets the same.
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
    ///         // Without the setting, an error here would look like the end of the stream.
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

    /// Waits until nothing can be sent any more, because the peer no longer receives or the channel
    /// is over, and returns why.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + '_ {
        self.channel().wait_for(|channel| channel.direction_end(Directions::TX))
    }

    /// Returns why nothing can be sent any more, or `None` while something can. Once `Some`, it
    /// never changes.
    ///
    /// This is the reason of this direction alone, and the one that failed sends have in
    /// [`ShmError::Closed`].
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.channel().tx_end()
    }

    /// Returns the number of bytes that are free in the ring now, less the header of the next
    /// record. One packet of that size may still find no room: the free bytes may be in several
    /// pieces, and a record does not wrap around the ring's end. Once everything has been read, any
    /// packet finds room. Returns 0 in a forked child.
    pub fn free_bytes(&mut self) -> usize {
        self.half.tx().free_bytes()
    }

    /// Returns the number of bytes in the ring that the peer has not taken: see
    /// [`Endpoint::queued_bytes`](crate::Endpoint::queued_bytes). The withheld packets of a
    /// [`Batch`] count; a packet that the half holds back as a `Sink` does not.
    pub fn queued_bytes(&mut self) -> usize {
        self.half.tx().queued_bytes()
    }

    /// Makes it an `AsyncWrite`, which splits what is longer than a packet: see [`PacketWriter`].
    pub fn into_async_write(self) -> PacketWriter {
        PacketWriter::new(self)
    }

    end_calls! {
        /// Cuts the channel off: see [`Endpoint::cancel`](crate::Endpoint::cancel).
        cancel
        /// Returns what this end, with both its halves, has done so far.
        stats
    }
}

impl Sink<Bytes> for Sender {
    type Error = ShmError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        self.half.poll_ready(cx)
    }

    /// # Panics
    /// If a packet is still held back, because `poll_ready` was not called.
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
