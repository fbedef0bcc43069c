//! A channel in full flight lets the other tasks of its thread run.
//!
//! Each future that could go on for ever is `Pending` now and then. It has then called its own
//! waker, and has taken and sent nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::BufMut;
use futures::{SinkExt, StreamExt};
use wakering::{Driver, Endpoint, Receiver, Sender, SpscFace, SpscHandle, TryRecvError};

use crate::common::woken::Woken;
use crate::common::{eventually, number, on_both_backends, packet, pair, poll_once, wait};

on_both_backends!(
    each_way_to_receive_lets_others_run,
    each_way_to_send_lets_others_run,
    a_receive_that_was_pending_for_others_may_be_dropped,
    a_send_that_was_pending_for_others_may_be_dropped,
    long_packets_count_by_their_bytes,
    try_and_blocking_calls_have_no_budget,
    a_send_that_lets_others_run_keeps_its_place,
    a_batch_that_lets_others_run_keeps_its_place,
    tasks_that_share_an_end_let_others_run_and_lose_no_wake,
    a_task_gets_packets_next_to_a_thread_that_takes_most,
);

/// At most this many packets of 8 bytes fit into one budget.
const MAX: u64 = 270;

const RING: usize = 1 << 16;

/// Returns the output if the future is ready at once. If it is not, checks that it has woken
/// itself.
fn ready<F: Future>(future: F) -> Option<F::Output> {
    let (woken, waker) = Woken::counting();
    match pin!(future).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(output) => {
            assert_eq!(woken.calls(), 0);
            Some(output)
        }
        Poll::Pending => {
            assert_eq!(woken.calls(), 1, "it sleeps in full flight");
            None
        }
    }
}

