//! The receiving half of an end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FusedStream, Stream};

use super::end_calls::end_calls;
use crate::api::packet::Packet;
use crate::api::packet_reader::PacketReader;
use crate::channel::{
    Channel, Directions, Limit, RecvFuture, Rx, deadline_after, from_taken, from_timed,
    take_at_once,
};
use crate::error::{CloseReason, RecvTimeoutError, ShmError, TryRecvError};
use crate::sync::Arc;
use crate::wake::waiters::Waiting;

/// The receiving half of an [`Endpoint`](crate::Endpoint): a `Stream` of packets, with the same
/// calls as the whole end, but without its lock.
///
/// # As a `Stream`
///
/// Packets come as `Ok`. If the direction ends in a way that may have lost packets (cancelled, the
/// peer died, the driver stopped, a violation of the protocol), one `Err` comes before the end. So
/// a pipeline such as `receiver.forward(sink)` fails if its source was cut off. After an orderly
/// close, the stream ends without an `Err`.
///
/// `ready_chunks` takes packets one by one, so each gives its room back separately, which is a
/// store without a fence. Before it returns a chunk that is not full, it has polled once and found
/// nothing: that poll may have spun, and has asked the peer for a wake that no task needs.
/// [`recv_batch`](Self::recv_batch) does neither.
///
/// # How it ends
///
/// Dropping the half tells the peer that nobody receives any more: its sends fail.
///
/// [`recv`](Self::recv) and similar methods return the end as `None` or 0, whatever the reason.
/// [`finished`](Self::finished) then tells whether everything that the peer sent has come.
pub struct Receiver {
    channel: Arc<Channel>,
    rx: Rx,
    place: Option<Waiting>,
    /// The stream has yielded its end.
    is_over: bool,
}

impl Receiver {
    pub(crate) fn new(channel: &Arc<Channel>, rx: Rx) -> Self {
        Self { channel: channel.clone(), rx, place: None, is_over: false }
    }

