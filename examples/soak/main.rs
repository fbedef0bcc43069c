//! Two hundred channels between an engine and eight applications, for as long as you like: packets
//! of random sizes, through all ways to send and receive; futures that are dropped before they are
//! ready; ends that close, cancel and come again; processes that are killed.
//!
//! ```text
//! cargo run --release --example soak -- --seconds 300
//! ```
//!
//! Every byte and every number of all packets is checked, and of every end whether it was allowed
//! then (`session.rs`). At the end, the engine, and each application that was not killed, must hold
//! what they held after the warm-up: descriptors, mappings, threads, memory. The exit status is 1
//! if anything is wrong.
#![allow(clippy::print_stdout, reason = "the result goes there")]

mod application;
mod engine;
#[path = "../../tests/common/held.rs"]
mod held;
mod packet;
mod random;
mod session;
mod tally;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::Engine;
use held::Held;
use random::Random;
use smol::{Executor, channel};
use wakering::{Backend, Driver, SpscListener};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Anything that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many more bytes than before the allocator may hold.
const SPARE: usize = 8 << 20;

/// Threads that run the engine's sessions.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == application::APPLICATION => {
            application::run(rest).map(|()| true)
        }
        _ => parse(&arguments).and_then(|(seconds, seed)| soak(seconds, seed)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how long to run, and the seed.
fn parse(arguments: &[String]) -> Result<(Duration, u64)> {
    let (mut seconds, mut seed) = (5.0, None);
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => seconds = value.parse()?,
            "--seed" => seed = Some(value.parse()?),
            _ => return Err(format!("{name}: allowed are --seconds N and --seed N").into()),
        }
    }
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    Ok((Duration::try_from_secs_f64(seconds)?, seed))
}

/// A directory that is removed on drop.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns `true` if nothing was wrong.
fn soak(how_long: Duration, seed: u64) -> Result<bool> {
    println!("seed {seed}, {how_long:?}");
    let directory = std::env::temp_dir().join(format!("wakering-soak-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let directory = Directory(directory);
    let (engine, mut random) = (Arc::new(Engine::default()), Random(seed));
    let listeners = listen(&directory.0)?;
    let (names, listeners): (Vec<_>, Vec<_>) = listeners.into_iter().unzip();
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = channel::bounded::<()>(1);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| smol::block_on(executor.run(stopped.recv())));
        }
        for listener in listeners {
            let serving = engine.clone().serve(listener, executor.clone(), random.split());
            executor.spawn(serving).detach();
        }
        run(&engine, how_long, &names, &mut random);
        drop(stop);
    });
    println!("{:<22}{:>14}{:>14}", "", "engine", "applications");
    print!("{}", engine.tally.table(&engine.theirs));
    for (what, count) in [("started", &engine.started), ("killed", &engine.killed)] {
        println!("{:<36}{:>14}", format!("processes {what}"), count.load(Ordering::SeqCst));
    }
    println!("{:<22}{:>14}", "breaches", engine.breaches());
    Ok(engine.breaches() == 0)
}

/// Binds one listener for each backend that the machine has, with rings of different sizes.
fn listen(directory: &Path) -> Result<Vec<(String, SpscListener)>> {
    let mut listeners = Vec::new();
    for (requested, ring_bytes) in [(Backend::Auto, 1 << 14), (Backend::Epoll, 1 << 17)] {
        let driver = Driver::builder().backend(requested).background()?;
        let path = directory.join(ring_bytes.to_string());
        let name = path.to_str().ok_or("a path that is no text")?.to_owned();
        let builder = SpscListener::builder().driver(&driver).ring_bytes(ring_bytes);
        listeners.push((name.clone(), builder.send_timeout(Some(PATIENCE)).bind(&name)?));
    }
    Ok(listeners)
}

/// Runs a short warm-up and then the soak, and checks that the engine holds the same after both.
fn run(engine: &Engine, how_long: Duration, names: &[String], random: &mut Random) {
    let quiet = || engine.sessions() == 0;
    engine.run((how_long / 4).min(Duration::from_secs(20)), names, random);
    let begin = Instant::now();
    while !quiet() && begin.elapsed() < 3 * PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    // Applications that were killed during their handshake still come in and end a moment later.
    thread::sleep(Duration::from_millis(500));
    let before = Held::now();
    engine.run(how_long, names, random);
    let (after, is_level) = match before.wait_until_level(3 * PATIENCE, Some(SPARE), quiet) {
        Ok(after) => (after, true),
        Err(after) => (after, false),
    };
    println!("{:<22}{:>14}{:>14}", "held by the engine", "before", "after");
    for (what, before, after) in [
        ("descriptors", before.descriptors, after.descriptors),
        ("mappings", before.mappings, after.mappings),
        ("descriptors watched", before.watched, after.watched),
        ("threads", before.threads, after.threads),
        ("KiB of memory", before.bytes >> 10, after.bytes >> 10),
    ] {
        println!("{what:<22}{before:>14}{after:>14}");
    }
    if !is_level {
        engine.breach(format!("the engine held {before:?} and now {after:?}"));
    }
}
