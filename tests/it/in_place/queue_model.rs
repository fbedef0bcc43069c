//! Random operations on both halves, compared with a plain queue.

use std::collections::VecDeque;
use std::mem;
use std::task::Poll;

use bytes::{BufMut, Bytes};
use futures::{FutureExt, SinkExt, StreamExt};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
use wakering::{Driver, Packet, Receiver, Sender, TryReserveError};

use super::{lend, small_halves};
use crate::common::{SMALL, number, on_both_backends, packet, poll_once, record_bytes};

on_both_backends!(the_halves_do_what_a_queue_does);

/// Returns the content of a packet that is held. Reads it in every way that there is.
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

/// An operation on the halves.
#[derive(Debug, Clone)]
enum Step {
    TrySend(usize),
    /// As a sink, which may hold one packet back.
    Feed(usize),
    SendBatchOnce(Vec<usize>),
    /// Reserves the first number of bytes, then writes and commits the second.
    Commit(usize, usize),
    /// Reserves with the future, which is polled once.
    CommitOnce(usize),
    /// Reserves, writes and commits each of these. The batch is published by a drop, or leaked and
    /// flushed.
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
    /// Drops one of the lent packets.
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

/// Both halves, and the queue that they should behave like.
struct Model {
    tx: Sender,
    rx: Receiver,
    _unused: (Receiver, Sender),
    /// Numbers and lengths of the packets that were accepted and not received.
    queue: VecDeque<(u64, usize)>,
    accepted: u64,
    received: u64,
    /// Numbers and lengths of the packets that were received and not given back, from the oldest
    /// that is still read.
    kept: VecDeque<(u64, usize, Kept)>,
    lent: Vec<(u64, Bytes)>,
}

impl Model {
    fn new(driver: &Driver) -> Self {
        let (tx, rx, _unused) = small_halves(driver);
        let queue = VecDeque::new();
        let (kept, lent) = (VecDeque::new(), Vec::new());
        Self { tx, rx, _unused, queue, accepted: 0, received: 0, kept, lent }
    }

    /// Returns how many packets are in the ring: all except the one that the sink holds back.
    fn there(&self) -> usize {
        usize::try_from(self.tx.stats().packets_sent - self.received).unwrap()
    }

    fn used(&self) -> usize {
        let kept = self.kept.iter().map(|&(_, len, _)| record_bytes(len)).sum::<usize>();
        kept + self.queue.iter().map(|&(_, len)| record_bytes(len)).sum::<usize>()
    }

    /// Gives back what is no longer read, up to the oldest packet that is still read.
    fn give_back(&mut self) {
        while self.kept.front().is_some_and(|&(.., kept)| kept == Kept::No) {
            self.kept.pop_front();
        }
    }

    fn accept(&mut self, len: usize) {
        self.queue.push_back((self.accepted, len));
        self.accepted += 1;
    }

    /// Notes a packet that is in the ring, as is everything that was held back before it.
    fn sent(&mut self, len: usize) {
        self.accept(len);
        assert_eq!(self.there(), self.queue.len());
    }

    /// Checks that "full" was returned only because there is no room at the worst place in the
    /// ring.
    fn check_full(&self, len: usize) {
        let pads = 2 * record_bytes(1016);
        assert!(self.used() + pads + record_bytes(len) + 8 > SMALL, "has room");
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
        // Nothing has overwritten the lent bytes.
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

    /// Checks that everything arrives and that the whole ring is free again.
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

/// What happened to a packet that was received.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kept {
    Forgotten,
    Lent,
    No,
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
