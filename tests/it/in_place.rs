//! Packets that are written and read where they lie.
#![allow(
    unsafe_code,
    reason = "reading in place is unsafe, and so is advancing over what was written"
)]
#![allow(clippy::forget_non_drop, reason = "callers may, whatever a grant is made of")]

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use futures::{FutureExt, SinkExt, StreamExt};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
use wakering::{
    Batch, CloseReason, Driver, Endpoint, Grant, Packet, Receiver, Sender, ShmError, TryRecvError,
    TryReserveError,
};

use crate::common::{
    PATIENCE, SMALL, both_roles, eventually, fill_with, join, number, on_both_backends, packet,
    pair, pair_with_timeout, poll_once, wait,
};

on_both_backends!(
    the_halves_do_what_a_queue_does,
    a_commit_wakes_a_parked_receiver,
    a_packet_that_is_dropped_wakes_a_parked_sender,
    a_forgotten_packet_is_given_back_by_the_next_receive_of_any_kind,
    a_held_packet_keeps_its_room,
    a_grant_that_is_given_up_leaves_no_trace,
    a_batch_is_shown_when_it_is_published,
    a_batch_is_shown_where_it_would_wait_for_room,
    a_leaked_batch_goes_with_what_comes_next,
    a_batch_ends_with_the_channel,
    a_grant_holds_all_that_can_be_put,
    what_the_sink_held_back_goes_before_a_grant,
    nothing_is_committed_behind_an_end,
    reserve_gives_up_in_time,
    what_was_sent_before_the_end_can_be_read_in_place,
    a_stream_in_place_keeps_order_and_content,
    a_router_hands_packets_from_ring_to_ring,
    the_books_count_what_went_in_place,
    lent_bytes_give_room_back_from_the_oldest_on,
    lent_bytes_outlive_the_channel,
    lent_bytes_that_are_dropped_wake_a_parked_sender,
    a_stream_is_lent_and_dropped_in_any_order_on_any_thread,
    two_sleepers_do_not_wake_each_other_over_lent_bytes,
);

/// The sender of one end and the receiver of the other; the two that are not used, to be kept.
fn halves(here: Endpoint, there: Endpoint) -> (Sender, Receiver, (Receiver, Sender)) {
    let (tx, unused_rx) = here.into_split();
    let (unused_tx, rx) = there.into_split();
    (tx, rx, (unused_rx, unused_tx))
}

fn small_halves(driver: &Driver) -> (Sender, Receiver, (Receiver, Sender)) {
    let (face, handle) = pair_with_timeout(driver, SMALL, None);
    halves(face.into(), handle.into())
}

/// Writes a numbered packet in place.
fn commit(tx: &mut Sender, number: u64, len: usize) -> Result<(), TryReserveError> {
    let mut grant = tx.try_reserve(len)?;
    grant.put(packet(number, len));
    grant.commit().expect("nothing has ended");
    Ok(())
}

/// The content of a packet that is held, read in every way there is.
fn content(packet: &Packet<'_>) -> Bytes {
    let bytes = packet.to_bytes();
    assert_eq!((bytes.len(), bytes.is_empty()), (packet.len(), packet.is_empty()));
    let mut copy = vec![0; packet.len()];
    packet.copy_to_slice(&mut copy);
    assert_eq!(bytes, copy);
    let middle = packet.len() / 3;
    packet.copy_to_slice_at(middle, &mut copy[middle..]);
    assert_eq!(bytes, copy);
    // SAFETY: the peer is a part of this test, and writes nowhere but where it may.
    assert_eq!(bytes, unsafe { packet.as_slice() });
    bytes
}

/// A packet as a `Bytes` that points into the ring.
fn lend(packet: Packet<'_>) -> Bytes {
    // SAFETY: the peer is a part of this test, and writes nowhere but where it may.
    unsafe { packet.into_lent_bytes() }
}

/// What is done to the halves.
#[derive(Debug, Clone)]
enum Step {
    TrySend(usize),
    /// As a sink, which may hold one packet back.
    Feed(usize),
    SendBatchOnce(Vec<usize>),
    /// Reserved, and so much of it written and committed.
    Commit(usize, usize),
    /// The same by the future, polled once.
    CommitOnce(usize),
    /// Each reserved, written and committed; published by a drop, or leaked and flushed.
    Batch(Vec<(usize, usize)>, bool),
    GiveUp(usize, usize),
    Forget(usize, usize),
    TryRecv,
    RecvBatchOnce(usize),
    NextOnce,
    Read,
    ReadOnce,
    ForgetRead,
    Lend,
    LendOnce,
    /// One of those that are lent.
    DropLent(usize),
    Readable,
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 8..64_usize, 2 => 8..1017_usize, 1 => 1000..1017_usize]
}

fn step() -> impl Strategy<Value = Step> {
    let part = || (len(), len()).prop_map(|(one, other)| (one.max(other), one.min(other)));
    prop_oneof![
        4 => len().prop_map(Step::TrySend),
        3 => len().prop_map(Step::Feed),
        2 => proptest::collection::vec(len(), 0..8).prop_map(Step::SendBatchOnce),
        6 => part().prop_map(|(reserved, written)| Step::Commit(reserved, written)),
        4 => len().prop_map(Step::CommitOnce),
        2 => (proptest::collection::vec(part(), 0..8), proptest::bool::ANY)
            .prop_map(|(parts, is_leaked)| Step::Batch(parts, is_leaked)),
        2 => part().prop_map(|(reserved, written)| Step::GiveUp(reserved, written)),
        2 => part().prop_map(|(reserved, written)| Step::Forget(reserved, written)),
        4 => Just(Step::TryRecv),
        2 => (1..8_usize).prop_map(Step::RecvBatchOnce),
        2 => Just(Step::NextOnce),
        5 => Just(Step::Read),
        3 => Just(Step::ReadOnce),
        3 => Just(Step::ForgetRead),
        3 => Just(Step::Lend),
        2 => Just(Step::LendOnce),
        6 => (0..100_usize).prop_map(Step::DropLent),
        2 => Just(Step::Readable),
    ]
}

