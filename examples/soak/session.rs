//! What both ends of a channel do from its beginning to its end. Both run the same code, with their
//! own random numbers.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt, join};
use smol::{Timer, future};
use wakering::{
    CloseReason, Endpoint, Receiver, Sender, ShmError, TryRecvError, TryReserveError, TrySendError,
};

use super::PATIENCE;
use super::packet::{Checker, Maker};
use super::random::{Random, give_up};
use super::tally::Tally;

/// When this end of a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// When both directions have ended.
    Patient,
    /// When its own packets are sent.
    Abrupt,
    /// In the middle, at this poll.
    Cancel(u64),
}

/// What is wrong, if anything.
type Outcome = Result<(), String>;

/// Sends and receives on one end until it is over. Returns what was wrong, if anything. A session
/// in which no packet passes for a while hangs, however long it takes otherwise.
pub(crate) async fn run(end: Endpoint, random: Random, tally: &Tally) -> Outcome {
    let own = Tally::default();
    own.session();
    let hangs = async {
        loop {
            let before = own.passed();
            Timer::after(PATIENCE).await;
            if own.passed() == before {
                return Err(format!("a session hangs after {before} packets"));
            }
        }
    };
    let outcome = future::or(talk(end, random, &own), hangs).await;
    tally.add_all(&own);
    outcome
}

async fn talk(end: Endpoint, mut random: Random, tally: &Tally) -> Outcome {
    let plan = match random.below(100) {
        0..60 => Plan::Patient,
        60..80 => Plan::Abrupt,
        _ => Plan::Cancel(1 + random.below(300)),
    };
    let packets = if random.percent(10) { random.below(20_000) } else { random.below(500) };
    let canceller = end.canceller();
    let (sends, receives) = (random.split(), random.split());
    let talk = async {
        if random.percent(33) {
            let (sender, receiver) = end.into_split();
            let (sent, received) = join!(
                send_half(sender, sends, packets, tally),
                receive_half(receiver, receives, tally)
            );
            sent.and(received)
        } else {
            // Once this is set, nothing more is received, whatever is there and whichever side
            // closed first.
            let has_closed = AtomicBool::new(false);
            let sending = async {
                let sent = send(&end, sends, packets, tally).await;
                if plan == Plan::Abrupt {
                    has_closed.store(true, Ordering::Relaxed);
                    end.close();
                }
                sent
            };
            let (sent, received) = join!(sending, receive(&end, receives, &has_closed, tally));
            let ended = sent.and(received);
            tally.end(end.close_reason());
            ended
        }
    };
    match plan {
        Plan::Cancel(polls) => {
            let mut talk = Box::pin(talk);
            let over = give_up(polls, talk.as_mut()).await;
            // The end, and every call in progress, is dropped after this.
            canceller.cancel();
            if over.is_none() {
                tally.end(Some(CloseReason::Cancelled));
            }
            over.unwrap_or(Ok(()))
        }
        Plan::Patient | Plan::Abrupt => talk.await,
    }
}

/// Whether this end is allowed.
fn is_lawful(reason: CloseReason) -> bool {
    use CloseReason as Reason;
    matches!(reason, Reason::Local | Reason::Peer | Reason::Cancelled | Reason::PeerDied)
}

/// Returns an error unless the send was allowed to fail.
fn failed(error: &ShmError) -> Outcome {
    match error {
        ShmError::Closed { reason, .. } if is_lawful(*reason) => Ok(()),
        error => Err(format!("send: {error:?}")),
    }
}

async fn send(end: &Endpoint, mut random: Random, packets: u64, tally: &Tally) -> Outcome {
    let (mut maker, max) = (Maker::new(&mut random), end.max_packet());
    while maker.next < packets {
        let before = end.stats().packets_sent;
        let result = match random.below(10) {
            0 => match end.try_send(maker.packet(0, max, &mut random)) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(packet)) => end.send(packet).await,
                Err(TrySendError::Closed(_, reason)) => Err(ShmError::Closed { reason, sent: 0 }),
                Err(error) => return Err(format!("try_send: {error:?}")),
            },
            1..=3 => {
                let sending = end.send(maker.packet(0, max, &mut random));
                let sent = give_up(1 + random.below(2), sending).await;
                tally.dropped(sent.is_none());
                sent.unwrap_or(Ok(()))
            }
            4..=6 => end.send(maker.packet(0, max, &mut random)).await,
            other => {
                let many = 1 + random.below(20);
                let batch: Vec<Bytes> =
                    (0..many).map(|ahead| maker.packet(ahead, max, &mut random)).collect();
                let polls = if other == 7 { 1 + random.below(2) } else { u64::MAX };
                let sent = give_up(polls, end.send_batch(&batch)).await;
                tally.dropped(sent.is_none());
                sent.unwrap_or(Ok(()))
            }
        };
        // A send that was dropped has sent nothing, and a batch some of its first packets. The
        // stats say how many.
        let sent = end.stats().packets_sent - before;
        maker.next += sent;
        tally.sent(sent);
        if let Err(error) = result {
            return failed(&error);
        }
    }
    match end.send(maker.last()).await {
        Ok(()) => {
            tally.sent(1);
            Ok(())
        }
        Err(error) => failed(&error),
    }
}

