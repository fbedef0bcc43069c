//! What is run: tasks that together use every public future.
//!
//! | future | scenario |
//! |---|---|
//! | `SpscHandle::connect_async`, `Endpoint::connected` | a named channel, a listener |
//! | `Endpoint::send`, `recv` | a named channel, shared ends |
//! | `Endpoint::send_batch`, `recv_batch` | batches |
//! | `send` past its deadline | deadlines |
//! | `Sender::send`, `send_batch`, `Receiver::recv`, `recv_batch` | halves |
//! | `Sender::reserve`, `Receiver::recv_ref` | in place |
//! | `Sink`: `poll_ready`, `poll_flush`, `poll_close`; `Stream` | sink and stream |
//! | `closed` of an end and of both halves | halves, ends |
//! | `Canceller::cancel_on` | ends |
//! | `SpscListener::accept`, `Stream` of faces | a listener |
//! | `PolledDriver::drive` | all of them, in a test of its own |

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, Sink, SinkExt, StreamExt};
use wakering::{
    CloseReason, Driver, Endpoint, Receiver, Sender, ShmError, SpscFace, SpscHandle, SpscListener,
};

use crate::common::{Dir, SMALL, fill, number, packet, unnamed_pair};

pub(crate) type Task = BoxFuture<'static, ()>;

type Scenario = fn(&Driver, Calls) -> Vec<Task>;

pub(crate) const SCENARIOS: [(&str, Scenario); 9] = [
    ("a named channel", a_named_channel),
    ("batches", batches),
    ("halves", halves),
    ("in place", in_place),
    ("sink and stream", sink_and_stream),
    ("shared ends", shared_ends),
    ("deadlines", deadlines),
    ("ends", ends),
    ("a listener", a_listener),
];

/// Enough packets to fill and empty the rings again and again.
const COUNT: u64 = 150;

/// How long a task waits for a call before it drops the future and calls again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    /// After this number of polls that returned `Pending`; never if `None`.
    polls: Option<usize>,
}

impl Calls {
    /// Never gives a call up.
    pub(crate) const PATIENT: Self = Self { polls: None };

    pub(crate) fn impatient(polls: usize) -> Self {
        Self { polls: Some(polls) }
    }

    /// Allows one more poll each time: some calls are never ready in a single poll.
    fn more(self) -> Self {
        Self { polls: self.polls.map(|polls| polls + 1) }
    }

    /// Waits for the call for that long. Returns `None` if it was given up.
    async fn wait<F: Future>(self, mut future: Pin<&mut F>) -> Option<F::Output> {
        let Some(mut left) = self.polls else { return Some(future.await) };
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        })
        .await
    }
}

/// Returns what the call returns. Repeats the call each time that it was given up.
macro_rules! call {
    ($calls:expr, $call:expr) => {{
        let mut calls: Calls = $calls;
        loop {
            // The future is dropped before anything else happens.
            let output = calls.wait(std::pin::pin!($call)).await;
            match output {
                Some(output) => break output,
                None => smol::future::yield_now().await,
            }
            calls = calls.more();
        }
    }};
}

/// Like [`call`], for a batch: sends only the packets again that were not sent.
macro_rules! send_batch {
    ($calls:expr, $end:expr, $batch:expr) => {{
        let begin = $end.stats().packets_sent;
        call!($calls, {
            let sent = usize::try_from($end.stats().packets_sent - begin).unwrap();
            $end.send_batch(&$batch[sent..])
        })
    }};
}

fn packets() -> Vec<Bytes> {
    (0..COUNT).map(|n| packet(n, 100)).collect()
}

/// Asserts that these are the packets from `next` on.
fn check(packets: &[Bytes], next: &mut u64) {
    for packet in packets {
        assert_eq!(number(packet), *next);
        *next += 1;
    }
}

/// Returns two connected ends without a name.
fn pair(driver: &Driver) -> (Endpoint, Endpoint) {
    pair_with_timeout(driver, None)
}

