//! Every executor will do: those that exist, and some that nobody should write.

mod common;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use common::{
    Dir, PATIENCE, SMALL, both_roles, eventually, fill, number, on_both_backends, packet, pair,
    poll_once, wait,
};
use futures::future::{BoxFuture, join_all};
use futures::task::{LocalSpawnExt, SpawnExt};
use futures::{FutureExt, SinkExt, StreamExt};
use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle};

on_both_backends!(
    everything_works_under_pollster,
    everything_works_under_smol,
    everything_works_under_smols_executor_with_two_threads,
    everything_works_under_async_std,
    everything_works_under_a_local_pool,
    everything_works_under_a_thread_pool,
    everything_works_under_an_executor_that_polls_inside_of_wake,
    everything_works_under_an_executor_that_polls_for_no_reason,
    everything_works_when_futures_are_dropped_at_any_await,
    only_the_last_waker_counts,
    a_waker_that_panics_disturbs_nobody_else,
    a_waker_that_panics_keeps_its_place_until_it_is_dropped,
    a_waker_that_drops_another_waiter_does_no_harm,
    a_waker_that_drops_another_sender_does_no_harm,
    a_waker_that_drops_the_end_does_no_harm,
    a_waker_that_uses_the_end_does_no_harm,
);

const COUNT: u64 = 300;

/// Goes through every public future on both sides, two tasks to each.
fn tasks(driver: &Driver) -> (BoxFuture<'static, ()>, BoxFuture<'static, ()>) {
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(SMALL).send_timeout(None).driver(driver);
    let face = face.create(&name).unwrap();
    let builder = SpscHandle::builder().send_timeout(None).driver(driver);
    let engine = async move {
        let peer = face.connected().await.unwrap();
        assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
        // Calls on the whole end, both directions at once.
        let send = async {
            for n in 0..COUNT {
                face.send(packet(n, 100)).await.unwrap();
            }
            let batch: Vec<_> = (0..COUNT).map(|n| packet(n, 100)).collect();
            face.send_batch(&batch).await.unwrap();
        };
        let receive = async {
            let mut packets = Vec::new();
            while (packets.len() as u64) < COUNT {
                assert_ne!(face.recv_batch(&mut packets, 50).await, 0);
            }
            for (n, packet) in packets.iter().enumerate() {
                assert_eq!(number(packet), n as u64);
            }
        };
        futures::join!(send, receive);
        // The halves.
        let (mut tx, mut rx) = Endpoint::from(face).into_split();
        for n in 0..COUNT {
            tx.feed(packet(n, 100)).await.unwrap();
        }
        tx.close().await.unwrap();
        for n in 0..COUNT {
            assert_eq!(number(&rx.recv().await.unwrap()), n);
        }
        assert!(rx.next().await.is_none());
        assert_eq!(tx.closed().await, CloseReason::Local);
        assert_eq!(rx.closed().await, CloseReason::Peer);
    };
    let application = async move {
        let handle = builder.connect_async(&name).await.unwrap();
        drop(dir);
        handle.connected().await.unwrap();
        let send = async {
            for n in 0..COUNT {
                handle.send(packet(n, 100)).await.unwrap();
            }
        };
        let receive = async {
            for n in (0..COUNT).chain(0..COUNT) {
                assert_eq!(number(&handle.recv().await.unwrap()), n);
            }
        };
        futures::join!(send, receive);
        let (mut tx, rx) = Endpoint::from(handle).into_split();
        let numbers: Vec<_> = rx.map(|item| number(&item.unwrap())).collect().await;
        assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
        for n in 0..COUNT {
            tx.send(packet(n, 100)).await.unwrap();
        }
    };
    (engine.boxed(), application.boxed())
}

