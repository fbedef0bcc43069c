//! The engine: it serves every application, and starts, stops and kills the applications.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use smol::Executor;
use wakering::{SpscFace, SpscListener};

use super::application::{APPLICATION, BREACH, TALLY};
use super::random::Random;
use super::tally::Tally;
use super::{Result, session};

/// The number of processes at a time, and of channels in each.
const PROCESSES: usize = 8;
const CHANNELS: usize = 25;
/// The number of processes that stay until the end. The others come and go.
const STAYERS: usize = 2;

/// What the engine's tasks and threads share.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    pub(crate) tally: Tally,
    /// The counts of the applications, except those that were killed before they reported.
    pub(crate) theirs: Tally,
    pub(crate) started: AtomicUsize,
    pub(crate) killed: AtomicUsize,
    sessions: AtomicUsize,
    is_over: AtomicBool,
    breaches: Mutex<Vec<String>>,
}

impl Engine {
    pub(crate) fn breach(&self, what: String) {
        eprintln!("soak: breach: {what}");
        self.breaches.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(crate) fn breaches(&self) -> usize {
        self.breaches.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns the number of sessions in progress.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::SeqCst)
    }

    /// Serves this listener for ever.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: SpscListener,
        executor: Arc<Executor<'static>>,
        mut random: Random,
    ) {
        loop {
            match listener.accept().await {
                Ok(face) => {
                    self.sessions.fetch_add(1, Ordering::SeqCst);
                    executor.spawn(self.clone().session(face, random.split())).detach();
                }
                Err(error) => return self.breach(format!("accept: {error:?}")),
            }
        }
    }

    async fn session(self: Arc<Self>, face: SpscFace, random: Random) {
        if let Err(what) = session::run(face.into(), random, &self.tally).await {
            self.breach(format!("a session of the engine: {what}"));
        }
        self.sessions.fetch_sub(1, Ordering::SeqCst);
    }

    /// Has applications come and go for that long, and returns when the last one is gone.
    pub(crate) fn run(&self, how_long: Duration, names: &[String], random: &mut Random) {
        self.is_over.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            for place in 0..PROCESSES {
                let random = random.split();
                scope.spawn(move || {
                    if let Err(error) = self.look_after(place < STAYERS, names, random) {
                        self.breach(format!("an application: {error}"));
                    }
                });
            }
            thread::sleep(how_long);
            self.is_over.store(true, Ordering::SeqCst);
        });
    }

    /// Starts one application after the other in this place.
    fn look_after(&self, stays: bool, names: &[String], mut random: Random) -> Result<()> {
        while !self.is_over.load(Ordering::SeqCst) {
            let mut child = self.start(names, &mut random)?;
            let life = Duration::from_millis(200 + random.below(4000));
            let (begin, killed) = (Instant::now(), !stays && random.percent(60));
            while !self.is_over.load(Ordering::SeqCst) && (stays || begin.elapsed() < life) {
                thread::sleep(Duration::from_millis(5));
            }
            if killed {
                child.kill()?;
                self.killed.fetch_add(1, Ordering::SeqCst);
            }
            // The end of its input tells the application to end.
            drop(child.stdin.take());
            let told = self.hear(&mut child)?;
            let status = child.wait()?;
            let is_well = killed || status.success() && told;
            if !is_well {
                self.breach(format!("an application ended with {status}"));
            }
        }
        Ok(())
    }

    fn start(&self, names: &[String], random: &mut Random) -> Result<Child> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(APPLICATION).arg(random.next().to_string()).arg(CHANNELS.to_string());
        command.args(names).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command.spawn()?)
    }

    /// Reads what the application says until it ends. Returns whether it reported its counts.
    fn hear(&self, child: &mut Child) -> Result<bool> {
        let mut told = false;
        for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
            let line = line?;
            if let Some(what) = line.strip_prefix(BREACH) {
                self.breach(what.to_owned());
            } else if let Some(tally) = line.strip_prefix(TALLY) {
                self.theirs.add_line(tally);
                told = true;
            }
        }
        Ok(told)
    }
}