/// Bytes of a record: a header of 8, and the packet, rounded up to 8.
fn record(len: usize) -> usize {
    8 + len.next_multiple_of(8)
}

/// Both halves and the queue that they should be like.
struct Model {
    tx: Sender,
    rx: Receiver,
    _unused: (Receiver, Sender),
    /// Numbers and lengths of what was accepted and not received.
    queue: VecDeque<(u64, usize)>,
    accepted: u64,
    received: u64,
    /// Lengths of what was received and is not given back, from the oldest that is still read.
    kept: VecDeque<(u64, usize, Kept)>,
    lent: Vec<(u64, Bytes)>,
}

/// What became of a packet that was received.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kept {
    Forgotten,
    Lent,
    No,
}

impl Model {
    fn new(driver: &Driver) -> Self {
        let (tx, rx, _unused) = small_halves(driver);
        let queue = VecDeque::new();
        let (kept, lent) = (VecDeque::new(), Vec::new());
        Self { tx, rx, _unused, queue, accepted: 0, received: 0, kept, lent }
    }

    /// How many lie in the ring: all but what the sink holds back.
    fn there(&self) -> usize {
        usize::try_from(self.tx.stats().packets_sent - self.received).unwrap()
    }

    fn used(&self) -> usize {
        let kept = self.kept.iter().map(|&(_, len, _)| record(len)).sum::<usize>();
        kept + self.queue.iter().map(|&(_, len)| record(len)).sum::<usize>()
    }

    /// What nobody reads any more is given back, up to the oldest that somebody reads.
    fn give_back(&mut self) {
        while self.kept.front().is_some_and(|&(.., kept)| kept == Kept::No) {
            self.kept.pop_front();
        }
    }

    fn accept(&mut self, len: usize) {
        self.queue.push_back((self.accepted, len));
        self.accepted += 1;
    }

    /// It is in the ring, and so is what was held back before it.
    fn sent(&mut self, len: usize) {
        self.accept(len);
        assert_eq!(self.there(), self.queue.len());
    }

    /// Full is only what has no room, at the worst place in the ring.
    fn check_full(&self, len: usize) {
        let pads = 2 * record(1016);
        assert!(self.used() + pads + record(len) + 8 > SMALL, "has room");
    }

    fn send(&mut self, step: &Step) {
        match *step {
            Step::TrySend(len) => match self.tx.try_send(packet(self.accepted, len)) {
                Ok(()) => self.sent(len),
                Err(_) => self.check_full(len),
            },
            Step::Feed(len) => {
                let next = packet(self.accepted, len);
                match poll_once(Box::pin(self.tx.feed(next)).as_mut()) {
                    Poll::Ready(fed) => {
                        fed.unwrap();
                        self.accept(len);
                    }
                    Poll::Pending => self.check_full(len),
                }
            }
            Step::SendBatchOnce(ref lens) => {
                let batch: Vec<_> =
                    (self.accepted..).zip(lens).map(|(n, &len)| packet(n, len)).collect();
                let _ = poll_once(Box::pin(self.tx.send_batch(&batch)).as_mut());
                let sent = self.tx.stats().packets_sent.saturating_sub(self.accepted);
                let sent = usize::try_from(sent).unwrap();
                lens[..sent].iter().for_each(|&len| self.accept(len));
                lens[sent..].first().iter().for_each(|&&len| self.check_full(len));
            }
            Step::Commit(reserved, written) => match self.tx.try_reserve(reserved) {
                Ok(mut grant) => {
                    assert_eq!((grant.len(), grant.capacity()), (0, reserved));
                    grant.put(packet(self.accepted, written));
                    assert_eq!(grant.remaining_mut(), reserved - written);
                    grant.commit().unwrap();
                    self.sent(written);
                }
                Err(error) => {
                    assert_eq!(error, TryReserveError::Full);
                    self.check_full(reserved);
                }
            },
            Step::CommitOnce(len) => match self.tx.reserve(len).now_or_never() {
                Some(grant) => {
                    let mut grant = grant.unwrap();
                    grant.put(packet(self.accepted, len));
                    grant.commit().unwrap();
                    self.sent(len);
                }
                None => self.check_full(len),
            },
            Step::Batch(ref parts, is_leaked) => self.send_batch_in_place(parts, is_leaked),
            Step::GiveUp(reserved, written) | Step::Forget(reserved, written) => {
                match self.tx.try_reserve(reserved) {
                    Ok(mut grant) => {
                        grant.put_bytes(0xa5, written);
                        if let Step::Forget(..) = step {
                            mem::forget(grant);
                        }
                    }
                    Err(_) => self.check_full(reserved),
                }
            }
            _ => self.receive(step),
        }
    }

    fn send_batch_in_place(&mut self, parts: &[(usize, usize)], is_leaked: bool) {
        let mut committed = Vec::new();
        let mut failed = None;
        let mut batch = self.tx.batch();
        for (n, &(reserved, written)) in (self.accepted..).zip(parts) {
            match batch.try_reserve(reserved) {
                Ok(mut grant) => {
                    grant.put(packet(n, written));
                    grant.commit().unwrap();
                    committed.push(written);
                }
                Err(error) => {
                    assert_eq!(error, TryReserveError::Full);
                    failed = Some(reserved);
                    break;
                }
            }
        }
        if is_leaked {
            mem::forget(batch);
            let _ = poll_once(Box::pin(self.tx.flush()).as_mut());
        } else {
            drop(batch);
        }
        committed.into_iter().for_each(|len| self.accept(len));
        failed.into_iter().for_each(|len| self.check_full(len));
    }

