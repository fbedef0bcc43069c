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
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Instant;

use bytes::Bytes;
use io_uring::types::{Fd, SubmitArgs};
use io_uring::{IoUring, opcode, squeue};
use wakering::{Backend, Driver, EmbeddedDriver, ShmError, SpscFace, SpscHandle, Unparker};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CHANNELS: u64 = 100;
const PACKETS: u64 = 50;
/// The user data of the executor's own submission: a poll of its socket.
const SOCKET: u64 = 1;
/// There is something to read.
const POLLIN: u32 = 1;
const ETIME: i32 = 62;
const EINTR: i32 = 4;

struct Executor {
    ring: IoUring,
    driver: EmbeddedDriver,
    tasks: Vec<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    ready: Arc<Ready>,
}

/// The numbers of the tasks that can run, and what ends the sleep of the executor's thread.
struct Ready(Mutex<Vec<usize>>, Unparker, ThreadId);

struct TaskWaker(usize, Arc<Ready>);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let Ready(tasks, unparker, thread) = &*self.1;
        tasks.lock().unwrap().push(self.0);
        if thread::current().id() != *thread {
            unparker.unpark();
        }
    }
}

impl Executor {
    fn new(driver: EmbeddedDriver) -> Result<Self> {
        // Any flags will do. These suit an executor that alone submits, and sleeps in its ring.
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(256)?;
        let ready = Ready(Mutex::default(), driver.unparker(), thread::current().id());
        Ok(Self { ring, driver, tasks: Vec::new(), ready: Arc::new(ready) })
    }

    fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        self.ready.0.lock().unwrap().push(self.tasks.len());
        self.tasks.push(Some(Box::pin(future)));
    }

    /// Runs all tasks to their end, and answers each byte from the socket with the count.
    fn run(&mut self, mut socket: &UnixStream, count: impl Fn() -> u64) -> Result<()> {
        self.submit(&poll(socket))?;
        while self.tasks.iter().any(Option::is_some) {
            // 1. Wakes the tasks whose channels have something.
            self.driver.turn()?;
            // 2. Runs these tasks.
            let ready = std::mem::take(&mut *self.ready.0.lock().unwrap());
            for number in ready {
                let waker = Waker::from(Arc::new(TaskWaker(number, self.ready.clone())));
                if let Some(task) = &mut self.tasks[number]
                    && task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
                {
                    self.tasks[number] = None;
                }
            }
            // 3. Submits what the driver wants.
            while let Some(submission) = self.driver.next_submission() {
                self.submit(&submission.into())?;
            }
            // 4. Sleeps, unless a task has woken itself or another one.
            let is_idle = self.ready.0.lock().unwrap().is_empty();
            let due = if is_idle { self.driver.deadline() } else { Some(Instant::now()) };
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()).into());
            let args =
                timeout.as_ref().map_or(SubmitArgs::new(), |t| SubmitArgs::new().timespec(t));
            self.ring.submitter().submit_with_args(1, &args).or_else(go_on)?;
            // 5. Takes what has happened.
            let completions: Vec<_> =
                self.ring.completion().map(|c| (c.user_data(), c.result())).collect();
            for (user_data, result) in completions {
                if !self.driver.complete(user_data, result) {
                    assert_eq!((user_data, result > 0), (SOCKET, true));
                    if socket.read(&mut [0])? > 0 {
                        socket.write_all(&count().to_le_bytes())?;
                        self.submit(&poll(socket))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: a driver's submissions, and a poll, never make the kernel write to memory.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

/// The time is over, or a signal has come.
fn go_on(error: std::io::Error) -> std::io::Result<usize> {
    if matches!(error.raw_os_error(), Some(ETIME | EINTR)) { Ok(0) } else { Err(error) }
}

fn poll(socket: &UnixStream) -> squeue::Entry {
    opcode::PollAdd::new(Fd(socket.as_raw_fd()), POLLIN).build().user_data(SOCKET)
}

fn main() -> Result<()> {
    let driver = match Driver::builder().backend(Backend::IoUring).embedded() {
        Err(error @ ShmError::Unsupported { .. }) => {
            println!("left out: {error}");
            return Ok(());
        }
        driver => driver?,
    };
    let served = Rc::new(Cell::new(0));
    let mut executor = Executor::new(driver)?;
    let mut descriptors = Vec::new();
    for _ in 0..CHANNELS {
        let (face, descriptor) = SpscFace::builder().driver(&executor.driver).pair()?;
        descriptors.push(descriptor);
        let served = served.clone();
        executor.spawn(async move {
            while let Some(packet) = face.recv().await {
                face.send(packet).await.expect("it waits for the answer");
                served.set(served.get() + 1);
            }
        });
    }
    let (socket, client) = UnixStream::pair()?;
    let peers = thread::spawn(|| peers(descriptors, client).expect("all are served"));
    executor.run(&socket, || served.get())?;
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
