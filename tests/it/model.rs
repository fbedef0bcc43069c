//! Random sequences of public operations on both ends, by one thread, against a simple model.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};
use wakering::{
    CloseReason, Driver, Endpoint, Receiver, Sender, ShmError, TryRecvError, TrySendError,
};

use crate::common::{
    SMALL, number, on_both_backends, packet, pair_with_timeout, poll_once, record_bytes,
};

on_both_backends!(both_ends_do_what_the_model_says);

/// An operation on one side.
#[derive(Debug, Clone)]
enum Step {
    TrySend(usize),
    /// Polled once, and dropped.
    SendOnce(usize),
    SendBatchOnce(Vec<usize>),
    TryRecv,
    RecvOnce,
    RecvBatchOnce(usize),
    NextOnce,
    Split,
    DropSender,
    /// Drops a sender that was not closed and is set to cancel then.
    DropSenderThatCancels,
    CloseSink,
    DropReceiver,
    Close,
    Cancel,
    CancelByCanceller,
    DropAll,
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 8..64_usize, 2 => 8..1017_usize, 1 => 1000..1017_usize, 1 => 1017..1100_usize]
}

fn step() -> impl Strategy<Value = Step> {
    let seldom = prop_oneof![
        2 => proptest::strategy::Just(Step::Split),
        2 => proptest::strategy::Just(Step::DropSender),
        1 => proptest::strategy::Just(Step::DropSenderThatCancels),
        1 => proptest::strategy::Just(Step::CloseSink),
        2 => proptest::strategy::Just(Step::DropReceiver),
        1 => proptest::strategy::Just(Step::Close),
        1 => proptest::strategy::Just(Step::Cancel),
        1 => proptest::strategy::Just(Step::CancelByCanceller),
        1 => proptest::strategy::Just(Step::DropAll),
    ];
    prop_oneof![
        10 => len().prop_map(Step::TrySend),
        6 => len().prop_map(Step::SendOnce),
        4 => proptest::collection::vec(len(), 0..12).prop_map(Step::SendBatchOnce),
        10 => proptest::strategy::Just(Step::TryRecv),
        6 => proptest::strategy::Just(Step::RecvOnce),
        5 => (0..20_usize).prop_map(Step::RecvBatchOnce),
        4 => proptest::strategy::Just(Step::NextOnce),
        1 => seldom,
    ]
}

/// One side, as far as it still exists.
enum Side {
    Whole(Endpoint),
    Halves(Option<Sender>, Option<Receiver>),
}

/// One direction, as the model knows it.
#[derive(Default)]
struct Direction {
    /// Numbers and lengths of the packets that were sent and not received.
    queue: VecDeque<(u64, usize)>,
    next: u64,
    /// The sender has ended it in order.
    is_finished: bool,
    /// The receiver was dropped or closed.
    is_refused: bool,
}

impl Direction {
    /// Returns how many bytes are in use, except those that a record skipped at the end of the ring
    /// because it did not fit.
    fn used(&self) -> usize {
        self.queue.iter().map(|&(_, len)| record_bytes(len)).sum()
    }
}

/// Both sides, and what they should do.
struct Model {
    sides: [Side; 2],
    /// From side 0, and from side 1.
    directions: [Direction; 2],
    is_cancelled: bool,
    /// The reasons of the channel, of sending and of receiving, as each side reported them.
    reasons: [[Option<CloseReason>; 3]; 2],
    finished: [Option<Result<(), CloseReason>>; 2],
}

impl Model {
    fn new(driver: &Driver) -> Self {
        let (face, handle) = pair_with_timeout(driver, SMALL, None);
        Self {
            sides: [Side::Whole(face.into()), Side::Whole(handle.into())],
            directions: Default::default(),
            is_cancelled: false,
            reasons: [[None; 3]; 2],
            finished: [None; 2],
        }
    }

    /// Whether `side` can send no more.
    fn is_send_over(&self, side: usize) -> bool {
        let direction = &self.directions[side];
        self.is_cancelled || direction.is_finished || direction.is_refused
    }

    /// Whether `side` receives no more, whatever was sent.
    fn is_cut(&self, side: usize) -> bool {
        self.is_cancelled || self.directions[1 - side].is_refused
    }

    fn sent(&mut self, side: usize, len: usize) {
        let direction = &mut self.directions[side];
        assert!(direction.used() + record_bytes(len) + 8 <= SMALL, "more than the ring holds");
        direction.queue.push_back((direction.next, len));
        direction.next += 1;
    }