/// Runs `rounds` pairs of tasks by `spawn` and waits for all of them.
fn spawn_all(driver: &Driver, mut spawn: impl FnMut(BoxFuture<'static, ()>)) -> Done {
    let done = Done::default();
    for _ in 0..3 {
        let (engine, application) = tasks(driver);
        for task in [engine, application] {
            let done = done.clone();
            done.0.fetch_add(1, Ordering::SeqCst);
            spawn(
                async move {
                    task.await;
                    done.0.fetch_sub(1, Ordering::SeqCst);
                }
                .boxed(),
            );
        }
    }
    done
}

#[derive(Clone, Default)]
struct Done(Arc<AtomicUsize>);

impl Done {
    fn is_done(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    fn wait(&self) {
        eventually("all tasks are done", || self.is_done());
    }
}

fn everything_works_under_pollster(driver: &Driver) {
    let (engine, application) = tasks(driver);
    let engine = std::thread::spawn(|| pollster::block_on(engine));
    pollster::block_on(application);
    common::join("the engine", engine);
    let (engine, application) = tasks(driver);
    pollster::block_on(futures::future::join(engine, application));
}

fn everything_works_under_smol(driver: &Driver) {
    let (engine, application) = tasks(driver);
    smol::block_on(async {
        let engine = smol::spawn(engine);
        application.await;
        engine.await;
    });
    let executor = smol::LocalExecutor::new();
    let done = spawn_all(driver, |task| executor.spawn(task).detach());
    smol::block_on(executor.run(async {
        while !done.is_done() {
            smol::future::yield_now().await;
        }
    }));
}

fn everything_works_under_smols_executor_with_two_threads(driver: &Driver) {
    let executor = Arc::new(smol::Executor::new());
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            std::thread::spawn(move || smol::block_on(executor.run(stopped.recv())).is_err())
        })
        .collect();
    spawn_all(driver, |task| executor.spawn(task).detach()).wait();
    drop(stop);
    for thread in threads {
        assert!(common::join("a thread of smol's", thread));
    }
}

fn everything_works_under_async_std(driver: &Driver) {
    spawn_all(driver, |task| drop(async_std::task::spawn(task))).wait();
    let (engine, application) = tasks(driver);
    async_std::task::block_on(async {
        let engine = async_std::task::spawn(engine);
        application.await;
        engine.await;
    });
}

fn everything_works_under_a_local_pool(driver: &Driver) {
    let mut pool = futures::executor::LocalPool::new();
    let spawner = pool.spawner();
    let done = spawn_all(driver, |task| spawner.spawn_local(task).unwrap());
    pool.run();
    assert!(done.is_done());
}

fn everything_works_under_a_thread_pool(driver: &Driver) {
    let pool = futures::executor::ThreadPool::builder().pool_size(2).create().unwrap();
    spawn_all(driver, |task| pool.spawn(task).unwrap()).wait();
}

/// A task that is polled wherever its waker is called: on the driver's thread, inside of its turn.
struct Inline {
    task: Mutex<Option<BoxFuture<'static, ()>>>,
    is_due: AtomicBool,
}

impl Inline {
    fn start(task: BoxFuture<'static, ()>) {
        Arc::new(Self { task: Mutex::new(Some(task)), is_due: AtomicBool::new(false) }).wake();
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        self.is_due.store(true, Ordering::SeqCst);
        loop {
            // Whoever polls it now looks at the mark when it is through.
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

fn everything_works_under_an_executor_that_polls_inside_of_wake(driver: &Driver) {
    spawn_all(driver, Inline::start).wait();
}

/// A hand-written executor. It hands out a new waker for each poll and heeds the last one only; it
/// polls on another thread each time; and it polls for no reason now and then.
#[derive(Default)]
struct Restless {
    queue: Mutex<VecDeque<Arc<Task>>>,
    more: Condvar,
    polls: AtomicU64,
}

struct Task {
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    /// The waker that counts.
    last: AtomicU64,
    executor: Arc<Restless>,
}

struct OnceWaker(Arc<Task>, u64);

impl Wake for OnceWaker {
    fn wake(self: Arc<Self>) {
        // A waker of an earlier poll is as good as none.
        if self.0.last.load(Ordering::SeqCst) == self.1 {
            self.0.executor.push(self.0.clone());
        }
    }
}

impl Restless {
    fn push(&self, task: Arc<Task>) {
        self.queue.lock().unwrap().push_back(task);
        self.more.notify_one();
    }

    fn spawn(self: &Arc<Self>, future: BoxFuture<'static, ()>) {
        let future = Mutex::new(Some(future));
        let task = Task { future, last: AtomicU64::new(0), executor: self.clone() };
        self.push(Arc::new(task));
    }

    /// One thread of it, until all is done.
    fn run(&self, done: &Done) {
        while !done.is_done() {
            let queue = self.queue.lock().unwrap();
            let pause = std::time::Duration::from_millis(10);
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

fn everything_works_under_an_executor_that_polls_for_no_reason(driver: &Driver) {
    let executor = Arc::new(Restless::default());
    let done = spawn_all(driver, |task| executor.spawn(task));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| executor.run(&done));
        }
        eventually("all tasks are done", || done.is_done());
    });
    assert!(begin.elapsed() < PATIENCE);
}

/// Makes the future anew after each few polls that found it pending.
async fn impatient<T, F: Future<Output = T>>(mut make: impl FnMut() -> F, polls: usize) -> T {
    loop {
        let mut future = Box::pin(make());
        let mut left = polls;
        let polled = futures::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        })
        .await;
        drop(future);
        match polled {
            Some(output) => return output,
            None => smol::future::yield_now().await,
        }
    }
}

