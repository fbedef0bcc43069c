//! Tests of the driver as endpoints see it, on both backends.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::event_loop::EventLoop;
use super::poller::{Failure, Found, Poller};
use super::table::Id;
use super::*;
use crate::sync::{AtomicU32, lock};
use crate::sys::futex;

/// No test waits longer than this for what must happen.
const DEADLINE: Duration =
    Duration::from_secs(if option_env!("WAKERING_SLOW").is_some() { 200 } else { 20 });

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Wake,
    Ready(u16),
    Timer,
    Abandoned,
}

type Hook = Box<dyn Fn(&Probe, Call) + Send + Sync>;

/// A source that reports its calls.
struct Probe {
    word: AtomicU32,
    hook: Hook,
    registration: OnceLock<Registration>,
}

impl Probe {
    fn new(hook: impl Fn(&Probe, Call) + Send + Sync + 'static) -> Arc<Self> {
        let registration = OnceLock::new();
        Arc::new(Self { word: AtomicU32::new(7), hook: Box::new(hook), registration })
    }

    /// Makes a probe whose calls come out of a channel.
    fn reporting() -> (Arc<Self>, Receiver<Call>) {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        (Self::new(move |_, call| report(&sender, call)), receiver)
    }

    /// Wakes the probe as the peer does, in the way that this backend needs.
    fn wake(&self, registration: &Registration) {
        self.word.fetch_add(1, SeqCst);
        match registration.backend() {
            Backend::IoUring => futex::wake(&self.word),
            _ => registration.notify(),
        }
    }
}

impl Source for Probe {
    fn bell(&self) -> Option<&AtomicU32> {
        Some(&self.word)
    }
    fn on_wake(&self) {
        (self.hook)(self, Call::Wake);
    }
    fn on_ready(&self, token: u16) {
        (self.hook)(self, Call::Ready(token));
    }
    fn on_timer(&self) {
        (self.hook)(self, Call::Timer);
    }
    fn on_abandoned(&self) {
        (self.hook)(self, Call::Abandoned);
    }
}