    /// Checks that "full" was returned only because there is no room at the worst place in the
    /// ring.
    fn check_full(&self, side: usize, len: usize) {
        let pads = 2 * record_bytes(1016);
        assert!(self.directions[side].used() + pads + record_bytes(len) + 8 > SMALL, "has room");
    }

    fn check_received(&mut self, side: usize, packet: &Bytes) {
        assert!(!self.is_cut(side), "received after the end");
        let expected = self.directions[1 - side].queue.pop_front();
        assert_eq!(Some((number(packet), packet.len())), expected);
    }

    fn check_nothing(&self, side: usize, is_closed: bool) {
        let direction = &self.directions[1 - side];
        assert_eq!(is_closed, self.is_cut(side) || direction.is_finished);
        assert!(self.is_cut(side) || direction.queue.is_empty(), "a packet is missing");
    }

    fn check_refusal(&self, side: usize, len: usize, error: &ShmError) {
        match error {
            ShmError::PacketTooLarge { len: given, max: 1016 } => assert_eq!(*given, len),
            ShmError::Closed { sent: 0, .. } => assert!(self.is_send_over(side) && len <= 1016),
            other => panic!("{other:?}"),
        }
    }

    fn run(&mut self, side: usize, step: &Step) {
        match step {
            Step::TrySend(len) => self.try_send(side, *len),
            Step::SendOnce(len) => self.send_once(side, *len),
            Step::SendBatchOnce(lens) => self.send_batch_once(side, lens),
            Step::TryRecv => self.try_recv(side),
            Step::RecvOnce => self.recv_batch_once(side, 1, true),
            Step::RecvBatchOnce(max) => self.recv_batch_once(side, *max, false),
            Step::NextOnce => self.next_once(side),
            Step::Split => self.split(side),
            Step::DropSender | Step::CloseSink => {
                self.split(side);
                let Side::Halves(tx, _) = &mut self.sides[side] else { return };
                match (step, tx) {
                    (Step::CloseSink, Some(tx)) => {
                        let mut closing = Box::pin(tx.close());
                        assert!(poll_once(closing.as_mut()).is_ready());
                    }
                    (_, tx) => drop(tx.take()),
                }
                self.directions[side].is_finished = true;
            }
            Step::DropSenderThatCancels => {
                self.split(side);
                let Side::Halves(tx, _) = &mut self.sides[side] else { return };
                let Some(tx) = tx.take() else { return };
                tx.cancel_on_drop(true);
                drop(tx);
                let direction = &mut self.directions[side];
                self.is_cancelled |= !direction.is_finished;
                direction.is_finished = true;
            }
            Step::DropReceiver => {
                self.split(side);
                let Side::Halves(_, rx) = &mut self.sides[side] else { return };
                drop(rx.take());
                self.directions[1 - side].is_refused = true;
            }
            Step::Close => {
                let Side::Whole(end) = &self.sides[side] else { return };
                end.close();
                self.ended_in_order(side);
            }
            Step::Cancel | Step::CancelByCanceller => {
                let canceller = match &self.sides[side] {
                    Side::Whole(end) => end.canceller(),
                    Side::Halves(Some(tx), _) => tx.canceller(),
                    Side::Halves(_, Some(rx)) => rx.canceller(),
                    Side::Halves(None, None) => return,
                };
                match (&self.sides[side], step) {
                    (Side::Whole(end), Step::Cancel) => end.cancel(),
                    (Side::Halves(Some(tx), _), Step::Cancel) => tx.cancel(),
                    (Side::Halves(_, Some(rx)), Step::Cancel) => rx.cancel(),
                    _ => canceller.cancel(),
                }
                self.is_cancelled = true;
            }
            Step::DropAll => {
                self.sides[side] = Side::Halves(None, None);
                self.ended_in_order(side);
            }
        }
    }

    fn ended_in_order(&mut self, side: usize) {
        self.directions[side].is_finished = true;
        self.directions[1 - side].is_refused = true;
    }

    fn split(&mut self, side: usize) {
        let there = std::mem::replace(&mut self.sides[side], Side::Halves(None, None));
        self.sides[side] = match there {
            Side::Whole(end) => {
                let (tx, rx) = end.into_split();
                Side::Halves(Some(tx), Some(rx))
            }
            halves @ Side::Halves(..) => halves,
        };
    }

