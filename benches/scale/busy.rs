//! Channels that are all at work: how many packets one thread receives, and how long a packet of a
//! quiet one among them takes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::{LocalBoxFuture, poll_fn};
use futures::stream::{FuturesUnordered, StreamExt};
use rustix::time::ClockId;
use wakering::{Backend, Receiver, Sender};

use crate::application::{Application, BUSY_BYTES, PING_BYTES, Place};
use crate::crowd::{self, Settings};
use crate::meters::{nanos, now};
use crate::runner::{Runner, Way};

/// Channels of the crowds that every run has; the first and the last are compared.
pub(crate) const CROWDS: [usize; 3] = [10, 100, 1_000];
/// How many packets a thread has to receive from a thousand channels for each that it receives from
/// ten.
const GOAL: f64 = 0.8;
/// How often each crowd is measured, in turns, because the machine sometimes does other work.
const ROUNDS: usize = 9;
/// How often each crowd is run before that: the rings are touched for the first time, and the
/// channels learn whether it pays to look again before they park.
const WARM_UPS: usize = 5;
/// How long the applications send, and the part of it that is measured.
const FLOOD: Duration = Duration::from_millis(300);
const MEASURED: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(260)];
/// Small rings, as an engine has that serves thousands. Their memory is there from the start: to
/// use it for the first time costs both sides more than all else.
const RING_BYTES: usize = 64 << 10;

/// What the tasks of a crowd have received.
#[derive(Default)]
struct Tally {
    packets: Cell<u64>,
    /// Nanoseconds that packets of the quiet channel took to arrive.
    quiet: RefCell<Vec<u64>>,
}

/// What was spent until a moment.
#[derive(Clone, Copy)]
struct Moment {
    packets: u64,
    elapsed: Duration,
    /// Nanoseconds of processor time.
    work: u64,
    wakes: u64,
}

/// A part of a round, for each packet or by the second.
struct Round {
    packets_per_second: f64,
    /// Nanoseconds of the engine's processor time for a packet.
    work: f64,
    wakes: f64,
    /// Nanoseconds that packets of the quiet channel took to arrive.
    quiet: Vec<u64>,
}

/// Channels on one driver, each with a task that receives.
struct Crowd {
    runner: Runner,
    tasks: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    /// The other halves. They send nothing.
    halves: Vec<Sender>,
    tally: Rc<Tally>,
    applications: Vec<Application>,
    /// Packets that the applications have sent.
    sent: u64,
}

