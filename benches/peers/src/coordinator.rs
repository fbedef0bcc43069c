//! Starts the processes of each run, watches over them, and gathers what they tell.

use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::arguments::{STAGE, Options};
use crate::cell::{Cell, Measure, Order, Pin, Side};
use crate::meters::{SystemCalls, Work};
use crate::outcome::Outcome;
use crate::report;
use crate::results::{Record, Results, Status};
use crate::stage;
use crate::systems::{self, System};
use crate::{Error, Result};

/// How much longer than it should a run may take before it hangs. On a busy machine each turn of
/// two processes can take tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// A run is disturbed if others keep so many cores busy meanwhile, and is made again so often.
const DISTURBED: f64 = 0.3;
const RETRIES: usize = 2;
/// The time of a run that counts system calls: so long that the few dozen which belong to a ring's
/// first way round, or to a driver's start, do not pass for some of each packet's.
const COUNTING: Duration = Duration::from_millis(200);

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.lists {
        systems::all().for_each(|system| println!("{:30} {}", system.name, system.about));
        return Ok(());
    }
    let begun = Instant::now();
    let hall = Hall::new(if options.is_quick { 0 } else { RETRIES })?;
    let uncounted = SystemCalls::count().err().map(|error| error.to_string());
    let mut results = Results { uncounted, records: Vec::new() };
    let cells = cells(options, hall.cores.len());
    if cells.is_empty() {
        Err("nothing to measure: see --list")?;
    }
    for repeat in 0..options.repeat {
        for (nth, cell) in turned(&cells, repeat).enumerate() {
            eprint!(
                "\r\x1b[K{}/{} {}/{} {}, {}, {} bytes, pinned to {}",
                repeat + 1,
                options.repeat,
                nth + 1,
                cells.len(),
                cell.system.name,
                cell.measure,
                cell.bytes,
                cell.pin,
            );
            results.records.push(hall.perform(cell, repeat, options.time, false)?);
            // Once is enough, and where a stream has what it needs.
            let is_counted = repeat == 0 && cell.measure == Measure::Stream && cell.pin == Pin::Two;
            if is_counted && results.uncounted.is_none() {
                results.records.push(hall.perform(cell, repeat, COUNTING, true)?);
            }
        }
    }
    eprintln!("\r\x1b[Kmeasured for {:.0} s", begun.elapsed().as_secs_f64());
    report::write(&results, options)?;
    let troubled = results.records.iter().filter(|r| r.status != Status::Done);
    let troubled: Vec<&Record> = troubled.collect();
    for Record { cell, repeat, status, .. } in &troubled {
        let Cell { system, measure, pin, bytes } = cell;
        eprintln!("{}, {measure}, {bytes} bytes, {pin}, #{repeat}: {status}", system.name);
    }
    if troubled.is_empty() { Ok(()) } else { Err("some runs did not end well".into()) }
}

/// All that is to be measured: the systems of a row beside each other, so that they see the same
/// machine.
fn cells(options: &Options, cores: usize) -> Vec<Cell> {
    let is_wanted = |system: &System| {
        options.only.is_empty() || options.only.iter().any(|part| system.name.contains(part.as_str()))
    };
    let is_possible = |pin: Pin| pin != Pin::Two || cores >= 2;
    let mut cells = Vec::new();
    for pin in options.pins.iter().copied().filter(|pin| is_possible(*pin)) {
        for measure in [Measure::RoundTrip, Measure::Stream, Measure::Idle] {
            for bytes in options.sizes.iter().copied() {
                let row = systems::all()
                    .filter(|system| is_wanted(system) && system.is_measured(measure, bytes))
                    .filter(|system| system.can_be_pinned(pin))
                    .map(|system| Cell { system, measure, pin, bytes });
                // What is quick looks at no more than the targets.
                let is_left_out = measure == Measure::Idle && pin != options.pins[0]
                    || options.is_quick && pin != Pin::Two && measure == Measure::Stream
                    || options.is_quick && bytes != 64 && measure == Measure::RoundTrip;
                if !is_left_out {
                    cells.extend(row);
                }
            }
        }
    }
    cells
}

/// The cells in another order each time, the rows still together.
fn turned(cells: &[Cell], repeat: usize) -> impl Iterator<Item = Cell> {
    let same_row = |a: &Cell, b: &Cell| (a.measure, a.pin, a.bytes) == (b.measure, b.pin, b.bytes);
    cells.chunk_by(same_row).flat_map(move |row| {
        let turn = repeat * 7 % row.len();
        row[turn..].iter().chain(&row[..turn]).copied()
    })
}

/// What all runs share.
struct Hall {
    program: PathBuf,
    cores: Vec<usize>,
    /// In shared memory, for systems that find each other by files; gone at the end.
    scratch: PathBuf,
    /// How often a disturbed run is made again.
    retries: usize,
}

/// Where shared memory has its files.
const SHARED_MEMORY: &str = "/dev/shm";