fn report(sender: &Mutex<Sender<Call>>, call: Call) {
    // The receiver is gone once a test is over.
    let _ = lock(sender).send(call);
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the driver sleeps, so that the next event meets a sleeper.
fn asleep(driver: &Driver) -> u64 {
    let mut until = 0;
    eventually("the driver sleeps", || {
        until = driver.shared().asleep_until();
        until != 0
    });
    until
}

fn driver(backend: Backend) -> Driver {
    let driver = Driver::builder().backend(backend).background().unwrap();
    assert_eq!(driver.backend(), backend);
    driver
}

/// Makes each of these functions a test on each backend.
macro_rules! on_both_backends {
    ($($name:ident)*) => {
        mod io_uring {
            $(#[test] fn $name() {
                if $crate::driver::tests::has_io_uring() {
                    super::$name(super::Backend::IoUring)
                }
            })*
        }
        mod epoll { $(#[test] fn $name() { super::$name(super::Backend::Epoll) })* }
    };
}

/// Whether tests of io_uring can run here.
fn has_io_uring() -> bool {
    uring::probe().inspect_err(|error| eprintln!("left out, no io_uring here: {error}")).is_ok()
}

on_both_backends! {
    a_wake_reaches_the_source
    a_wake_before_the_driver_knows_the_bell_reaches_the_source
    no_wake_is_lost_in_a_ping_pong
    no_bell_of_thousands_is_missed
    timers_come_in_time
    only_an_earlier_timer_interrupts
    a_timer_that_has_passed_comes_at_once
    descriptors_are_reported
    a_descriptor_watched_by_a_callback_is_reported
    one_busy_descriptor_starves_nobody
    cancelling_drops_the_source
    cancelling_from_a_callback_ends_the_calls
    a_panic_disturbs_nobody_else
    a_source_may_own_its_registration_and_cancel_it
    churn_leaves_nothing_behind
    the_last_handle_ends_the_thread
    a_registration_alone_keeps_the_driver
    an_idle_driver_uses_no_processor
    the_thread_takes_no_signals
}

fn a_wake_reaches_the_source(backend: Backend) {
    let driver = driver(backend);
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    for _ in 0..100 {
        asleep(&driver);
        probe.wake(&registration);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    }
}

fn a_wake_before_the_driver_knows_the_bell_reaches_the_source(backend: Backend) {
    let driver = driver(backend);
    for _ in 0..100 {
        let (probe, calls) = Probe::reporting();
        let registration = driver.register(probe.clone()).unwrap();
        probe.wake(&registration);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    }
}

fn no_wake_is_lost_in_a_ping_pong(backend: Backend) {
    const ROUNDS: u32 = 100_000;
    let driver = driver(backend);
    let echo = Arc::new(AtomicU32::new(0));
    let answer = echo.clone();
    let probe = Probe::new(move |probe, _| {
        answer.store(probe.word.load(SeqCst), SeqCst);
        futex::wake(&answer);
    });
    let registration = driver.register(probe.clone()).unwrap();
    for round in 0..ROUNDS {
        probe.wake(&registration);
        let sent = Instant::now();
        loop {
            let heard = echo.load(SeqCst);
            if heard == 8 + round {
                break;
            }
            assert!(sent.elapsed() < DEADLINE, "lost in round {round}");
            futex::wait(&echo, heard, Some(DEADLINE));
        }
    }
}

fn no_bell_of_thousands_is_missed(backend: Backend) {
    // More at once than either queue of a ring holds.
    const BELLS: usize = 5000;
    let driver = driver(backend);
    let heard = Arc::new(AtomicUsize::new(0));
    let round = Arc::new(AtomicU32::new(0));
    let gate = Arc::new(Mutex::new(()));
    let probes: Vec<_> = (0..BELLS)
        .map(|_| {
            let (heard, round, gate) = (heard.clone(), round.clone(), gate.clone());
            let last = AtomicU32::new(0);
            let probe = Probe::new(move |_, _| {
                drop(lock(&gate));
                let now = round.load(SeqCst);
                if last.swap(now, SeqCst) != now {
                    heard.fetch_add(1, SeqCst);
                }
            });
            let registration = driver.register(probe.clone()).unwrap();
            (probe, registration)
        })
        .collect();
    for turn in 1..4 {
        asleep(&driver);
        heard.store(0, SeqCst);
        round.store(turn, SeqCst);
        let closed = lock(&gate);
        for (probe, registration) in &probes {
            probe.wake(registration);
        }
        drop(closed);
        eventually("all bells heard", || heard.load(SeqCst) == BELLS);
    }
    let weak: Vec<_> = probes.iter().map(|(probe, _)| Arc::downgrade(probe)).collect();
    drop(probes);
    eventually("all gone", || weak.iter().all(|weak| weak.strong_count() == 0));
}

fn timers_come_in_time(backend: Backend) {
    let driver = driver(backend);
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe).unwrap();
    for millis in [1, 20, 50] {
        let start = Instant::now();
        let after = Duration::from_millis(millis);
        registration.wake_at(start + after);
        registration.wake_at(start + after * 2);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Timer));
        let late = start.elapsed().checked_sub(after).expect("not before its time");
        assert!(late < Duration::from_secs(2), "{late:?} late");
    }
    assert!(calls.recv_timeout(Duration::from_millis(150)).is_err(), "one call for all requests");
}

