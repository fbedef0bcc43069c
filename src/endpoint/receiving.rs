//! Taking packets out, and waiting for them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::access::Access;
use super::counters::bump;
use super::ends::Directions;
use super::link::{Link, VainWakes};
use crate::error::CloseReason;
use crate::layout::{RECV, RX_CLOSED, SEND};
use crate::ring::Consumer;
use crate::sync::{Arc, Ordering};
use crate::waiters::Waiting;

/// A packet, nothing at present, or the end.
pub(crate) type Taken<T> = Result<Option<T>, CloseReason>;

/// The receiving half of an end. Dropped, it tells the peer that nobody receives any more.
#[derive(Debug)]
pub(crate) struct Rx {
    link: Arc<Link>,
    consumer: Consumer,
}

impl Rx {
    pub(super) fn new(link: &Arc<Link>) -> Self {
        Self { link: link.clone(), consumer: Consumer::new(link.region(), link.side()) }
    }

    /// Whether a packet could be taken now.
    pub(crate) fn has_packet(&mut self) -> bool {
        self.link.rx_cut().is_none() && matches!(self.consumer.peek(), Ok(Some(_)))
    }

    /// Takes the next packet. At the end, the reason is settled.
    #[inline]
    pub(crate) fn take(&mut self) -> Taken<Bytes> {
        if let Some(reason) = self.link.rx_cut() {
            self.link.settle(reason);
            return Err(reason);
        }
        match self.take_published()? {
            Some(packet) => Ok(Some(packet)),
            None => self.take_last(),
        }
    }

    /// The ring was empty: takes what came before the end, if there is one.
    fn take_last(&mut self) -> Taken<Bytes> {
        let Some(reason) = self.link.rx_over() else { return Ok(None) };
        // ORDERING: the flag was loaded, with Acquire, before this second look; so what was
        // published before the end is seen here.
        if let Some(packet) = self.take_published()? {
            return Ok(Some(packet));
        }
        self.link.ends.end(Directions::RX, reason);
        let reason = self.link.ends.rx().unwrap_or(reason);
        self.link.settle(reason);
        Err(reason)
    }

    #[inline]
    fn take_published(&mut self) -> Taken<Bytes> {
        let packet = self.consumer.take().map_err(|violation| self.link.violated(violation))?;
        if let Some(packet) = &packet {
            let counters = &self.link.counters;
            bump(&counters.packets_received, 1);
            bump(&counters.bytes_received, packet.len() as u64);
        }
        // Unfenced, so a bit that was set just now may be missed: the parked sender looks again by
        // itself after `LOOK_AGAIN_AFTER`.
        if self.link.peer_bell.is_armed(SEND) {
            self.give_room();
        }
        if self.consumer.is_released() && packet.is_some() {
            self.note();
        }
        Ok(packet)
    }

    /// A sender is parked: hands back what was taken, and wakes it if that is what it wants.
    #[cold]
    fn give_room(&mut self) {
        self.consumer.release();
        if self.consumer.has_what_it_wants() {
            self.link.ring(SEND);
        }
    }

    /// Takes up to `max` packets into `packets` and tells how many.
    pub(crate) fn take_batch(&mut self, packets: &mut Vec<Bytes>, max: usize) -> Taken<usize> {
        let mut taken = 0;
        while taken < max {
            match self.take() {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                // What was taken comes first; the next call meets the end again.
                Err(_) if taken > 0 => break,
                Err(reason) => return Err(reason),
            }
            taken += 1;
        }
        Ok((taken > 0 || max == 0).then_some(taken))
    }

    /// Says that somebody sleeps here until packets come, and looks a last time. The caller has
    /// registered whoever it is.
    fn park<T>(&mut self, take: &mut impl FnMut(&mut Self) -> Taken<T>) -> Taken<T> {
        self.consumer.release();
        let newly = self.link.bell.arm(RECV);
        if newly {
            self.link.parked(RECV);
        }
        // The ring is empty as far as we saw, so whatever a parked sender wants, it can have.
        self.link.ring_fenced(SEND);
        let taken = take(self);
        if newly && !matches!(taken, Ok(None)) {
            self.link.bell.disarm(RECV);
        } else {
            self.note();
        }
        taken
    }