impl Drop for Hall {
    fn drop(&mut self) {
        self.sweep();
    }
}

impl Hall {
    fn new(retries: usize) -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let scratch = Path::new(SHARED_MEMORY).join(format!("peers-{}", std::process::id()));
        Ok(Self { program: std::env::current_exe()?, cores, scratch, retries })
    }

    /// Removes what the last run left; one that was killed leaves all it had.
    fn sweep(&self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
        let prefix = stage::prefix(std::process::id());
        for file in std::fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    /// Runs it, and again if others took too much of the machine meanwhile; the least
    /// disturbed one counts.
    fn perform(
        &self,
        cell: Cell,
        repeat: usize,
        time: Duration,
        counts_calls: bool,
    ) -> Result<Record> {
        let mut record = self.try_once(cell, repeat, time, counts_calls)?;
        for _ in 0..self.retries {
            if record.others < DISTURBED || record.status != Status::Done {
                break;
            }
            let again = self.try_once(cell, repeat, time, counts_calls)?;
            if again.others < record.others || again.status != Status::Done {
                record = again;
            }
        }
        Ok(record)
    }

    fn try_once(
        &self,
        cell: Cell,
        repeat: usize,
        time: Duration,
        counts_calls: bool,
    ) -> Result<Record> {
        self.sweep();
        std::fs::create_dir_all(&self.scratch)?;
        let cores = match cell.pin {
            Pin::Two => [self.cores.first(), self.cores.get(1)],
            Pin::One => [self.cores.first(); 2],
            Pin::None => [None; 2],
        };
        let order = Order {
            cell,
            side: Side::A,
            time,
            counts_calls,
            cores: cores.map(Option::<&usize>::copied),
            scratch: self.scratch.to_string_lossy().into_owned(),
        };
        let before = Work::so_far()?;
        let (status, outcome) = match self.watch(&order)? {
            Ok(outcome) => {
                let Outcome { lost, corrupt, .. } = outcome;
                let is_whole = lost == 0 && corrupt == 0;
                let status = if is_whole { Status::Done } else { Status::Lossy { lost, corrupt } };
                (status, outcome)
            }
            Err(status) => (status, Outcome::default()),
        };
        let others = Work::so_far()?.of_others(&before);
        Ok(Record { cell, repeat, counts_calls, status, outcome, others })
    }

    /// Starts the processes of a run and waits for their answers, but not for ever.
    fn watch(&self, order: &Order) -> Result<std::result::Result<Outcome, Status>> {
        let deadline = Instant::now() + order.time + PATIENCE;
        let (ours, theirs) = UnixStream::pair()?;
        let mut sides = vec![self.start(order, Side::A, ours.into())?];
        if !order.cell.system.is_in_one_process() {
            sides.push(self.start(order, Side::B, theirs.into())?);
        }
        let answers: Vec<_> = sides.iter().map(|side| side.answer(deadline)).collect();
        for side in &mut sides {
            side.end();
        }
        // A side that failed takes the other with it; who failed first is the one that says why.
        let outcomes = match answers.into_iter().collect::<std::result::Result<Vec<_>, _>>() {
            Ok(outcomes) => outcomes,
            Err(status) => return Ok(Err(status)),
        };
        Ok(Ok(match outcomes.as_slice() {
            [a, b] if order.cell.measure == Measure::Stream => b.with(a),
            [a, b] => a.with(b),
            [only] => *only,
            _ => unreachable!("one side or two"),
        }))
    }

    fn start(&self, order: &Order, side: Side, link: OwnedFd) -> io::Result<Process> {
        let order = Order { side, ..order.clone() };
        let mut child = Command::new(&self.program)
            .arg(STAGE)
            .args(order.to_words())
            .stdin(Stdio::from(link))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (tell, lines) = channel();
        thread::spawn(move || {
            let outcome = out.and_then(|out| {
                BufReader::new(out).lines().map_while(io::Result::ok).find_map(|l| l.parse().ok())
            });
            let complaint = || {
                let lines = BufReader::new(err?).lines().map_while(io::Result::ok);
                lines.filter(|line| !line.trim().is_empty()).last()
            };
            let answer = outcome
                .ok_or_else(|| complaint().unwrap_or_else(|| "it ended without a word".into()));
            let _ = tell.send(answer);
        });
        Ok(Process { child, lines })
    }
}

/// A process of a run.
struct Process {
    child: Child,
    lines: Receiver<std::result::Result<Outcome, String>>,
}

impl Process {
    fn answer(&self, deadline: Instant) -> std::result::Result<Outcome, Status> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(answer) => answer.map_err(Status::Failed),
            Err(RecvTimeoutError::Timeout) => Err(Status::Hung),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Status::Failed(Error::from("nobody listened to it").to_string()))
            }
        }
    }

    /// Gives it a moment to clean up, then ends it.
    fn end(&mut self) {
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_micros(500));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