fn only_an_earlier_timer_interrupts(backend: Backend) {
    let driver = driver(backend);
    let (one, calls) = Probe::reporting();
    let (another, _calls) = Probe::reporting();
    let one = driver.register(one).unwrap();
    let another = driver.register(another).unwrap();
    let now = Instant::now();

    one.wake_at(now + Duration::from_secs(100));
    let mut until = 0;
    eventually("it sleeps for the alarm", || {
        until = asleep(&driver);
        until != clock::NEVER
    });
    let interrupts = driver.shared().control().load(SeqCst);
    another.wake_at(now + Duration::from_secs(200));
    one.wake_at(now + Duration::from_secs(150));
    assert_eq!(driver.shared().asleep_until(), until, "it sleeps on");
    if backend == Backend::IoUring {
        assert_eq!(driver.shared().control().load(SeqCst), interrupts);
    }

    let start = Instant::now();
    one.wake_at(start + Duration::from_millis(5));
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Timer));
    assert!(start.elapsed() >= Duration::from_millis(5));
    eventually("it sleeps for the other", || asleep(&driver) > until);
}

fn a_timer_that_has_passed_comes_at_once(backend: Backend) {
    let driver = driver(backend);
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe).unwrap();
    registration.wake_at(Instant::now() - Duration::from_millis(1));
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Timer));
}

fn pair() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn descriptors_are_reported(backend: Backend) {
    let driver = driver(backend);
    let (ours, theirs) = pair();
    let ours = Arc::new(ours);
    let (sender, calls) = channel();
    let (sender, socket) = (Mutex::new(sender), ours.clone());
    let probe = Probe::new(move |probe, call| {
        let mut buffer = [0; 8];
        match rustix::io::read(&*socket, &mut buffer) {
            Ok(0) => {
                // Hung up, and stays so.
                probe.registration.get().unwrap().unwatch(socket.as_fd());
                report(&sender, Call::Abandoned);
            }
            Ok(_) => report(&sender, call),
            Err(_) => {}
        }
    });
    let registration = driver.register(probe.clone()).unwrap();
    probe.registration.set(registration).unwrap();
    let registration = probe.registration.get().unwrap();
    registration.watch(ours.as_fd(), 42).unwrap();
    assert!(registration.watch(ours.as_fd(), 43).is_err(), "watched twice");
    for _ in 0..100 {
        asleep(&driver);
        rustix::io::write(&theirs, b"x").unwrap();
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Ready(42)));
    }
    registration.unwatch(ours.as_fd());
    rustix::io::write(&theirs, b"y").unwrap();
    assert!(calls.recv_timeout(Duration::from_millis(50)).is_err(), "not watched now");
    registration.watch(ours.as_fd(), 44).unwrap();
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Ready(44)));
    drop(theirs);
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Abandoned));
    registration.cancel();
    assert!(registration.watch(ours.as_fd(), 45).is_err(), "cancelled");
}

fn a_descriptor_watched_by_a_callback_is_reported(backend: Backend) {
    let driver = driver(backend);
    let (ours, theirs) = pair();
    rustix::io::write(&theirs, b"x").unwrap();
    let (inner, calls) = Probe::reporting();
    let (handle, registered) = (driver.clone(), OnceLock::new());
    let outer = Probe::new(move |_, _| {
        registered.get_or_init(|| {
            let registration = handle.register(inner.clone()).unwrap();
            registration.watch(ours.as_fd(), 5).unwrap();
            registration.wake_at(Instant::now());
            registration
        });
    });
    let registration = driver.register(outer.clone()).unwrap();
    outer.wake(&registration);
    let mut seen = [calls.recv_timeout(DEADLINE).unwrap(), calls.recv_timeout(DEADLINE).unwrap()];
    while !seen.contains(&Call::Timer) || !seen.contains(&Call::Ready(5)) {
        seen[1] = calls.recv_timeout(DEADLINE).unwrap();
    }
}

