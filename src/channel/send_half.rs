//! The half of one sender: sends in order, after the packet that a `Sink` holds back.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::budget::Limit;
use super::deadline::Deadline;
use super::ends::Directions;
use super::payload::{AsPayload, Payload, Reserve};
use super::send::{SendFuture, SendState};
use super::send_end::{Half, Places, SendEnd};
use super::shared::Channel;
use super::tx::Tx;
use super::wait::{Task, Thread, Wait};
use crate::error::{CloseReason, ShmError, TryReserveError, TrySendError};
use crate::ring::Claim;
use crate::sync::Arc;

/// The sending half of an end, for one sender.
#[derive(Debug)]
pub(crate) struct SendHalf {
    channel: Arc<Channel>,
    tx: Tx,
    held: HeldBack,
}

/// The packet that found no room, and the progress of its send.
#[derive(Debug, Default)]
struct HeldBack {
    packet: Option<Bytes>,
    state: SendState,
}

impl HeldBack {
    /// Ready when nothing is held back.
    fn poll<W: Wait>(
        &mut self,
        channel: &Channel,
        tx: &mut Tx,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        let Some(packet) = &self.packet else { return Poll::Ready(Ok(())) };
        let packets = Payload::Packets(std::slice::from_ref(packet));
        let sent = ready!(self.state.poll(&mut Half { channel, tx }, packets, deadline, wait));
        self.state = SendState::default();
        if sent.is_ok() {
            self.packet = None;
        }
        Poll::Ready(sent)
    }

    /// Sends what is held back at once or not at all.
    fn try_send(&mut self, channel: &Channel, tx: &mut Tx) -> Result<(), TrySendError> {
        let Some(packet) = self.packet.take() else { return Ok(()) };
        let outcome = tx.try_send(packet.clone());
        if outcome.is_ok() {
            self.state.leave(&mut Half { channel, tx });
            self.state = SendState::default();
        } else {
            self.packet = Some(packet);
        }
        outcome
    }
}

/// A half whose held packet goes first.
#[derive(Debug)]
pub(crate) struct AfterHeldBack<'a> {
    half: Half<'a>,
    held: &'a mut HeldBack,
}

impl<'a> SendEnd<'a> for AfterHeldBack<'a> {
    #[inline]
    fn channel(&self) -> &'a Channel {
        self.half.channel()
    }

    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut Tx, &mut Places) -> R) -> R {
        self.half.with(work)
    }

    #[inline]
    fn send_now(&mut self, packet: &[u8], limit: Limit) -> bool {
        self.held.packet.is_none() && self.half.tx.send_now(packet, limit)
    }

    #[inline]
    fn poll_before<W: Wait>(
        &mut self,
        deadline: &mut Deadline,
        wait: &mut W,
    ) -> Poll<Result<(), ShmError>> {
        self.held.poll(self.half.channel, self.half.tx, deadline, wait)
    }
}

/// A reservation under way.
#[must_use = "futures do nothing unless polled"]
struct RoomFuture<'a> {
    len: usize,
    sending: SendFuture<'a, AfterHeldBack<'a>, Reserve>,
}

impl RoomFuture<'_> {
    fn poll_with<W: Wait>(&mut self, wait: &mut W) -> Poll<Result<Claim, ShmError>> {
        loop {
            ready!(self.sending.poll_with(wait))?;
            let AfterHeldBack { half, .. } = self.sending.end();
            // Nobody else can have taken the room. Checks it again: a misbehaving peer may have.
            if let Some(claim) =
                half.tx.claim(self.len).map_err(|reason| closed(half.channel, reason))?
            {
                return Poll::Ready(Ok(claim));
            }
            self.sending.begin_again();
        }
    }
}

impl Future for RoomFuture<'_> {
    type Output = Result<Claim, ShmError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(&mut Task(cx))
    }
}

impl SendHalf {
    pub(crate) fn new(channel: &Arc<Channel>, tx: Tx) -> Self {
        Self { channel: channel.clone(), tx, held: HeldBack::default() }
    }

