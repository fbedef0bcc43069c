//! What do ten thousand parked channels cost, and does one of them wake more slowly because of the
//! others?
//!
//! The engine is this process. It has one thread, which parks in a driver for each of three crowds
//! of channels. The applications are processes of this same program, on another core if there is
//! one. Every channel has a task that waits for a packet and answers it. Run it with
//!
//! ```sh
//! cargo bench --bench scale            # 1, 100 and 10,000 channels
//! cargo bench --bench scale -- --quick # 1, 100 and 1,000
//! cargo bench --bench scale -- --one-core
//! ```
//!
//! Between two cores, most of a wake is the time that the kernel takes to wake the other core. On
//! one core, the library's part and a switch of processes are left.
//!
//! The benchmark fails if a wake is lost, if the latency of a wake grows with the number of parked
//! channels, if an idle side holds more memory than it may, or if the idle engine uses the
//! processor at all.
#![allow(clippy::print_stdout, reason = "this is a report")]

use std::cell::RefCell;
use std::fmt::Debug;
use std::fs::{DirBuilder, read_to_string, remove_dir_all};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::str::FromStr;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{LocalBoxFuture, poll_fn};
use futures::stream::{FuturesUnordered, StreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use wakering::{Backend, Driver, SpscFace, SpscHandle, SpscListener};

/// Descriptors that a process needs in addition to those of its channels.
const OTHER_DESCRIPTORS: u64 = 64;
/// In an application: the lifeline, the region, and the engine's process.
const DESCRIPTORS_OF_A_HANDLE: u64 = 3;
/// In the engine: the lifeline and the application's process.
const DESCRIPTORS_OF_A_FACE: u64 = 2;
/// How often one channel among many is woken, for each crowd in a round. The first few are not
/// counted.
const PINGS: usize = 200;
const WARM_UP: usize = 20;
const ROUNDS: usize = 15;
/// How often all channels wake the engine at once.
const BURSTS: usize = 5;
/// How long everything is idle.
const IDLE: Duration = Duration::from_secs(3);
/// A packet that is not answered.
const NO_ANSWER: u64 = 0;

/// A side may use this much memory in all: pages of the region that it has touched, its page
/// tables, and its heap.
const MAX_BYTES: u64 = 64 << 10;
/// By what factor the median latency of one among all channels may exceed that of one among a
/// hundred: for the same channel each time, and for another channel each time, which is in no cache
/// if there are many.
const MAX_GROWTH: [f64; 2] = [1.5, 2.0];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--application", core, backend, name, channels] => {
            stay_on(number(core));
            return application(self::backend(backend), name, number(channels));
        }
        ["--engine", core, backend, channels, other_core] => {
            stay_on(number(core));
            let place = Place { core: other_core.to_owned(), sockets: Sockets::new() };
            return measure(self::backend(backend), number(channels), &place);
        }
        _ => {}
    }
    // Without this argument, cargo runs the benchmark as a test, which should be quick.
    let has = |wanted| arguments.iter().any(|argument| argument == wanted);
    let quick = has("--quick") || !has("--bench");
    let channels = allowed(if quick { 1_000 } else { 10_000 });
    let ours = sched_getaffinity(None).expect("our own");
    let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&core| ours.is_set(core)).collect();
    let other = cores.get(1).filter(|_| !has("--one-core")).unwrap_or(&cores[0]);
    let [here, there] = [&cores[0], other].map(|core| core.to_string());
    println!("the engine is on core {here}, the applications on {there}");
    for backend in [Backend::IoUring, Backend::Epoll].map(|backend| backend.to_string()) {
        // In a process of its own, because memory that was used once is reused.
        let mut engine = this_program();
        let ended =
            engine.args(["--engine", &here, &backend, &channels.to_string(), &there]).status();
        assert!(ended.expect("a process").success(), "{backend} fails");
    }
}

fn this_program() -> Command {
    Command::new(std::env::current_exe().expect("a path"))
}

fn backend(name: &str) -> Backend {
    if name == "epoll" { Backend::Epoll } else { Backend::IoUring }
}

fn number<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a number")
}

/// Raises the limit of descriptors as far as possible, and returns how many channels it allows.
fn allowed(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a soft limit may be raised to the hard one");
    let allowed = (descriptors() - OTHER_DESCRIPTORS) / DESCRIPTORS_OF_A_FACE;
    let allowed = usize::try_from(allowed).expect("fits") - 101;
    println!(
        "descriptors: soft limit {}, raised to {}; {wanted} channels {}",
        limit.current.map_or("none".into(), |limit| limit.to_string()),
        limit.maximum.map_or("none".into(), |limit| limit.to_string()),
        if wanted <= allowed { "fit".into() } else { format!("DO NOT FIT, {allowed} do") },
    );
    wanted.min(allowed)
}