    fn try_send(&mut self, side: usize, len: usize) {
        let next = packet(self.directions[side].next, len);
        let result = match &mut self.sides[side] {
            Side::Whole(end) => end.try_send(next.clone()),
            Side::Halves(Some(tx), _) => tx.try_send(next.clone()),
            Side::Halves(None, _) => return,
        };
        match result {
            Ok(()) => {
                assert!(len <= 1016 && !self.is_send_over(side));
                self.sent(side, len);
            }
            Err(TrySendError::TooLarge(back, max)) => {
                assert_eq!((back, max), (next, 1016));
                assert!(len > 1016);
            }
            Err(TrySendError::Closed(back, _)) => {
                assert_eq!(back, next);
                assert!(self.is_send_over(side) && len <= 1016);
            }
            Err(TrySendError::Full(back)) => {
                assert_eq!(back, next);
                assert!(!self.is_send_over(side));
                self.check_full(side, len);
            }
        }
    }

    fn send_once(&mut self, side: usize, len: usize) {
        let next = packet(self.directions[side].next, len);
        let polled = match &mut self.sides[side] {
            Side::Whole(end) => poll_once(Box::pin(end.send(next)).as_mut()),
            Side::Halves(Some(tx), _) => poll_once(Box::pin(Sender::send(tx, next)).as_mut()),
            Side::Halves(None, _) => return,
        };
        match polled {
            std::task::Poll::Ready(Ok(())) => {
                assert!(!self.is_send_over(side));
                self.sent(side, len);
            }
            std::task::Poll::Ready(Err(error)) => self.check_refusal(side, len, &error),
            std::task::Poll::Pending => {
                assert!(!self.is_send_over(side));
                self.check_full(side, len);
            }
        }
    }

    fn send_batch_once(&mut self, side: usize, lens: &[usize]) {
        let first = self.directions[side].next;
        let batch: Vec<_> = (first..).zip(lens).map(|(n, len)| packet(n, *len)).collect();
        let (polled, sent) = match &mut self.sides[side] {
            Side::Whole(end) => {
                let before = end.stats().packets_sent;
                let polled = poll_once(Box::pin(end.send_batch(&batch)).as_mut());
                (polled, end.stats().packets_sent - before)
            }
            Side::Halves(Some(tx), _) => {
                let before = tx.stats().packets_sent;
                let polled = poll_once(Box::pin(tx.send_batch(&batch)).as_mut());
                (polled, tx.stats().packets_sent - before)
            }
            Side::Halves(None, _) => return,
        };
        let sent = usize::try_from(sent).unwrap();
        for len in &lens[..sent] {
            self.sent(side, *len);
        }
        match polled {
            std::task::Poll::Ready(Ok(())) => assert_eq!(sent, lens.len()),
            std::task::Poll::Ready(Err(error)) => {
                assert_eq!(sent, 0);
                let too_large = lens.iter().find(|len| **len > 1016);
                self.check_refusal(side, too_large.copied().unwrap_or(0), &error);
            }
            std::task::Poll::Pending => self.check_full(side, lens[sent]),
        }
    }

    fn try_recv(&mut self, side: usize) {
        let result = match &mut self.sides[side] {
            Side::Whole(end) => end.try_recv(),
            Side::Halves(_, Some(rx)) => rx.try_recv(),
            Side::Halves(_, None) => return,
        };
        match result {
            Ok(packet) => self.check_received(side, &packet),
            Err(error) => self.check_nothing(side, matches!(error, TryRecvError::Closed(_))),
        }
    }

    fn recv_batch_once(&mut self, side: usize, max: usize, single: bool) {
        let mut packets = Vec::new();
        let polled = match &mut self.sides[side] {
            Side::Whole(end) if single => poll_once(Box::pin(end.recv()).as_mut())
                .map(|packet| packets.extend(packet))
                .map(|()| packets.len()),
            Side::Whole(end) => poll_once(Box::pin(end.recv_batch(&mut packets, max)).as_mut()),
            Side::Halves(_, Some(rx)) if single => poll_once(Box::pin(rx.recv()).as_mut())
                .map(|packet| packets.extend(packet))
                .map(|()| packets.len()),
            Side::Halves(_, Some(rx)) => {
                poll_once(Box::pin(rx.recv_batch(&mut packets, max)).as_mut())
            }
            Side::Halves(_, None) => return,
        };
        let there = self.directions[1 - side].queue.len();
        for packet in &packets {
            self.check_received(side, packet);
        }
        match polled {
            std::task::Poll::Pending => self.check_nothing(side, false),
            std::task::Poll::Ready(0) if max > 0 => self.check_nothing(side, true),
            std::task::Poll::Ready(taken) => {
                assert_eq!(taken, packets.len());
                assert!(max == 0 || taken == max.min(there));
            }
        }
    }