    fn receive(&mut self, step: &Step) {
        let there = self.there();
        let mut kept = Kept::No;
        let received: Vec<Bytes> = match step {
            Step::Readable => {
                let next = self.queue.front().map(|&(_, len)| len).filter(|_| there > 0);
                assert_eq!((self.rx.readable(), self.rx.is_empty()), (next, there == 0));
                return;
            }
            Step::RecvBatchOnce(max) => {
                let mut packets = Vec::new();
                let polled = poll_once(Box::pin(self.rx.recv_batch(&mut packets, *max)).as_mut());
                assert_eq!((polled.is_pending(), packets.len()), (there == 0, there.min(*max)));
                packets
            }
            Step::NextOnce => match poll_once(Box::pin(self.rx.next()).as_mut()) {
                Poll::Ready(packet) => vec![packet.unwrap().unwrap()],
                Poll::Pending => Vec::new(),
            },
            Step::Read => self.rx.try_recv_ref().iter().map(content).collect(),
            Step::ReadOnce => match poll_once(Box::pin(self.rx.recv_ref()).as_mut()) {
                Poll::Ready(packet) => packet.iter().map(content).collect(),
                Poll::Pending => Vec::new(),
            },
            Step::ForgetRead => {
                let packet = self.rx.try_recv_ref().ok();
                kept = Kept::Forgotten;
                packet.map(|packet| (content(&packet), mem::forget(packet)).0).into_iter().collect()
            }
            Step::Lend => {
                kept = Kept::Lent;
                self.rx.try_recv_ref().into_iter().map(lend).collect()
            }
            Step::LendOnce => {
                kept = Kept::Lent;
                self.rx.recv_ref().now_or_never().flatten().into_iter().map(lend).collect()
            }
            Step::DropLent(which) => return self.drop_lent(*which),
            _ => self.rx.try_recv().into_iter().collect(),
        };
        assert_eq!(received.is_empty(), there == 0);
        // Any receive gives back what was forgotten.
        for (.., kept) in &mut self.kept {
            *kept = if *kept == Kept::Forgotten { Kept::No } else { *kept };
        }
        for packet in received {
            let expected = self.queue.pop_front();
            assert_eq!(Some((number(&packet), packet.len())), expected);
            self.kept.push_back((self.received, packet.len(), kept));
            if kept == Kept::Lent {
                self.lent.push((self.received, packet));
            }
            self.received += 1;
        }
        self.give_back();
    }

    fn drop_lent(&mut self, which: usize) {
        if self.lent.is_empty() {
            return;
        }
        let (n, bytes) = self.lent.swap_remove(which % self.lent.len());
        // Nothing was written over it.
        assert_eq!(number(&bytes), n);
        drop(bytes);
        let entry = self.kept.iter_mut().find(|(number, ..)| *number == n);
        entry.expect("it was out").2 = Kept::No;
        self.give_back();
    }

    fn run(&mut self, step: &Step) {
        self.send(step);
        assert!(self.queue.len() - self.there() <= 1, "the sink holds one packet at most");
        assert_eq!(self.rx.stats().packets_received, self.received);
    }

    /// All arrives, and the ring is as good as new.
    fn drain(mut self) {
        while !self.lent.is_empty() {
            self.drop_lent(0);
        }
        while !self.queue.is_empty() {
            let _ = poll_once(Box::pin(self.tx.flush()).as_mut());
            self.run(&Step::Read);
        }
        self.run(&Step::Read);
        assert_eq!(self.tx.free_bytes(), SMALL - 16);
    }
}

fn the_halves_do_what_a_queue_does(driver: &Driver) {
    let config = ProptestConfig { cases: 120, failure_persistence: None, ..Default::default() };
    let steps = proptest::collection::vec(step(), 1..300);
    proptest!(config, |(steps in steps)| {
        let mut model = Model::new(driver);
        for step in &steps {
            model.run(step);
        }
        model.drain();
    });
}

fn a_commit_wakes_a_parked_receiver(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx, _unused) = halves(here, there);
        let (took, taken) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || {
            for n in 0..40 {
                let packet = match n % 4 {
                    0 => wait("recv_ref", rx.recv_ref()).unwrap().to_bytes(),
                    1 => rx.recv_ref_blocking().unwrap().to_bytes(),
                    2 => wait("recv", rx.recv()).unwrap(),
                    _ => rx.recv_blocking().unwrap(),
                };
                took.send(number(&packet)).unwrap();
            }
        });
        for n in 0..40 {
            if n % 8 < 4 {
                // Until it sleeps: then the commit has to wake it.
                std::thread::sleep(Duration::from_millis(2));
            }
            commit(&mut tx, n, 64).unwrap();
            assert_eq!(taken.recv_timeout(PATIENCE), Ok(n));
        }
        join("receiver", receiver);
        assert!(tx.stats().wakes_sent > 0);
    });
}

