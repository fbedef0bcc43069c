//! An executor that owns an io_uring, with an embedded driver in it.
//!
//! One thread serves a hundred channels, and a Unix socket that tells how many packets were served.
//! It sleeps in its own ring: one `io_uring_enter` takes what the channels and the socket want
//! submitted and returns what has happened to them. The peers are in a child process.

#![allow(clippy::print_stdout, reason = "an example says what it did")]
#![allow(unsafe_code, reason = "the crate io-uring leaves it to its user what is submitted")]

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Instant;

use bytes::Bytes;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use wakering::{Backend, Driver, EmbeddedDriver, ShmError, SpscHandle, SpscListener, Unparker};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CHANNELS: u64 = 100;
const PACKETS: u64 = 50;
/// The user data of the executor's own submission: a poll of its socket.
const SOCKET: u64 = 1;
/// There is something to accept.
const POLLIN: u32 = 1;
/// The time that the ring was to sleep has passed.
const ETIME: i32 = 62;
/// Set in the child: the directory of the engine.
const DIRECTORY: &str = "WAKERING_DIRECTORY";

struct Executor {
    ring: IoUring,
    driver: EmbeddedDriver,
    tasks: Vec<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    ready: Arc<Ready>,
}

/// The numbers of the tasks that can run, and what ends the executor's sleep.
struct Ready(Mutex<Vec<usize>>, Unparker);

struct TaskWaker(usize, Arc<Ready>);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.1.0.lock().unwrap().push(self.0);
        // For a wake by another thread.
        self.1.1.unpark();
    }
}

impl Executor {
    fn new(driver: EmbeddedDriver) -> Result<Self> {
        // Any flags will do. These suit an executor that alone submits, and sleeps in its ring.
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(256)?;
        let ready = Arc::new(Ready(Mutex::default(), driver.unparker()));
        Ok(Self { ring, driver, tasks: Vec::new(), ready })
    }

    fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        self.ready.0.lock().unwrap().push(self.tasks.len());
        self.tasks.push(Some(Box::pin(future)));
    }

    /// Runs all tasks to their end, and answers the clients of `socket`.
    fn run(&mut self, socket: &UnixListener, answer: impl Fn() -> String) -> Result<()> {
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
            self.enter(timeout.as_ref())?;
            // 5. Takes what has happened.
            let completions: Vec<_> =
                self.ring.completion().map(|c| (c.user_data(), c.result())).collect();
            for (user_data, result) in completions {
                if !self.driver.complete(user_data, result) {
                    assert_eq!((user_data, result > 0), (SOCKET, true));
                    socket.accept()?.0.write_all(answer().as_bytes())?;
                    self.submit(&poll(socket))?;
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

    fn enter(&self, timeout: Option<&Timespec>) -> Result<()> {
        let args = timeout.map_or(SubmitArgs::new(), |timeout| SubmitArgs::new().timespec(timeout));
        match self.ring.submitter().submit_with_args(1, &args).map_err(|e| (e.kind(), e)) {
            Ok(_) | Err((ErrorKind::Interrupted, _)) => Ok(()),
            Err((_, error)) if error.raw_os_error() == Some(ETIME) => Ok(()),
            Err((_, error)) => Err(error.into()),
        }
    }
}

fn poll(socket: &UnixListener) -> squeue::Entry {
    opcode::PollAdd::new(Fd(socket.as_raw_fd()), POLLIN).build().user_data(SOCKET)
}

fn main() -> Result<()> {
    if let Ok(directory) = std::env::var(DIRECTORY) {
        return applications(Path::new(&directory));
    }
    let driver = match Driver::builder().backend(Backend::IoUring).embedded() {
        Err(error @ ShmError::Unsupported { .. }) => {
            println!("left out: {error}");
            return Ok(());
        }
        driver => driver?,
    };
    // The directory belongs to this user alone: a user who can write to it could pose as the
    // engine.
    let directory = std::env::temp_dir().join(format!("wakering-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let listener = SpscListener::builder().driver(&driver).bind(&engine(&directory)?)?;
    let socket = UnixListener::bind(directory.join("count"))?;
    let mut child = Command::new(std::env::current_exe()?).env(DIRECTORY, &directory).spawn()?;

    let served = Rc::new(Cell::new(0));
    let mut executor = Executor::new(driver)?;
    let listener = Rc::new(listener);
    for _ in 0..CHANNELS {
        let (listener, served) = (listener.clone(), served.clone());
        executor.spawn(async move {
            let face = listener.accept().await.expect("an application connects");
            while let Some(packet) = face.recv().await {
                face.send(packet).await.expect("it waits for the answer");
                served.set(served.get() + 1);
            }
        });
    }
    executor.run(&socket, || served.get().to_string())?;

    assert_eq!(served.get(), CHANNELS * PACKETS);
    assert!(child.wait()?.success());
    drop((executor, listener));
    std::fs::remove_dir_all(directory)?;
    println!("served {} packets on {CHANNELS} channels, and a socket, in one ring", served.get());
    Ok(())
}

fn engine(directory: &Path) -> Result<String> {
    Ok(directory.join("engine").into_os_string().into_string().map_err(|_| "odd path")?)
}

/// The child: applications, and a client of the socket that asks while they are connected.
fn applications(directory: &Path) -> Result<()> {
    let connect = |_| SpscHandle::connect(&engine(directory).ok()?).ok();
    let handles: Vec<_> = (0..CHANNELS).filter_map(connect).collect();
    for number in 0..PACKETS {
        let packet = Bytes::copy_from_slice(&number.to_le_bytes());
        for handle in &handles {
            handle.send_blocking(packet.clone())?;
        }
        for handle in &handles {
            assert_eq!(handle.recv_blocking(), Some(packet.clone()));
        }
    }
    let mut count = String::new();
    UnixStream::connect(directory.join("count"))?.read_to_string(&mut count)?;
    assert_eq!(count, (CHANNELS * PACKETS).to_string());
    Ok(())
}
