//! Channels that sleep: what they hold, and how fast one of them wakes.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::{LocalBoxFuture, poll_fn};
use futures::stream::{FuturesUnordered, StreamExt};
use rustix::time::ClockId;
use wakering::{Backend, Driver, SpscFace};

use crate::application::{Application, NO_ANSWER, PINGS, Place};
use crate::crowd::{self, Settings};
use crate::meters::{self, Memory, nanos, now};
use crate::runner::{Runner, Way};

/// Channels of the smaller crowds.
pub(crate) const FEW: [usize; 2] = [1, 100];
/// Of all pings, those that are not counted.
const WARM_UP: usize = 20;
const ROUNDS: usize = 15;
/// How often all channels wake the engine at once.
const BURSTS: usize = 5;
/// How long everything is idle.
const IDLE: Duration = Duration::from_secs(3);

/// A side may use this much memory in all: pages of the region that it has touched, its page
/// tables, and its heap.
const MAX_BYTES: u64 = 64 << 10;
/// By what factor the median latency of one among all channels may exceed that of one among a
/// hundred: for the same channel each time, and for another channel each time, which is in no cache
/// if there are many.
const MAX_GROWTH: [f64; 2] = [1.5, 2.0];

/// Channels on one driver, each with a task that waits.
struct Crowd {
    runner: Runner,
    tasks: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    /// How long each received packet took to arrive.
    came: Rc<RefCell<Vec<u64>>>,
    applications: Vec<Application>,
    /// What all sides of the applications hold.
    bytes: u64,
}

impl Crowd {
    /// Makes this many channels that wait without a spin.
    fn gather(backend: Backend, channels: usize, place: &Place) -> Self {
        let runner = Runner::new(Way::ParkedIn, backend).expect("there was one before");
        let settings = Settings { spin: Some(Duration::ZERO), ..Settings::default() };
        let (faces, mut applications) = crowd::gather(&runner, channels, settings, place);
        let came = Rc::new(RefCell::new(Vec::new()));
        let task = |face| Box::pin(answer(face, came.clone())) as LocalBoxFuture<'_, ()>;
        let tasks = faces.into_iter().map(task).collect();
        let bytes = applications.iter_mut().map(Application::hear).sum();
        let mut crowd = Self { runner, tasks, came, applications, bytes };
        // This polls each task once.
        crowd.run_until(|came| came.is_empty());
        crowd
    }

    fn driver(&self) -> &Driver {
        self.runner.driver()
    }

    fn channels(&self) -> usize {
        self.tasks.len()
    }

    /// Runs the tasks until enough packets have come, and returns their times.
    fn run_until(&mut self, enough: impl Fn(&[u64]) -> bool) -> Vec<u64> {
        let (tasks, came) = (&mut self.tasks, &self.came);
        self.runner.block_on(poll_fn(|cx| {
            let ended = tasks.poll_next_unpin(cx);
            assert!(ended.is_pending(), "an application has gone");
            if enough(&came.borrow()) { Poll::Ready(()) } else { Poll::Pending }
        }));
        self.came.take()
    }

    /// Has channels wake this sleeping engine one at a time: the same channel each time, or another
    /// one each time.
    fn ping(&mut self, order: &str) -> Vec<u64> {
        self.applications[0].tell(order);
        let mut came = self.run_until(|came| came.len() == PINGS);
        assert_eq!(self.applications[0].hear(), PINGS as u64);
        came.split_off(WARM_UP)
    }

    /// Has all channels wake the engine while it does not run. Returns how long it then takes to
    /// wake all tasks and to wait for each channel again.
    fn burst(&mut self) -> Duration {
        let all = self.channels();
        self.applications.iter_mut().for_each(|application| application.tell("ring"));
        let sent: u64 = self.applications.iter_mut().map(Application::hear).sum();
        assert_eq!(sent, all as u64);
        let begin = Instant::now();
        let came = self.run_until(|came| came.len() == all);
        let taken = begin.elapsed();
        assert_eq!(came.len(), all);
        taken
    }
}