    #[inline]
    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Returns the half that writes a packet into the room that was just given.
    #[inline]
    pub(crate) fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Returns what a send goes through.
    #[inline]
    pub(crate) fn after_held(&mut self) -> AfterHeldBack<'_> {
        AfterHeldBack {
            half: Half { channel: &self.channel, tx: &mut self.tx },
            held: &mut self.held,
        }
    }

    /// Claims room as [`Tx::claim_now`] does, and not before the packet that is held back is sent.
    #[inline(always)]
    pub(crate) fn claim_now(&self, len: usize, limit: Limit) -> Option<Claim> {
        if self.holds() { None } else { self.tx.claim_now(len, limit) }
    }

    /// Returns the future of a send, from its first attempt on.
    pub(crate) fn wait_to_send<P: AsPayload>(
        &mut self,
        packets: P,
    ) -> SendFuture<'_, AfterHeldBack<'_>, P> {
        SendFuture::new(self.after_held(), packets)
    }

    #[inline]
    pub(crate) fn try_send(&mut self, packet: Bytes) -> Result<(), TrySendError> {
        if !self.holds() && self.tx.send_now(&packet, Limit::None) {
            return Ok(());
        }
        self.try_send_at_last(packet)
    }

    #[cold]
    fn try_send_at_last(&mut self, packet: Bytes) -> Result<(), TrySendError> {
        match self.try_send_held() {
            Ok(()) => self.tx.try_send(packet),
            Err(TrySendError::Closed(_, reason)) => Err(TrySendError::Closed(packet, reason)),
            Err(_) => Err(TrySendError::Full(packet)),
        }
    }

    pub(crate) fn try_send_held(&mut self) -> Result<(), TrySendError> {
        self.held.try_send(&self.channel, &mut self.tx)
    }

    /// Returns room for a packet that is still to be written. Waits for room if there is none.
    pub(crate) async fn room(&mut self, len: usize) -> Result<Claim, ShmError> {
        self.wait_for_room(len)?.await
    }

    /// Like [`room`](Self::room), but blocks the thread.
    #[inline]
    pub(crate) fn room_blocking(&mut self, len: usize) -> Result<Claim, ShmError> {
        if let Some(claim) = self.claim_now(len, Limit::None) {
            return Ok(claim);
        }
        let mut room = self.wait_for_room(len)?;
        Thread::block(|wait| room.poll_with(wait))
    }

    /// Returns the future that waits for room. Publishes withheld packets first: the peer cannot
    /// free room without them, and other tasks may depend on them.
    fn wait_for_room(&mut self, len: usize) -> Result<RoomFuture<'_>, ShmError> {
        self.publish_withheld()?;
        Ok(RoomFuture { len, sending: self.wait_to_send(Reserve(len)) })
    }

    /// Like [`room`](Self::room), but at once or not at all.
    #[inline(always)]
    pub(crate) fn try_room(&mut self, len: usize) -> Result<Claim, TryReserveError> {
        match self.claim_now(len, Limit::None) {
            Some(claim) => Ok(claim),
            None => self.try_room_at_last(len),
        }
    }

    #[cold]
    fn try_room_at_last(&mut self, len: usize) -> Result<Claim, TryReserveError> {
        match self.try_send_held() {
            Ok(()) => self.tx.try_reserve(len),
            Err(TrySendError::Closed(_, reason)) => Err(TryReserveError::Closed(reason)),
            Err(_) => Err(TryReserveError::Full),
        }
    }

    /// Publishes the packets of a batch.
    pub(crate) fn publish_withheld(&mut self) -> Result<(), ShmError> {
        self.tx.publish_withheld().map_err(|reason| ShmError::Closed { reason, sent: 0 })
    }

    /// Whether a packet is held back.
    #[inline]
    pub(crate) fn holds(&self) -> bool {
        self.held.packet.is_some()
    }

    /// For a `Sink`: ready when it can take a packet.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        match self.channel.tx_end() {
            Some(reason) => Poll::Ready(Err(closed(&self.channel, reason))),
            None if self.tx.must_yield(Limit::Budget) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => self.poll_held(cx),
        }
    }

    /// For a `Sink`: sends a packet, or holds it back. No other packet may be held back.
    pub(crate) fn start_send(&mut self, packet: Bytes) -> Result<(), ShmError> {
        match self.tx.try_send(packet) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(packet)) => {
                self.held.packet = Some(packet);
                Ok(())
            }
            Err(TrySendError::Closed(_, reason)) => Err(ShmError::Closed { reason, sent: 0 }),
            Err(TrySendError::TooLarge(packet, max)) => {
                Err(ShmError::PacketTooLarge { len: packet.len(), max })
            }
        }
    }

    /// For a `Sink`: ready when everything is sent.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        // Packets of a batch that was leaked.
        self.publish_withheld()?;
        self.poll_held(cx)
    }

    /// For a `Sink`: ready when everything is sent and the end is announced.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        ready!(self.poll_flush(cx))?;
        self.tx.finish();
        Poll::Ready(Ok(()))
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        self.held.poll(&self.channel, &mut self.tx, &mut Deadline::never(), &mut Task(cx))
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        // If the drop always cancels the channel, `Tx` does that.
        if self.channel.is_cut_off_by_drop() {
            return;
        }
        // The last chance of a packet that was held back. Without room it is lost, and the peer
        // must not take what it has for everything.
        if let Err(TrySendError::Full(_)) = self.try_send_held() {
            self.channel.cancel();
        }
    }
}

fn closed(channel: &Channel, reason: CloseReason) -> ShmError {
    channel.note_returned(Directions::TX, reason);
    ShmError::Closed { reason, sent: 0 }
}