fn one_busy_descriptor_starves_nobody(backend: Backend) {
    let driver = driver(backend);
    let busy: Vec<_> = (0..200).map(|_| pair()).collect();
    let idle = Probe::new(|_, _| {});
    let noise = driver.register(idle).unwrap();
    for (ours, theirs) in &busy {
        rustix::io::write(theirs, b"never read").unwrap();
        noise.watch(ours.as_fd(), 0).unwrap();
    }
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    let (ours, theirs) = pair();
    registration.watch(ours.as_fd(), 1).unwrap();
    probe.wake(&registration);
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    // One wake may be reported twice: its count fails the compare of the wait that is armed next,
    // and its wake then ends the wait after that.
    let next = || loop {
        match calls.recv_timeout(DEADLINE) {
            Ok(Call::Wake) => {}
            call => return call,
        }
    };
    registration.wake_at(Instant::now());
    assert_eq!(next(), Ok(Call::Timer));
    rustix::io::write(&theirs, b"x").unwrap();
    assert_eq!(next(), Ok(Call::Ready(1)));
    registration.unwatch(ours.as_fd());
    for (ours, _) in &busy {
        noise.unwatch(ours.as_fd());
    }
    asleep(&driver);
}

fn cancelling_drops_the_source(backend: Backend) {
    let driver = driver(backend);
    for armed in [true, false] {
        let (probe, calls) = Probe::reporting();
        let weak = Arc::downgrade(&probe);
        let registration = driver.register(probe).unwrap();
        registration.wake_at(Instant::now() + Duration::from_millis(20));
        if armed {
            // By now the wait is armed, and nothing will ever wake it.
            asleep(&driver);
        }
        registration.cancel();
        registration.cancel();
        eventually("the source is dropped", || weak.strong_count() == 0);
        registration.notify();
        registration.wake_at(Instant::now());
        assert_eq!(calls.iter().count(), 0, "calls after the end");
        drop(registration);
    }
    asleep(&driver);
}

fn cancelling_from_a_callback_ends_the_calls(backend: Backend) {
    let driver = driver(backend);
    let (sender, calls) = channel();
    let sender = Mutex::new(sender);
    let probe = Probe::new(move |probe, call| {
        report(&sender, call);
        probe.registration.get().unwrap().cancel();
        // Neither this wake nor the timer below causes a call any more.
        probe.wake(probe.registration.get().unwrap());
        probe.registration.get().unwrap().wake_at(Instant::now());
    });
    probe.registration.set(driver.register(probe.clone()).unwrap()).unwrap();
    let weak = Arc::downgrade(&probe);
    probe.wake(probe.registration.get().unwrap());
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    drop(probe);
    eventually("the source is dropped", || weak.strong_count() == 0);
    assert_eq!(calls.iter().count(), 0);
}

fn a_panic_disturbs_nobody_else(backend: Backend) {
    let driver = driver(backend);
    let unwinding = Probe::new(|_, _| std::panic::resume_unwind(Box::new(PanicsOnDrop)));
    let (probe, calls) = Probe::reporting();
    let bad = driver.register(unwinding.clone()).unwrap();
    let good = driver.register(probe.clone()).unwrap();
    for _ in 0..50 {
        asleep(&driver);
        unwinding.wake(&bad);
        bad.wake_at(Instant::now());
        probe.wake(&good);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    }
    let weak = Arc::downgrade(&unwinding);
    drop((bad, unwinding));
    eventually("it is dropped all the same", || weak.strong_count() == 0);
}

/// The payload of a panic that panics when it is dropped.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

fn a_source_may_own_its_registration_and_cancel_it(backend: Backend) {
    let driver = driver(backend);
    let weak = Arc::downgrade(driver.shared());
    let probe = Probe::new(|_, _| {});
    probe.registration.set(driver.register(probe.clone()).unwrap()).unwrap();
    drop(driver);
    // The last handle is dropped on the driver's own thread, with the source.
    probe.registration.get().unwrap().cancel();
    drop(probe);
    eventually("the driver ends", || weak.strong_count() == 0);
}

fn churn_leaves_nothing_behind(backend: Backend) {
    let driver = driver(backend);
    let sources: Vec<Weak<Probe>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut sources = Vec::new();
                    for round in 0..500 {
                        let (probe, calls) = Probe::reporting();
                        let registration = driver.register(probe.clone()).unwrap();
                        if round % 2 == 0 {
                            probe.wake(&registration);
                            assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
                        }
                        sources.push(Arc::downgrade(&probe));
                    }
                    sources
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    eventually("all gone", || sources.iter().all(|source| source.strong_count() == 0));
    asleep(&driver);
}