/// One channel's task.
async fn answer(face: SpscFace, came: Rc<RefCell<Vec<u64>>>) {
    while let Some(packet) = face.recv().await {
        let at = now();
        let sent = u64::from_ne_bytes(packet[..].try_into().expect("eight bytes"));
        came.borrow_mut().push(at - sent.min(at));
        if sent != NO_ANSWER {
            face.send(packet).await.expect("the application waits for it");
        }
    }
}

/// Answers all questions for one backend.
pub(crate) fn measure(backend: Backend, channels: usize, place: &Place) {
    println!("\nchannels that sleep, {backend}");
    let mut few = FEW.map(|channels| Crowd::gather(backend, channels, place));
    let (before, begin) = (Memory::now(), Instant::now());
    let mut many = Crowd::gather(backend, channels, place);
    println!("  {channels} connected in {:.2?}", begin.elapsed());
    let bytes = Memory::now().report(&before, channels);
    let theirs = many.bytes / channels as u64;
    println!("  memory of an application's side, all of it {theirs:>7} bytes");
    assert!(bytes.max(theirs) <= MAX_BYTES, "an idle side holds more than {MAX_BYTES} bytes");

    let ways = [("same", "the same one each time"), ("any", "another one each time")];
    for ((word, what), most) in ways.into_iter().zip(MAX_GROWTH) {
        // Alternates between the crowds, because the machine sometimes does other work.
        let mut latencies = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let [one, hundred] = &mut few;
            for (crowd, latencies) in [one, hundred, &mut many].into_iter().zip(&mut latencies) {
                latencies.extend(crowd.ping(word));
            }
        }
        println!("  from the send until its task runs, {what}:");
        let medians = [1, 100, channels].into_iter().zip(&mut latencies).map(|(among, all)| {
            all.sort_unstable();
            let [median, p99] = [2, 100].map(|part| all[all.len() - 1 - all.len() / part]);
            println!("    one among {among:>6}: p50 {median:>7} ns  p99 {p99:>7} ns");
            median
        });
        let medians: Vec<_> = medians.collect();
        #[allow(clippy::cast_precision_loss, reason = "a ratio to look at")]
        let growth = medians[2] as f64 / medians[1] as f64;
        println!("    {channels} to 100: {growth:.2} times");
        assert!(growth <= most, "the latency of one grows with those that are parked");
    }

    println!("  all {channels} ring at once:");
    let mut bursts: Vec<_> = (0..BURSTS).map(|_| many.burst()).collect();
    bursts.sort_unstable();
    let median = bursts[BURSTS / 2];
    let each = median.as_nanos() / channels as u128;
    println!("    all woken in {median:.1?}, {each} ns for each");
    let bytes = (Memory::now().resident() - before.resident()) / channels as u64;
    println!("    memory of the engine's side after that   {bytes:>7} bytes");
    assert!(bytes <= MAX_BYTES, "packets that are through leave more than {MAX_BYTES} bytes");

    idle(many.driver());
}

/// Sleeps in the driver for a while.
fn idle(driver: &Driver) {
    // Does what the last wakes have left to do.
    driver.park(Some(Duration::from_millis(100))).expect("nobody else runs it");
    let (begin, ticks, nanos_before) =
        (Instant::now(), meters::ticks(), nanos(ClockId::ProcessCPUTime));
    let mut parks = 0;
    while let Some(left) = IDLE.checked_sub(begin.elapsed()) {
        driver.park(Some(left)).expect("nobody else runs it");
        parks += 1;
    }
    let ticks = meters::ticks() - ticks;
    let micros = (nanos(ClockId::ProcessCPUTime) - nanos_before) / 1000;
    println!("  idle for {IDLE:?}: {ticks} ticks of processor time ({micros} us), {parks} returns");
    assert_eq!(ticks, 0, "an idle engine uses the processor");
}
