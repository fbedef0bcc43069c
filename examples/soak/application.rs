//! The other processes. Each has some channels, and runs one session after the other on them.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::process::{Signal, set_parent_process_death_signal};
use smol::{Timer, future};
use wakering::{Backend, Driver, HandleBuilder, ShmError, SpscHandle};

use super::held::Held;
use super::random::Random;
use super::tally::Tally;
use super::{PATIENCE, Result, SPARE, session};

/// With this first argument, the program is one of its own applications.
pub(crate) const APPLICATION: &str = "--application";

/// The prefixes of the lines that report a breach, and the counts.
pub(crate) const BREACH: &str = "BREACH ";
pub(crate) const TALLY: &str = "TALLY ";

/// Serves until the standard input ends. The arguments are a seed, the number of channels, and the
/// names of the engine's listeners.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    // This process must not outlive the engine, however the engine ends.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let [seed, channels, names @ ..] = arguments else {
        return Err("an application without arguments".into());
    };
    let (mut random, channels) = (Random(seed.parse()?), channels.parse()?);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });
    let requested = if random.percent(50) { Backend::Epoll } else { Backend::Auto };
    let builder = Driver::builder().backend(requested);
    let tally = Tally::default();
    // The driver is parked in by the thread that runs the tasks, or has its own thread.
    let (driver, is_parked) =
        if random.percent(50) { (builder.build()?, true) } else { (builder.background()?, false) };
    let run = |work: future::Boxed<()>| {
        if is_parked { driver.block_on(work) } else { smol::block_on(work) }
    };
    let shared = Arc::new(Application {
        builder: SpscHandle::builder().driver(&driver).send_timeout(Some(PATIENCE)),
        names: names.to_vec(),
        is_over,
        tally,
    });
    // Everything that is made once and kept is made now: threads of timers, buffers of the
    // allocator.
    let first: Vec<_> = (0..channels).map(|_| shared.clone().talk(random.split())).collect();
    run(Box::pin(async move { drop(join_all(first).await) }));
    // A driver that threads park in frees an end that is gone only when it runs next.
    let settle = || {
        let _ = driver.park(Some(Duration::ZERO));
        true
    };
    let mut before = Held::now();
    while before.mappings > 0 {
        settle();
        std::thread::sleep(Duration::from_millis(1));
        before = Held::now();
    }
    let all: Vec<_> = (0..channels).map(|_| shared.clone().channel(random.split())).collect();
    run(Box::pin(async move { drop(join_all(all).await) }));
    if let Err(after) = before.wait_until_level(PATIENCE, Some(SPARE), settle) {
        breach(&format!("an application held {before:?} and now {after:?}"));
    }
    say(&format!("{TALLY}{}", shared.tally.line()));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the engine listens")]
fn say(line: &str) {
    println!("{line}");
}

fn breach(what: &str) {
    say(&format!("{BREACH}{what}"));
}

struct Application {
    builder: HandleBuilder,
    names: Vec<String>,
    is_over: Arc<AtomicBool>,
    tally: Tally,
}

impl Application {
    /// Runs one session after the other.
    async fn channel(self: Arc<Self>, mut random: Random) {
        while !self.is_over.load(Ordering::Relaxed) {
            self.clone().talk(random.split()).await;
        }
    }

    async fn talk(self: Arc<Self>, mut random: Random) {
        let session = async {
            let handle = self.connect(&mut random).await?;
            session::run(handle.into(), random, &self.tally).await
        };
        if let Err(what) = session.await {
            breach(&format!("a session of an application: {what}"));
        }
    }

    async fn connect(&self, random: &mut Random) -> std::result::Result<SpscHandle, String> {
        let begin = Instant::now();
        while begin.elapsed() < 2 * PATIENCE {
            let name = &self.names[random.index(self.names.len())];
            match self.builder.clone().connect_async(name).await {
                Ok(handle) => return Ok(handle),
                // The engine's queue of clients that wait to be accepted is bounded.
                Err(ShmError::Busy) => self.tally.connect_repeated(),
                Err(error) => return Err(format!("connect: {error:?}")),
            }
            Timer::after(Duration::from_millis(20)).await;
        }
        Err("an application is not let in".to_owned())
    }
}
