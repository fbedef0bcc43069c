//! Drivers that others run: parked in and polled, on both backends. What should not be done with them
//! is in `misuse`.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use async_io::Async;
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wakering::{
    Backend, CloseReason, Driver, Endpoint, PolledDriver, RecvTimeoutError, ShmError, SpscFace,
    SpscHandle,
};

use crate::common::child::test_path;

/// No test waits longer than this for what must happen.
const DEADLINE: Duration =
    Duration::from_secs(if option_env!("WAKERING_SLOW").is_some() { 200 } else { 20 });

/// Each of these functions is a test on each backend.
macro_rules! on_both_backends {
    ($($name:ident)*) => {
        mod io_uring { $(#[test] fn $name() { super::run(super::Backend::IoUring, super::$name) })* }
        mod epoll { $(#[test] fn $name() { super::run(super::Backend::Epoll, super::$name) })* }
    };
}

fn run(backend: Backend, test: fn(Backend)) {
    match Driver::builder().backend(backend).build() {
        Ok(_) => test(backend),
        Err(error) if backend == Backend::IoUring => eprintln!("left out: {error}"),
        Err(error) => panic!("no {backend} driver: {error}"),
    }
}

on_both_backends! {
    a_park_ends_at_its_timeout
    an_unpark_before_the_park_is_not_lost
    unparks_are_merged
    an_unpark_from_another_thread_ends_the_sleep
    an_unpark_shows_what_was_written_before
    a_wake_ends_the_park
    a_park_inside_of_a_park_is_an_error
    moving_from_thread_to_thread_loses_no_wake
    threads_that_parked_may_exit
    block_on_needs_no_other_thread
    block_on_serves_others_while_its_future_wakes_itself
    block_on_works_on_a_background_driver
    block_on_bears_a_future_that_uses_up_an_unpark
    block_on_polls_again_a_future_that_parks_in_its_driver
    a_task_that_is_always_runnable_starves_no_channel
    an_executor_that_never_sleeps_hears_of_its_channels
    dropping_the_driver_ends_a_receive_at_any_moment
    two_threads_block_on_one_driver
    dropping_the_driver_ends_its_endpoints
    dropping_the_driver_ends_a_connect
    a_driver_that_was_never_run_leaks_nothing
    an_endpoint_may_be_dropped_while_its_driver_is_parked
    blocking_calls_learn_of_the_end_though_nobody_runs_the_driver
    blocking_calls_learn_of_a_death_of_a_peer_that_came_later
    a_connect_to_a_face_that_nobody_runs_times_out
    a_polled_driver_is_readable_when_there_is_something_to_do
    a_polled_driver_works_under_smol
    a_polled_driver_works_under_async_std
    edges_suffice_for_a_polled_driver
    the_thread_that_turns_may_also_poll
    the_thread_that_turned_may_be_busy
    the_thread_that_turned_may_have_exited
    a_second_turn_at_once_is_an_error
    a_drivers_debug_form_tells_whether_anybody_runs_it
}

fn parked(backend: Backend) -> Driver {
    let driver = Driver::builder().backend(backend).build().unwrap();
    assert_eq!(driver.backend(), backend);
    driver
}

fn polled(backend: Backend) -> PolledDriver {
    let driver = Driver::builder().backend(backend).polled().unwrap();
    assert_eq!(driver.backend(), backend);
    driver
}

/// Both ends of a channel, each in the care of its driver, without any spinning.
fn ends(face: &Driver, handle: &Driver) -> (SpscFace, SpscHandle) {
    let builder = SpscFace::builder().driver(face).ring_bytes(4096).spin(Duration::ZERO);
    let (face, descriptor) = builder.pair().unwrap();
    let builder = SpscHandle::builder().driver(handle).spin(Duration::ZERO);
    (face, builder.from_fd(descriptor).unwrap())
}

fn number(packet: &Bytes) -> u64 {
    u64::from_le_bytes(packet[..].try_into().unwrap())
}

fn packet(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

/// Parks until the condition holds.
fn park_until(driver: &Driver, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        driver.park(Some(DEADLINE)).unwrap();
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A waker that counts and does something.
struct Woken<F: Fn() + Send + Sync>(AtomicUsize, F);

impl<F: Fn() + Send + Sync + 'static> Woken<F> {
    fn new(then: F) -> (Arc<Self>, Waker) {
        let woken = Arc::new(Self(AtomicUsize::new(0), then));
        (woken.clone(), Waker::from(woken))
    }

    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl<F: Fn() + Send + Sync + 'static> Wake for Woken<F> {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
        (self.1)();
    }
}

/// A directory for sockets, gone with the test.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        use std::os::unix::fs::DirBuilderExt;
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, SeqCst);
        let name = format!("wakering-driver-{test}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    fn name(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

fn kind(error: ShmError) -> ErrorKind {
    std::io::Error::from(error).kind()
}

fn echo(end: impl Into<Endpoint>) -> impl Future<Output = u64> + Send {
    let end = end.into();
    async move {
        let mut rounds = 0;
        while let Some(packet) = end.recv().await {
            end.send(packet).await.unwrap();
            rounds += 1;
        }
        rounds
    }
}

/// Sends and receives back, each time after a park at this end.
async fn ask(handle: &SpscHandle, rounds: u64) {
    for round in 0..rounds {
        handle.send(packet(round)).await.unwrap();
        assert_eq!(number(&handle.recv().await.unwrap()), round);
    }
}

fn a_park_ends_at_its_timeout(backend: Backend) {
    let driver = parked(backend);
    driver.park(Some(Duration::ZERO)).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(30) {
        driver.park(Some(Duration::from_millis(30))).unwrap();
    }
    assert!(start.elapsed() < DEADLINE);
}

fn an_unpark_before_the_park_is_not_lost(backend: Backend) {
    let driver = parked(backend);
    let unparker = driver.unparker();
    for _ in 0..1000 {
        unparker.unpark();
        driver.park(None).unwrap();
        Waker::from(unparker.clone()).wake();
        driver.park(None).unwrap();
    }
}

fn unparks_are_merged(backend: Backend) {
    let driver = parked(backend);
    let unparker = driver.unparker();
    driver.park(Some(Duration::ZERO)).unwrap();
    for _ in 0..10 {
        unparker.unpark();
    }
    driver.park(None).unwrap();
    let start = Instant::now();
    let mut parks = 0;
    while start.elapsed() < Duration::from_millis(50) {
        driver.park(Some(Duration::from_millis(50))).unwrap();
        parks += 1;
    }
    assert!(parks < 4, "{parks}: early returns for unparks that were used up");
}

fn an_unpark_from_another_thread_ends_the_sleep(backend: Backend) {
    let driver = parked(backend);
    let unparker = driver.unparker();
    let (ask, asked) = channel::<()>();
    let other = thread::spawn(move || asked.iter().for_each(|()| unparker.unpark()));
    for _ in 0..5000 {
        ask.send(()).unwrap();
        driver.park(None).unwrap();
    }
    drop(ask);
    other.join().unwrap();
}

fn an_unpark_shows_what_was_written_before(backend: Backend) {
    const ROUNDS: usize = 20_000;
    let driver = parked(backend);
    let unparker = driver.unparker();
    let written = Arc::new(AtomicUsize::new(0));
    let (writer, read) = (written.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = read.clone();
    let other = thread::spawn(move || {
        for round in 1..=ROUNDS {
            writer.store(round, std::sync::atomic::Ordering::Relaxed);
            unparker.unpark();
            if round % 64 == 0 {
                eventually("it was seen", || seen.load(SeqCst) >= round);
            }
        }
    });
    park_until(&driver, "all was seen", || {
        let now = written.load(std::sync::atomic::Ordering::Relaxed);
        read.store(now, SeqCst);
        now == ROUNDS
    });
    other.join().unwrap();
}

fn a_wake_ends_the_park(backend: Backend) {
    let driver = parked(backend);
    let (face, handle) = ends(&driver, &Driver::builder().background().unwrap());
    let (send, ask) = channel::<u64>();
    let other = thread::spawn(move || ask.iter().for_each(|n| handle.try_send(packet(n)).unwrap()));
    let (woken, waker) = Woken::new(|| {});
    for round in 0..1000 {
        let mut received = pin!(face.recv());
        assert!(poll_once(received.as_mut(), &waker).is_pending());
        let mut before = woken.count();
        send.send(round).unwrap();
        // Polled only when woken, which may also be in vain.
        let packet = loop {
            park_until(&driver, "woken", || woken.count() > before);
            before = woken.count();
            if let Poll::Ready(packet) = poll_once(received.as_mut(), &waker) {
                break packet.unwrap();
            }
        };
        assert_eq!(number(&packet), round);
    }
    drop(send);
    other.join().unwrap();
}

fn a_park_inside_of_a_park_is_an_error(backend: Backend) {
    let driver = parked(backend);
    let (face, handle) = ends(&driver, &driver);
    let (inner, result) = (driver.clone(), Arc::new(Mutex::new(None)));
    let found = result.clone();
    let (_, waker) = Woken::new(move || {
        *found.lock().unwrap() = Some(inner.park(None));
    });
    let mut received = pin!(face.recv());
    assert!(poll_once(received.as_mut(), &waker).is_pending());
    handle.try_send(packet(1)).unwrap();
    park_until(&driver, "woken", || result.lock().unwrap().is_some());
    let error = result.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!(kind(error), ErrorKind::ResourceBusy);
}

fn moving_from_thread_to_thread_loses_no_wake(backend: Backend) {
    const ROUNDS: u64 = 50_000;
    const EACH: u64 = 100;
    let driver = parked(backend);
    let (face, handle) = ends(&Driver::builder().background().unwrap(), &driver);
    let echo = thread::spawn(move || pollster::block_on(echo(face)));
    // Three threads take turns; the future goes round with its waits armed.
    let future = async move { ask(&handle, ROUNDS).await };
    type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
    let rings: Vec<(Sender<Task>, Receiver<Task>)> = (0..3).map(|_| channel()).collect();
    let senders: Vec<_> = rings.iter().map(|(sender, _)| sender.clone()).collect();
    let (finished, end) = channel();
    senders[0].send(Box::pin(future)).unwrap();
    for (place, (_, tasks)) in rings.into_iter().enumerate() {
        let (driver, next) = (driver.clone(), senders[(place + 1) % 3].clone());
        let finished = finished.clone();
        thread::spawn(move || {
            let waker = Waker::from(driver.unparker());
            for mut task in tasks {
                let mut polls = 0;
                loop {
                    if poll_once(task.as_mut(), &waker).is_ready() {
                        return finished.send(()).unwrap();
                    }
                    polls += 1;
                    if polls == EACH {
                        break;
                    }
                    driver.park(Some(DEADLINE)).unwrap();
                }
                if next.send(task).is_err() {
                    return;
                }
            }
        });
    }
    end.recv_timeout(DEADLINE * 6).expect("a wake was lost");
    drop(senders);
    drop(driver);
    assert_eq!(echo.join().unwrap(), ROUNDS);
}

fn threads_that_parked_may_exit(backend: Backend) {
    let driver = parked(backend);
    let (face, handle) = ends(&Driver::builder().background().unwrap(), &driver);
    let echo = thread::spawn(move || pollster::block_on(echo(face)));
    let (woken, waker) = Woken::new(|| {});
    {
        let mut asking = pin!(ask(&handle, 200));
        let mut before = woken.count();
        while poll_once(asking.as_mut(), &waker).is_pending() {
            let end = Instant::now() + DEADLINE;
            while woken.count() == before {
                assert!(Instant::now() < end, "a wake was lost");
                let park = || driver.park(Some(DEADLINE));
                thread::scope(|scope| scope.spawn(park).join().unwrap()).unwrap();
            }
            before = woken.count();
        }
    }
    drop(handle);
    assert_eq!(echo.join().unwrap(), 200);
}

fn block_on_needs_no_other_thread(backend: Backend) {
    let driver = parked(backend);
    let (face, handle) = ends(&driver, &driver);
    let rounds = driver.block_on(async {
        let (rounds, ()) = futures::join!(echo(face), async move {
            ask(&handle, 2000).await;
            handle.close();
        });
        rounds
    });
    assert_eq!(rounds, 2000);
}

fn block_on_serves_others_while_its_future_wakes_itself(backend: Backend) {
    let driver = parked(backend);
    let (face, handle) = ends(&driver, &Driver::builder().background().unwrap());
    let done = AtomicBool::new(false);
    let sender = thread::spawn(move || {
        pollster::block_on(async move {
            for round in 0..10 {
                handle.send(packet(round)).await.unwrap();
            }
            handle.closed().await
        })
    });
    driver.block_on(async {
        let receive = async {
            // Through a waker, each time.
            for _ in 0..10 {
                face.recv().await.unwrap();
            }
            done.store(true, SeqCst);
        };
        let spin = async {
            while !done.load(SeqCst) {
                let mut polled = false;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut polled, true) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
            }
        };
        // In separate tasks, as an executor has them: `receive` is polled only when it is woken.
        let tasks = futures::stream::FuturesUnordered::from_iter([
            futures::future::FutureExt::boxed_local(receive),
            futures::future::FutureExt::boxed_local(spin),
        ]);
        futures::StreamExt::collect::<Vec<()>>(tasks).await;
    });
    drop(face);
    assert_eq!(sender.join().unwrap(), CloseReason::Peer);
}

fn block_on_works_on_a_background_driver(backend: Backend) {
    let driver = Driver::builder().backend(backend).background().unwrap();
    let (face, handle) = ends(&driver, &driver);
    let echo = thread::spawn(move || pollster::block_on(echo(face)));
    driver.block_on(ask(&handle, 500));
    drop(handle);
    assert_eq!(echo.join().unwrap(), 500);
}

/// As one does that blocks, and one that is woken while it does.
fn block_on_bears_a_future_that_uses_up_an_unpark(backend: Backend) {
    let builder = || Driver::builder().backend(backend);
    for driver in [builder().background().unwrap(), builder().build().unwrap()] {
        let mut polls = 0;
        driver.block_on(poll_fn(|cx| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake()).join().unwrap();
            thread::park();
            Poll::Pending
        }));
        assert_eq!(polls, 2);
    }
}

fn block_on_polls_again_a_future_that_parks_in_its_driver(backend: Backend) {
    let driver = parked(backend);
    let (done, is_done) = channel();
    thread::spawn(move || {
        let mut polls = 0;
        driver.block_on(poll_fn(|cx| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            driver.park(Some(Duration::ZERO)).unwrap();
            Poll::Pending
        }));
        done.send(()).unwrap();
    });
    assert!(is_done.recv_timeout(DEADLINE).is_ok(), "it was woken, and sleeps");
}

/// Receives on an end of `driver` beside a task of the same executor that always yields.
fn a_task_that_is_always_runnable_starves_no_channel(backend: Backend) {
    let driver = parked(backend);
    let background = Driver::builder().backend(backend).background().unwrap();
    let (face, handle) = ends(&driver, &background);
    let sender = thread::spawn(move || {
        for n in 0..10 {
            // Each one after a sleep of the driver's own kind: spins, ends of spins, none at all.
            thread::sleep(Duration::from_millis(n));
            handle.try_send(packet(n)).unwrap();
        }
        handle
    });
    let (received, begun) = (std::cell::Cell::new(0), Instant::now());
    let executor = smol::LocalExecutor::new();
    let receiver = executor.spawn(async {
        for n in 0..10 {
            assert_eq!(number(&face.recv().await.unwrap()), n);
            received.set(n + 1);
        }
    });
    let busy = executor.spawn(async {
        while received.get() < 10 && begun.elapsed() < DEADLINE {
            smol::future::yield_now().await;
        }
    });
    driver.block_on(executor.run(async { futures::join!(receiver, busy) }));
    assert!(begun.elapsed() < DEADLINE, "it got {} of 10", received.get());
    drop(sender.join().unwrap());
}

/// As an executor does that parks with a timeout of zero, or after an unpark, between two tasks.
fn an_executor_that_never_sleeps_hears_of_its_channels(backend: Backend) {
    for unparks in [false, true] {
        let driver = parked(backend);
        let background = Driver::builder().backend(backend).background().unwrap();
        let (face, handle) = ends(&driver, &background);
        let (woken, waker) = Woken::new(|| {});
        for n in 0..20 {
            let mut recv = pin!(face.recv());
            assert!(poll_once(recv.as_mut(), &waker).is_pending());
            let mut before = woken.count();
            handle.try_send(packet(n)).unwrap();
            let begun = Instant::now();
            let received = loop {
                assert!(begun.elapsed() < DEADLINE, "packet {n} was slept over");
                if unparks {
                    driver.unparker().unpark();
                    driver.park(None).unwrap();
                } else {
                    driver.park(Some(Duration::ZERO)).unwrap();
                }
                if std::mem::replace(&mut before, woken.count()) != woken.count()
                    && let Poll::Ready(received) = poll_once(recv.as_mut(), &waker)
                {
                    break received;
                }
            };
            assert_eq!(number(&received.unwrap()), n);
        }
    }
}

/// A task on another thread polls its receive while the last handle is dropped.
fn dropping_the_driver_ends_a_receive_at_any_moment(backend: Backend) {
    for round in 0..300 {
        let driver = parked(backend);
        let (face, handle) = ends(&driver, &driver);
        let go = Arc::new(AtomicUsize::new(0));
        let (done, is_done) = channel();
        let there = go.clone();
        let receiver = thread::spawn(move || {
            there.fetch_add(1, SeqCst);
            while there.load(SeqCst) < 2 {}
            done.send(pollster::block_on(face.recv())).unwrap();
        });
        while go.load(SeqCst) < 1 {}
        go.fetch_add(1, SeqCst);
        for _ in 0..(round % 100) * 8 {
            std::hint::spin_loop();
        }
        drop(driver);
        assert_eq!(is_done.recv_timeout(DEADLINE), Ok(None), "round {round}");
        receiver.join().unwrap();
        drop(handle);
    }
}

fn two_threads_block_on_one_driver(backend: Backend) {
    let driver = parked(backend);
    let (face, handle) = ends(&driver, &driver);
    let other = driver.clone();
    let echo = thread::spawn(move || other.block_on(echo(face)));
    driver.block_on(ask(&handle, 200));
    drop(handle);
    assert_eq!(echo.join().unwrap(), 200);
}

fn dropping_the_driver_ends_its_endpoints(backend: Backend) {
    for run_before in [false, true] {
        let driver = parked(backend);
        let background = Driver::builder().background().unwrap();
        let (face, handle) = ends(&driver, &background);
        if run_before {
            driver.park(Some(Duration::ZERO)).unwrap();
        }
        let (woken, waker) = Woken::new(|| {});
        let mut received = pin!(face.recv());
        assert!(poll_once(received.as_mut(), &waker).is_pending());
        let clone = driver.clone();
        drop(driver);
        assert_eq!(woken.count(), 0, "there is another handle");
        drop(clone);
        assert!(woken.count() > 0);
        assert!(poll_once(received.as_mut(), &waker).is_ready());
        assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
        assert_eq!(pollster::block_on(handle.closed()), CloseReason::Cancelled);
        assert_eq!(
            handle.recv_timeout(DEADLINE),
            Err(RecvTimeoutError::Closed(CloseReason::Cancelled))
        );
    }
}

fn dropping_the_driver_ends_a_connect(backend: Backend) {
    let directory = Directory::new("connect");
    let (idle, engine) = (parked(backend), parked(backend));
    let name = directory.name("face");
    let _face = SpscFace::builder().driver(&engine).create(&name).unwrap();
    let mut connecting = pin!(SpscHandle::builder().driver(&idle).connect_async(&name));
    let (woken, waker) = Woken::new(|| {});
    assert!(poll_once(connecting.as_mut(), &waker).is_pending());
    idle.park(Some(Duration::ZERO)).unwrap();
    assert_eq!(woken.count(), 0);
    drop(idle);
    assert!(woken.count() > 0);
    let Poll::Ready(Err(error)) = poll_once(connecting.as_mut(), &waker) else {
        panic!("nobody answers");
    };
    assert!(matches!(error, ShmError::Closed { reason: CloseReason::DriverGone, sent: 0 }));
}

fn a_driver_that_was_never_run_leaks_nothing(backend: Backend) {
    let driver = parked(backend);
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap();
    let regions = || maps().lines().filter(|line| line.contains("memfd:wakering")).count();
    // Other tests make regions meanwhile, but not that many.
    for _ in 0..3000 {
        drop(ends(&driver, &driver));
    }
    assert!(regions() < 2000, "{}", regions());
    drop(driver);
}

fn an_endpoint_may_be_dropped_while_its_driver_is_parked(backend: Backend) {
    let driver = parked(backend);
    let (face, handle) = ends(&driver, &driver);
    let stop = Arc::new(AtomicBool::new(false));
    let (clone, stopped, unparker) = (driver.clone(), stop.clone(), driver.unparker());
    let parker = thread::spawn(move || park_until(&clone, "stopped", || stopped.load(SeqCst)));
    for _ in 0..500 {
        drop(ends(&driver, &driver));
    }
    let (woken, waker) = Woken::new(|| {});
    let mut received = pin!(handle.recv());
    assert!(poll_once(received.as_mut(), &waker).is_pending());
    drop(face);
    eventually("the other end is told", || woken.count() > 0);
    assert!(poll_once(received.as_mut(), &waker).is_ready());
    stop.store(true, SeqCst);
    unparker.unpark();
    parker.join().unwrap();
}

fn blocking_calls_learn_of_the_end_though_nobody_runs_the_driver(backend: Backend) {
    let (idle, background) = (parked(backend), Driver::builder().background().unwrap());
    // The peer closes.
    let (face, handle) = ends(&idle, &background);
    let receiver = thread::spawn(move || (face.recv_blocking(), face.close_reason()));
    drop(handle);
    assert_eq!(receiver.join().unwrap(), (None, Some(CloseReason::Peer)));
    // A cancel from another thread.
    let (face, _handle) = ends(&idle, &background);
    let canceller = face.canceller();
    let receiver = thread::spawn(move || (face.recv_blocking(), face.close_reason()));
    thread::sleep(Duration::from_millis(5));
    canceller.cancel();
    assert_eq!(receiver.join().unwrap(), (None, Some(CloseReason::Cancelled)));
    // Deadlines.
    let builder = SpscFace::builder().driver(&idle).send_timeout(Some(Duration::from_millis(20)));
    let (face, _descriptor) = builder.ring_bytes(4096).pair().unwrap();
    assert_eq!(face.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
    while face.try_send(packet(0)).is_ok() {}
    assert!(matches!(face.send_blocking(packet(0)), Err(ShmError::TimedOut { sent: 0 })));
    // A death: the process that has the other end is gone without having closed it.
    let (face, descriptor) = SpscFace::builder().driver(&idle).pair().unwrap();
    let receiver = thread::spawn(move || (face.recv_blocking(), face.close_reason()));
    thread::sleep(Duration::from_millis(5));
    drop(descriptor);
    assert_eq!(receiver.join().unwrap(), (None, Some(CloseReason::PeerDied)));
    // The same while it waits for room.
    let (face, descriptor) = SpscFace::builder().driver(&idle).ring_bytes(4096).pair().unwrap();
    while face.try_send(packet(0)).is_ok() {}
    let sender = thread::spawn(move || face.send_blocking(packet(0)));
    thread::sleep(Duration::from_millis(5));
    drop(descriptor);
    let error = sender.join().unwrap().unwrap_err();
    assert!(
        matches!(error, ShmError::Closed { reason: CloseReason::PeerDied, sent: 0 }),
        "{error}"
    );
}

fn blocking_calls_learn_of_a_death_of_a_peer_that_came_later(backend: Backend) {
    let directory = Directory::new("later");
    let name = directory.name("face");
    let driver = parked(backend);
    let face = Arc::new(SpscFace::builder().driver(&driver).create(&name).unwrap());
    let blocked = face.clone();
    let receiver = thread::spawn(move || (blocked.recv_blocking(), blocked.close_reason()));
    let mut client = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test_path!(helper_sends_and_waits), "--ignored"])
        .env("WAKERING_TEST_FACE", &name)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    park_until(&driver, "connected", || face.is_connected());
    // From here on nobody runs the driver.
    assert_eq!(number(&receiver.join().unwrap().0.unwrap()), 1);
    let receiver = thread::spawn(move || (face.recv_blocking(), face.close_reason()));
    thread::sleep(Duration::from_millis(5));
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(receiver.join().unwrap(), (None, Some(CloseReason::PeerDied)));
}