fn pair_with_timeout(driver: &Driver, timeout: Option<Duration>) -> (Endpoint, Endpoint) {
    let face = SpscFace::builder().ring_bytes(SMALL).send_timeout(timeout).driver(driver);
    let handle = SpscHandle::builder().send_timeout(timeout).driver(driver);
    let (face, handle) = unnamed_pair(face, handle);
    (face.into(), handle.into())
}

/// Sends and receives at the same time, on the whole end.
async fn both_ways(end: &Endpoint, calls: Calls) {
    let send = async {
        for n in 0..COUNT {
            call!(calls, end.send(packet(n, 100))).unwrap();
        }
    };
    let receive = async {
        for n in 0..COUNT {
            assert_eq!(number(&call!(calls, end.recv()).unwrap()), n);
        }
    };
    futures::join!(send, receive);
}

fn a_named_channel(driver: &Driver, calls: Calls) -> Vec<Task> {
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(SMALL).send_timeout(None).driver(driver);
    let face = face.create(&name).unwrap();
    let builder = SpscHandle::builder().send_timeout(None).driver(driver);
    let own = i32::try_from(std::process::id()).unwrap();
    let engine = async move {
        assert_eq!(call!(calls, face.connected()).unwrap().pid, own);
        both_ways(&face, calls).await;
        assert_eq!(call!(calls, face.recv()), None);
        assert_eq!(call!(calls, face.closed()), CloseReason::Peer);
    };
    let application = async move {
        // This call is not given up, because a face serves only one handle.
        let handle = builder.connect_async(&name).await.unwrap();
        drop(dir);
        assert_eq!(call!(calls, handle.connected()).unwrap().pid, own);
        both_ways(&handle, calls).await;
    };
    vec![engine.boxed(), application.boxed()]
}

fn batches(driver: &Driver, calls: Calls) -> Vec<Task> {
    let (one, other) = pair(driver);
    let side = |end: Endpoint| {
        async move {
            let all = packets();
            let send = async { send_batch!(calls, end, all).unwrap() };
            let receive = async {
                let (mut received, mut next) = (Vec::new(), 0);
                while next < COUNT {
                    let taken = call!(calls, end.recv_batch(&mut received, 50));
                    assert!((1..=50).contains(&taken) && taken == received.len());
                    check(&received, &mut next);
                    received.clear();
                }
            };
            futures::join!(send, receive);
        }
        .boxed()
    };
    vec![side(one), side(other)]
}

fn halves(driver: &Driver, calls: Calls) -> Vec<Task> {
    let (one, other) = pair(driver);
    let mut tasks = Vec::new();
    for end in [one, other] {
        let (mut tx, mut rx) = end.into_split();
        let send = async move {
            for packet in packets() {
                call!(calls, tx.send(packet.clone())).unwrap();
            }
            let all = packets();
            send_batch!(calls, tx, all).unwrap();
            // Either the peer's close or our own may come first.
            tx.close().await.unwrap();
            let reason = call!(calls, tx.closed());
            assert!(matches!(reason, CloseReason::Peer | CloseReason::Local), "{reason:?}");
        };
        let receive = async move {
            for n in 0..COUNT {
                assert_eq!(number(&call!(calls, rx.recv()).unwrap()), n);
            }
            let (mut received, mut next) = (Vec::new(), 0);
            while call!(calls, rx.recv_batch(&mut received, 20)) > 0 {
                check(&received, &mut next);
                received.clear();
            }
            assert_eq!(next, COUNT);
            assert_eq!(call!(calls, rx.closed()), CloseReason::Peer);
        };
        tasks.extend([send.boxed(), receive.boxed()]);
    }
    tasks
}

/// Returns both ends of one direction.
fn stream(driver: &Driver) -> (Sender, Receiver) {
    let (first, second) = pair(driver);
    (first.into_split().0, second.into_split().1)
}