/// By `send`, by `reserve`, and by their blocking forms.
fn a_packet_that_is_dropped_wakes_a_parked_sender(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let len = 504;
        let filled = fill_with(&here, len);
        let (mut tx, mut rx, _unused) = halves(here, there);
        let (stalls, stalled) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            for n in 0..40 {
                stalls.send(tx.stats().full_stalls).unwrap();
                let next = packet(filled + n, len);
                match n % 4 {
                    0 => wait("send", tx.send(next)).unwrap(),
                    1 => tx.send_blocking(next).unwrap(),
                    _ => {
                        let mut grant = if n % 4 == 2 {
                            wait("reserve", tx.reserve(len)).unwrap()
                        } else {
                            tx.reserve_blocking(len).unwrap()
                        };
                        grant.put(next);
                        grant.commit().unwrap();
                    }
                }
            }
            tx
        });
        for n in 0..40 {
            let held = rx.try_recv_ref().unwrap();
            assert_eq!(number(&held.to_bytes()), n);
            stalled.recv_timeout(PATIENCE).expect("the parked sender hangs");
            if n % 3 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            drop(held);
            // This side goes away: nothing touches the ring here until the sender has come round.
        }
        let tx = join("sender", sender);
        for n in 40..40 + filled {
            assert_eq!(number(&rx.try_recv().unwrap()), n);
        }
        assert!(tx.stats().full_stalls > 0 && rx.is_empty());
    });
}

fn a_forgotten_packet_is_given_back_by_the_next_receive_of_any_kind(driver: &Driver) {
    type Receive = fn(&mut Receiver) -> bool;
    let receives: [Receive; 6] = [
        |rx| rx.try_recv().is_ok(),
        |rx| rx.try_recv_ref().is_ok(),
        |rx| poll_once(Box::pin(rx.recv()).as_mut()).is_ready(),
        |rx| poll_once(Box::pin(rx.recv_ref()).as_mut()).is_ready(),
        |rx| poll_once(Box::pin(rx.next()).as_mut()).is_ready(),
        |rx| poll_once(Box::pin(rx.recv_batch(&mut Vec::new(), 2)).as_mut()).is_ready(),
    ];
    for receive in receives {
        let (mut tx, mut rx, _unused) = small_halves(driver);
        let all = tx.free_bytes();
        tx.try_send(packet(0, 1000)).unwrap();
        mem::forget(rx.try_recv_ref().unwrap());
        assert!(rx.readable().is_none() && rx.is_empty(), "those take nothing");
        assert_eq!(tx.free_bytes(), all - 1008);
        assert!(!receive(&mut rx), "it comes once");
        assert_eq!(tx.free_bytes(), all);
        // And where there is a next one.
        tx.try_send(packet(1, 1000)).unwrap();
        tx.try_send(packet(2, 8)).unwrap();
        mem::forget(rx.try_recv_ref().unwrap());
        assert!(receive(&mut rx));
        assert_eq!(tx.free_bytes(), all);
    }
}

fn a_held_packet_keeps_its_room(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let mut next = 0;
    while commit(&mut tx, next, 504).is_ok() {
        next += 1;
    }
    let held = rx.try_recv_ref().unwrap();
    assert_eq!(tx.try_reserve(504).unwrap_err(), TryReserveError::Full);
    assert!(tx.try_send(packet(0, 504)).is_err());
    // Whatever is written meanwhile, it stays what it is.
    assert_eq!((number(&held.to_bytes()), held.len()), (0, 504));
    drop(held);
    commit(&mut tx, next, 504).unwrap();
    for n in 1..=next {
        assert_eq!(number(&rx.try_recv_ref().unwrap().to_bytes()), n);
    }
    assert_eq!(rx.try_recv_ref().unwrap_err(), TryRecvError::Empty);
}

fn a_grant_that_is_given_up_leaves_no_trace(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    // Over the ring's end again and again, with pads and without.
    for n in 0..200 {
        let (sent, free) = (tx.stats().packets_sent, tx.free_bytes());
        for (reserved, written) in [(1016, 1016), (1016, 0), (40, 33)] {
            let mut grant = tx.try_reserve(reserved).unwrap();
            grant.put_bytes(0xff, written);
            drop(grant);
            let mut grant = tx.try_reserve(reserved).unwrap();
            grant.put_bytes(0xff, written);
            mem::forget(grant);
            assert_eq!((tx.stats().packets_sent, tx.free_bytes()), (sent, free));
            assert!(rx.is_empty());
        }
        drop(Box::pin(tx.reserve(100)));
        let len = 8 + usize::try_from(n).unwrap() * 5 % 1000;
        commit(&mut tx, n, len).unwrap();
        let packet = rx.try_recv_ref().unwrap();
        assert_eq!((number(&packet.to_bytes()), packet.len()), (n, len));
    }
}

/// Writes numbered packets of 64 bytes in place, as parts of a batch.
fn commit_to(batch: &mut Batch<'_>, numbers: Range<u64>) {
    for n in numbers {
        let mut grant = batch.try_reserve(64).unwrap();
        grant.put(packet(n, 64));
        grant.commit().unwrap();
    }
}

fn assert_come(rx: &mut Receiver, numbers: Range<u64>) {
    for n in numbers {
        assert_eq!(number(&rx.try_recv_ref().unwrap().to_bytes()), n);
    }
    assert!(rx.is_empty());
}

/// By `publish`, by a drop, and by itself once an eighth of the ring is withheld; and a sleeping peer
/// is woken once for all of them.
fn a_batch_is_shown_when_it_is_published(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx, (_unused_rx, unused_tx)) = halves(here, there);
        let mut batch = tx.batch();
        commit_to(&mut batch, 0..3);
        assert!(rx.is_empty());
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        batch.publish().unwrap();
        assert_come(&mut rx, 0..3);
        commit_to(&mut batch, 3..5);
        assert!(rx.is_empty());
        drop(batch);
        assert_come(&mut rx, 3..5);

        // 72 bytes a record, and an eighth are 512.
        let mut batch = tx.batch();
        commit_to(&mut batch, 5..12);
        assert!(rx.is_empty());
        commit_to(&mut batch, 12..13);
        assert_come(&mut rx, 5..13);
        drop(batch);

        let receiver = std::thread::spawn(move || {
            let first = rx.recv_ref_blocking().unwrap().to_bytes();
            (number(&first), rx)
        });
        eventually("the receiver sleeps", || unused_tx.stats().parks > 0);
        let before = tx.stats().wakes_sent;
        let mut batch = tx.batch();
        commit_to(&mut batch, 13..17);
        drop(batch);
        let (first, mut rx) = join("receiver", receiver);
        assert_eq!((first, tx.stats().wakes_sent - before), (13, 1));
        assert_come(&mut rx, 14..17);
    });
}

