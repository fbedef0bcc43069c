//! The sending half.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::sink::Sink;

use crate::api::batch::Batch;
use crate::api::canceller::Canceller;
use crate::api::grant::Grant;
use crate::channel::{Cargo, Deadline, Directions, Limit, Link, Room, Sending, Stats, Tx};
use crate::error::{CloseReason, ShmError, TryReserveError, TrySendError};
use crate::rendezvous::credentials::PeerCredentials;
use crate::ring::Claim;
use crate::sync::Arc;
use crate::wake::waiters::Waiting;

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
/// packet, and the `flush` behind it has nothing left to do. It has to be so: `forward` flushes only
/// when its source is pending, and `send_all` not at all when its source fails, and the peer would
/// sleep over what was written. Those who have many packets at once, and want one publication and one
/// look for all, use [`send_batch`](Self::send_batch), or [`batch`](Self::batch) to write them in place.
///
/// # How it ends
///
/// [`SinkExt::close`](futures::SinkExt::close), or dropping the half, ends this direction in
/// order: the peer receives everything, then the end. Neither waits until the peer has read it. A
/// half that is dropped while it holds a packet back tries once more to send it. If there is still no
/// room, that packet is lost, and the drop cancels the channel: `flush` or `close` first.
///
/// An orderly end says that the stream is complete. A sender that is dropped while its thread panics
/// says the opposite: it [cancels](Self::cancel) the channel, unless it was closed before. Other
/// ways out of the middle of a stream look like an orderly drop: a `?`, an early `return`, a future
/// that is dropped, a panic that is caught before the sender is dropped. Call
/// [`cancel_on_drop(true)`](Self::cancel_on_drop) and close the sender when all is sent; then each
/// of them cancels the channel.
pub struct Sender {
    link: Arc<Link>,
    tx: Tx,
    /// The packet that found no room.
    held: Option<Bytes>,
    place: Option<Waiting>,
}

impl Sender {
    pub(crate) fn new(link: &Arc<Link>, tx: Tx) -> Self {
        Self { link: link.clone(), tx, held: None, place: None }
    }

