//! Starts the processes of a run, watches over them, and gathers what they tell.

use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::Result;
use crate::hop;
use crate::meters::Work;
use crate::order::Order;
use crate::outcome::Outcome;
use crate::record::{Record, Status};
use crate::row::{Measure, Pin, Row, Side};
use crate::stage;
use crate::system::System;

/// With this first argument the program is a process of a run.
pub(crate) const STAGE: &str = "--stage";

/// How much longer than it should a run may take before it hangs. On a busy machine each turn of
/// two processes can take tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where shared memory has its files.
const SHARED_MEMORY: &str = "/dev/shm";

/// What all runs share.
pub(crate) struct Runner {
    program: PathBuf,
    pub(crate) cores: Vec<usize>,
    /// In shared memory, for systems that find each other by files; gone at the end.
    scratch: PathBuf,
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.sweep();
    }
}

impl Runner {
    pub(crate) fn new() -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let scratch = Path::new(SHARED_MEMORY).join(format!("peers-{}", std::process::id()));
        Ok(Self { program: std::env::current_exe()?, cores, scratch })
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

    /// Nanoseconds of a cache line from one side to the other in this row, where they have two
    /// cores.
    pub(crate) fn hop(&self, row: Row) -> Result<Option<f64>> {
        match (row.pin, self.cores.as_slice()) {
            (Pin::Two, &[one, other, ..]) => hop::measure([one, other]).map(Some),
            _ => Ok(None),
        }
    }

    /// Runs a system once.
    pub(crate) fn perform(
        &self,
        system: &'static System,
        row: Row,
        heat: usize,
        time: Duration,
        counts_calls: bool,
    ) -> Result<Record> {
        self.sweep();
        std::fs::create_dir_all(&self.scratch)?;
        let cores = match row.pin {
            Pin::Two => [self.cores.first(), self.cores.get(1)],
            Pin::One => [self.cores.first(); 2],
            Pin::None => [None; 2],
        };
        let order = Order {
            system: system.name.to_owned(),
            row,
            side: Side::A,
            time,
            counts_calls,
            cores: cores.map(Option::<&usize>::copied),
            is_in_one_process: system.is_in_one_process(),
            scratch: self.scratch.to_string_lossy().into_owned(),
        };
        let begun = Instant::now();
        let hop = self.hop(row)?;
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
        let is_final = false;
        Ok(Record {
            system,
            row,
            heat,
            is_final,
            begun,
            counts_calls,
            status,
            outcome,
            hop,
            others,
        })
    }

    /// Starts the processes of a run and waits for their answers, but not for ever.
    fn watch(&self, order: &Order) -> Result<std::result::Result<Outcome, Status>> {
        let deadline = Instant::now() + order.time + PATIENCE;
        let (ours, theirs) = UnixStream::pair()?;
        let (tell, answers) = channel();
        let mut sides = vec![self.start(order, Side::A, ours.into(), tell.clone())?];
        if !order.is_in_one_process {
            sides.push(self.start(order, Side::B, theirs.into(), tell.clone())?);
        }
        drop(tell);
        let mut outcomes = [None, None];
        let mut status = None;
        // A side that fails leaves the other waiting, so it ends the run.
        for _ in 0..sides.len() {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((side, Ok(outcome))) => outcomes[side as usize] = Some(outcome),
                Ok((_, Err(reason))) => status = Some(Status::Failed(reason)),
                Err(RecvTimeoutError::Timeout) => status = Some(Status::Hung),
                Err(RecvTimeoutError::Disconnected) => Err("nobody listened to the processes")?,
            }
            if status.is_some() {
                break;
            }
        }
        for side in &mut sides {
            end(side, status.is_none());
        }
        Ok(match (status, outcomes) {
            (Some(status), _) => Err(status),
            (None, [Some(a), Some(b)]) if order.row.measure == Measure::Stream => Ok(b.with(&a)),
            (None, [Some(a), Some(b)]) => Ok(a.with(&b)),
            (None, [Some(only), None]) => Ok(only),
            _ => Err(Status::Failed("a side did not answer".into())),
        })
    }

    fn start(&self, order: &Order, side: Side, link: OwnedFd, tell: Tell) -> io::Result<Child> {
        let order = Order { side, ..order.clone() };
        let mut child = Command::new(&self.program)
            .arg(STAGE)
            .args(order.to_words())
            .stdin(Stdio::from(link))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
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
            let _ = tell.send((side, answer));
        });
        Ok(child)
    }
}

/// What a side answers.
type Tell = Sender<(Side, std::result::Result<Outcome, String>)>;

/// Gives a process a moment to clean up if it did well, then ends it.
fn end(child: &mut Child, waits: bool) {
    let deadline = Instant::now() + Duration::from_millis(500);
    while waits && Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_micros(500));
    }
    let _ = child.kill();
    let _ = child.wait();
}