/// Returns a driver, a registration with it, and the id of the driver's thread.
fn with_thread(backend: Backend) -> (Driver, Registration, i32) {
    let driver = driver(backend);
    let (sender, thread) = channel();
    let sender = Mutex::new(sender);
    let probe = Probe::new(move |_, _| {
        let _ = lock(&sender).send(rustix::thread::gettid().as_raw_nonzero().get());
    });
    let registration = driver.register(probe.clone()).unwrap();
    probe.wake(&registration);
    let thread = thread.recv_timeout(DEADLINE).unwrap();
    (driver, registration, thread)
}

fn the_last_handle_ends_the_thread(backend: Backend) {
    let (driver, registration, thread) = with_thread(backend);
    let task = format!("/proc/self/task/{thread}");
    let comm = std::fs::read_to_string(format!("{task}/comm")).unwrap();
    assert_eq!(comm.trim(), "wakering");
    let weak = Arc::downgrade(driver.shared());
    let clone = driver.clone();
    drop((driver, registration));
    asleep(&clone);
    drop(clone);
    eventually("the thread ends", || !std::fs::exists(&task).unwrap());
    assert_eq!(weak.strong_count(), 0);
}

fn a_registration_alone_keeps_the_driver(backend: Backend) {
    let driver = driver(backend);
    let weak = Arc::downgrade(driver.shared());
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    drop(driver);
    for _ in 0..3 {
        probe.wake(&registration);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    }
    drop(registration);
    eventually("the driver ends", || weak.strong_count() == 0);
    assert_eq!(Arc::strong_count(&probe), 1);
}

fn an_idle_driver_uses_no_processor(backend: Backend) {
    let (driver, registration, thread) = with_thread(backend);
    let (ours, _theirs) = pair();
    registration.watch(ours.as_fd(), 0).unwrap();
    registration.wake_at(Instant::now() + Duration::from_secs(100));
    asleep(&driver);
    // Time on the processor in nanoseconds, time in the queue, times scheduled.
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
        let numbers: Vec<u64> = stat.split_whitespace().map(|n| n.parse().unwrap()).collect();
        (numbers[0], numbers[2])
    };
    let (mut time, mut slices) = spent();
    eventually("it has settled", || {
        let before = (time, slices);
        std::thread::sleep(Duration::from_millis(20));
        (time, slices) = spent();
        before == (time, slices)
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(spent(), (time, slices));
}

fn the_thread_takes_no_signals(backend: Backend) {
    let blocked = |path: String| {
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let before = blocked("/proc/thread-self/status".into());
    let (_driver, _registration, thread) = with_thread(backend);
    assert_eq!(blocked("/proc/thread-self/status".into()), before, "the caller's is as before");
    let mask = blocked(format!("/proc/self/task/{thread}/status"));
    let is_blocked = |signal: i32| mask >> (signal - 1) & 1 == 1;
    for signal in [1, 2, 3, 10, 12, 13, 14, 15, 17, 18, 20, 28, 35, 64] {
        assert!(is_blocked(signal), "signal {signal} is not blocked");
    }
    // Signals that a thread raises itself, that cannot be blocked, or that belong to libc.
    for signal in [4, 5, 6, 7, 8, 9, 11, 19, 31, 32, 33, 34] {
        assert!(!is_blocked(signal), "signal {signal} is blocked");
    }
}

/// A kernel whose waits always fail.
struct Broken;

impl Poller for Broken {
    fn arm(&mut self, _: Id, _: &AtomicU32, _: u32) -> bool {
        true
    }
    fn disarm(&mut self, _: Id) {}
    fn wait(&mut self, _: Option<Duration>, _: &mut Found) -> Result<(), Failure> {
        Err(Failure::Once(rustix::io::Errno::PERM.into()))
    }
    fn close(&mut self) {}
}

#[test]
fn a_driver_that_cannot_go_on_abandons_all_sources() {
    let shared = Shared::new(Backend::IoUring).unwrap();
    let event_loop: EventLoop = EventLoop::new(shared.clone(), Box::new(Broken));
    let driver = Driver { binding: Binding::new(shared, true), run: Run::Background };
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    background::run(event_loop);
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Abandoned));
    assert_eq!(Arc::strong_count(&probe), 1, "the source is dropped");
    assert!(matches!(driver.register(probe), Err(ShmError::Io { .. })));
    registration.notify();
    registration.wake_at(Instant::now());
    registration.cancel();
}