/// Returns how many descriptors this process may have.
fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

fn stay_on(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("one of our own");
}

/// Returns nanoseconds of a clock that all processes share, never [`NO_ANSWER`].
fn now() -> u64 {
    nanos(ClockId::Monotonic).max(NO_ANSWER + 1)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let nanos = time.tv_sec * 1_000_000_000 + time.tv_nsec;
    u64::try_from(nanos).expect("clocks do not go below zero")
}

/// Channels on one driver, each with a task that waits.
struct Crowd {
    driver: Driver,
    tasks: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    /// How long each received packet took to arrive.
    came: Rc<RefCell<Vec<u64>>>,
    applications: Vec<Application>,
}

impl Crowd {
    /// Makes this many channels, with applications at their other ends.
    fn gather(backend: Backend, channels: usize, place: &Place) -> Self {
        let driver = Driver::builder().backend(backend).build().expect("there was one before");
        let name = place.sockets.0.join(format!("{backend}-{channels}"));
        let name = name.to_str().expect("a path in UTF-8");
        let listener = SpscListener::builder().driver(&driver).spin(Duration::ZERO).bind(name);
        let listener = listener.expect("a name of our own");
        let (tasks, came) = (FuturesUnordered::new(), Rc::new(RefCell::new(Vec::new())));
        let room = (descriptors() - OTHER_DESCRIPTORS) / DESCRIPTORS_OF_A_HANDLE;
        let room = usize::try_from(room).expect("fits");
        let mut applications = Vec::new();
        for first in (0..channels).step_by(room) {
            let some = room.min(channels - first);
            applications.push(Application::start(&place.core, backend, name, some));
            for _ in 0..some {
                let face = driver.block_on(listener.accept()).expect("an application");
                tasks.push(Box::pin(answer(face, came.clone())) as LocalBoxFuture<'_, ()>);
            }
        }
        let mut crowd = Self { driver, tasks, came, applications };
        for application in &mut crowd.applications {
            application.bytes = number(&application.hear());
        }
        // This polls each task once.
        crowd.run_until(|came| came.is_empty());
        crowd
    }

    fn channels(&self) -> usize {
        self.tasks.len()
    }

    /// Runs the tasks until enough packets have come, and returns their times.
    fn run_until(&mut self, enough: impl Fn(&[u64]) -> bool) -> Vec<u64> {
        let (tasks, came) = (&mut self.tasks, &self.came);
        self.driver.block_on(poll_fn(|cx| {
            let ended = tasks.poll_next_unpin(cx);
            assert!(ended.is_pending(), "an application has gone");
            if enough(&came.borrow()) { Poll::Ready(()) } else { Poll::Pending }
        }));
        self.came.take()
    }

    /// Has channels wake this sleeping engine one at a time: the same channel each time, or another
    /// one each time.
    fn ping(&mut self, word: &str) -> Vec<u64> {
        self.applications[0].tell(word);
        let mut came = self.run_until(|came| came.len() == PINGS);
        self.applications[0].expect("done");
        came.split_off(WARM_UP)
    }

    /// Has all channels wake the engine while it does not run. Returns how long it then takes to
    /// wake all tasks and to wait for each channel again.
    fn burst(&mut self) -> Duration {
        for application in &mut self.applications {
            application.tell("ring");
            application.expect("done");
        }
        let (all, begin) = (self.channels(), Instant::now());
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
fn measure(backend: Backend, channels: usize, place: &Place) {
    println!("\n{backend}");
    if let Err(error) = Driver::builder().backend(backend).build() {
        return println!("  left out: {error}");
    }
    let mut few = [1, 100].map(|channels| Crowd::gather(backend, channels, place));
    let (before, begin) = (Memory::now(), Instant::now());
    let mut many = Crowd::gather(backend, channels, place);
    println!("  {channels} connected in {:.2?}", begin.elapsed());
    let bytes = Memory::now().report(&before, channels);
    let theirs = many.applications.iter().map(|application| application.bytes).sum::<u64>();
    let theirs = theirs / channels as u64;
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

    idle(&many.driver);
}

/// Sleeps in the driver for a while.
fn idle(driver: &Driver) {
    // Does what the last wakes have left to do.
    driver.park(Some(Duration::from_millis(100))).expect("nobody else runs it");
    let (begin, ticks, nanos_before) = (Instant::now(), ticks(), nanos(ClockId::ProcessCPUTime));
    let mut parks = 0;
    while let Some(left) = IDLE.checked_sub(begin.elapsed()) {
        driver.park(Some(left)).expect("nobody else runs it");
        parks += 1;
    }
    let ticks = self::ticks() - ticks;
    let micros = (nanos(ClockId::ProcessCPUTime) - nanos_before) / 1000;
    println!("  idle for {IDLE:?}: {ticks} ticks of processor time ({micros} us), {parks} returns");
    assert_eq!(ticks, 0, "an idle engine uses the processor");
}

/// Returns the processor time of this process so far, in the hundredths of a second that the kernel
/// shows.
fn ticks() -> u64 {
    let stat = read_to_string("/proc/self/stat").expect("procfs");
    let after_the_name = stat.rsplit(')').next().expect("a name in brackets");
    after_the_name
        .split(' ')
        .skip(12)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a count"))
        .sum()
}

/// What this process holds, in bytes, and what the kernel holds for the whole machine.
struct Memory {
    private: u64,
    shared: u64,
    tables: u64,
    kernel: u64,
}

impl Memory {
    fn now() -> Self {
        let status = read_to_string("/proc/self/status").expect("procfs");
        let machine = read_to_string("/proc/meminfo").expect("procfs");
        let entry = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(": 0 kB");
            let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
            number.parse::<u64>().expect("a number of kilobytes") << 10
        };
        Self {
            private: entry(&status, "RssAnon"),
            shared: entry(&status, "RssShmem"),
            tables: entry(&status, "VmPTE"),
            kernel: entry(&machine, "Slab"),
        }
    }

    fn resident(&self) -> u64 {
        self.private + self.shared + self.tables
    }

    /// Prints what was added since `before`, for each of `channels`. Returns the process's own
    /// part.
    fn report(&self, before: &Self, channels: usize) -> u64 {
        let each = |now: u64, before: u64| now.saturating_sub(before) / channels as u64;
        let sum = each(self.resident(), before.resident());
        println!("  memory of the engine's side, all of it     {sum:>7} bytes, of which");
        println!(
            "    region, as far as it was touched         {:>7}",
            each(self.shared, before.shared)
        );
        println!(
            "    its page tables                          {:>7}",
            each(self.tables, before.tables)
        );
        println!(
            "    heap, with the task                      {:>7}",
            each(self.private, before.private)
        );
        let kernel = each(self.kernel, before.kernel);
        println!("  kernel's slabs, both sides and all else    {kernel:>7} bytes");
        sum
    }
}

/// Where the applications are.
struct Place {
    core: String,
    sockets: Sockets,
}

/// A directory for our own sockets.
struct Sockets(PathBuf);

impl Sockets {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wakering-scale-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).expect("a directory of our own");
        Self(path)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // If this fails, the directory stays in the temporary directory.
        let _ = remove_dir_all(&self.0);
    }
}