/// At once, by the future and by the blocking form, which then waits until there is room.
fn a_batch_is_shown_where_it_would_wait_for_room(driver: &Driver) {
    type Reserve = for<'a> fn(&'a mut Batch<'_>) -> Result<Grant<'a>, ShmError>;
    let ways: [Reserve; 2] =
        [|batch| wait("reserve", batch.reserve(200)), |batch| batch.reserve_blocking(200)];
    for reserve in ways {
        both_roles(driver, SMALL, None, |here, there| {
            let (mut tx, mut rx, _unused) = halves(here, there);
            let mut batch = tx.batch();
            // Seven more than six eighths of the ring, of which 208 bytes are not left.
            commit_to(&mut batch, 0..55);
            // No room comes back while this one is out.
            let first = lend(rx.try_recv_ref().unwrap());
            assert_come(&mut rx, 1..48);
            assert_eq!(batch.try_reserve(200).unwrap_err(), TryReserveError::Full);
            assert_come(&mut rx, 48..55);
            drop((batch, first));

            let sender = std::thread::spawn(move || {
                let mut batch = tx.batch();
                commit_to(&mut batch, 55..109);
                let mut grant = reserve(&mut batch).unwrap();
                grant.put(packet(109, 200));
                grant.commit().unwrap();
                drop(batch);
                tx
            });
            let first = lend(rx.recv_ref_blocking().unwrap());
            for n in 56..109 {
                assert_eq!(number(&rx.recv_blocking().unwrap()), n);
            }
            drop(first);
            assert_eq!(number(&rx.recv_blocking().unwrap()), 109);
            drop(join("sender", sender));
        });
    }
}

/// With the next packet, whatever it is sent by, by a flush, and with the half's end.
fn a_leaked_batch_goes_with_what_comes_next(driver: &Driver) {
    let leak = |tx: &mut Sender| {
        let mut batch = tx.batch();
        commit_to(&mut batch, 0..2);
        mem::forget(batch);
    };
    type Next = fn(Sender) -> Option<Sender>;
    let ways: [(Next, u64); 8] = [
        (|mut tx| wait("send", tx.send(packet(2, 64))).ok().map(|()| tx), 3),
        (|mut tx| tx.try_send(packet(2, 64)).ok().map(|()| tx), 3),
        (|mut tx| wait("batch", tx.send_batch(&[packet(2, 64)])).ok().map(|()| tx), 3),
        (|mut tx| commit(&mut tx, 2, 64).ok().map(|()| tx), 3),
        (|mut tx| wait("feed", tx.feed(packet(2, 64))).ok().map(|()| tx), 3),
        (|mut tx| wait("flush", tx.flush()).ok().map(|()| tx), 2),
        (|mut tx| wait("close", tx.close()).ok().map(|()| tx), 2),
        (|_| None, 2),
    ];
    for (next, count) in ways {
        let (mut tx, mut rx, _unused) = small_halves(driver);
        leak(&mut tx);
        assert!(rx.is_empty());
        let tx = next(tx);
        assert_come(&mut rx, 0..count);
        drop(tx);
        assert!(wait("recv", rx.recv()).is_none());
        assert_eq!(rx.close_reason(), Some(CloseReason::Peer));
    }
}

fn a_batch_ends_with_the_channel(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let canceller = tx.canceller();
    let mut batch = tx.batch();
    commit_to(&mut batch, 0..1);
    let grant = batch.try_reserve(64).unwrap();
    canceller.cancel();
    let closed = |result: Result<(), ShmError>| {
        matches!(result, Err(ShmError::Closed { reason: CloseReason::Cancelled, sent: 0 }))
    };
    assert!(closed(grant.commit()) && closed(batch.publish()));
    assert!(matches!(batch.try_reserve(1), Err(TryReserveError::Closed(CloseReason::Cancelled))));
    assert!(closed(wait("reserve", batch.reserve(1)).map(drop)));
    assert!(closed(batch.reserve_blocking(1).map(drop)));
    drop(batch);
    assert!(wait("recv", rx.recv()).is_none());

    // A peer that receives no more.
    let (mut tx, rx, _unused) = small_halves(driver);
    let mut batch = tx.batch();
    commit_to(&mut batch, 0..1);
    drop(rx);
    let closed = batch.publish().unwrap_err();
    assert!(matches!(closed, ShmError::Closed { reason: CloseReason::Peer, .. }), "{closed:?}");
    // Longer than a packet may be: refused, and what was withheld is not lost by it.
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let mut batch = tx.batch();
    commit_to(&mut batch, 0..1);
    assert_eq!(batch.try_reserve(5000).unwrap_err(), TryReserveError::TooLarge(5000, 1016));
    let refused = wait("reserve", batch.reserve(5000)).unwrap_err();
    assert!(matches!(refused, ShmError::PacketTooLarge { len: 5000, max: 1016 }));
    commit_to(&mut batch, 1..2);
    drop(batch);
    assert_come(&mut rx, 0..2);
}

