//! A custom executor with its own run queue, which sleeps in the driver.
//!
//! It serves a hundred channels and a Unix socket on the process's only thread, which has one place
//! to sleep for all of them. The peers are in a child process.

#![allow(clippy::print_stdout, reason = "an example says what it did")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use wakering::{Driver, ShmError, SpscHandle, SpscListener, Unparker};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CHANNELS: u32 = 100;
const PACKETS: u32 = 50;

/// After this many polls, the executor checks its channels, even if there is more to run.
const POLLS: u32 = 61;

/// Set in the child: the name of the engine.
const ENGINE: &str = "WAKERING_ENGINE";

fn main() -> Result<()> {
    match std::env::var(ENGINE) {
        Ok(name) => applications(&name),
        Err(_) => engine(),
    }
}

/// A single-threaded executor: tasks by number, and the numbers of the tasks that can run.
struct Executor {
    driver: Driver,
    queue: Arc<Queue>,
    tasks: Vec<Option<Pin<Box<dyn Future<Output = ()>>>>>,
}

struct Queue {
    runnable: Mutex<VecDeque<usize>>,
    /// Another thread may wake a task while this one sleeps.
    unparker: Unparker,
}

struct TaskWaker {
    task: usize,
    queue: Arc<Queue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.queue.runnable.lock().unwrap().push_back(self.task);
        // Costs nothing while the executor runs, for example when the driver wakes a task.
        self.queue.unparker.unpark();
    }
}

impl Executor {
    fn new(driver: Driver) -> Self {
        let queue = Queue { runnable: Mutex::default(), unparker: driver.unparker() };
        Self { driver, queue: Arc::new(queue), tasks: Vec::new() }
    }

    fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        self.queue.runnable.lock().unwrap().push_back(self.tasks.len());
        self.tasks.push(Some(Box::pin(future)));
    }

    /// Runs all tasks to their end.
    fn run(&mut self) -> std::result::Result<(), ShmError> {
        let mut left = self.tasks.len();
        let mut polls = 0_u32;
        while left > 0 {
            polls = polls.wrapping_add(1);
            if polls.is_multiple_of(POLLS) {
                // Tasks that always have something to do must not starve the channels.
                self.driver.park(Some(Duration::ZERO))?;
            }
            let next = self.queue.runnable.lock().unwrap().pop_front();
            let Some(task) = next else {
                // There is nothing to run. A peer's wake ends the park, and its task is then in the
                // queue.
                self.driver.park(None)?;
                continue;
            };
            let waker = Waker::from(Arc::new(TaskWaker { task, queue: self.queue.clone() }));
            // A task may be woken once more after it has ended.
            let Some(future) = &mut self.tasks[task] else { continue };
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                self.tasks[task] = None;
                left -= 1;
            }
        }
        Ok(())
    }
}

fn engine() -> Result<()> {
    // The directory belongs to this user alone: a user who can write to it could pose as the
    // engine.
    let directory = std::env::temp_dir().join(format!("wakering-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let name = directory.join("engine").into_os_string().into_string().map_err(|_| "odd path")?;
    let driver = Driver::new()?;
    let listener = SpscListener::builder().driver(&driver).bind(&name)?;
    let socket = UnixListener::bind(directory.join("count"))?;
    socket.set_nonblocking(true)?;
    let mut child = Command::new(std::env::current_exe()?).env(ENGINE, &name).spawn()?;

    let served = Arc::new(Mutex::new(0));
    let mut executor = Executor::new(driver);
    for _ in 0..CHANNELS {
        // The driver answers applications that connect, so it runs meanwhile.
        let face = executor.driver.block_on(listener.accept())?;
        let served = served.clone();
        executor.spawn(async move {
            while let Some(packet) = face.recv().await {
                face.send(packet).await.expect("it waits for the answer");
                *served.lock().unwrap() += 1;
            }
        });
    }
    executor.spawn(tell_count(executor.driver.clone(), socket, served.clone()));
    executor.run()?;

    let threads = std::fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "no thread but this one");
    let served = *served.lock().unwrap();
    assert_eq!(served, CHANNELS * PACKETS);
    assert!(child.wait()?.success());
    drop(listener);
    std::fs::remove_dir_all(directory)?;
    println!("served {served} packets on {CHANNELS} channels, and a socket, with {threads} thread");
    Ok(())
}

/// Tells the first client of `socket` how many packets were served.
async fn tell_count(driver: Driver, socket: UnixListener, served: Arc<Mutex<u32>>) {
    let mut client = loop {
        match socket.accept() {
            Ok((client, _)) => break client,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                driver.readable(&socket).await.expect("the driver waits for sockets too");
            }
            Err(error) => panic!("accept: {error}"),
        }
    };
    let count = served.lock().unwrap().to_string();
    client.write_all(count.as_bytes()).expect("a new socket has room for a number");
}

fn applications(name: &str) -> Result<()> {
    let driver = Driver::new()?;
    driver.block_on(async {
        let builder = || SpscHandle::builder().driver(&driver);
        let clients = (0..CHANNELS).map(|_| async {
            let handle = builder().connect_async(name).await?;
            for number in 0..PACKETS {
                let packet = Bytes::copy_from_slice(&number.to_le_bytes());
                handle.send(packet.clone()).await?;
                assert_eq!(handle.recv().await, Some(packet));
            }
            Ok::<_, ShmError>(())
        });
        futures::future::try_join_all(clients).await
    })?;
    let mut count = String::new();
    UnixStream::connect(Path::new(name).with_file_name("count"))?.read_to_string(&mut count)?;
    assert_eq!(count, (CHANNELS * PACKETS).to_string());
    Ok(())
}