async fn receive(
    end: &Endpoint,
    mut random: Random,
    has_closed: &AtomicBool,
    tally: &Tally,
) -> Outcome {
    let mut checker = Checker::default();
    let mut batch = Vec::new();
    while !checker.was_last {
        let over = match random.below(10) {
            0 => match end.try_recv() {
                Ok(packet) => {
                    batch.push(packet);
                    false
                }
                Err(TryRecvError::Empty) => false,
                Err(TryRecvError::Closed(_)) => true,
            },
            1..=3 => match give_up(1 + random.below(2), end.recv()).await {
                Some(packet) => take(packet, &mut batch),
                None => {
                    tally.dropped(true);
                    take(end.recv().await, &mut batch)
                }
            },
            4..=6 => take(end.recv().await, &mut batch),
            other => {
                let polls = if other == 7 { 1 + random.below(2) } else { u64::MAX };
                let most = 1 + random.index(30);
                let taken = give_up(polls, end.recv_batch(&mut batch, most)).await;
                tally.dropped(taken.is_none());
                taken == Some(0)
            }
        };
        tally.received(batch.len() as u64);
        batch.drain(..).try_for_each(|packet| checker.check(&packet))?;
        if over {
            let judged = judge(&checker, end.finished());
            return if has_closed.load(Ordering::Relaxed) { Ok(()) } else { judged };
        }
    }
    Ok(())
}

/// Returns whether there was no packet.
fn take(packet: Option<Bytes>, batch: &mut Vec<Bytes>) -> bool {
    batch.extend(packet);
    batch.is_empty()
}

/// Checks that the received packets may end there, and in this way.
fn judge(checker: &Checker, finished: Option<Result<(), CloseReason>>) -> Outcome {
    match finished {
        Some(Ok(())) if !checker.was_last => {
            Err(format!("{} packets, then an orderly end without the last", checker.next))
        }
        Some(Ok(())) => Ok(()),
        Some(Err(reason)) if is_lawful(reason) => Ok(()),
        finished => Err(format!("received nothing more: {finished:?}")),
    }
}

async fn send_half(mut sender: Sender, mut random: Random, packets: u64, tally: &Tally) -> Outcome {
    let (mut maker, max) = (Maker::new(&mut random), sender.max_packet());
    while maker.next < packets {
        let packet = maker.packet(0, max, &mut random);
        let result = match random.below(4) {
            0 => sender.feed(packet).await,
            1 => match sender.try_reserve(packet.len()) {
                Ok(mut grant) => {
                    bytes::BufMut::put_slice(&mut grant, &packet);
                    grant.commit()
                }
                Err(TryReserveError::Full) => SinkExt::send(&mut sender, packet).await,
                Err(TryReserveError::Closed(reason)) => Err(ShmError::Closed { reason, sent: 0 }),
                Err(error) => return Err(format!("try_reserve: {error:?}")),
            },
            2 => SinkExt::send(&mut sender, packet).await,
            _ => Sender::send(&mut sender, packet).await,
        };
        if let Err(error) = result {
            return failed(&error);
        }
        maker.next += 1;
        tally.sent(1);
    }
    if let Err(error) = SinkExt::send(&mut sender, maker.last()).await {
        return failed(&error);
    }
    tally.sent(1);
    // A drop and a close have the same effect.
    if random.percent(50) {
        SinkExt::close(&mut sender).await.or_else(|error| failed(&error))?;
    }
    Ok(())
}

async fn receive_half(mut receiver: Receiver, mut random: Random, tally: &Tally) -> Outcome {
    let mut checker = Checker::default();
    loop {
        let packet = match random.below(4) {
            0 => match give_up(1, receiver.next()).await {
                Some(item) => item,
                None => {
                    tally.dropped(true);
                    receiver.next().await
                }
            },
            1 => receiver.recv().await.map(Ok),
            2 => receiver.recv_ref().await.map(|packet| Ok(packet.to_bytes())),
            _ => match receiver.next().now_or_never() {
                Some(item) => item,
                None => continue,
            },
        };
        match packet {
            Some(Ok(packet)) => {
                tally.received(1);
                checker.check(&packet)?;
            }
            Some(Err(error)) => {
                tally.end(receiver.close_reason());
                return failed(&error);
            }
            None => {
                tally.end(receiver.close_reason());
                return judge(&checker, receiver.finished());
            }
        }
    }
}
