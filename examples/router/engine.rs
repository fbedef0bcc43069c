//! The engine: starts the applications, and routes what they send to each other.

use std::fs::{DirBuilder, remove_dir_all};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::SinkExt;
use futures::future::try_join4;
use smol::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use smol::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use smol::{Timer, future};
use wakering::{Backend, Driver, Receiver, Sender, SpscFace};

use crate::application::{Order, Outcome, Task, ended_in_order};
use crate::report::{Measured, Report};
use crate::{Result, Step, arguments};

/// How much longer than planned a step may take. After that, something must have gone wrong.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most packets that are routed at once.
const BATCH: usize = 16;

pub(crate) struct Engine {
    driver: Driver,
    /// The application that sends, or asks.
    left: Application,
    /// The application that receives, or answers.
    right: Application,
    sockets: Sockets,
}

impl Engine {
    pub(crate) fn start(driver: &Driver, backend: Backend) -> Result<Self> {
        Ok(Self {
            driver: driver.clone(),
            left: Application::start("left", backend)?,
            right: Application::start("right", backend)?,
            sockets: Sockets::new()?,
        })
    }

    pub(crate) fn backend(&self) -> Backend {
        self.driver.backend()
    }

    /// Runs a step, on new channels.
    pub(crate) async fn run(
        &mut self,
        step: Step,
        time: Duration,
        report: &Report,
    ) -> Result<Measured> {
        within(time + PATIENCE, self.run_step(step, time, report)).await
    }

    async fn run_step(&mut self, step: Step, time: Duration, report: &Report) -> Result<Measured> {
        let (bytes, task, counterpart) = match step {
            Step::RoundTrip { bytes } => (bytes, Task::Ping(time), Task::Echo),
            Step::Stream { bytes } => (bytes, Task::Send(time), Task::Receive),
        };
        // Each application finds its face by the name in its order.
        let [left_name, right_name] = ["left", "right"].map(|side| self.sockets.name(side));
        let left = SpscFace::builder().driver(&self.driver).create(&left_name)?;
        let right = SpscFace::builder().driver(&self.driver).create(&right_name)?;
        self.right.tell(&Order { task: counterpart, bytes, name: right_name }).await?;
        self.left.tell(&Order { task, bytes, name: left_name }).await?;

        let (to_left, from_left) = left.into_split();
        let (to_right, from_right) = right.into_split();
        let routed = AtomicU64::new(0);
        let there = route(from_left, to_right, &routed);
        let back = route(from_right, to_left, &routed);
        let ends = try_join4(self.left.answer(), self.right.answer(), there, back);
        let (sent, received, from_left, from_right) =
            future::or(ends, report.watch(step, &routed)).await?;

        let engine_wakes = from_left.stats().wakes_sent + from_right.stats().wakes_sent;
        Ok(Measured { sent, received, wakes: sent.wakes + received.wakes + engine_wakes })
    }
}

/// Routes packets one way until no more come, and passes the end on. A stream that is cut off on
/// one side is cut off on the other: its receiver must not take a part for the whole.
async fn route(mut from: Receiver, mut to: Sender, routed: &AtomicU64) -> Result<Receiver> {
    to.cancel_on_drop(true);
    let mut batch = Vec::with_capacity(BATCH);
    while from.recv_batch(&mut batch, BATCH).await > 0 {
        to.send_batch(&batch).await?;
        routed.fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.clear();
    }
    ended_in_order(&from)?;
    to.close().await?;
    Ok(from)
}

/// A copy of this program that follows orders.
struct Application {
    side: &'static str,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Killed on drop.
    process: Child,
}

impl Application {
    fn start(side: &'static str, backend: Backend) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([arguments::APPLICATION, "--backend", &backend.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = process.stdin.take().ok_or("no pipe to the application")?;
        let answers = process.stdout.take().ok_or("no pipe from the application")?;
        Ok(Self { side, orders, answers: BufReader::new(answers), process })
    }

    async fn tell(&mut self, order: &Order) -> Result<()> {
        let line = format!("{order}\n");
        self.orders.write_all(line.as_bytes()).await?;
        Ok(self.orders.flush().await?)
    }

    async fn answer(&mut self) -> Result<Outcome> {
        let side = self.side;
        let mut line = String::new();
        if self.answers.read_line(&mut line).await? == 0 {
            let status = self.process.status().await?;
            Err(format!("the {side} application ended early: {status}"))?;
        }
        line.trim_end().parse().map_err(|error| format!("the {side} application: {error}").into())
    }
}

/// A directory for the sockets that no other user can reach; removed on drop.
struct Sockets(PathBuf);

impl Sockets {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("wakering-router-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| format!("making {}: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// A name that begins with a slash is the path of the socket itself.
    fn name(&self, side: &str) -> String {
        self.0.join(format!("{side}.sock")).display().to_string()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // If this fails, the directory stays in the temporary directory.
        let _ = remove_dir_all(&self.0);
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    future::or(work, async {
        Timer::after(limit).await;
        Err(format!("no end after {} seconds: something hangs", limit.as_secs_f64()).into())
    })
    .await
}