#[test]
#[ignore = "run by blocking_calls_learn_of_a_death_of_a_peer_that_came_later"]
fn helper_sends_and_waits() {
    let handle = SpscHandle::connect(&std::env::var("WAKERING_TEST_FACE").unwrap()).unwrap();
    handle.send_blocking(packet(1)).unwrap();
    assert_eq!(handle.recv_timeout(DEADLINE), Err(RecvTimeoutError::Timeout));
}

fn a_connect_to_a_face_that_nobody_runs_times_out(backend: Backend) {
    let directory = Directory::new("idle");
    let name = directory.name("face");
    let driver = parked(backend);
    let face = SpscFace::builder().driver(&driver).create(&name).unwrap();
    let quick = || SpscHandle::builder().connect_timeout(Duration::from_millis(50));
    assert!(matches!(quick().connect(&name), Err(ShmError::TimedOut { sent: 0 })));
    let connected = pollster::block_on(quick().connect_async(&name));
    assert!(matches!(connected, Err(ShmError::TimedOut { sent: 0 })));
    drop(face);
    let listener = SpscFace::builder().driver(&driver).bind(&name).unwrap();
    assert!(matches!(quick().connect(&name), Err(ShmError::TimedOut { sent: 0 })));
    // Run again, it serves those who come then.
    let client = thread::spawn(move || SpscHandle::connect(&name).unwrap());
    let face = driver.block_on(listener.accept()).unwrap();
    drop(client.join().unwrap());
    drop(face);
}