    /// Sends a packet, waiting for room if there is none.
    ///
    /// # Errors
    /// As [`Endpoint::send`](crate::Endpoint::send).
    ///
    /// # Cancel safety
    /// A future that is dropped before it was ready has not sent this packet. (One that the half
    /// held back as a `Sink` may be out by then.)
    pub fn send(
        &mut self,
        packet: Bytes,
    ) -> impl Future<Output = Result<(), ShmError>> + Send + '_ {
        async move {
            let packet = match self.tx.has_budget() {
                true => match self.send_at_once(packet) {
                    Ok(done) => return done,
                    Err(packet) => packet,
                },
                false => packet,
            };
            let deadline = self.send_held().await?;
            self.begin(deadline, [packet]).await
        }
    }

    /// Sends packets one after the other, with one publication, one fence and one look at the peer's
    /// bell for as many as fit, and at most an eighth of the ring, or 128 KiB if that is less: see
    /// [`Endpoint::send_batch`](crate::Endpoint::send_batch).
    ///
    /// # Errors
    /// As [`Endpoint::send_batch`](crate::Endpoint::send_batch).
    ///
    /// # Cancel safety
    /// A future that is dropped before it was ready has sent the first so many of the packets.
    pub fn send_batch<'a>(
        &'a mut self,
        packets: &'a [Bytes],
    ) -> impl Future<Output = Result<(), ShmError>> + Send + 'a {
        async move {
            let deadline = self.send_held().await?;
            self.begin(deadline, packets).await
        }
    }

    /// Sends a packet if there is room for it now.
    ///
    /// # Errors
    /// The packet comes back in the error: see [`TrySendError`].
    pub fn try_send(&mut self, packet: Bytes) -> Result<(), TrySendError> {
        self.tx.reset_turn();
        match self.try_send_held() {
            Ok(()) => self.tx.try_send(packet),
            Err(TrySendError::Closed(_, reason)) => Err(TrySendError::Closed(packet, reason)),
            Err(_) => Err(TrySendError::Full(packet)),
        }
    }

    /// As [`send`](Self::send), blocking the thread.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_blocking(&mut self, packet: Bytes) -> Result<(), ShmError> {
        let packet = match self.send_at_once(packet) {
            Ok(done) => return done,
            Err(packet) => packet,
        };
        let deadline = self.send_held_blocking()?;
        self.begin(deadline, [packet]).block()
    }

    /// As [`send_batch`](Self::send_batch), blocking the thread.
    ///
    /// # Errors
    /// As [`send_batch`](Self::send_batch).
    pub fn send_batch_blocking(&mut self, packets: &[Bytes]) -> Result<(), ShmError> {
        let deadline = self.send_held_blocking()?;
        self.begin(deadline, packets).block()
    }

    /// Reserves room for a packet of up to `len` bytes, to be written in place; waits for room if
    /// there is none.
    ///
    /// Saves the copy from a buffer of one's own. The packet's length is what is written in the end:
    /// see [`Grant`].
    ///
    /// # Errors
    /// - [`PacketTooLarge`](ShmError::PacketTooLarge): longer than [`max_packet`](Self::max_packet).
    /// - [`TimedOut`](ShmError::TimedOut): no room for the builder's `send_timeout` (5 s unless set),
    ///   counted from when the call first had to wait.
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
            let claim = self.room(len).await?;
            Ok(Grant::new(&mut self.tx, claim))
        }
    }

    /// Reserves room for a packet of up to `len` bytes if there is room now.
    ///
    /// # Errors
    /// See [`TryReserveError`]. It is `Full` also while a packet that the half holds back as a `Sink`
    /// finds no room.
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
        let claim = self.try_room(len)?;
        Ok(Grant::new(&mut self.tx, claim))
    }

    /// As [`reserve`](Self::reserve), blocking the thread.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_blocking(&mut self, len: usize) -> Result<Grant<'_>, ShmError> {
        let claim = self.room_blocking(len)?;
        Ok(Grant::new(&mut self.tx, claim))
    }

    /// Begins a batch: packets that are written in place, and published together.
    ///
    /// See [`Batch`] for when that is. One that is dropped at once does nothing.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Whether dropping this sender without [`SinkExt::close`](futures::SinkExt::close) cancels the
    /// channel, both directions, instead of ending this one in order. `false` unless set.
    ///
    /// A sender that is dropped while its thread panics cancels the channel in any case. The setting
    /// is the end's: [`Endpoint::cancel_on_drop`](crate::Endpoint::cancel_on_drop) sets the same.
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
        self.link.cancel_on_drop(cancel);
    }

    /// Cuts the channel off: see [`Endpoint::cancel`](crate::Endpoint::cancel).
    pub fn cancel(&self) {
        self.link.cancel();
    }

    /// A new [`Canceller`] for this end.
    pub fn canceller(&self) -> Canceller {
        let canceller = Canceller::new();
        canceller.add(&self.link);
        canceller
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.link.direction_end(Directions::TX).is_some()
    }

    /// Waits until nothing can be sent any more: the peer receives no longer, or the channel is
    /// over.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + '_ {
        self.link.wait_for(|link| link.direction_end(Directions::TX))
    }

    /// Why nothing can be sent any more, or `None` while something can. Once `Some`, it never
    /// changes.
    ///
    /// It is the reason of this direction alone, and the one that failed sends have in
    /// [`ShmError::Closed`].
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.link.tx_end()
    }

    /// Longest packet in bytes.
    pub fn max_packet(&self) -> usize {
        self.link.region().geometry().max_packet()
    }

    /// Bytes that are free in the ring now, less what the next record takes for its header. Room
    /// for one packet of that size is not promised: they may lie in a few pieces, and a record does not
    /// go around the ring's end. Once all was read, any packet finds room. 0 in a forked child.
    pub fn free_bytes(&mut self) -> usize {
        self.tx.free_bytes()
    }

    /// What this end, with both its halves, has done so far.
    pub fn stats(&self) -> Stats {
        self.link.counters().read()
    }

    /// Who the peer is, once it has connected.
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.link.peer()
    }

    /// The usual case, without a look at the clock: the packet finds room as far as is known, or
    /// nothing can be sent any more. Else it comes back.
    #[inline]
    fn send_at_once(&mut self, packet: Bytes) -> Result<Result<(), ShmError>, Bytes> {
        if self.held.is_some() || packet.len() > self.tx.max_packet() {
            return Err(packet);
        }
        self.tx.reset_turn();
        match self.tx.attempt(&std::slice::from_ref(&packet), &mut 0, Limit::None) {
            Some(done) => Ok(done.map_err(|reason| self.closed_for(reason))),
            None => Err(packet),
        }
    }

    /// The usual case of a reservation, as of a [`send`](Self::send_at_once). `None` if it is not.
    #[inline]
    fn claim_at_once(&mut self, len: usize) -> Option<Result<Claim, ShmError>> {
        if self.held.is_some() || len > self.tx.max_packet() {
            return None;
        }
        if let Some(reason) = self.link.tx_end() {
            return Some(Err(self.closed_for(reason)));
        }
        self.tx.claim(len).map_err(|reason| self.closed_for(reason)).transpose()
    }

    fn begin<P: Cargo>(&mut self, deadline: Deadline, cargo: P) -> Sending<'_, &mut Tx, P> {
        self.tx.reset_turn();
        Sending::before(deadline, &self.link, &mut self.tx, cargo)
    }

    /// Room for a packet that is still to be written, for a grant.
    #[inline]
    pub(crate) async fn room(&mut self, len: usize) -> Result<Claim, ShmError> {
        if self.tx.has_budget()
            && let Some(claimed) = self.claim_at_once(len)
        {
            return claimed;
        }
        // A wait, for room, with which the peer could not help otherwise, or for other tasks.
        self.publish_withheld()?;
        let mut deadline = self.send_held().await?;
        loop {
            let mut sending = self.begin(deadline, Room(len));
            (&mut sending).await?;
            deadline = sending.deadline();
            drop(sending);
            if let Some(claim) = self.waited_for(len)? {
                return Ok(claim);
            }
        }
    }

    /// As [`room`](Self::room), blocking the thread.
    #[inline]
    pub(crate) fn room_blocking(&mut self, len: usize) -> Result<Claim, ShmError> {
        if let Some(claimed) = self.claim_at_once(len) {
            return claimed;
        }
        self.publish_withheld()?;
        let mut deadline = self.send_held_blocking()?;
        loop {
            let mut sending = self.begin(deadline, Room(len));
            sending.block_on()?;
            deadline = sending.deadline();
            drop(sending);
            if let Some(claim) = self.waited_for(len)? {
                return Ok(claim);
            }
        }
    }

    /// As [`room`](Self::room), at once or not at all.
    #[inline(always)]
    pub(crate) fn try_room(&mut self, len: usize) -> Result<Claim, TryReserveError> {
        match self.tx.claim_known(len) {
            Some(claim) if self.held.is_none() => Ok(claim),
            _ => self.try_room_at_last(len),
        }
    }

    #[cold]
    fn try_room_at_last(&mut self, len: usize) -> Result<Claim, TryReserveError> {
        self.tx.reset_turn();
        if self.held.is_some() {
            match self.try_send_held() {
                Ok(()) => {}
                Err(TrySendError::Closed(_, reason)) => {
                    return Err(TryReserveError::Closed(reason));
                }
                Err(_) => return Err(TryReserveError::Full),
            }
        }
        self.tx.try_reserve(len)
    }

    /// What writes a packet to the room that was just given.
    #[inline]
    pub(crate) fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Shows the packets of a batch.
    pub(crate) fn publish_withheld(&mut self) -> Result<(), ShmError> {
        self.tx.publish_withheld().map_err(|reason| ShmError::Closed { reason, sent: 0 })
    }

    /// The room that was just waited for, which nobody else can have taken. That it is there still is
    /// judged by the peer's words once more, which should not, but may, take it back.
    fn waited_for(&mut self, len: usize) -> Result<Option<Claim>, ShmError> {
        self.tx.claim(len).map_err(|reason| self.closed_for(reason))
    }

    /// What was held back goes first, within the one deadline of the call, which is returned.
    async fn send_held(&mut self) -> Result<Deadline, ShmError> {
        let Some(packet) = self.held.clone() else { return Ok(Deadline::Unset) };
        let mut sending = self.begin(Deadline::Unset, [packet]);
        (&mut sending).await?;
        let deadline = sending.deadline();
        drop(sending);
        self.held = None;
        Ok(deadline)
    }

    fn send_held_blocking(&mut self) -> Result<Deadline, ShmError> {
        let Some(packet) = self.held.clone() else { return Ok(Deadline::Unset) };
        let mut sending = self.begin(Deadline::Unset, [packet]);
        sending.block_on()?;
        let deadline = sending.deadline();
        drop(sending);
        self.held = None;
        Ok(deadline)
    }

    fn try_send_held(&mut self) -> Result<(), TrySendError> {
        let Some(packet) = self.held.take() else { return Ok(()) };
        let outcome = self.tx.try_send(packet.clone());
        if outcome.is_err() {
            self.held = Some(packet);
        }
        outcome
    }

    /// Ready when nothing is held back.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        let Some(packet) = &self.held else { return Poll::Ready(Ok(())) };
        let packets = std::slice::from_ref(packet);
        let Poll::Ready(done) = self.tx.poll_send(packets, &mut self.place, cx) else {
            return Poll::Pending;
        };
        done.map_err(|reason| self.closed_for(reason))?;
        self.held = None;
        Poll::Ready(Ok(()))
    }

    fn closed_for(&self, reason: CloseReason) -> ShmError {
        self.link.tell(Directions::TX, reason);
        ShmError::Closed { reason, sent: 0 }
    }
}