/// From one ring to the next, without a copy in between.
fn in_place(driver: &Driver, calls: Calls) -> Vec<Task> {
    let ((mut tx, mut middle_rx), (mut middle_tx, mut rx)) = (stream(driver), stream(driver));
    let source = async move {
        for packet in packets() {
            let mut grant = call!(calls, tx.reserve(200)).unwrap();
            grant.put(packet);
            grant.commit().unwrap();
        }
    };
    let middle = async move {
        while let Some(packet) = call!(calls, middle_rx.recv_ref()) {
            let mut grant = call!(calls, middle_tx.reserve(packet.len())).unwrap();
            grant.put_packet(&packet);
            grant.commit().unwrap();
        }
    };
    let drain = async move {
        for n in 0..COUNT {
            let packet = call!(calls, rx.recv_ref()).unwrap();
            assert_eq!(number(&packet.to_bytes()), n);
        }
        assert!(call!(calls, rx.recv_ref()).is_none());
    };
    vec![source.boxed(), middle.boxed(), drain.boxed()]
}

fn sink_and_stream(driver: &Driver, calls: Calls) -> Vec<Task> {
    let ((mut tx, mut middle_rx), (mut middle_tx, mut rx)) = (stream(driver), stream(driver));
    let source = async move {
        for packet in packets() {
            call!(calls, tx.feed(packet.clone())).unwrap();
        }
        call!(calls, tx.flush()).unwrap();
        for packet in packets() {
            call!(calls, poll_fn(|cx| Pin::new(&mut tx).poll_ready(cx))).unwrap();
            Pin::new(&mut tx).start_send(packet).unwrap();
            call!(calls, poll_fn(|cx| Pin::new(&mut tx).poll_flush(cx))).unwrap();
        }
        call!(calls, poll_fn(|cx| Pin::new(&mut tx).poll_close(cx))).unwrap();
    };
    let middle = async move {
        for _ in 0..COUNT {
            let packet = call!(calls, middle_rx.next()).unwrap().unwrap();
            call!(calls, middle_tx.feed(packet.clone())).unwrap();
        }
        middle_rx.forward(middle_tx).await.unwrap();
    };
    let drain = async move {
        for n in (0..COUNT).chain(0..COUNT) {
            assert_eq!(number(&call!(calls, rx.next()).unwrap().unwrap()), n);
        }
        assert!(call!(calls, rx.next()).is_none());
    };
    vec![source.boxed(), middle.boxed(), drain.boxed()]
}

fn shared_ends(driver: &Driver, calls: Calls) -> Vec<Task> {
    const TASKS: u64 = 3;
    let (here, there) = pair(driver);
    let (here, there) = (Arc::new(here), Arc::new(there));
    let missing: BTreeSet<_> =
        (0..TASKS).flat_map(|sender| (0..COUNT).map(move |n| sender << 32 | n)).collect();
    let missing = Arc::new(Mutex::new(missing));
    let send = |sender: u64| {
        let here = here.clone();
        let send = async move {
            for n in 0..COUNT {
                call!(calls, here.send(packet(sender << 32 | n, 50))).unwrap();
            }
        };
        send.boxed()
    };
    let receive = |_| {
        let (there, missing) = (there.clone(), missing.clone());
        let receive = async move {
            while let Some(packet) = call!(calls, there.recv()) {
                let mut missing = missing.lock().unwrap();
                assert!(missing.remove(&number(&packet)), "it came twice");
                if missing.is_empty() {
                    there.close();
                }
            }
        };
        receive.boxed()
    };
    let tasks: Vec<_> = (0..TASKS).map(send).chain((0..TASKS).map(receive)).collect();
    let whole = async move {
        join_all(tasks).await;
        assert!(missing.lock().unwrap().is_empty(), "some never came");
    };
    // One task: its parts share a waker, and each part has its own place.
    vec![whole.boxed()]
}

/// A dropped call takes its deadline with it, so these calls are not given up.
fn deadlines(driver: &Driver, _calls: Calls) -> Vec<Task> {
    let task = |(end, peer): (Endpoint, Endpoint)| {
        let task = async move {
            let filled = fill(&end);
            let late = end.send(packet(filled, 8)).await;
            assert!(matches!(late, Err(ShmError::TimedOut { sent: 0 })), "{late:?}");
            assert!(peer.try_recv().is_ok());
            // Room comes for a part of the batch, and for no more.
            let late = end.send_batch(&packets()).await;
            assert!(matches!(late, Err(ShmError::TimedOut { .. })), "{late:?}");
            assert_eq!(end.stats().full_stalls, 2);
        };
        task.boxed()
    };
    let timeout = Some(Duration::from_millis(10));
    let pairs = (0..3).map(|_| pair_with_timeout(driver, timeout));
    pairs.map(task).collect()
}