fn is_readable(driver: &PolledDriver, timeout: Duration) -> bool {
    let mut set = [PollFd::new(driver, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).unwrap();
    let end = Instant::now() + DEADLINE;
    loop {
        match poll(&mut set, Some(&timeout)) {
            // The kernel completes here what this thread has submitted.
            Err(rustix::io::Errno::INTR) => assert!(Instant::now() < end),
            ready => return ready.unwrap() > 0,
        }
    }
}

/// Turns until there is nothing to do.
fn settle(driver: &PolledDriver) {
    driver.turn().unwrap();
    while is_readable(driver, Duration::from_millis(10)) {
        driver.turn().unwrap();
    }
}

fn a_polled_driver_is_readable_when_there_is_something_to_do(backend: Backend) {
    let driver = polled(backend);
    assert!(!is_readable(&driver, Duration::ZERO));
    let builder = SpscFace::builder().driver(&driver).ring_bytes(4096).spin(Duration::ZERO);
    let (face, descriptor) = builder.send_timeout(Some(Duration::from_millis(50))).pair().unwrap();
    assert!(is_readable(&driver, DEADLINE), "a registration");
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    settle(&driver);

    let (woken, waker) = Woken::new(|| {});
    let mut received = pin!(face.recv());
    assert!(poll_once(received.as_mut(), &waker).is_pending());
    assert!(!is_readable(&driver, Duration::ZERO), "to park costs nothing");
    thread::spawn(move || handle.try_send(packet(1)).map(|()| handle)).join().unwrap().unwrap();
    assert!(is_readable(&driver, DEADLINE), "a bell, and a hang-up behind it");
    while woken.count() == 0 {
        assert!(is_readable(&driver, DEADLINE));
        driver.turn().unwrap();
    }
    assert!(poll_once(received.as_mut(), &waker).is_ready());
    settle(&driver);

    driver.unparker().unpark();
    assert!(is_readable(&driver, DEADLINE), "an unpark");
    settle(&driver);

    let builder = SpscFace::builder().driver(&driver).ring_bytes(4096);
    let (face, _descriptor) = builder.send_timeout(Some(Duration::from_millis(50))).pair().unwrap();
    while face.try_send(packet(0)).is_ok() {}
    let mut sent = pin!(face.send(packet(0)));
    let start = Instant::now();
    while poll_once(sent.as_mut(), &waker).is_pending() {
        assert!(is_readable(&driver, DEADLINE), "a deadline");
        driver.turn().unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < DEADLINE);
}

/// Runs a ping-pong under any executor, with the driver in async-io's reactor.
fn under_a_reactor<S>(backend: Backend, spawn: S) -> impl Future<Output = ()>
where
    S: Fn(Pin<Box<dyn Future<Output = ()> + Send>>),
{
    let driver = polled(backend);
    let (face, handle) = ends(&driver, &Driver::builder().background().unwrap());
    let (other_face, other_handle) = ends(&driver, &driver);
    let driver = Arc::new(Async::new(driver).unwrap());
    let reactor = Arc::downgrade(&driver);
    spawn(Box::pin(async move {
        while let Some(driver) = reactor.upgrade() {
            driver.get_ref().turn().unwrap();
            driver.readable().await.unwrap();
        }
    }));
    spawn(Box::pin(async move {
        echo(face).await;
    }));
    spawn(Box::pin(async move {
        echo(other_face).await;
    }));
    async move {
        ask(&handle, 3000).await;
        ask(&other_handle, 3000).await;
        drop((handle, other_handle, driver));
    }
}

fn a_polled_driver_works_under_smol(backend: Backend) {
    smol::block_on(under_a_reactor(backend, |task| smol::spawn(task).detach()));
}

fn a_polled_driver_works_under_async_std(backend: Backend) {
    async_std::task::block_on(under_a_reactor(backend, |task| {
        async_std::task::spawn(task);
    }));
}

/// Waits by an edge-triggered epoll, as some reactors do, and turns only after an edge.
fn edges_suffice_for_a_polled_driver(backend: Backend) {
    use rustix::event::epoll;
    let driver = polled(backend);
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&set, driver.as_fd(), epoll::EventData::new_u64(0), flags).unwrap();
    let (face, handle) = ends(&driver, &Driver::builder().background().unwrap());
    driver.turn().unwrap();
    let echo = thread::spawn(move || pollster::block_on(echo(handle)));
    let (woken, waker) = Woken::new(|| {});
    let mut asking = Box::pin(async move {
        for round in 0..5000 {
            face.send(packet(round)).await.unwrap();
            assert_eq!(number(&face.recv().await.unwrap()), round);
        }
    });
    let timeout = Timespec::try_from(DEADLINE).unwrap();
    let mut events = Vec::with_capacity(4);
    loop {
        let before = woken.count();
        if poll_once(asking.as_mut(), &waker).is_ready() {
            break;
        }
        if woken.count() != before {
            // By itself, to let others run; or by the driver, in the background.
            continue;
        }
        events.clear();
        match epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(0) => panic!("no edge came"),
            Ok(_) => driver.turn().map(drop).unwrap(),
            Err(errno) => assert_eq!(errno, rustix::io::Errno::INTR),
        }
    }
    drop(asking);
    assert_eq!(echo.join().unwrap(), 5000);
}