fn everything_works_when_futures_are_dropped_at_any_await(driver: &Driver) {
    for polls in 0..3 {
        both_roles(driver, SMALL, None, |here, there| {
            let (here, there) = (Arc::new(here), Arc::new(there));
            let executor = Arc::new(Restless::default());
            let done = Done::default();
            let spawn = |task: BoxFuture<'static, ()>| {
                let done = done.clone();
                done.0.fetch_add(1, Ordering::SeqCst);
                executor.spawn(
                    async move {
                        task.await;
                        done.0.fetch_sub(1, Ordering::SeqCst);
                    }
                    .boxed(),
                );
            };
            let received = Arc::new(Mutex::new(Vec::new()));
            for sender in 0..3_u64 {
                let here = here.clone();
                spawn(
                    async move {
                        for n in 0..200 {
                            let next = packet(sender << 32 | n, 50);
                            impatient(|| here.send(next.clone()), polls).await.unwrap();
                        }
                    }
                    .boxed(),
                );
            }
            for _ in 0..3 {
                let (there, received) = (there.clone(), received.clone());
                spawn(
                    async move {
                        while let Some(packet) = impatient(|| there.recv(), polls).await {
                            let mut received = received.lock().unwrap();
                            received.push(number(&packet));
                            if received.len() == 600 {
                                there.close();
                            }
                        }
                    }
                    .boxed(),
                );
            }
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| executor.run(&done));
                }
                eventually("all tasks are done", || done.is_done());
            });
            let mut received = std::mem::take(&mut *received.lock().unwrap());
            received.sort_unstable();
            let expected: Vec<_> =
                (0..3).flat_map(|sender| (0..200).map(move |n| sender << 32 | n)).collect();
            assert_eq!(received, expected);
        });
    }
}

/// A waker that does what it is told, once.
struct Does(Mutex<Option<Box<dyn FnOnce() + Send>>>, AtomicBool);

impl Does {
    fn new(action: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Box::new(action))), AtomicBool::new(false)))
    }

    fn was_called(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}

impl Wake for Does {
    fn wake(self: Arc<Self>) {
        // Behind the action, however it ends.
        struct Called<'a>(&'a AtomicBool);
        impl Drop for Called<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _called = Called(&self.1);
        let action = self.0.lock().unwrap().take();
        if let Some(action) = action {
            action();
        }
    }
}

fn poll_with<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Arc<Does>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(waker.clone())))
}

fn only_the_last_waker_counts(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..100 {
            let mut recv = Box::pin(there.recv());
            let wakers: [_; 4] = std::array::from_fn(|_| Does::new(|| {}));
            for waker in &wakers {
                assert!(poll_with(recv.as_mut(), waker).is_pending());
            }
            here.try_send(packet(n, 8)).unwrap();
            eventually("the last is woken", || wakers[3].was_called());
            assert_eq!(poll_once(recv.as_mut()), Poll::Ready(Some(packet(n, 8))));
        }
    });
}

fn a_waker_that_panics_disturbs_nobody_else(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let panics = || Does::new(|| resume_unwind(Box::new("a waker")));
        let (bad_recv, bad_closed, good) = (panics(), panics(), Does::new(|| {}));
        let mut recv = Box::pin(there.recv());
        let mut closed = Box::pin(there.closed());
        let mut last = Box::pin(there.recv());
        assert!(poll_with(recv.as_mut(), &bad_recv).is_pending());
        assert!(poll_with(closed.as_mut(), &bad_closed).is_pending());
        assert!(poll_with(last.as_mut(), &good).is_pending());
        // An end wakes everybody.
        here.cancel();
        eventually("all are woken", || {
            bad_recv.was_called() && bad_closed.was_called() && good.was_called()
        });
        assert_eq!(poll_once(recv.as_mut()), Poll::Ready(None));
        assert_eq!(poll_once(last.as_mut()), Poll::Ready(None));
        assert_eq!(poll_once(closed.as_mut()), Poll::Ready(CloseReason::Cancelled));
    });
    // Nor does a panic in our own thread, out of a local cancel.
    both_roles(driver, SMALL, None, |_here, there| {
        let bad = Does::new(|| resume_unwind(Box::new("a waker")));
        let mut recv = Box::pin(there.recv());
        assert!(poll_with(recv.as_mut(), &bad).is_pending());
        assert!(catch_unwind(AssertUnwindSafe(|| there.cancel())).is_ok());
        // Here, or on the driver's thread.
        eventually("it is woken", || bad.was_called());
        assert_eq!(poll_once(recv.as_mut()), Poll::Ready(None));
    });
    // The driver goes on.
    let (face, handle) = pair(driver, SMALL);
    face.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", handle.recv()), Some(packet(1, 8)));
}