fn a_grant_holds_all_that_can_be_put(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let mut grant = tx.try_reserve(1016).unwrap();
    assert!(grant.is_empty() && grant.capacity() == 1016);
    grant.put_u8(1);
    grant.put_u32_le(0x0504_0302);
    grant.put(Bytes::from_static(b"one ").chain(&b"other"[..]));
    grant.put_bytes(b'!', 2);
    let chunk = grant.chunk_mut();
    assert_eq!(chunk.len(), 1016 - 16);
    chunk[..3].copy_from_slice(b"end");
    // SAFETY: three bytes were written just now.
    unsafe { grant.advance_mut(3) };
    assert_eq!((grant.len(), grant.remaining_mut()), (19, 1016 - 19));
    grant.commit().unwrap();
    assert_eq!(rx.try_recv().unwrap(), &b"\x01\x02\x03\x04\x05one other!!end"[..]);
    // Nothing at all is a packet as well; and all that there is room for.
    tx.try_reserve(0).unwrap().commit().unwrap();
    tx.try_reserve(8).unwrap().commit().unwrap();
    let mut grant = tx.try_reserve(1016).unwrap();
    let mut left = grant.limit(1016);
    left.put_bytes(9, 1016);
    grant = left.into_inner();
    assert!(!grant.has_remaining_mut() && grant.chunk_mut().len() == 0);
    grant.commit().unwrap();
    assert!(rx.try_recv_ref().unwrap().is_empty());
    assert_eq!(rx.try_recv().unwrap(), "");
    assert_eq!(rx.try_recv().unwrap(), vec![9; 1016]);
    for overrun in [
        (|grant| grant.put_slice(&[0; 9])) as fn(&mut Grant<'_>),
        |grant| grant.put_bytes(0, 9),
        |grant| grant.put(&[0; 9][..]),
        // SAFETY: no byte counts as written, because this panics.
        |grant| unsafe { grant.advance_mut(9) },
    ] {
        let mut grant = tx.try_reserve(8).unwrap();
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| overrun(&mut grant)));
        assert!(outcome.is_err() && grant.is_empty());
    }
    assert_eq!(tx.try_reserve(1017).unwrap_err(), TryReserveError::TooLarge(1017, 1016));
    let error = wait("reserve", tx.reserve(1017)).unwrap_err();
    assert!(matches!(error, ShmError::PacketTooLarge { len: 1017, max: 1016 }), "{error}");
    let error = tx.reserve_blocking(usize::MAX).unwrap_err();
    assert!(matches!(error, ShmError::PacketTooLarge { len: usize::MAX, .. }), "{error}");
    assert!(rx.is_empty());
}

fn what_the_sink_held_back_goes_before_a_grant(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let mut next = 0;
    while tx.try_send(packet(next, 504)).is_ok() {
        next += 1;
    }
    wait("feed", tx.feed(packet(next, 504))).unwrap();
    assert_eq!(tx.try_reserve(8).unwrap_err(), TryReserveError::Full);
    assert!(poll_once(Box::pin(tx.reserve(8)).as_mut()).is_pending());
    for n in 0..3 {
        assert_eq!(number(&rx.try_recv().unwrap()), n);
    }
    commit(&mut tx, next + 1, 8).unwrap();
    for n in 3..next + 2 {
        assert_eq!(number(&rx.try_recv().unwrap()), n);
    }
    // And by the future, and by the blocking call.
    for blocking in [false, true] {
        let first = next + 2;
        next = first;
        while tx.try_send(packet(next, 504)).is_ok() {
            next += 1;
        }
        wait("feed", tx.feed(packet(next, 504))).unwrap();
        (0..3).for_each(|n| assert_eq!(number(&rx.try_recv().unwrap()), first + n));
        let mut grant = if blocking {
            tx.reserve_blocking(8).unwrap()
        } else {
            wait("reserve", tx.reserve(8)).unwrap()
        };
        grant.put(packet(next + 1, 8));
        grant.commit().unwrap();
        (first + 3..next + 2).for_each(|n| assert_eq!(number(&rx.try_recv().unwrap()), n));
    }
}

/// Ends of all kinds come between the reservation and the commit.
fn nothing_is_committed_behind_an_end(driver: &Driver) {
    for end in 0..4 {
        let (mut tx, rx, (own_rx, peer_tx)) = small_halves(driver);
        let (canceller, mut rx) = (tx.canceller(), Some(rx));
        let mut grant = tx.try_reserve(64).unwrap();
        grant.put_bytes(1, 64);
        match end {
            0 => rx = None,
            1 => own_rx.cancel(),
            2 => peer_tx.cancel(),
            _ => canceller.cancel(),
        }
        let expected = if end == 0 { CloseReason::Peer } else { CloseReason::Cancelled };
        let closed = |error: &ShmError| match error {
            ShmError::Closed { reason, sent: 0 } => assert_eq!(*reason, expected),
            other => panic!("{other}"),
        };
        closed(&grant.commit().unwrap_err());
        assert_eq!(tx.close_reason(), Some(expected));
        assert_eq!(tx.try_reserve(64).unwrap_err(), TryReserveError::Closed(expected));
        closed(&wait("reserve", tx.reserve(64)).unwrap_err());
        closed(&tx.reserve_blocking(64).unwrap_err());
        assert_eq!(tx.stats().packets_sent, 0);
        if let Some(mut rx) = rx {
            assert_eq!(rx.readable(), None);
            assert_eq!(
                rx.try_recv_ref().unwrap_err(),
                TryRecvError::Closed(CloseReason::Cancelled)
            );
            assert!(wait("recv_ref", rx.recv_ref()).is_none());
            assert!(rx.recv_ref_blocking().is_none());
        }
    }
}