/// A process with the other ends of many channels, as the engine sees it.
struct Application {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What each of its sides holds.
    bytes: u64,
}

impl Application {
    fn start(core: &str, backend: Backend, name: &str, channels: usize) -> Self {
        let mut command = this_program();
        command.args(["--application", core, &backend.to_string(), name, &channels.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("a process");
        let orders = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, orders, answers, bytes: 0 }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.orders, "{word}").expect("it listens");
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    fn expect(&mut self, word: &str) {
        assert_eq!(self.hear(), word, "an application");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The application's process: connects, and follows the engine's orders.
fn application(backend: Backend, name: &str, channels: usize) {
    let driver = Driver::builder().backend(backend).background().expect("the engine has one");
    let builder = SpscHandle::builder().driver(&driver).spin(Duration::ZERO);
    let before = Memory::now().resident();
    let connect = |_| builder.clone().connect(name).expect("an engine");
    let handles: Vec<_> = (0..channels).map(connect).collect();
    println!("{}", Memory::now().resident() - before);

    let send = |handle: &SpscHandle, sent: u64| {
        handle.try_send(Bytes::copy_from_slice(&sent.to_ne_bytes())).expect("there is room");
    };
    let ping = |stride: usize| {
        for n in 0..PINGS {
            // Long enough for the engine to sleep again.
            std::thread::sleep(Duration::from_micros(200));
            let handle = &handles[(channels / 2 + n * stride) % channels];
            send(handle, now());
            handle.recv_blocking().expect("an answer");
        }
    };
    for order in std::io::stdin().lines() {
        match order.expect("text").as_str() {
            "same" => ping(0),
            // Jumps by a prime each time, so that the channels are far apart.
            "any" => ping(7919),
            "ring" => handles.iter().for_each(|handle| send(handle, NO_ANSWER)),
            other => panic!("no order: {other}"),
        }
        println!("done");
    }
}