/// Plays ping-pong over an end of `driver`, turned by `turn` each time that it is readable.
fn ask_by(driver: &PolledDriver, rounds: u64, mut turn: impl FnMut()) {
    let (face, handle) = ends(&Driver::builder().background().unwrap(), driver);
    let echo = thread::spawn(move || pollster::block_on(echo(face)));
    turn();
    let (woken, waker) = Woken::new(|| {});
    {
        let mut asking = pin!(ask(&handle, rounds));
        let mut before = woken.count();
        while poll_once(asking.as_mut(), &waker).is_pending() {
            while woken.count() == before {
                assert!(is_readable(driver, DEADLINE), "a wake was lost");
                turn();
            }
            before = woken.count();
        }
    }
    drop(handle);
    assert_eq!(echo.join().unwrap(), rounds);
}

fn the_thread_that_turns_may_also_poll(backend: Backend) {
    let driver = polled(backend);
    ask_by(&driver, 5000, || assert!(driver.turn().is_ok()));
}

fn the_thread_that_turned_may_be_busy(backend: Backend) {
    let driver = Arc::new(polled(backend));
    let (turn, turns) = channel::<()>();
    let (turned, waiting) = channel();
    let busy = driver.clone();
    let busy = thread::spawn(move || {
        loop {
            // Between two turns no system call: others see what it has armed all the same.
            match turns.try_recv() {
                Ok(()) => turned.send(busy.turn().map(drop)).unwrap(),
                Err(TryRecvError::Empty) => std::hint::spin_loop(),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    });
    ask_by(&driver, 200, || {
        turn.send(()).unwrap();
        waiting.recv_timeout(DEADLINE).unwrap().unwrap();
    });
    drop(turn);
    busy.join().unwrap();
}

fn the_thread_that_turned_may_have_exited(backend: Backend) {
    let driver = polled(backend);
    ask_by(&driver, 300, || {
        thread::scope(|scope| scope.spawn(|| driver.turn().map(drop)).join().unwrap()).unwrap();
    });
}

fn a_second_turn_at_once_is_an_error(backend: Backend) {
    let driver = Arc::new(polled(backend));
    let (face, handle) = ends(&driver, &driver);
    let result = Arc::new(Mutex::new(None));
    let (inner, found) = (Arc::downgrade(&driver), result.clone());
    let (_, waker) = Woken::new(move || {
        *found.lock().unwrap() = inner.upgrade().map(|driver| driver.turn());
    });
    let mut received = pin!(face.recv());
    assert!(poll_once(received.as_mut(), &waker).is_pending());
    handle.try_send(packet(1)).unwrap();
    while result.lock().unwrap().is_none() {
        driver.turn().unwrap();
    }
    let error = result.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!(kind(error), ErrorKind::ResourceBusy);
}

/// What is to be asked when a task hangs.
fn a_drivers_debug_form_tells_whether_anybody_runs_it(backend: Backend) {
    let tells = |driver: &Driver, what: &str| format!("{driver:?}").contains(what);
    let driver = parked(backend);
    assert!(tells(&driver, "last_run: never") && tells(&driver, "bound: 0"), "{driver:?}");
    let background = Driver::builder().backend(backend).background().unwrap();
    let (face, handle) = ends(&driver, &background);
    assert!(tells(&driver, "last_run: never") && tells(&driver, "bound: 1"), "{driver:?}");
    // That one runs by itself.
    assert!(!tells(&background, "last_run") && tells(&background, "bound: 1"), "{background:?}");
    let unparker = driver.unparker();
    thread::scope(|scope| {
        let parks = scope.spawn(|| while driver.park(None).is_ok() && !face.is_closed() {});
        eventually("it is run", || tells(&driver, "last_run: now"));
        handle.close();
        while !parks.is_finished() {
            unparker.unpark();
        }
    });
    assert!(tells(&driver, "s ago"), "{driver:?}");
    drop((face, handle));
    park_until(&driver, "nothing is bound", || tells(&driver, "bound: 0"));

    let driver = polled(backend);
    assert!(tells(&driver, "last_run: never"), "{driver:?}");
    driver.turn().unwrap();
    assert!(tells(&driver, "s ago"), "{driver:?}");
}