fn reserve_gives_up_in_time(driver: &Driver) {
    let timeout = Duration::from_millis(60);
    let (face, handle) = pair_with_timeout(driver, SMALL, Some(timeout));
    fill_with(&face, 504);
    let (mut tx, mut rx, _unused) = halves(face.into(), handle.into());
    for blocking in [false, true] {
        let begin = Instant::now();
        let error = if blocking {
            tx.reserve_blocking(504).unwrap_err()
        } else {
            wait("reserve", tx.reserve(504)).unwrap_err()
        };
        assert!(matches!(error, ShmError::TimedOut { sent: 0 }), "{error}");
        assert!(begin.elapsed() >= timeout, "{:?}", begin.elapsed());
    }
    drop(rx.try_recv_ref().unwrap());
    drop(wait("reserve", tx.reserve(504)).unwrap());
}

fn what_was_sent_before_the_end_can_be_read_in_place(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    for n in 0..3 {
        commit(&mut tx, n, 100).unwrap();
    }
    drop(tx);
    assert_eq!(rx.readable(), Some(100));
    assert_eq!(number(&rx.try_recv_ref().unwrap().to_bytes()), 0);
    assert_eq!(number(&wait("recv_ref", rx.recv_ref()).unwrap().to_bytes()), 1);
    assert_eq!(number(&rx.recv_ref_blocking().unwrap().to_bytes()), 2);
    assert_eq!(rx.finished(), None);
    assert_eq!(rx.try_recv_ref().unwrap_err(), TryRecvError::Closed(CloseReason::Peer));
    assert_eq!(rx.finished(), Some(Ok(())));
    assert!(wait("recv_ref", rx.recv_ref()).is_none());
}

fn a_stream_in_place_keeps_order_and_content(driver: &Driver) {
    const PACKETS: u64 = 30_000;
    let len = |n: u64| 8 + usize::try_from(n * 37 % 700).unwrap();
    for blocking in [false, true] {
        let (mut tx, mut rx, _unused) = small_halves(driver);
        let sender = std::thread::spawn(move || {
            for n in 0..PACKETS {
                let reserved = len(n) + usize::try_from(n % 300).unwrap();
                let mut grant = if blocking {
                    tx.reserve_blocking(reserved).unwrap()
                } else {
                    wait("reserve", tx.reserve(reserved)).unwrap()
                };
                grant.put(packet(n, len(n)));
                grant.commit().unwrap();
            }
        });
        for n in 0..PACKETS {
            let packet = if blocking {
                rx.recv_ref_blocking().unwrap()
            } else {
                wait("recv_ref", rx.recv_ref()).unwrap()
            };
            assert_eq!(packet.len(), len(n));
            // SAFETY: the peer is a part of this test, and writes nowhere but where it may.
            assert_eq!(number(unsafe { packet.as_slice() }), n);
        }
        join("sender", sender);
        assert!(wait("the end", rx.recv_ref()).is_none());
    }
}

fn a_router_hands_packets_from_ring_to_ring(driver: &Driver) {
    const PACKETS: u64 = 5_000;
    let len = |n: u64| 8 + usize::try_from(n * 53 % 1000).unwrap();
    let (mut from, mut routed_in, _unused) = small_halves(driver);
    let (mut routed_out, mut to, _unused_too) = small_halves(driver);
    let source = std::thread::spawn(move || {
        for n in 0..PACKETS {
            wait("send", from.send(packet(n, len(n)))).unwrap();
        }
    });
    let router = std::thread::spawn(move || {
        while let Some(packet) = wait("recv_ref", routed_in.recv_ref()) {
            let mut grant = wait("reserve", routed_out.reserve(packet.len())).unwrap();
            grant.put_packet(&packet);
            assert!(!grant.has_remaining_mut());
            grant.commit().unwrap();
        }
    });
    for n in 0..PACKETS {
        let packet = wait("recv", to.recv()).unwrap();
        assert_eq!((number(&packet), packet.len()), (n, len(n)));
    }
    assert!(wait("the end", to.recv()).is_none());
    join("source", source);
    join("router", router);
}

fn the_books_count_what_went_in_place(driver: &Driver) {
    let (face, handle) = pair(driver, SMALL);
    let (mut tx, mut rx, _unused) = halves(face.into(), handle.into());
    for n in 0..50 {
        commit(&mut tx, n, 100).unwrap();
        drop(rx.try_recv_ref().unwrap());
        drop(tx.try_reserve(100).unwrap());
    }
    let (sent, received) = (tx.stats(), rx.stats());
    assert_eq!((sent.packets_sent, sent.bytes_sent), (50, 5000));
    assert_eq!((received.packets_received, received.bytes_received), (50, 5000));
}

fn lent_bytes_give_room_back_from_the_oldest_on(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let all = tx.free_bytes();
    for n in 0..4 {
        tx.try_send(packet(n, 504)).unwrap();
    }
    let one = lend(rx.try_recv_ref().unwrap());
    assert_eq!(number(&rx.try_recv().unwrap()), 1);
    let two = lend(rx.try_recv_ref().unwrap());
    let three = lend(rx.try_recv_ref().unwrap());
    assert_eq!(tx.free_bytes(), all - 4 * 512);
    drop(two);
    assert_eq!(tx.free_bytes(), all - 4 * 512, "the oldest is out");
    let part = one.slice(8..16);
    drop(one);
    assert_eq!(tx.free_bytes(), all - 4 * 512, "a part of the oldest is out");
    drop(part);
    assert_eq!(tx.free_bytes(), all - 512, "but for the last");
    // What comes behind one that is out stays with it, whatever becomes of it.
    tx.try_send(packet(4, 504)).unwrap();
    mem::forget(rx.try_recv_ref().unwrap());
    assert_eq!(rx.try_recv_ref().unwrap_err(), TryRecvError::Empty);
    assert_eq!(tx.free_bytes(), all - 2 * 512);
    assert_eq!(number(&three), 3);
    drop(three);
    assert_eq!(tx.free_bytes(), all);
    // Nothing at all needs no room.
    tx.try_send(Bytes::new()).unwrap();
    let nothing = lend(rx.try_recv_ref().unwrap());
    assert_eq!((nothing.len(), tx.free_bytes()), (0, all));
}