impl Crowd {
    fn gather(way: Way, backend: Backend, channels: usize, place: &Place) -> Self {
        let runner = Runner::new(way, backend).expect("there was one before");
        let settings = Settings { spin: None, ring_bytes: Some(RING_BYTES) };
        let (faces, mut applications) = crowd::gather(&runner, channels, settings, place);
        for application in &mut applications {
            let _bytes = application.hear();
        }
        let tally = Rc::new(Tally::default());
        let (tasks, mut halves) = (FuturesUnordered::new(), Vec::new());
        for face in faces {
            let (tx, rx) = face.into_split();
            halves.push(tx);
            tasks.push(Box::pin(receive(rx, tally.clone())) as LocalBoxFuture<'_, ()>);
        }
        let mut crowd = Self { runner, tasks, halves, tally, applications, sent: 0 };
        for _ in 0..WARM_UPS {
            crowd.flood();
        }
        crowd
    }

    /// Runs the tasks until `is_over`, which is asked now and then.
    fn run_until(&mut self, mut is_over: impl FnMut(&Tally) -> bool) {
        let (tasks, tally) = (&mut self.tasks, &self.tally);
        self.runner.block_on(poll_fn(|cx| {
            let ended = tasks.poll_next_unpin(cx);
            assert!(ended.is_pending(), "an application has gone");
            if is_over(tally) { Poll::Ready(()) } else { Poll::Pending }
        }));
    }

    /// Has the applications send for a while.
    fn flood(&mut self) -> Round {
        let order = format!("flood {}", FLOOD.as_millis());
        let begin = Instant::now();
        self.applications.iter_mut().for_each(|application| application.tell(&order));
        let [(first, _), (last, quiet)] = MEASURED.map(|from| {
            self.run_until(|_| begin.elapsed() >= from);
            (self.moment(begin), self.tally.quiet.take())
        });
        self.sent += self.applications.iter_mut().map(Application::hear).sum::<u64>();
        let sent = self.sent;
        self.run_until(|tally| tally.packets.get() >= sent);
        assert_eq!(self.tally.packets.get(), sent, "more packets than were sent");
        let packets = (last.packets - first.packets).max(1) as f64;
        Round {
            packets_per_second: packets / (last.elapsed - first.elapsed).as_secs_f64(),
            work: (last.work - first.work) as f64 / packets,
            wakes: (last.wakes - first.wakes) as f64 / packets,
            quiet,
        }
    }

    fn moment(&self, begin: Instant) -> Moment {
        Moment {
            packets: self.tally.packets.get(),
            elapsed: begin.elapsed(),
            work: nanos(ClockId::ProcessCPUTime),
            wakes: self.halves.iter().map(|half| half.stats().wakes_received).sum(),
        }
    }
}

/// One channel's task.
async fn receive(mut rx: Receiver, tally: Rc<Tally>) {
    let mut next = 0;
    while let Some(packet) = rx.recv_ref().await {
        let mut word = [0; 8];
        packet.copy_to_slice(&mut word);
        let word = u64::from_ne_bytes(word);
        match packet.len() {
            BUSY_BYTES => {
                assert_eq!(word, next, "another packet than the next");
                next += 1;
            }
            PING_BYTES => {
                let at = now();
                tally.quiet.borrow_mut().push(at - word.min(at));
            }
            other => panic!("a packet of {other} bytes"),
        }
        tally.packets.set(tally.packets.get() + 1);
    }
}

/// The median, and the quartiles.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// Measures crowds of all sizes in turns.
pub(crate) fn measure(way: Way, backend: Backend, most: usize, place: &Place) {
    println!("\nchannels that are busy, {way}, {backend}");
    let more = (!CROWDS.contains(&most)).then_some(most);
    let sizes: Vec<usize> = CROWDS.into_iter().filter(|size| *size <= most).chain(more).collect();
    let gather = |size: &usize| Crowd::gather(way, backend, *size, place);
    let mut crowds: Vec<_> = sizes.iter().map(gather).collect();
    let round = |_| crowds.iter_mut().map(Crowd::flood).collect();
    let rounds: Vec<Vec<Round>> = (0..ROUNDS).map(round).collect();
    println!(
        "            packets/s      x those of         engine's time   wakes    the quiet one"
    );
    println!(
        "  channels        M     {:>3} channels        ns a packet    a packet  p50, us  p99, us",
        sizes[0]
    );
    for (nth, size) in sizes.iter().enumerate() {
        let of = |value: &dyn Fn(&Round) -> f64| {
            quartiles(rounds.iter().map(|crowds| value(&crowds[nth])).collect())
        };
        let [_, speed, _] = of(&|round| round.packets_per_second / 1e6);
        let ([_, work, _], [_, wakes, _]) = (of(&|round| round.work), of(&|round| round.wakes));
        let ratio =
            |crowds: &Vec<Round>| crowds[nth].packets_per_second / crowds[0].packets_per_second;
        let [low, ratio, high] = quartiles(rounds.iter().map(ratio).collect());
        let quiet = rounds.iter().flat_map(|crowds| &crowds[nth].quiet);
        let mut quiet: Vec<u64> = quiet.copied().collect();
        quiet.sort_unstable();
        let [p50, p99] = [2, 100].map(|part| quiet[quiet.len() - 1 - quiet.len() / part] / 1000);
        println!(
            "  {size:>8}  {speed:>7.2}  {ratio:.2} ({low:.2} to {high:.2})  {work:>10.0}  {wakes:>13.4}  \
             {p50:>7}  {p99:>7}"
        );
        if *size == CROWDS[CROWDS.len() - 1] {
            let verdict = if ratio >= GOAL { "reached" } else { "MISSED" };
            println!("            at least {GOAL} x the packets/s at {size} channels: {verdict}");
        }
    }
}