impl Sink<Bytes> for Sender {
    type Error = ShmError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        self.tx.reset_turn();
        match self.link.tx_end() {
            Some(reason) => Poll::Ready(Err(self.closed_for(reason))),
            None if self.tx.ends_turn(Limit::Budget) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => self.poll_held(cx),
        }
    }

    /// # Panics
    /// If a packet is still held back, because `poll_ready` was not asked.
    fn start_send(mut self: Pin<&mut Self>, packet: Bytes) -> Result<(), ShmError> {
        assert!(self.held.is_none(), "start_send without a poll_ready that was ready");
        match self.tx.try_send(packet) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(packet)) => {
                self.held = Some(packet);
                Ok(())
            }
            Err(TrySendError::Closed(_, reason)) => Err(ShmError::Closed { reason, sent: 0 }),
            Err(TrySendError::TooLarge(packet, max)) => {
                Err(ShmError::PacketTooLarge { len: packet.len(), max })
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        self.tx.reset_turn();
        // Of a batch that was leaked.
        self.publish_withheld()?;
        self.poll_held(cx)
    }

    /// Waits for the packet that is held back, then marks the end. Does not wait for the peer.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        self.tx.reset_turn();
        self.publish_withheld()?;
        let held = self.poll_held(cx)?;
        if held.is_ready() {
            self.tx.finish();
        }
        held.map(Ok)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // If the drop cancels the channel in any case, that is left to `Tx`.
        if self.link.is_cut_off_by_drop() {
            return;
        }
        // The last chance of a packet that was held back. Without room it is lost, and the peer must
        // not take what it has for all.
        self.tx.reset_turn();
        if let Err(TrySendError::Full(_)) = self.try_send_held() {
            self.link.cancel();
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.link.describe("Sender", f)
    }
}
