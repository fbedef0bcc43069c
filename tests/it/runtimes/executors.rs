//! Ways to run tasks to their end. A panic in a task is passed on to the test.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use futures::task::{LocalSpawnExt, SpawnExt};

use super::scenarios::Task;

use crate::common::{join, wait};

pub(crate) fn pollster_on_threads(tasks: Vec<Task>) {
    let threads = tasks.into_iter().map(|task| std::thread::spawn(|| pollster::block_on(task)));
    for thread in threads.collect::<Vec<_>>() {
        join("a task", thread);
    }
}

/// Any wake polls all tasks.
pub(crate) fn pollster_on_one_thread(tasks: Vec<Task>) {
    pollster::block_on(join_all(tasks));
}

pub(crate) fn smol_on_one_thread(tasks: Vec<Task>) {
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> = tasks.into_iter().map(|task| executor.spawn(task)).collect();
    smol::block_on(executor.run(join_all(tasks)));
}

pub(crate) fn smol_global(tasks: Vec<Task>) {
    smol::block_on(join_all(tasks.into_iter().map(smol::spawn)));
}

pub(crate) fn smol_on_threads(tasks: Vec<Task>) {
    let executor = smol::Executor::new();
    std::thread::scope(|scope| {
        // This is dropped when `work` ends, in whatever way.
        let (_working, end) = smol::channel::bounded::<()>(1);
        for _ in 0..2 {
            let end = end.clone();
            let executor = &executor;
            scope.spawn(move || smol::block_on(executor.run(end.recv())));
        }
        let tasks: Vec<_> = tasks.into_iter().map(|task| executor.spawn(task)).collect();
        wait("all tasks", join_all(tasks));
    });
}

pub(crate) fn async_std(tasks: Vec<Task>) {
    let tasks = tasks.into_iter().map(::async_std::task::spawn);
    ::async_std::task::block_on(join_all(tasks));
}

pub(crate) fn local_pool(tasks: Vec<Task>) {
    let mut pool = futures::executor::LocalPool::new();
    let spawner = pool.spawner();
    let handles: Vec<_> =
        tasks.into_iter().map(|task| spawner.spawn_local_with_handle(task).unwrap()).collect();
    pool.run_until(join_all(handles));
}

pub(crate) fn thread_pool(tasks: Vec<Task>) {
    let pool = futures::executor::ThreadPool::builder().pool_size(2).create().unwrap();
    let handles: Vec<_> =
        tasks.into_iter().map(|task| pool.spawn_with_handle(task).unwrap()).collect();
    wait("all tasks", join_all(handles));
}

/// Polls each task on the thread that calls its waker: on the driver's thread, inside its turn.
pub(crate) fn inline(tasks: Vec<Task>) {
    let handles = tasks.into_iter().map(|task| {
        let (task, handle) = task.remote_handle();
        let task = Mutex::new(Some(task.boxed()));
        Arc::new(Inline { task, is_due: AtomicBool::new(false) }).wake();
        handle
    });
    let handles: Vec<_> = handles.collect();
    wait("all tasks", join_all(handles));
}

struct Inline {
    task: Mutex<Option<Task>>,
    is_due: AtomicBool,
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        self.is_due.store(true, Ordering::SeqCst);
        loop {
            // The thread that polls the task now checks `is_due` when it is done.
            let Ok(mut task) = self.task.try_lock() else { return };
            while self.is_due.swap(false, Ordering::SeqCst) {
                let Some(future) = task.as_mut() else { return };
                let waker = Waker::from(self.clone());
                if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    *task = None;
                    return;
                }
            }
            drop(task);
            if !self.is_due.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// A hand-written executor. It makes a new waker for each poll and obeys only the last one, polls
/// on another thread each time, and now and then polls without a wake.
pub(crate) fn new_waker_each_poll(tasks: Vec<Task>) {
    let executor = Arc::new(NewWakers::default());
    let handles = tasks.into_iter().map(|task| {
        let (task, handle) = task.remote_handle();
        executor.spawn(task.boxed());
        handle
    });
    let handles: Vec<_> = handles.collect();
    std::thread::scope(|scope| {
        let _end = End(&executor);
        for _ in 0..3 {
            scope.spawn(|| executor.run());
        }
        wait("all tasks", join_all(handles));
    });
}

#[derive(Default)]
struct NewWakers {
    queue: Mutex<VecDeque<Arc<Restive>>>,
    more: Condvar,
    polls: AtomicU64,
    is_over: AtomicBool,
}

/// A task of [`NewWakers`].
struct Restive {
    future: Mutex<Option<Task>>,
    /// The number of the waker that is obeyed.
    last: AtomicU64,
    executor: Arc<NewWakers>,
}

struct OnceWaker(Arc<Restive>, u64);

impl Wake for OnceWaker {
    fn wake(self: Arc<Self>) {
        // A waker of an earlier poll has no effect.
        if self.0.last.load(Ordering::SeqCst) == self.1 {
            self.0.executor.push(self.0.clone());
        }
    }
}

struct End<'a>(&'a NewWakers);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

impl NewWakers {
    fn push(&self, task: Arc<Restive>) {
        self.queue.lock().unwrap().push_back(task);
        self.more.notify_one();
    }

    fn spawn(self: &Arc<Self>, future: Task) {
        let future = Mutex::new(Some(future));
        self.push(Arc::new(Restive { future, last: AtomicU64::new(0), executor: self.clone() }));
    }

    /// One thread of the executor.
    fn run(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            let queue = self.queue.lock().unwrap();
            let pause = Duration::from_millis(2);
            let (mut queue, _) =
                self.more.wait_timeout_while(queue, pause, |queue| queue.is_empty()).unwrap();
            let Some(task) = queue.pop_front() else { continue };
            drop(queue);
            let poll = self.polls.fetch_add(1, Ordering::SeqCst);
            let mut future = task.future.lock().unwrap();
            let Some(pending) = future.as_mut() else { continue };
            task.last.store(poll, Ordering::SeqCst);
            let waker = Waker::from(Arc::new(OnceWaker(task.clone(), poll)));
            if pending.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                *future = None;
                continue;
            }
            drop(future);
            if poll.is_multiple_of(7) {
                self.push(task);
            }
        }
    }
}