/// Waits for ends, and makes them.
fn ends(driver: &Driver, calls: Calls) -> Vec<Task> {
    let (here, there) = pair(driver);
    let (here, there) = (Arc::new(here), Arc::new(there));
    fill(&here);
    let mut tasks = Vec::new();
    for end in [&here, &there] {
        let end = end.clone();
        let closed = async move {
            assert_eq!(call!(calls, end.closed()), CloseReason::Cancelled);
        };
        tasks.push(closed.boxed());
    }
    let sender = here.clone();
    let send = async move {
        let sent = call!(calls, sender.send(packet(0, 8)));
        let reason = CloseReason::Cancelled;
        assert!(matches!(sent, Err(ShmError::Closed { reason: why, .. }) if why == reason));
    };
    tasks.push(send.boxed());
    let (answer, asked) = pair(driver);
    let cancel = async move {
        // When a packet has come on another channel, this channel is cancelled.
        let canceller = there.canceller();
        let got = call!(calls, canceller.clone().cancel_on(asked.recv()));
        assert_eq!(number(&got.unwrap()), 7);
        assert!(canceller.is_cancelled());
        assert_eq!(there.close_reason(), Some(CloseReason::Cancelled));
    };
    tasks.push(cancel.boxed());
    let answer = async move {
        let receive = async {
            assert_eq!(call!(calls, here.recv()), None);
        };
        let send = async {
            smol::future::yield_now().await;
            call!(calls, answer.send(packet(7, 8))).unwrap();
        };
        futures::join!(receive, send);
        assert_eq!(call!(calls, here.closed()), CloseReason::Cancelled);
    };
    tasks.push(answer.boxed());
    tasks
}

fn a_listener(driver: &Driver, calls: Calls) -> Vec<Task> {
    const APPLICATIONS: u64 = 6;
    let dir = Dir::new();
    let name = dir.name("listener");
    let listener = SpscListener::builder().ring_bytes(SMALL).driver(driver).bind(&name).unwrap();
    let mut tasks: Vec<Task> = Vec::new();
    for n in 0..APPLICATIONS {
        let (builder, name) = (SpscHandle::builder().driver(driver), name.clone());
        let application = async move {
            // A call that was given up has hung up, and the listener goes on.
            let handle = call!(calls, builder.clone().connect_async(&name)).unwrap();
            handle.send(packet(n, 8)).await.unwrap();
            assert_eq!(number(&call!(calls, handle.recv()).unwrap()), n);
            assert_eq!(call!(calls, handle.closed()), CloseReason::Peer);
        };
        tasks.push(application.boxed());
    }
    let engine = async move {
        let (mut listener, _dir) = (listener, dir);
        let mut missing: BTreeSet<_> = (0..APPLICATIONS).collect();
        while !missing.is_empty() {
            let face = match missing.len() % 2 {
                0 => call!(calls, listener.accept()).unwrap(),
                _ => call!(calls, listener.next()).unwrap().unwrap(),
            };
            // `None` comes from a client that was given up.
            if let Some(packet) = call!(calls, face.recv()) {
                assert!(missing.remove(&number(&packet)));
                call!(calls, face.send(packet.clone())).unwrap();
            }
        }
        listener.close();
        while let Some(face) = call!(calls, listener.next()) {
            let face = face.unwrap();
            assert_eq!(call!(calls, face.recv()), None, "given up");
        }
        let closed = call!(calls, listener.accept());
        let reason = CloseReason::Local;
        assert!(matches!(closed, Err(ShmError::Closed { reason: why, .. }) if why == reason));
    };
    tasks.push(engine.boxed());
    tasks
}