fn a_waker_that_panics_keeps_its_place_until_it_is_dropped(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let bad = Does::new(|| resume_unwind(Box::new("a waker")));
        let good = Does::new(|| {});
        let mut first = Box::pin(there.recv());
        let mut second = Box::pin(there.recv());
        assert!(poll_with(first.as_mut(), &bad).is_pending());
        assert!(poll_with(second.as_mut(), &good).is_pending());
        here.try_send(packet(1, 8)).unwrap();
        eventually("the first is woken", || bad.was_called());
        assert!(!good.was_called());
        drop(first);
        eventually("the second is woken", || good.was_called());
        assert_eq!(poll_once(second.as_mut()), Poll::Ready(Some(packet(1, 8))));
    });
}

/// What is in there, to be dropped without the lock.
fn take<T: Default>(place: &Mutex<T>) -> T {
    std::mem::take(&mut *place.lock().unwrap())
}

/// A receive that owns its end.
fn owned_recv(end: &Arc<Endpoint>) -> BoxFuture<'static, Option<bytes::Bytes>> {
    let end = end.clone();
    async move { end.recv().await }.boxed()
}

fn owned_send(end: &Arc<Endpoint>, n: u64) -> BoxFuture<'static, Result<(), ShmError>> {
    let end = end.clone();
    async move { end.send(packet(n, 8)).await }.boxed()
}

fn a_waker_that_drops_another_waiter_does_no_harm(driver: &Driver) {
    for drops_next in [true, false] {
        both_roles(driver, SMALL, None, |here, there| {
            let there = Arc::new(there);
            let mut others: Vec<_> = (0..3).map(|_| owned_recv(&there)).collect();
            let mut first = owned_recv(&there);
            let good = Does::new(|| {});
            let victims = Arc::new(Mutex::new(Vec::new()));
            let taken = victims.clone();
            let dropper = Does::new(move || drop(take(&taken)));
            // Wakes may come for no reason: until all is in its place, this one has to wait.
            let mut place = victims.lock().unwrap();
            if drops_next {
                assert!(poll_with(first.as_mut(), &dropper).is_pending());
            }
            let silent = Does::new(|| {});
            for other in &mut others[..2] {
                assert!(poll_with(other.as_mut(), &silent).is_pending());
            }
            if !drops_next {
                assert!(poll_with(first.as_mut(), &dropper).is_pending());
            }
            assert!(poll_with(others[2].as_mut(), &good).is_pending());
            let mut last = others.pop().unwrap();
            *place = others;
            drop(place);
            here.try_send(packet(1, 8)).unwrap();
            if drops_next {
                eventually("the first is woken", || dropper.was_called());
                eventually("the others are gone", || victims.lock().unwrap().is_empty());
                assert_eq!(poll_once(first.as_mut()), Poll::Ready(Some(packet(1, 8))));
            } else {
                // The first two have the wake and do not heed it: they are dropped by an end.
                eventually("one is woken", || silent.was_called());
                drop(take(&victims));
                eventually("it is passed on", || dropper.was_called());
                assert_eq!(poll_once(first.as_mut()), Poll::Ready(Some(packet(1, 8))));
            }
            here.try_send(packet(2, 8)).unwrap();
            eventually("the last is woken", || good.was_called());
            assert_eq!(poll_once(last.as_mut()), Poll::Ready(Some(packet(2, 8))));
        });
    }
    // With everybody woken at once.
    both_roles(driver, SMALL, None, |here, there| {
        let there = Arc::new(there);
        let victims = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..20 {
            let mut recv = owned_recv(&there);
            let taken = victims.clone();
            let dropper = Does::new(move || {
                // Two, because one may have been woken before for no reason and has no waker left.
                let victims = {
                    let mut victims = taken.lock().unwrap();
                    let rest = victims.len().saturating_sub(2);
                    victims.split_off(rest)
                };
                drop(victims);
            });
            assert!(poll_with(recv.as_mut(), &dropper).is_pending());
            victims.lock().unwrap().push(recv);
        }
        here.cancel();
        eventually("all are gone", || victims.lock().unwrap().is_empty());
        assert_eq!(wait("recv", there.recv()), None);
    });
}