fn lent_bytes_outlive_the_channel(driver: &Driver) {
    let (mut tx, mut rx, unused) = small_halves(driver);
    for n in 0..3 {
        tx.try_send(packet(n, 504)).unwrap();
    }
    let mut lent: Vec<_> = (0..3).map(|_| lend(rx.try_recv_ref().unwrap())).collect();
    drop(rx);
    assert_eq!(number(&lent.remove(0)), 0);
    drop(tx);
    drop(unused);
    let thread = std::thread::spawn(move || {
        assert_eq!(number(&lent.pop().unwrap()), 2);
        assert_eq!(number(&lent.pop().unwrap()), 1);
    });
    join("the one that drops them", thread);
}

fn lent_bytes_that_are_dropped_wake_a_parked_sender(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let len = 504;
        let filled = fill_with(&here, len);
        let (mut tx, mut rx, _unused) = halves(here, there);
        let (begun, begins) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            for n in 0..40 {
                begun.send(()).unwrap();
                let next = packet(filled + n, len);
                match n % 3 {
                    0 => wait("send", tx.send(next)).unwrap(),
                    1 => tx.send_blocking(next).unwrap(),
                    _ => {
                        let mut grant = wait("reserve", tx.reserve(len)).unwrap();
                        grant.put(next);
                        grant.commit().unwrap();
                    }
                }
            }
            tx
        });
        for n in 0..40 {
            let bytes = lend(rx.try_recv_ref().unwrap());
            begins.recv_timeout(PATIENCE).expect("the parked sender hangs");
            if n % 3 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            let dropper = std::thread::spawn(move || assert_eq!(number(&bytes), n));
            join("the one that drops it", dropper);
        }
        let tx = join("sender", sender);
        assert!(tx.stats().full_stalls > 0);
    });
}

fn a_stream_is_lent_and_dropped_in_any_order_on_any_thread(driver: &Driver) {
    const PACKETS: u64 = 6_000;
    let len = |n: u64| 8 + usize::try_from(n * 37 % 500).unwrap();
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let sender = std::thread::spawn(move || {
        for n in 0..PACKETS {
            wait("send", tx.send(packet(n, len(n)))).unwrap();
        }
    });
    let droppers: Vec<_> = (0..2)
        .map(|_| {
            let (give, given) = std::sync::mpsc::channel::<(u64, Bytes)>();
            let thread = std::thread::spawn(move || {
                let mut kept = Vec::new();
                while let Ok((n, bytes)) = given.recv() {
                    kept.push((n, bytes));
                    // All that came meanwhile, the last one first.
                    kept.extend(given.try_iter());
                    while let Some((n, bytes)) = kept.pop() {
                        assert_eq!(number(&bytes), n);
                    }
                }
            });
            (give, thread)
        })
        .collect();
    for n in 0..PACKETS {
        let packet = wait("recv_ref", rx.recv_ref()).unwrap();
        assert_eq!(packet.len(), len(n));
        match n % 5 {
            0 => assert_eq!(number(&packet.to_bytes()), n),
            which => {
                let (give, _) = &droppers[usize::try_from(which).unwrap() % 2];
                give.send((n, lend(packet))).unwrap();
            }
        }
    }
    join("sender", sender);
    for (give, thread) in droppers {
        drop(give);
        join("the one that drops them", thread);
    }
    assert!(wait("the end", rx.recv_ref()).is_none());
}

/// The receiver waits for packets, and the sender for room that is lent. Neither can help the other.
fn two_sleepers_do_not_wake_each_other_over_lent_bytes(driver: &Driver) {
    for blocking in [false, true] {
        let (mut tx, mut rx, _unused) = small_halves(driver);
        let mut filled = 0;
        while tx.try_send(packet(filled, 504)).is_ok() {
            filled += 1;
        }
        let lent: Vec<_> = (0..filled).map(|_| lend(rx.try_recv_ref().unwrap())).collect();
        let wakes = std::sync::Arc::new(std::sync::Mutex::new((0, 0)));
        let seen = wakes.clone();
        let receiver = std::thread::spawn(move || {
            let packet = if blocking { rx.recv_blocking() } else { wait("recv", rx.recv()) };
            assert_eq!(number(&packet.unwrap()), filled);
            seen.lock().unwrap().0 = rx.stats().wakes_sent;
            rx
        });
        let seen = wakes.clone();
        let sender = std::thread::spawn(move || {
            let next = packet(filled, 504);
            if blocking {
                tx.send_blocking(next).unwrap();
            } else {
                wait("send", tx.send(next)).unwrap();
            }
            seen.lock().unwrap().1 = tx.stats().wakes_sent;
            tx
        });
        // Time for as many wakes as there would be.
        std::thread::sleep(Duration::from_millis(150));
        drop(lent);
        let (_tx, _rx) = (join("sender", sender), join("receiver", receiver));
        let (by_receiver, by_sender) = *wakes.lock().unwrap();
        assert!(by_receiver + by_sender < 20, "{by_receiver} and {by_sender} wakes");
    }
}