#[test]
fn a_word_that_cannot_be_waited_on_abandons_its_source_alone() {
    // The kernel refuses a word whose address is not a multiple of four, with EINVAL. Safe code has
    // no such `&AtomicU32`, so this poller reports what the kernel would.
    struct Poisoned(Option<Id>);
    impl Poller for Poisoned {
        fn arm(&mut self, id: Id, _: &AtomicU32, _: u32) -> bool {
            assert!(self.0.replace(id).is_none(), "armed again");
            true
        }
        fn disarm(&mut self, _: Id) {}
        fn wait(&mut self, _: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
            found
                .wakes
                .extend(self.0.map(|id| poller::Wake { id, outcome: poller::Outcome::Poisoned }));
            Ok(())
        }
        fn close(&mut self) {}
    }
    let shared = Shared::new(Backend::IoUring).unwrap();
    let mut event_loop = EventLoop::new(shared.clone(), Box::new(Poisoned(None)));
    let driver = Driver { binding: Binding::new(shared, true), run: Run::Background };
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    event_loop.turn(None, &|| false).unwrap();
    assert_eq!(calls.try_recv(), Ok(Call::Abandoned));
    registration.cancel();
    event_loop.turn(None, &|| false).unwrap();
    assert_eq!(Arc::strong_count(&probe), 1, "the source is dropped");
}

#[test]
fn a_wait_that_was_only_cancelled_is_no_wake() {
    /// Ends every wait at once, without a wake.
    struct EndsAtOnce(Option<Id>, u32);
    impl Poller for EndsAtOnce {
        fn arm(&mut self, id: Id, _: &AtomicU32, seen: u32) -> bool {
            assert!(self.0.replace(id).is_none(), "armed twice");
            self.1 = seen;
            true
        }
        fn disarm(&mut self, _: Id) {}
        fn wait(&mut self, _: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
            let outcome = poller::Outcome::Lapsed;
            found.wakes.extend(self.0.take().map(|id| poller::Wake { id, outcome }));
            Ok(())
        }
        fn close(&mut self) {}
    }
    let shared = Shared::new(Backend::IoUring).unwrap();
    let mut event_loop = EventLoop::new(shared.clone(), Box::new(EndsAtOnce(None, 0)));
    let driver = Driver { binding: Binding::new(shared, true), run: Run::Background };
    let (probe, calls) = Probe::reporting();
    let _registration = driver.register(probe.clone()).unwrap();
    event_loop.turn(None, &|| false).unwrap();
    event_loop.turn(None, &|| false).unwrap();
    assert!(calls.try_recv().is_err(), "woken for nothing");
    probe.word.fetch_add(1, SeqCst);
    event_loop.turn(None, &|| false).unwrap();
    assert_eq!(calls.try_recv(), Ok(Call::Wake), "a bell that was counted up meanwhile");
}