fn a_waker_that_drops_another_sender_does_no_harm(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let here = Arc::new(here);
        let filled = fill(&here);
        let mut first = owned_send(&here, filled);
        let victims = Arc::new(Mutex::new(Vec::new()));
        let taken = victims.clone();
        let dropper = Does::new(move || drop(take(&taken)));
        let mut place = victims.lock().unwrap();
        assert!(poll_with(first.as_mut(), &dropper).is_pending());
        let silent = Does::new(|| {});
        for _ in 0..3 {
            let mut send = owned_send(&here, 999);
            assert!(poll_with(send.as_mut(), &silent).is_pending());
            place.push(send);
        }
        drop(place);
        let last = owned_send(&here, filled + 1);
        std::thread::scope(|scope| {
            let last = scope.spawn(|| wait("the last", last));
            for n in 0..filled {
                assert_eq!(number(&there.try_recv().unwrap()), n);
            }
            eventually("the first is woken", || dropper.was_called());
            assert!(matches!(poll_once(first.as_mut()), Poll::Ready(Ok(()))));
            last.join().unwrap().unwrap();
        });
        let received: Vec<_> =
            std::iter::from_fn(|| there.try_recv().ok()).map(|packet| number(&packet)).collect();
        assert_eq!(received, [filled, filled + 1]);
    });
}

fn a_waker_that_drops_the_end_does_no_harm(driver: &Driver) {
    for _ in 0..20 {
        both_roles(driver, SMALL, None, |here, there| {
            let there = Arc::new(there);
            let mut recv = owned_recv(&there);
            drop(there);
            let place = Arc::new(Mutex::new(None));
            let taken = place.clone();
            // With it goes the last reference to the end, on the driver's thread.
            let dropper = Does::new(move || drop(take(&taken)));
            let mut waiting = place.lock().unwrap();
            assert!(poll_with(recv.as_mut(), &dropper).is_pending());
            *waiting = Some(recv);
            drop(waiting);
            // A wake that comes for no reason drops it before this.
            let _ = here.try_send(packet(1, 8));
            assert_eq!(wait("recv", here.recv()), None);
            assert_eq!(here.close_reason(), Some(CloseReason::Peer));
        });
    }
    // A face too, with its name.
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    let mut recv = async move { face.recv().await }.boxed();
    let place = Arc::new(Mutex::new(None));
    let taken = place.clone();
    let dropper = Does::new(move || drop(take(&taken)));
    let mut waiting = place.lock().unwrap();
    assert!(poll_with(recv.as_mut(), &dropper).is_pending());
    *waiting = Some(recv);
    drop(waiting);
    handle.cancel();
    eventually("the name is given up", || !std::path::Path::new(&name).exists());
    assert!(SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).is_ok());
}

fn a_waker_that_uses_the_end_does_no_harm(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let there = Arc::new(there);
        let used = Arc::new(AtomicUsize::new(0));
        let user = || {
            let (end, used) = (there.clone(), used.clone());
            Does::new(move || {
                while let Ok(packet) = end.try_recv() {
                    end.send_blocking(packet).unwrap();
                }
                end.stats();
                if let Poll::Ready(Some(packet)) = poll_once(owned_recv(&end).as_mut()) {
                    end.send_blocking(packet).unwrap();
                }
                used.fetch_add(1, Ordering::SeqCst);
            })
        };
        let mut recvs: Vec<_> = (0..5).map(|_| owned_recv(&there)).collect();
        for n in 0..50 {
            here.try_send(packet(n, 8)).unwrap();
            eventually("the echo", || {
                for recv in &mut recvs {
                    if let Poll::Ready(packet) = poll_with(recv.as_mut(), &user()) {
                        there.try_send(packet.unwrap()).unwrap();
                        *recv = owned_recv(&there);
                    }
                }
                here.try_recv().is_ok_and(|packet| number(&packet) == n)
            });
            // Asleep, all of them, so that the next one goes by a waker.
            for recv in &mut recvs {
                assert!(poll_with(recv.as_mut(), &user()).is_pending());
            }
        }
        here.close();
        eventually("wakers were called", || used.load(Ordering::SeqCst) >= 5);
        let ended = wait("the ends", join_all(recvs));
        assert!(ended.into_iter().all(|received| received.is_none()));
    });
}
