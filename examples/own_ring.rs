//! An executor that owns an io_uring, with an embedded driver in it.
//!
//! One thread serves a hundred channels, and a Unix socket that tells how many packets were served.
//! It sleeps in its own ring: one `io_uring_enter` takes what the channels and the socket want
//! submitted and returns what has happened to them.

#![allow(clippy::print_stdout, reason = "an example says what it did")]
#![allow(unsafe_code, reason = "the crate io-uring leaves it to its user what is submitted")]

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use io_uring::types::{Fd, SubmitArgs};
use io_uring::{IoUring, opcode, squeue};
use wakering::{Driver, EmbeddedDriver, SpscFace, SpscHandle, Unparker};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CHANNELS: u64 = 100;
const PACKETS: u64 = 50;
/// The user data of the executor's own submission: a poll of its socket.
const SOCKET: u64 = 1;
/// There is something to read.
const POLLIN: u32 = 1;

/// Whether the future can run, and what ends the sleep of the executor's thread.
struct Ready(AtomicBool, Unparker, ThreadId);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        let Self(is_ready, unparker, thread) = &*self;
        is_ready.store(true, Ordering::Release);
        if thread::current().id() != *thread {
            unparker.unpark();
        }
    }
}

/// The executor: runs the future to its end, and answers each byte from the socket with the count.
fn run(
    mut driver: EmbeddedDriver,
    future: impl Future<Output = ()>,
    mut socket: &UnixStream,
    count: impl Fn() -> u64,
) -> Result<()> {
    // Any flags will do. These suit an executor that alone submits, and sleeps in its ring.
    let mut ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(256)?;
    let ready = Ready(AtomicBool::new(true), driver.unparker(), thread::current().id());
    let ready = Arc::new(ready);
    let (waker, mut future) = (Waker::from(ready.clone()), pin!(future));
    submit(&mut ring, &poll(socket))?;
    loop {
        // 1. Wakes the tasks whose channels have something.
        driver.turn()?;
        // 2. Runs these tasks.
        if ready.0.swap(false, Ordering::Acquire)
            && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            return Ok(());
        }
        // 3. Submits what the driver wants.
        while let Some(submission) = driver.next_submission() {
            submit(&mut ring, &submission.into())?;
        }
        // 4. Sleeps, unless a task has woken itself or another one.
        let is_ready = ready.0.load(Ordering::Relaxed);
        let due = if is_ready { Some(Instant::now()) } else { driver.deadline() };
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()).into());
        let args = timeout.as_ref().map_or(SubmitArgs::new(), |t| SubmitArgs::new().timespec(t));
        // It may fail because the time is over, or because of a signal.
        let _ = ring.submitter().submit_with_args(1, &args);
        // 5. Takes what has happened.
        let mut has_asked = false;
        for completion in ring.completion() {
            let (user_data, result) = (completion.user_data(), completion.result());
            has_asked |= !driver.complete(user_data, result) && user_data == SOCKET;
        }
        if has_asked && socket.read(&mut [0])? > 0 {
            socket.write_all(&count().to_le_bytes())?;
            submit(&mut ring, &poll(socket))?;
        }
    }
}

fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> Result<()> {
    // SAFETY: a driver's submissions, and a poll, never make the kernel write to memory.
    while unsafe { ring.submission().push(entry) }.is_err() {
        ring.submit()?;
    }
    Ok(())
}

fn poll(socket: &UnixStream) -> squeue::Entry {
    opcode::PollAdd::new(Fd(socket.as_raw_fd()), POLLIN).build().user_data(SOCKET)
}

fn main() -> Result<()> {
    let driver = Driver::builder().embedded()?;
    let served = Cell::new(0);
    let (mut descriptors, tasks) = (Vec::new(), FuturesUnordered::new());
    for _ in 0..CHANNELS {
        let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
        descriptors.push(descriptor);
        tasks.push(async {
            let face = face;
            while let Some(packet) = face.recv().await {
                face.send(packet).await.expect("it waits for the answer");
                served.set(served.get() + 1);
            }
        });
    }
    let (socket, client) = UnixStream::pair()?;
    let peers = thread::spawn(|| peers(descriptors, client).expect("all are served"));
    run(driver, tasks.collect(), &socket, || served.get())?;
    peers.join().expect("no peer panics");
    println!("served {} packets on {CHANNELS} channels, and a socket, in one ring", served.get());
    Ok(())
}

/// The other ends, on another thread, and a client that asks for the number of packets.
fn peers(descriptors: Vec<OwnedFd>, mut client: UnixStream) -> Result<()> {
    let handles = descriptors.into_iter().map(SpscHandle::from_fd);
    let handles = handles.collect::<std::result::Result<Vec<_>, _>>()?;
    for number in 1..=PACKETS {
        let packet = Bytes::copy_from_slice(&number.to_le_bytes());
        for handle in &handles {
            handle.send_blocking(packet.clone())?;
        }
        for handle in &handles {
            assert_eq!(handle.recv_blocking(), Some(packet.clone()));
        }
    }
    let mut answer = [0; 8];
    client.write_all(b"?")?;
    client.read_exact(&mut answer)?;
    assert_eq!(u64::from_le_bytes(answer), CHANNELS * PACKETS);
    Ok(())
}