#[test]
fn moved_waits_compare_with_what_was_handled_last() {
    /// Records what was armed.
    struct Kept(Arc<Mutex<Vec<u32>>>);
    impl Poller for Kept {
        fn arm(&mut self, _: Id, _: &AtomicU32, seen: u32) -> bool {
            lock(&self.0).push(seen);
            true
        }
        fn disarm(&mut self, _: Id) {}
        fn wait(&mut self, _: Option<Duration>, _: &mut Found) -> Result<(), Failure> {
            Ok(())
        }
        fn close(&mut self) {}
    }
    let shared = Shared::new(Backend::IoUring).unwrap();
    let armed = Arc::new(Mutex::new(Vec::new()));
    let mut event_loop = EventLoop::new(shared.clone(), Box::new(Kept(armed.clone())));
    let driver = Driver { binding: Binding::new(shared, true), run: Run::Background };
    let stays = Probe::new(|_, _| {});
    let leaves = Probe::new(|_, _| {});
    let _registration = driver.register(stays.clone()).unwrap();
    let leaving = driver.register(leaves.clone()).unwrap();
    event_loop.turn(None, &|| false).unwrap();
    // One bell is counted up while it is waited on, and no one reports it; the other is leaving.
    stays.word.fetch_add(5, SeqCst);
    leaving.cancel();
    event_loop.turn(None, &|| false).unwrap();
    assert_eq!(Arc::strong_count(&leaves), 2, "kept until its wait is over");
    lock(&armed).clear();
    event_loop.move_to(Box::new(Kept(armed.clone())));
    assert_eq!(*lock(&armed), [7], "it would be woken at once");
    assert_eq!(Arc::strong_count(&leaves), 1);
}

#[test]
fn unparking_a_driver_that_is_awake_interrupts_nothing() {
    if !has_io_uring() {
        return;
    }
    let driver = Driver::builder().backend(Backend::IoUring).build().unwrap();
    driver.park(Some(Duration::ZERO)).unwrap();
    let interrupts = || driver.shared().control().load(SeqCst);
    let before = interrupts();
    for _ in 0..10 {
        driver.unparker().unpark();
    }
    driver.park(None).unwrap();
    assert_eq!(interrupts(), before);
}

#[test]
fn no_bell_of_thousands_is_missed_by_a_polled_driver() {
    if !has_io_uring() {
        return;
    }
    // More at once than the completion queue of a ring holds.
    const BELLS: usize = 5000;
    let driver = Driver::builder().backend(Backend::IoUring).polled().unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let probes: Vec<_> = (0..BELLS)
        .map(|_| {
            let heard = heard.clone();
            let probe = Probe::new(move |_, _| {
                heard.fetch_add(1, SeqCst);
            });
            let registration = driver.register(probe.clone()).unwrap();
            (probe, registration)
        })
        .collect();
    for round in 1..4 {
        driver.turn().unwrap();
        for (probe, registration) in &probes {
            probe.wake(registration);
        }
        let mut set = [rustix::event::PollFd::new(&driver, rustix::event::PollFlags::IN)];
        while heard.load(SeqCst) < round * BELLS {
            let timeout = rustix::event::Timespec::try_from(DEADLINE).unwrap();
            let ready = rustix::event::poll(&mut set, Some(&timeout));
            assert_ne!(ready, Ok(0), "{} heard", heard.load(SeqCst));
            driver.turn().unwrap();
        }
    }
}

#[test]
fn the_global_driver_is_one() {
    let one = Driver::global().unwrap();
    let another = Driver::global().unwrap();
    assert!(Arc::ptr_eq(one.shared(), another.shared()));
    assert_ne!(one.backend(), Backend::Auto);
}

#[test]
fn handles_are_send_sync_and_debug() {
    fn check<T: Send + Sync + Unpin + fmt::Debug>() {}
    check::<Driver>();
    check::<DriverBuilder>();
    check::<Backend>();
    check::<Registration>();
    check::<PolledDriver>();
    check::<Unparker>();
    assert_eq!(Backend::default().to_string(), "auto");
    assert_eq!(
        (Backend::IoUring.to_string(), Backend::Epoll.to_string()),
        ("io-uring".into(), "epoll".into())
    );
}

mod requests;