    fn next_once(&mut self, side: usize) {
        let Side::Halves(_, Some(rx)) = &mut self.sides[side] else { return };
        match poll_once(Box::pin(rx.next()).as_mut()) {
            std::task::Poll::Pending => self.check_nothing(side, false),
            std::task::Poll::Ready(None) => self.check_nothing(side, true),
            std::task::Poll::Ready(Some(Ok(packet))) => self.check_received(side, &packet),
            std::task::Poll::Ready(Some(Err(error))) => {
                let ShmError::Closed { reason, sent: 0 } = error else { panic!("{error:?}") };
                assert_eq!(reason, CloseReason::Cancelled);
                assert!(self.is_cancelled);
            }
        }
    }

    /// Checks that each direction that has ended has a reason, and the channel when both have.
    /// Reasons never change, and each is of a kind that this test caused.
    fn check_reasons(&mut self) {
        for side in 0..2 {
            let (tx_over, rx_cut) = (self.is_send_over(side), self.is_cut(side));
            let rx_over = rx_cut || self.directions[1 - side].is_finished;
            let (channel, tx, rx, finished) = match &self.sides[side] {
                Side::Whole(end) => {
                    assert_eq!(end.is_closed(), tx_over && rx_over);
                    let reason = end.close_reason();
                    assert_eq!(end.is_closed(), reason.is_some());
                    (reason, None, None, end.finished())
                }
                Side::Halves(tx, rx) => {
                    let tx = tx.as_ref().map(|tx| {
                        assert_eq!(tx.is_closed(), tx_over);
                        tx.close_reason()
                    });
                    let rx = rx.as_ref().map(|rx| {
                        assert_eq!(rx.is_closed(), rx_over);
                        (rx.close_reason(), rx.finished())
                    });
                    assert!(tx.is_none_or(|tx| tx.is_some() == tx_over));
                    let (rx, finished) = rx.unzip();
                    assert!(rx.flatten().is_none() || rx_over);
                    assert!(rx.is_none_or(|rx| rx.is_some() || !rx_cut));
                    (None, tx.flatten(), rx.flatten(), finished.flatten())
                }
            };
            match finished {
                Some(Ok(())) => assert!(
                    self.directions[1 - side].queue.is_empty()
                        && self.directions[1 - side].is_finished,
                    "packets are missing"
                ),
                Some(Err(_)) => assert!(rx_cut),
                None => {}
            }
            let causes = [
                (channel, tx_over && rx_over),
                (tx, self.directions[side].is_finished),
                (rx.or(finished.and_then(Result::err)), self.directions[1 - side].is_refused),
            ];
            for (reason, is_local) in causes {
                match reason {
                    Some(CloseReason::Cancelled) => assert!(self.is_cancelled),
                    Some(CloseReason::Local) => assert!(is_local),
                    None | Some(CloseReason::Peer) => {}
                    Some(other) => panic!("nothing caused {other:?}"),
                }
            }
            let now = [channel, tx, rx];
            for (before, now) in self.reasons[side].iter_mut().zip(now) {
                // A half or an end that was dropped or split no longer gives an answer.
                assert!(
                    before.is_none() || now.is_none() || *before == now,
                    "a reason has changed"
                );
                *before = before.or(now);
            }
            let before = &mut self.finished[side];
            assert!(before.is_none() || finished.is_none() || *before == finished);
            *before = before.or(finished);
        }
    }
}

fn both_ends_do_what_the_model_says(driver: &Driver) {
    let config = ProptestConfig { cases: 120, failure_persistence: None, ..Default::default() };
    let steps = proptest::collection::vec((any::<bool>(), step()), 1..250);
    proptest!(config, |(steps in steps)| {
        let mut model = Model::new(driver);
        for (side, step) in &steps {
            model.run(usize::from(*side), step);
            model.check_reasons();
        }
    });
}