/// A way to receive. It returns the numbers of the packets of one call, or `None` if the call was
/// pending.
type ReceiveWay = (&'static str, fn(&mut Receiver) -> Option<Vec<u64>>);

const RECEIVE: [ReceiveWay; 4] = [
    ("recv", |rx| ready(rx.recv()).map(|it| vec![number(&it.unwrap())])),
    ("next", |rx| ready(rx.next()).map(|it| vec![number(&it.unwrap().unwrap())])),
    ("recv_ref", |rx| ready(rx.recv_ref()).map(|it| vec![number(&it.unwrap().to_bytes())])),
    ("recv_batch", |rx| {
        let mut packets = Vec::new();
        let taken = ready(rx.recv_batch(&mut packets, usize::MAX));
        assert_eq!(taken.unwrap_or(0), packets.len(), "a batch that is pending has taken nothing");
        taken.map(|_| packets.iter().map(|it| number(it)).collect())
    }),
];

/// Returns the sender of one end and the receiver of the other.
fn halves(driver: &Driver) -> (Sender, Receiver) {
    let (face, handle) = pair(driver, RING);
    let ((tx, rx), (other_tx, other_rx)) = (split(face), split(handle));
    // Dropping these would end their directions.
    std::mem::forget((rx, other_tx));
    (tx, other_rx)
}

fn split(end: impl Into<Endpoint>) -> (Sender, Receiver) {
    end.into().into_split()
}

/// Takes `count` packets, and refills the ring. Returns the numbers of packets between the times
/// that it was pending.
fn runs(tx: &mut Sender, rx: &mut Receiver, count: u64, way: ReceiveWay) -> Vec<u64> {
    let (mut sent, mut taken, mut run, mut runs) = (0, 0, 0, Vec::new());
    while taken < count {
        while tx.try_send(packet(sent, 8)).is_ok() {
            sent += 1;
        }
        match way.1(rx) {
            Some(numbers) => {
                let expected: Vec<_> = (taken..taken + numbers.len() as u64).collect();
                assert_eq!(numbers, expected, "{}", way.0);
                taken += numbers.len() as u64;
                run += numbers.len() as u64;
            }
            None => runs.push(std::mem::take(&mut run)),
        }
    }
    runs
}

fn each_way_to_receive_lets_others_run(driver: &Driver) {
    for way in RECEIVE {
        let (mut tx, mut rx) = halves(driver);
        let runs = runs(&mut tx, &mut rx, 5000, way);
        assert!(runs.len() >= 15, "{}: {runs:?}", way.0);
        // The first run may be short, because what was taken before it counts.
        assert!(runs.iter().all(|run| (1..=MAX).contains(run)), "{}: {runs:?}", way.0);
    }
}

/// A way to send a few packets, numbered from here on. It returns how many were sent, and whether
/// it was pending.
type SendWay = (&'static str, fn(&mut Sender, u64) -> (u64, bool));

const SEND: [SendWay; 5] = [
    ("send", |tx, n| match ready(tx.send(packet(n, 8))) {
        Some(done) => (done.map(|()| 1).unwrap(), false),
        None => (0, true),
    }),
    ("send_batch", |tx, n| {
        let packets: Vec<_> = (n..n + 100).map(|n| packet(n, 8)).collect();
        let before = tx.stats().packets_sent;
        let is_pending = ready(tx.send_batch(&packets)).is_none();
        // It may have sent a part of the batch.
        (tx.stats().packets_sent - before, is_pending)
    }),
    ("sink", |tx, n| {
        if ready(poll_fn(|cx| tx.poll_ready_unpin(cx))).is_none() {
            return (0, true);
        }
        tx.start_send_unpin(packet(n, 8)).unwrap();
        assert!(ready(tx.flush()).is_some(), "it is out");
        (1, false)
    }),
    ("reserve", |tx, n| {
        let Some(grant) = ready(tx.reserve(8)) else { return (0, true) };
        let mut grant = grant.unwrap();
        grant.put_slice(&packet(n, 8));
        grant.commit().unwrap();
        (1, false)
    }),
    ("batch", |tx, n| {
        let mut batch = tx.batch();
        for at in 0..10 {
            let Some(grant) = ready(batch.reserve(8)) else { return (at, true) };
            let mut grant = grant.unwrap();
            grant.put_slice(&packet(n + at, 8));
            grant.commit().unwrap();
        }
        (10, false)
    }),
];

fn each_way_to_send_lets_others_run(driver: &Driver) {
    for (name, way) in SEND {
        let (mut tx, mut rx) = halves(driver);
        let (mut sent, mut received, mut run, mut pending) = (0, 0, 0, 0);
        while sent < 5000 {
            let (count, is_pending) = way(&mut tx, sent);
            sent += count;
            run += count;
            assert_eq!(tx.stats().packets_sent, sent, "{name}");
            assert!(run <= MAX, "{name}: {run} at once");
            if is_pending {
                pending += 1;
                run = 0;
            }
            // The packets that a future has sent before it was pending are in the ring.
            while let Ok(packet) = rx.try_recv() {
                assert_eq!(number(&packet), received, "{name}");
                received += 1;
            }
            assert_eq!(received, sent, "{name}");
        }
        assert!((15..25).contains(&pending), "{name} was pending {pending} times");
    }
}

/// Uses the budget for receiving up, so that the next receive is pending.
fn at_the_edge(tx: &mut Sender, rx: &mut Receiver) -> u64 {
    let mut next = 0;
    loop {
        while tx.try_send(packet(tx.stats().packets_sent, 8)).is_ok() {}
        match ready(rx.recv()) {
            Some(taken) => assert_eq!(number(&taken.unwrap()), next),
            None => break,
        }
        next += 1;
    }
    // Uses the new budget up: `try_recv` counts too.
    for _ in 0..MAX {
        assert_eq!(number(&rx.try_recv().unwrap()), next);
        next += 1;
        while tx.try_send(packet(tx.stats().packets_sent, 8)).is_ok() {}
    }
    next
}

fn a_receive_that_was_pending_for_others_may_be_dropped(driver: &Driver) {
    for way in RECEIVE {
        for other in RECEIVE {
            let (mut tx, mut rx) = halves(driver);
            let next = at_the_edge(&mut tx, &mut rx);
            let before = rx.stats();
            assert_eq!(way.1(&mut rx), None, "{}", way.0);
            assert_eq!(rx.stats(), before, "{}", way.0);
            // The pending call was dropped. The next call takes the packets that it would have
            // taken.
            let numbers = other.1(&mut rx).unwrap();
            let expected: Vec<_> = (next..next + numbers.len() as u64).collect();
            assert_eq!(numbers, expected, "{}, then {}", way.0, other.0);
        }
    }
}

fn a_send_that_was_pending_for_others_may_be_dropped(driver: &Driver) {
    for (name, way) in SEND {
        let (mut tx, mut rx) = halves(driver);
        let mut sent = 0;
        loop {
            let (count, is_pending) = way(&mut tx, sent);
            sent += count;
            assert!(sent <= MAX, "{name} is never pending");
            if is_pending {
                break;
            }
        }
        assert_eq!(tx.stats().packets_sent, sent, "{name} has sent something else");
        // The pending call was dropped. It does not get in the way of the next call.
        tx.try_send(packet(sent, 8)).unwrap();
        assert!(!way(&mut tx, sent + 1).1, "{name}, again");
        let taken: Vec<_> = std::iter::from_fn(|| rx.try_recv().ok()).collect();
        let numbers: Vec<_> = taken.iter().map(|packet| number(packet)).collect();
        assert_eq!(numbers, (0..tx.stats().packets_sent).collect::<Vec<_>>(), "{name}");
    }
}

fn long_packets_count_by_their_bytes(driver: &Driver) {
    let (face, handle) = pair(driver, 4 << 20);
    let long = packet(1, 64 << 10);
    for _ in 0..20 {
        let sent = (0..30).find(|_| ready(face.send(long.clone())).is_none()).unwrap();
        let received = (0..30).find(|_| ready(handle.recv()).is_none());
        assert!(sent <= 5, "{sent} long packets at once");
        // Fewer packets were sent than a budget allows, unless some are left from before.
        assert!(received.is_none_or(|received| received <= 5), "{received:?} long packets at once");
        while handle.try_recv().is_ok() {}
    }
}

fn try_and_blocking_calls_have_no_budget(driver: &Driver) {
    let (face, handle) = pair(driver, RING);
    for round in 0..3_u64 {
        let numbers = round * 2000..(round + 1) * 2000;
        for n in numbers.clone() {
            match n % 2 {
                0 => face.try_send(packet(n, 8)).unwrap(),
                _ => face.send_blocking(packet(n, 8)).unwrap(),
            }
        }
        let mut batch = Vec::new();
        assert_eq!(handle.recv_batch_blocking(&mut batch, 700), 700);
        for n in numbers.clone().skip(700) {
            match n % 2 {
                0 => batch.push(handle.try_recv().unwrap()),
                _ => batch.push(handle.recv_blocking().unwrap()),
            }
        }
        assert!(batch.iter().map(|it| number(it)).eq(numbers));
        assert_eq!(handle.try_recv(), Err(TryRecvError::Empty));
        let many: Vec<_> = (0..1500).map(|n| packet(n, 8)).collect();
        face.send_batch_blocking(&many).unwrap();
        assert_eq!(handle.recv_batch_blocking(&mut Vec::new(), usize::MAX), 1500);
    }
}

/// Uses the budget for sending up, and takes what was sent.
fn use_up(face: &SpscFace, handle: &SpscHandle) {
    // The budget is refilled when a future was pending.
    while ready(face.send(packet(0, 8))).is_some() {
        handle.try_recv().unwrap();
    }
    while handle.try_recv().is_ok() {}
    for _ in 0..MAX {
        face.try_send(packet(0, 8)).unwrap();
        handle.try_recv().unwrap();
    }
}

fn a_send_that_lets_others_run_keeps_its_place(driver: &Driver) {
    let (face, handle) = pair(driver, RING);
    use_up(&face, &handle);
    let mut first = pin!(face.send(packet(1, 8)));
    assert!(poll_once(first.as_mut()).is_pending());
    // A send that comes later stays after it, and so does a send that does not wait.
    let mut second = pin!(face.send(packet(2, 8)));
    assert!(poll_once(second.as_mut()).is_pending());
    assert!(face.try_send(packet(3, 8)).is_err());
    assert!(poll_once(second.as_mut()).is_pending());
    wait("both", async { futures::join!(second, first) }).0.unwrap();
    for n in [1, 2] {
        assert_eq!(number(&handle.try_recv().unwrap()), n);
    }
    // If it is dropped, it passes its place on.
    use_up(&face, &handle);
    let (woken, waker) = Woken::counting();
    let mut second = pin!(face.send(packet(2, 8)));
    {
        let mut first = Box::pin(face.send(packet(1, 8)));
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(woken.calls(), 0);
    }
    assert_eq!(woken.calls(), 1);
    assert!(poll_once(second).is_ready());
    assert_eq!(number(&handle.try_recv().unwrap()), 2);
    face.try_send(packet(3, 8)).unwrap();
}

fn a_batch_that_lets_others_run_keeps_its_place(driver: &Driver) {
    let (face, handle) = pair(driver, 1 << 20);
    let packets: Vec<_> = (0..3000).map(|n| packet(n, 8)).collect();
    let mut batch = pin!(face.send_batch(&packets));
    let mut pending = 0;
    let (woken, waker) = Woken::counting();
    while batch.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        pending += 1;
        assert_eq!(woken.calls(), pending, "asleep, with room");
        assert!(face.try_send(packet(9999, 8)).is_err(), "between the packets of a batch");
        let mut other = pin!(face.send(packet(9999, 8)));
        assert!(poll_once(other.as_mut()).is_pending());
    }
    assert!(pending >= 10, "{pending}");
    let taken = std::iter::from_fn(|| handle.try_recv().ok());
    assert!(taken.map(|packet| number(&packet)).eq(0..3000));
}

/// With each task on its own thread, and with all on one thread.
fn tasks_that_share_an_end_let_others_run_and_lose_no_wake(driver: &Driver) {
    const EACH: u64 = 5_000;
    for threads in [1, 2] {
        let (face, handle) = pair(driver, 4096);
        let (face, handle) = (Arc::new(face), Arc::new(handle));
        let taken = Arc::new(AtomicUsize::new(0));
        let pool = futures::executor::ThreadPool::builder().pool_size(threads).create().unwrap();
        let mut tasks = Vec::new();
        for _ in 0..3 {
            let (face, handle, taken) = (face.clone(), handle.clone(), taken.clone());
            let (done, is_done) = futures::channel::oneshot::channel();
            pool.spawn_ok(async move {
                for n in 0..EACH {
                    face.send(packet(n, 8)).await.unwrap();
                }
                let _ = done.send(());
            });
            tasks.push(is_done);
            pool.spawn_ok(async move {
                while let Some(packet) = handle.recv().await {
                    number(&packet);
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // On a busy machine all of it takes long, but it goes on.
        let (all, mut so_far) = (usize::try_from(3 * EACH).unwrap(), 0);
        while so_far < all {
            eventually("more is received", || taken.load(Ordering::Relaxed) > so_far);
            so_far = taken.load(Ordering::Relaxed);
        }
        for done in tasks {
            wait("all is sent", done).unwrap();
        }
        face.close();
    }
}

fn a_task_gets_packets_next_to_a_thread_that_takes_most(driver: &Driver) {
    let (face, handle) = pair(driver, RING);
    std::thread::scope(|scope| {
        scope.spawn(|| while face.send_blocking(packet(0, 8)).is_ok() {});
        scope.spawn(|| while handle.recv_blocking().is_some() {});
        for _ in 0..200 {
            wait("a packet for the task", handle.recv()).unwrap();
        }
        face.cancel();
    });
}
