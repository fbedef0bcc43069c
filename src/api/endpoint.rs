//! One side of a channel, with both directions.

#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::canceller::Canceller;
use super::duplex::Duplex;
use super::end_calls::end_calls;
use super::receiver::Receiver;
use super::sender::Sender;
use crate::channel::{
    self, Channel, Deadline, Directions, Limit, Options, RecvFuture, Rx, SendFuture, SendHalf,
    SharedTx, Tx, Whole, deadline_after, from_taken, from_timed, take_at_once,
};
use crate::driver::Binding;
use crate::error::{CloseReason, RecvTimeoutError, ShmError, TryRecvError, TrySendError};
use crate::rendezvous::credentials::PeerCredentials;
use crate::shm::layout::Side;
use crate::shm::region::Region;
use crate::sync::{Arc, Mutex, lock};
use crate::sys::fork::LeakyLock;

/// One side of a channel: what [`SpscFace`](crate::SpscFace) and [`SpscHandle`](crate::SpscHandle)
/// have in common.
///
/// All methods take `&self` and may be called from any number of tasks and threads; to share an
/// end, put it into an `Arc`. Senders that find the ring full queue, and are served in order of
/// arrival. Receivers that find it empty do the same. A task that both sends and receives in full
/// flight should use the two halves of [`into_split`](Self::into_split), which take no lock.
///
/// To hold an end without keeping it open, as a registry of many ends does, use a `Weak` of that
/// `Arc`: there is a [recipe](crate#a-registry-that-keeps-no-end-alive).
///
/// Dropping an end closes it in order: the other side receives everything that was sent, then the
/// end. An end that is dropped while its thread panics is cancelled instead, unless it was closed
/// before, so that the other side does not take a partial stream for a complete one. Only the
/// thread that drops the end counts: if the last clone of an `Arc` is dropped on a thread that does
/// not panic, the drop is orderly, even if another thread panics. See
/// [`cancel_on_drop`](Self::cancel_on_drop) for other ways to leave a stream in the middle.
pub struct Endpoint {
    channel: Arc<Channel>,
    tx: LeakyLock<Mutex<SharedTx>>,
    rx: LeakyLock<Mutex<Rx>>,
}

impl Endpoint {
    /// Opens the `side` end of `region`, and registers it with `driver`.
    pub(crate) fn open(
        region: Arc<Region>,
        side: Side,
        options: Options,
        driver: &Binding,
    ) -> Result<Self, ShmError> {
        let channel = Arc::new(Channel::new(region, side, options));
        let endpoint = Self {
            tx: LeakyLock::new(Mutex::new(SharedTx::new(Tx::new(&channel)))),
            rx: LeakyLock::new(Mutex::new(Rx::new(&channel))),
            channel,
        };
        endpoint.channel.bind(driver)?;
        Ok(endpoint)
    }