    /// Leaves the books where tools can read them.
    fn note(&self) {
        if cfg!(all(test, loom)) {
            return;
        }
        let (snapshot, stats) = (self.link.snapshot(), self.link.counters.read());
        // ORDERING: Relaxed, all; nobody acts on a snapshot.
        snapshot.head.store(self.consumer.position().get(), Ordering::Relaxed);
        snapshot.packets_received.store(stats.packets_received, Ordering::Relaxed);
        snapshot.bytes_received.store(stats.bytes_received, Ordering::Relaxed);
        snapshot.wakes_sent.store(stats.wakes_sent, Ordering::Relaxed);
        snapshot.parks.store(stats.parks, Ordering::Relaxed);
    }
}

impl Drop for Rx {
    fn drop(&mut self) {
        self.link.leave(RX_CLOSED);
    }
}

/// A receive under way: takes by `take`, and sleeps while that finds nothing.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Receiving<'a, A, F> {
    link: &'a Link,
    rx: A,
    take: F,
    place: Option<Waiting>,
}

impl<'a, A, F, T> Receiving<'a, A, F>
where
    A: Access<Rx>,
    F: FnMut(&mut Rx) -> Taken<T>,
{
    pub(crate) fn new(link: &'a Link, rx: A, take: F) -> Self {
        Self { link, rx, take, place: None }
    }

    /// Takes, or looks again for a while if that is worth it.
    #[inline]
    fn look(&mut self) -> Taken<T> {
        if let Some(reason) = self.link.forked() {
            return Err(reason);
        }
        let taken = self.rx.with(|rx| (self.take)(rx));
        if let Ok(None) = taken { self.spin() } else { taken }
    }

    fn spin(&mut self) -> Taken<T> {
        let Self { link, rx, take, .. } = self;
        let look = || rx.with(|rx| take(rx)).transpose();
        link.spin(&link.data_spin, look).transpose()
    }

    /// As the future does, but the place in the queue is the caller's, who polls again later.
    pub(crate) fn poll_in(
        &mut self,
        place: &mut Option<Waiting>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, CloseReason>> {
        let mut taken = self.look();
        if let Ok(None) = taken {
            register(&self.link.data, place, cx);
            taken = self.rx.with(|rx| rx.park(&mut self.take));
        }
        let Some(taken) = taken.transpose() else { return Poll::Pending };
        if place.take().is_some() {
            // We may have been the one of several that was woken, for more than one packet.
            self.link.data.notify_one();
        }
        Poll::Ready(taken)
    }

    /// Sleeps on the bell itself until something is taken. `None` if the deadline passed.
    pub(crate) fn block(mut self, deadline: Option<Instant>) -> Option<Result<T, CloseReason>> {
        let mut vain = VainWakes::new();
        loop {
            // Read before the looks: whatever is published behind them changes it.
            let count = self.link.bell.count();
            let mut taken = self.look();
            if let Ok(None) = taken {
                taken = self.rx.with(|rx| rx.park(&mut self.take));
            }
            if let Some(taken) = taken.transpose() {
                return Some(taken);
            }
            let now = Instant::now();
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now));
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return None;
            }
            self.link.sleep(count, timeout, &mut vain);
        }
    }
}

impl<A, F, T> Future for Receiving<'_, A, F>
where
    A: Access<Rx> + Unpin,
    F: FnMut(&mut Rx) -> Taken<T> + Unpin,
{
    type Output = Result<T, CloseReason>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut place = self.place.take();
        let polled = self.poll_in(&mut place, cx);
        self.place = place;
        polled
    }
}

/// Puts the task into the queue, or back into it if its place was used up.
pub(crate) fn register(
    waiters: &crate::waiters::Waiters,
    place: &mut Option<Waiting>,
    cx: &mut Context<'_>,
) {
    while place.get_or_insert_with(|| waiters.join()).poll(cx).is_ready() {
        *place = None;
    }
}
