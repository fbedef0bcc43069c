//! Loom models of the protocol, which run the shipped code on memory that loom watches.
//!
//! Each model proves one claim. Where there are too many interleavings, the model bounds how often
//! loom may preempt a thread that could have continued; nearly every fault of this kind shows with
//! two preemptions. `LOOM_MAX_PREEMPTIONS` sets another bound for all models.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib models
//! ```
//!
//! From the bottom up: [`ring`] and [`bell`] cover what is shared with the peer, [`ends`] how the
//! peer announces its end, [`waiters`] the queue of local tasks, [`notify_flag`] the waker of a
//! future that is driven. They use [`halves`] of their own, which do the bare protocol.
//! [`block_on`], [`blocking`], [`embedded`], [`endpoint`], [`requests`], [`sink`], [`tasks`],
//! [`together`] and [`yields`] cover the shipped ends, on a driver that the model's own threads
//! run. [`in_place`] does both.
//!
//! A lost wake is a deadlock, which loom reports. Loom cannot see stores that overtake earlier
//! loads: the Release of `head` and `taken`, and the order of clear and count in the bell, must be
//! reviewed by hand.

mod bell;
mod block_on;
mod blocking;
mod embedded;
mod endpoint;
mod ends;
mod halves;
mod in_place;
mod requests;
mod ring;
mod notify_flag;
mod sink;
mod tasks;
mod together;
mod waiters;
mod yields;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::api::endpoint::Endpoint;
use crate::channel::Options;
use crate::driver::model::{Driver, Task};
use crate::error::CloseReason;
use crate::shm::layout::Side;
use crate::shm::region::Region;
use crate::sync::{Arc, Mutex, lock};
use halves::{Rx, Tx};

/// Every interleaving.
const ALL: Option<usize> = None;

/// Runs `model` in every interleaving with at most `preemptions` preemptions.
fn explore(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// Returns the `n`th packet, which differs from all others: one word.
fn word(n: u8) -> [u8; 8] {
    [n + 1; 8]
}

/// Returns the sender of one side and the receiver of the other.
fn halves(region: &Arc<Region>, sender: Side) -> (Tx, Rx) {
    (Tx::new(region, sender), Rx::new(region, sender.peer()))
}

/// Returns the same packet in the endpoints' type.
fn packet(n: u8) -> Bytes {
    Bytes::copy_from_slice(&word(n))
}

/// This many packets fill a ring of 64 bytes.
const FULL: u8 = 3;

/// Returns both shipped ends of a channel, each with a driver of its own. Sends have no deadline.
fn channel(ring_bytes: usize) -> Ends {
    channel_on(ring_bytes, Driver::new)
}

/// As [`channel`], with drivers that `driver` makes.
fn channel_on(ring_bytes: usize, driver: impl FnMut() -> Driver) -> Ends {
    unkept(ring_bytes, driver).map(kept)
}

/// A model that does not run the driver need not keep it.
fn kept((end, driver): (Endpoint, Driver)) -> (Endpoint, Driver) {
    end.channel().keep(Box::new(driver.clone()));
    (end, driver)
}

/// As [`channel_on`], but an end whose driver is dropped ends.
fn unkept(ring_bytes: usize, driver: impl FnMut() -> Driver) -> Ends {
    unkept_with(Options::default(), ring_bytes, driver)
}

fn unkept_with(options: Options, ring_bytes: usize, mut driver: impl FnMut() -> Driver) -> Ends {
    let region = Region::model(ring_bytes, 8);
    let options = Options { send_timeout: None, ..options };
    [Side::Face, Side::Handle].map(|side| {
        let driver = driver();
        let end = Endpoint::open(region.clone(), side, options, driver.binding()).unwrap();
        (end, driver)
    })
}

/// Receives the packets of `numbers`, in order.
async fn receive(end: &Endpoint, numbers: impl IntoIterator<Item = u8>) {
    for n in numbers {
        assert_eq!(end.recv().await, Some(packet(n)));
    }
}

/// Sends the first `count` packets, which fit.
fn fill(end: &Endpoint, count: u8) {
    (0..count).for_each(|n| end.try_send(packet(n)).unwrap());
}

/// Starts a thread that sends the first `count` packets, which fit. It returns its end.
fn fill_elsewhere(end: Endpoint, count: u8) -> loom::thread::JoinHandle<Endpoint> {
    loom::thread::spawn(move || {
        fill(&end, count);
        end
    })
}

/// Both ends of a channel, each with its driver.
type Ends = [(Endpoint, Driver); 2];

/// A task receives two packets, which another thread sends.
fn misses_no_packet([(face, _), (handle, driver)]: Ends) {
    let sender = fill_elsewhere(face, 2);
    driver.block_on(receive(&handle, 0..2));
    sender.join().unwrap();
}

/// A task waits for a packet, and another thread cancels or closes.
fn learns_of_the_end([(face, _), (handle, driver)]: Ends, cancel: bool) {
    let closer = loom::thread::spawn(move || {
        if cancel {
            face.cancel()
        } else {
            face.close()
        };
        face
    });
    assert_eq!(driver.block_on(handle.recv()), None);
    let reason = if cancel { CloseReason::Cancelled } else { CloseReason::Peer };
    assert_eq!(handle.close_reason(), Some(reason));
    closer.join().unwrap();
}

/// The sender sleeps for room, and a task receives all. No timer fires: the receiver gives back
/// what it has taken.
fn leaves_no_sender_asleep([(face, driver), (handle, other)]: Ends) {
    fill(&face, FULL);
    let sender = loom::thread::spawn(move || {
        driver.block_on(face.send(packet(FULL))).unwrap();
        face
    });
    other.block_on(receive(&handle, 0..=FULL));
    sender.join().unwrap();
}

/// A task on the thread that runs the driver, and one on another thread, receive on one end.
fn both_threads_receive([(face, _), (handle, driver)]: Ends) {
    let handle = Arc::new(handle);
    let sender = fill_elsewhere(face, 2);
    let (done, is_done) = futures::channel::oneshot::channel();
    let elsewhere = {
        let handle = handle.clone();
        loom::thread::spawn(move || {
            assert!(Driver::new().block_on(handle.recv()).is_some());
            done.send(()).unwrap();
        })
    };
    driver.run([
        Box::pin(async { assert!(handle.recv().await.is_some()) }) as Task<'_>,
        Box::pin(async { is_done.await.unwrap() }),
    ]);
    elsewhere.join().unwrap();
    sender.join().unwrap();
}

/// Two requests and their answers. Each end has a thread that runs its driver.
fn ping_pong([(face, driver), (handle, other)]: Ends) {
    let peer = loom::thread::spawn(move || {
        other.block_on(async {
            for n in 0..2 {
                receive(&handle, [n]).await;
                handle.send(packet(n)).await.unwrap();
            }
        });
    });
    driver.block_on(async {
        for n in 0..2 {
            face.send(packet(n)).await.unwrap();
            receive(&face, [n]).await;
        }
    });
    peer.join().unwrap();
}

/// An event that happens once, and that one task waits for.
#[derive(Clone)]
struct Event(Arc<Mutex<(bool, Option<Waker>)>>);

impl Event {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((false, None))))
    }

    fn happen(&self) {
        let mut state = lock(&self.0);
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Future for Event {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A waker that records that it was called.
struct Flag(std::sync::atomic::AtomicBool);

impl Flag {
    fn new() -> Arc<Self> {
        Arc::new(Self(false.into()))
    }

    fn is_set(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