    fn whole(&self) -> Whole<'_> {
        Whole { channel: &self.channel, tx: &self.tx }
    }

    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Does `work` on a half. Returns `None` in a forked child, whose lock may be one that nobody
    /// unlocks.
    #[inline]
    fn with_half<T, R>(&self, half: &Mutex<T>, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.channel.forked().is_some() { None } else { Some(work(&mut lock(half))) }
    }

    /// Takes a packet in the usual case: one is there, and nothing ends.
    #[inline]
    fn take_now(&self, limit: Limit) -> Option<Bytes> {
        // As in `with_half`, whose result would be copied once more.
        if self.channel.forked().is_some() { None } else { lock(&self.rx).take_now(limit) }
    }

    /// Sends a packet, and waits for room if there is none.
    ///
    /// `Ok` means that the packet is in shared memory: the peer receives it even if this process
    /// ends right away, unless either side cancels or the peer stops receiving.
    ///
    /// # Errors
    /// - [`PacketTooLarge`](ShmError::PacketTooLarge): the packet is longer than
    ///   [`max_packet`](Self::max_packet).
    /// - [`TimedOut`](ShmError::TimedOut): there was no room for the builder's `send_timeout` (5 s
    ///   unless set). The time runs from when the send first had to wait, whether or not a peer is
    ///   connected.
    /// - [`Closed`](ShmError::Closed): the channel has ended, or the peer no longer receives.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has sent nothing, and gives up its place in
    /// the queue. One that has waited for room and is no longer polled, but not dropped either,
    /// keeps its place, and holds up the other senders of this end.
    pub fn send(&self, packet: Bytes) -> impl Future<Output = Result<(), ShmError>> + Send + '_ {
        channel::send(self.whole(), packet, Deadline::Unset)
    }

    /// Like [`send`](Self::send), but waits at most `timeout` for room, whatever the builder's
    /// `send_timeout` is.
    ///
    /// With a timeout of zero it does not wait, but unlike [`try_send`](Self::try_send) it keeps to
    /// its [budget](crate#fairness). A timeout that the clock cannot express is the same as none.
    ///
    /// The packet does not come back in the error. To send it again later, send a clone, which
    /// copies no bytes.
    ///
    /// # Errors
    /// As [`send`](Self::send), with [`TimedOut`](ShmError::TimedOut) after `timeout`. The time
    /// runs from when the send first had to wait, and includes its wait in the queue.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// # let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair()?;
    /// # let handle = SpscHandle::from_fd(descriptor)?;
    /// use std::time::Duration;
    /// use wakering::ShmError;
    ///
    /// let frame = bytes::Bytes::from(vec![0; 1000]);
    /// while face.try_send(frame.clone()).is_ok() {}
    /// // The peer is slow, and a late frame is worth nothing.
    /// let sent = face.send_timeout(frame.clone(), Duration::from_millis(1));
    /// assert!(matches!(pollster::block_on(sent), Err(ShmError::TimedOut { sent: 0 })));
    /// // Now there is room.
    /// while handle.try_recv().is_ok() {}
    /// pollster::block_on(face.send_timeout(frame, Duration::from_millis(1)))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_timeout(
        &self,
        packet: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ShmError>> + Send + '_ {
        channel::send(self.whole(), packet, Deadline::After(timeout))
    }

    /// Sends packets one after another. No other sender's packets come in between.
    ///
    /// The packets are published together, with one fence and one check of the peer's bell, so the
    /// peer sees none before all are written. If they do not all fit, or exceed an eighth of the
    /// ring (or 128 KiB if that is less), they are published in several parts, so that the peer can
    /// start on the first.
    ///
    /// # Errors
    /// As [`send`](Self::send). After `PacketTooLarge` no packet was sent; in the other errors,
    /// `sent` is the number of packets that were sent. One deadline holds for the whole batch.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has sent the first N packets (N may be 0).
    pub fn send_batch<'a>(
        &'a self,
        packets: &'a [Bytes],
    ) -> impl Future<Output = Result<(), ShmError>> + Send + 'a {
        SendFuture::new(self.whole(), packets)
    }

    /// Sends a packet if there is room for it now and no other sender waits for room.
    ///
    /// # Errors
    /// The packet comes back in the error: see [`TrySendError`].
    pub fn try_send(&self, packet: Bytes) -> Result<(), TrySendError> {
        if let Some(reason) = self.channel.forked_end(Directions::TX) {
            return Err(TrySendError::Closed(packet, reason));
        }
        let sent = lock(&self.tx).try_send(&packet);
        sent.map_err(|error| error.with(packet))
    }

    /// Like [`send`](Self::send), but blocks the thread. The thread sleeps on the bell itself, so
    /// the peer wakes it directly, without the driver.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_blocking(&self, packet: Bytes) -> Result<(), ShmError> {
        channel::send_blocking(self.whole(), packet, Deadline::Unset)
    }

    /// Like [`send_timeout`](Self::send_timeout), but blocks the thread.
    ///
    /// # Errors
    /// As [`send_timeout`](Self::send_timeout).
    pub fn send_timeout_blocking(&self, packet: Bytes, timeout: Duration) -> Result<(), ShmError> {
        channel::send_blocking(self.whole(), packet, Deadline::After(timeout))
    }

    /// Like [`send_batch`](Self::send_batch), but blocks the thread.
    ///
    /// # Errors
    /// As [`send_batch`](Self::send_batch).
    pub fn send_batch_blocking(&self, packets: &[Bytes]) -> Result<(), ShmError> {
        SendFuture::new(self.whole(), packets).block()
    }

    /// Receives the next packet. `None` is the end; [`finished`](Self::finished) tells whether it
    /// is an orderly one.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has taken nothing.
    ///
    /// If several tasks receive from one end, a packet wakes one of them. If that task drops its
    /// future, the wake passes to the next task. If it neither polls nor drops the future, it keeps
    /// the wake, and the other tasks may sleep although a packet is there, until the next packet
    /// comes.
    pub fn recv(&self) -> impl Future<Output = Option<Bytes>> + Send + '_ {
        async move {
            if let Some(packet) = self.take_now(Limit::Budget) {
                return Some(packet);
            }
            RecvFuture::new(&self.channel, &*self.rx, Rx::take).await.ok()
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
        &'a self,
        packets: &'a mut Vec<Bytes>,
        max: usize,
    ) -> impl Future<Output = usize> + Send + 'a {
        let receiving = RecvFuture::new(&self.channel, &*self.rx, move |rx: &mut Rx| {
            rx.take_batch(packets, max, Limit::Budget)
        });
        async move { receiving.await.unwrap_or(0) }
    }

    /// Takes the next packet if one is there.
    ///
    /// If a stream in full flight has just run dry, this checks once more after 4 us, so that a
    /// caller in a loop is not slowed down to the pace of the sender's cache misses.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if there is none now, [`TryRecvError::Closed`] if none will come.
    pub fn try_recv(&self) -> Result<Bytes, TryRecvError> {
        if let Some(packet) = self.take_now(Limit::None) {
            return Ok(packet);
        }
        if let Some(reason) = self.channel.forked_end(Directions::RX) {
            return Err(TryRecvError::Closed(reason));
        }
        from_taken(take_at_once(&*self.rx, Rx::take))
    }

    /// Like [`recv`](Self::recv), but blocks the thread.
    pub fn recv_blocking(&self) -> Option<Bytes> {
        self.channel.watch_peer();
        match self.take_now(Limit::None) {
            None => RecvFuture::new(&self.channel, &*self.rx, Rx::take).block(None)?.ok(),
            packet => packet,
        }
    }

    /// Like [`recv_batch`](Self::recv_batch), but blocks the thread.
    pub fn recv_batch_blocking(&self, packets: &mut Vec<Bytes>, max: usize) -> usize {
        let take = |rx: &mut Rx| rx.take_batch(packets, max, Limit::None);
        RecvFuture::new(&self.channel, &*self.rx, take)
            .block(None)
            .map_or(0, |taken| taken.unwrap_or(0))
    }

    /// Like [`recv_blocking`](Self::recv_blocking), but waits at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Timeout`] if no packet came in time, [`RecvTimeoutError::Closed`] if
    /// none will come.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Bytes, RecvTimeoutError> {
        from_timed(
            RecvFuture::new(&self.channel, &*self.rx, Rx::take).block(deadline_after(timeout)),
        )
    }

    /// Ends both directions in order: the peer receives everything that was sent, then the end.
    /// Sends of both sides fail at once, and our own `recv` ends at once; what the peer had sent
    /// and was not received yet is lost. To end only what this side sends, split the end into
    /// halves, and close or drop the [`Sender`].
    ///
    /// After this has returned, no `send` returns `Ok`.
    pub fn close(&self) {
        if self.channel.forked().is_some() {
            return;
        }
        {
            let _no_send_continues_after_it = lock(&self.tx);
            self.channel.close();
        }
        self.channel.wake_everyone();
    }

    end_calls! {
        /// Cuts the channel off for both sides: packets that were sent and not received are lost,
        /// and every waiting call returns.
        ///
        /// After [`close`](Self::close), this still cuts off what the peer has not received. Our
        /// own reason stays [`Local`](CloseReason::Local).
        cancel
        /// Returns what this end has done so far.
        stats
    }

    /// Lets `canceller` cancel this end too. If it was used already, it cancels the end now. An end
    /// may have any number of cancellers.
    pub fn set_cancel(&self, canceller: &Canceller) {
        canceller.add(&self.channel);
    }

    /// Sets whether dropping this end without [`close`](Self::close) cancels the channel instead of
    /// ending it in order. `false` unless set.
    ///
    /// Use this in code that may leave a stream in the middle, by a `?` or because its future is
    /// dropped, and that closes the end when everything is sent. After
    /// [`into_split`](Self::into_split) the setting belongs to the [`Sender`], which is closed by
    /// [`SinkExt::close`](futures::SinkExt::close); a [`Receiver`] may be dropped at any time.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// use wakering::CloseReason;
    ///
    /// let (face, descriptor) = SpscFace::pair()?;
    /// let handle = SpscHandle::from_fd(descriptor)?;
    /// face.cancel_on_drop(true);
    /// face.send_blocking("the first of many".into())?;
    /// drop(face);
    /// assert_eq!(handle.recv_blocking(), None);
    /// assert_eq!(handle.finished(), Some(Err(CloseReason::Cancelled)));
    /// # Ok::<(), wakering::ShmError>(())
    /// ```
    pub fn cancel_on_drop(&self, cancel: bool) {
        self.channel.cancel_on_drop(cancel);
    }

    /// Whether the channel is over: nothing can be sent and nothing more will come.
    ///
    /// Packets that were sent before an orderly close by the peer, or before its death, can still
    /// be received. A half that the peer closes or drops ends only its own direction, not the
    /// channel.
    pub fn is_closed(&self) -> bool {
        self.channel.close_reason_so_far().is_some()
    }

    /// Returns why the channel is over, or `None` while it is not.
    ///
    /// Each direction has its own reason, and this is the worse of the two. From the worst to the
    /// best: [`Violation`](CloseReason::Violation), [`PeerDied`](CloseReason::PeerDied),
    /// [`DriverGone`](CloseReason::DriverGone), [`Forked`](CloseReason::Forked),
    /// [`Cancelled`](CloseReason::Cancelled), [`Peer`](CloseReason::Peer),
    /// [`Local`](CloseReason::Local). So an orderly end of one direction never hides that the other
    /// was cut off.
    ///
    /// Once `Some`, it never changes, even if packets that are still in the ring are cut off later.
    /// Use [`finished`](Self::finished) to learn whether everything that the peer sent has come.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.channel.close_reason()
    }

    /// Whether everything that the peer sent has been received.
    ///
    /// - `None` until a receive has returned the end (`None`, 0, `Closed`).
    /// - `Some(Ok(()))` if the peer closed or dropped its sender in order, and all came.
    /// - `Some(Err(reason))` if packets may be missing, or if this side stopped receiving
    ///   ([`Local`](CloseReason::Local)).
    ///
    /// Once `Some`, it never changes.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// use bytes::Bytes;
    /// use wakering::{CloseReason, Endpoint};
    ///
    /// /// Returns all packets of a stream, or why it is not complete.
    /// async fn collect(end: &Endpoint) -> Result<Vec<Bytes>, CloseReason> {
    ///     let mut packets = Vec::new();
    ///     while let Some(packet) = end.recv().await {
    ///         packets.push(packet);
    ///     }
    ///     end.finished().expect("recv has returned None").map(|()| packets)
    /// }
    ///
    /// let (face, descriptor) = SpscFace::pair()?;
    /// let handle = SpscHandle::from_fd(descriptor)?;
    /// face.send_blocking("all there is".into())?;
    /// assert_eq!(handle.finished(), None);
    /// drop(face);
    /// assert_eq!(pollster::block_on(collect(&handle)).unwrap(), ["all there is"]);
    /// # Ok::<(), wakering::ShmError>(())
    /// ```
    pub fn finished(&self) -> Option<Result<(), CloseReason>> {
        self.channel.finished()
    }

    /// Waits until the channel is over, as defined by [`is_closed`](Self::is_closed), and returns
    /// why.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + '_ {
        self.channel.wait_for(|channel| channel.close_reason())
    }

    /// Waits until the peer has connected, and returns who it is.
    ///
    /// # Errors
    /// [`Closed`](ShmError::Closed) if this end is over before that.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub fn connected(&self) -> impl Future<Output = Result<PeerCredentials, ShmError>> + Send + '_ {
        self.channel.wait_for(|channel| {
            let reason = channel.close_reason();
            // After the reason: a peer that has ended the channel may be known by now.
            if let Some(peer) = channel.peer() {
                return Some(Ok(peer));
            }
            let reason = reason.filter(|reason| !channel.is_about_to_know_peer(*reason))?;
            Some(Err(ShmError::Closed { reason, sent: 0 }))
        })
    }

    /// Whether the peer has connected and is still there.
    pub fn is_connected(&self) -> bool {
        self.channel.is_connected()
    }

    /// Whether no packet is there to be received now. Takes nothing.
    ///
    /// If several tasks receive from one end, another may take the packet after this has returned
    /// `false`. Returns `true` in a forked child, and once the channel is cut off.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// let (face, descriptor) = SpscFace::pair()?;
    /// let handle = SpscHandle::from_fd(descriptor)?;
    /// assert!(handle.is_empty());
    /// face.try_send("a packet".into())?;
    /// assert!(!handle.is_empty());
    /// assert_eq!(handle.try_recv()?, "a packet");
    /// assert!(handle.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.with_half(&self.rx, Rx::readable).flatten().is_none()
    }

    /// Returns the number of bytes that are free in the ring to the peer, less the header of the
    /// next record: see [`Sender::free_bytes`].
    ///
    /// Other tasks may use the room before the caller does. Returns 0 in a forked child.
    pub fn free_bytes(&self) -> usize {
        self.with_half(&self.tx, |half| half.tx().free_bytes()).unwrap_or(0)
    }

    /// Returns the number of bytes in the ring to the peer that the peer has not taken.
    ///
    /// Each packet counts with its length, rounded up to a multiple of 8, and a header of 8 bytes.
    /// A packet that the peer reads in place counts until the peer gives it back. Packets of sends
    /// that wait for room do not count. What was taken stays taken: 0 means that the peer has
    /// received every packet, but not that it has processed them.
    ///
    /// The peer reports what it has taken. A report that breaks a rule ends the channel with a
    /// [`Violation`](crate::Violation), and this returns 0, as it does in a forked child. After a
    /// cancel or the peer's death, this is what the peer did not receive.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// let (face, descriptor) = SpscFace::pair()?;
    /// let handle = SpscHandle::from_fd(descriptor)?;
    /// face.try_send("12345678".into())?;
    /// face.try_send("9".into())?;
    /// assert_eq!(face.queued_bytes(), (8 + 8) + (8 + 8));
    /// handle.try_recv()?;
    /// assert_eq!(face.queued_bytes(), 16);
    /// handle.try_recv()?;
    /// assert_eq!(face.queued_bytes(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queued_bytes(&self) -> usize {
        self.with_half(&self.tx, |half| half.tx().queued_bytes()).unwrap_or(0)
    }

    /// Returns the size of each direction's ring, in bytes.
    pub fn ring_bytes(&self) -> usize {
        self.channel.region().geometry().ring_bytes()
    }

    /// Splits the end into its two halves: a `Sink<Bytes>` and a `Stream`.
    ///
    /// Each half ends its own direction when it is dropped, and has its own
    /// [`close_reason`](Sender::close_reason).
    pub fn into_split(self) -> (Sender, Receiver) {
        let Self { channel, tx, rx } = self;
        channel.split();
        // A half that a thread of the parent's used at the fork is of no use here, as any other is.
        let tx = tx.into_inner().map(|tx| into_inner(tx).into_tx());
        let tx = tx.unwrap_or_else(|| Tx::new(&channel));
        let rx = rx.into_inner().map_or_else(|| Rx::new(&channel), into_inner);
        (Sender::new(SendHalf::new(&channel, tx)), Receiver::new(&channel, rx))
    }

    /// Makes the end one value that is both a `Sink<Bytes>` and a `Stream`: see [`Duplex`].
    pub fn into_duplex(self) -> Duplex {
        let (tx, rx) = self.into_split();
        Duplex::of_one_end(tx, rx)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel.describe("Endpoint", f)
    }
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}