    pub(super) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Receives the next packet. `None` is the end; [`finished`](Self::finished) tells whether it
    /// is an orderly one.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has taken nothing.
    pub fn recv(&mut self) -> impl Future<Output = Option<Bytes>> + Send + '_ {
        async move {
            if let Some(packet) = self.rx.take_now(Limit::Budget) {
                return Some(packet);
            }
            RecvFuture::new(&self.channel, &mut self.rx, Rx::take).await.ok()
        }
    }

    /// Receives at least one and at most `max` packets, appends them to `packets` and returns their
    /// number. 0 is the end (or a `max` of 0).
    ///
    /// It takes the packets that are there, and sleeps only if there are none. Their room returns
    /// to the sender together, or once for each eighth of the ring (or 128 KiB if that is less),
    /// with one check of whether the sender waits. Packets under 2 KiB of one batch share buffers
    /// of up to 16 KiB, each of which lives as long as any packet in it. One call takes at most one
    /// ring's length of records, however large `max` is.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has taken nothing and leaves `packets`
    /// unchanged.
    pub fn recv_batch<'a>(
        &'a mut self,
        packets: &'a mut Vec<Bytes>,
        max: usize,
    ) -> impl Future<Output = usize> + Send + 'a {
        let take = move |rx: &mut Rx| rx.take_batch(packets, max, Limit::Budget);
        let receiving = RecvFuture::new(&self.channel, &mut self.rx, take);
        async move { receiving.await.unwrap_or(0) }
    }

    /// Takes the next packet if one is there; see
    /// [`Endpoint::try_recv`](crate::Endpoint::try_recv).
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if there is none now, [`TryRecvError::Closed`] if none will come.
    pub fn try_recv(&mut self) -> Result<Bytes, TryRecvError> {
        match self.rx.take_now(Limit::None) {
            Some(packet) => Ok(packet),
            None => from_taken(take_at_once(&mut self.rx, Rx::take)),
        }
    }

    /// Like [`recv`](Self::recv), but blocks the thread.
    pub fn recv_blocking(&mut self) -> Option<Bytes> {
        self.channel.watch_peer();
        match self.rx.take_now(Limit::None) {
            None => RecvFuture::new(&self.channel, &mut self.rx, Rx::take).block(None)?.ok(),
            packet => packet,
        }
    }

    /// Like [`recv_batch`](Self::recv_batch), but blocks the thread.
    pub fn recv_batch_blocking(&mut self, packets: &mut Vec<Bytes>, max: usize) -> usize {
        let take = |rx: &mut Rx| rx.take_batch(packets, max, Limit::None);
        let taken = RecvFuture::new(&self.channel, &mut self.rx, take).block(None);
        taken.map_or(0, |taken| taken.unwrap_or(0))
    }

    /// Like [`recv_blocking`](Self::recv_blocking), but waits at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`] if no packet came in time, [`RecvTimeoutError::Closed`] if
    /// none will come.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Bytes, RecvTimeoutError> {
        let receiving = RecvFuture::new(&self.channel, &mut self.rx, Rx::take);
        from_timed(receiving.block(deadline_after(timeout)))
    }

    /// Takes the next packet and leaves it in place, in shared memory. `None` is the end.
    ///
    /// This saves the copy out of the ring, if parts of the packet are enough, or if the peer is
    /// trusted. The room of the packet, and of everything after it, stays taken until the packet is
    /// dropped: see [`Packet`].
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has taken nothing.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// pollster::block_on(async {
    ///     tx.send("a packet".into()).await?;
    ///     let packet = rx.recv_ref().await.expect("the peer is there");
    ///     assert_eq!(packet.to_bytes(), "a packet");
    ///     drop(packet);
    ///     drop(tx);
    ///     assert!(rx.recv_ref().await.is_none());
    ///     Ok::<_, wakering::ShmError>(())
    /// })?;
    /// # Ok::<(), wakering::ShmError>(())
    /// ```
    pub fn recv_ref(&mut self) -> impl Future<Output = Option<Packet<'_>>> + Send + '_ {
        async move {
            let held = match self.rx.hold_now(Limit::Budget) {
                Some(held) => held,
                None => RecvFuture::new(&self.channel, &mut self.rx, Rx::hold).await.ok()?,
            };
            Some(Packet::new(&mut self.rx, held))
        }
    }

    /// Takes the next packet, if one is there, and leaves it in place.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if there is none now, [`TryRecvError::Closed`] if none will come.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// use wakering::TryRecvError;
    ///
    /// assert_eq!(rx.try_recv_ref().unwrap_err(), TryRecvError::Empty);
    /// tx.try_send("a packet".into())?;
    /// assert_eq!(rx.try_recv_ref()?.len(), 8);
    /// assert!(rx.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    // Always inlined: the result's parts stay in registers. Storing and loading the result as a
    // whole costs more than all the rest.
    #[inline(always)]
    pub fn try_recv_ref(&mut self) -> Result<Packet<'_>, TryRecvError> {
        let held = match self.rx.hold_now(Limit::None) {
            Some(held) => held,
            None => from_taken(take_at_once(&mut self.rx, Rx::hold))?,
        };
        Ok(Packet::new(&mut self.rx, held))
    }

    /// Like [`recv_ref`](Self::recv_ref), but blocks the thread.
    pub fn recv_ref_blocking(&mut self) -> Option<Packet<'_>> {
        self.channel.watch_peer();
        let held = match self.rx.hold_now(Limit::None) {
            None => RecvFuture::new(&self.channel, &mut self.rx, Rx::hold).block(None)?.ok()?,
            Some(held) => held,
        };
        Some(Packet::new(&mut self.rx, held))
    }

    /// Returns the length of the next packet in bytes, or `None` if none is there now. Takes
    /// nothing.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
    /// assert_eq!(rx.readable(), None);
    /// tx.try_send("a packet".into())?;
    /// assert_eq!((rx.readable(), rx.readable()), (Some(8), Some(8)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn readable(&mut self) -> Option<usize> {
        self.rx.readable()
    }

    /// Whether no packet is there now. Takes nothing.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.readable().is_none()
    }

    /// Whether the peer no longer sends. Packets that it sent before may still be there.
    pub fn is_closed(&self) -> bool {
        self.channel.direction_end(Directions::RX).is_some()
    }

    /// Waits until the peer no longer sends, and returns why. Packets that it sent before may still
    /// be there.
    ///
    /// If these are cut off later, by a cancel for example, [`close_reason`](Self::close_reason)
    /// tells so.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + '_ {
        self.channel.wait_for(|channel| channel.direction_end(Directions::RX))
    }

    /// Returns why nothing more will be received, or `None` while something may come. Once `Some`,
    /// it never changes.
    ///
    /// This is the reason of this direction alone. After an orderly end or the peer's death it is
    /// `Some` as soon as a call has returned the end (`None`, 0, [`TryRecvError::Closed`]): until
    /// then there may be packets, and they may still be cut off. If they are (by a cancel or a
    /// violation), it is `Some` at once.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.channel.rx_end()
    }

    /// Whether everything that the peer sent has been received: see
    /// [`Endpoint::finished`](crate::Endpoint::finished).
    pub fn finished(&self) -> Option<Result<(), CloseReason>> {
        self.channel.finished()
    }

    /// Makes it an `AsyncRead` and `AsyncBufRead`, which reads one packet after another and fails
    /// at an end that may have lost packets: see [`PacketReader`].
    pub fn into_async_read(self) -> PacketReader {
        PacketReader::new(self)
    }

    end_calls! {
        /// Cuts the channel off: see [`Endpoint::cancel`](crate::Endpoint::cancel).
        cancel
        /// Returns what this end, with both its halves, has done so far.
        stats
    }
}

impl Stream for Receiver {
    type Item = Result<Bytes, ShmError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Self { channel, rx, place, is_over } = &mut *self;
        if place.is_none()
            && let Some(packet) = rx.take_now(Limit::Budget)
        {
            return Poll::Ready(Some(Ok(packet)));
        }
        let Poll::Ready(taken) = RecvFuture::new(channel, rx, Rx::take).poll_in(place, cx) else {
            return Poll::Pending;
        };
        Poll::Ready(match taken {
            Ok(packet) => Some(Ok(packet)),
            Err(reason) => {
                *is_over = true;
                reason.is_lossy().then_some(Err(ShmError::Closed { reason, sent: 0 }))
            }
        })
    }
}

impl FusedStream for Receiver {
    fn is_terminated(&self) -> bool {
        self.is_over
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel.describe("Receiver", f)
    }
}
