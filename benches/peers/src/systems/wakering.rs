//! wakering, by each of its ways that carries `Bytes`.
//!
//! All with the settings that a user gets who sets none. Which driver runs, under which executor,
//! by which calls: that is what differs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use async_io::Async;
use bytes::Bytes;
use wakering::{
    Driver, PolledDriver, Receiver, Sender, SpscFace, SpscHandle, TryRecvError, TrySendError,
};

use super::{BOTH, Family, ROUND_TRIP, STREAM, System, Waits, spin};
use crate::Result;
use crate::cell::{Measure, Side};
use crate::meters::resident_bytes;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::{AsyncPort, Port};
use crate::stage::Stage;

/// What most of its ways have in common.
pub(super) const SLEEPING: System = System {
    name: "",
    family: Family::Wakering,
    waits: Waits::Sleeping,
    about: "",
    measures: BOTH,
    sizes: &[],
    perform: |_| Err("not a system".into()),
};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "wakering, background",
        about: "send, recv; background driver, pollster",
        perform: |stage| {
            let port = Single::new(open(stage, RunBy::Background)?);
            pollster::block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, background, smol",
        about: "send, recv; background driver, smol",
        perform: |stage| {
            let port = Single::new(open(stage, RunBy::Background)?);
            smol::block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, background, batch",
        about: "send_batch, recv_batch; background driver, pollster",
        measures: STREAM,
        perform: |stage| {
            let port = Batch::new(open(stage, RunBy::Background)?, stage.bytes());
            pollster::block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, polled, smol",
        about: "send, recv; driver in smol's reactor, PolledDriver::drive",
        perform: |stage| {
            let driver = Driver::builder().polled()?;
            let port = Single::new(open(stage, RunBy::Polled(&driver))?);
            in_reactor(stage, driver, port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, polled by a task, smol",
        about: "send, recv; driver in smol's reactor, turned by a task of its own",
        measures: ROUND_TRIP,
        perform: |stage| {
            let driver = Driver::builder().polled()?;
            let port = Single::new(open(stage, RunBy::Polled(&driver))?);
            by_a_task(stage, driver, port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, polled, smol, batch",
        about: "send_batch, recv_batch; driver in smol's reactor",
        measures: STREAM,
        perform: |stage| {
            let driver = Driver::builder().polled()?;
            let port = Batch::new(open(stage, RunBy::Polled(&driver))?, stage.bytes());
            in_reactor(stage, driver, port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, parked in",
        about: "send, recv; Driver::block_on",
        perform: |stage| {
            let driver = Driver::new()?;
            let port = Single::new(open(stage, RunBy::Parked(&driver))?);
            driver.block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, parked in, batch",
        about: "send_batch, recv_batch; Driver::block_on",
        measures: STREAM,
        perform: |stage| {
            let driver = Driver::new()?;
            let port = Batch::new(open(stage, RunBy::Parked(&driver))?, stage.bytes());
            driver.block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, blocking",
        about: "send_blocking, recv_blocking",
        perform: |stage| {
            let port = Blocking(Single::new(open(stage, RunBy::Background)?));
            stage.run(port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, blocking, batch",
        about: "send_batch_blocking, recv_batch_blocking",
        measures: STREAM,
        perform: |stage| {
            let port = Blocking(Batch::new(open(stage, RunBy::Background)?, stage.bytes()));
            stage.run(port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, try",
        about: "try_send, try_recv, again and again",
        waits: Waits::Spinning,
        perform: |stage| {
            let port = Trying(Single::new(open(stage, RunBy::Background)?));
            stage.run(port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, idle",
        about: "channels that nobody uses; background driver",
        measures: &[Measure::Idle],
        sizes: &[64],
        perform: idle,
        ..SLEEPING
    },
];

pub(super) type Halves = (Sender, Receiver);

/// Who runs the driver of a channel.
#[derive(Clone, Copy)]
pub(super) enum RunBy<'a> {
    /// The process's own thread.
    Background,
    /// This thread, which parks in it.
    Parked(&'a Driver),
    /// This thread, in turns.
    Polled(&'a PolledDriver),
}

impl RunBy<'_> {
    fn driver(&self) -> Option<&Driver> {
        match self {
            Self::Background => None,
            Self::Parked(driver) => Some(driver),
            Self::Polled(driver) => Some(driver),
        }
    }

    /// Lets the driver work for a moment.
    fn run(&self) -> Result<()> {
        const MOMENT: Duration = Duration::from_millis(1);
        match self {
            Self::Background => thread::sleep(MOMENT),
            Self::Parked(driver) => driver.park(Some(MOMENT))?,
            Self::Polled(driver) => {
                driver.turn()?;
                thread::sleep(MOMENT);
            }
        }
        Ok(())
    }
}

/// Makes a channel, or joins it, by name, as programs do that know nothing of each other.
pub(super) fn open(stage: &mut Stage, run_by: RunBy<'_>) -> Result<Halves> {
    static CHANNELS: AtomicU32 = AtomicU32::new(0);
    let driver = run_by.driver();
    Ok(match stage.side() {
        Side::A => {
            let number = CHANNELS.fetch_add(1, Ordering::Relaxed);
            let name = format!("peers-{}-{number}", std::process::id());
            let face = SpscFace::builder();
            let face = driver.into_iter().fold(face, |face, driver| face.driver(driver));
            let face = face.create(&name)?;
            stage.link.tell(&name)?;
            while !face.is_connected() {
                run_by.run()?;
            }
            face.into_split()
        }
        Side::B => {
            let handle = SpscHandle::builder();
            let handle = driver.into_iter().fold(handle, |handle, driver| handle.driver(driver));
            handle.connect(&stage.link.hear()?)?.into_split()
        }
    })
}

/// Runs a polled driver where smol looks for what is ready, beside the port.
fn in_reactor(stage: &mut Stage, driver: PolledDriver, port: impl AsyncPort) -> Result<Outcome> {
    let driver = Async::new(driver)?;
    let work = stage.run_async(port);
    smol::block_on(driver.get_ref().drive(|| driver.readable(), work))?
}

fn by_a_task(stage: &mut Stage, driver: PolledDriver, port: impl AsyncPort) -> Result<Outcome> {
    let driver = Async::new(driver)?;
    let executor = smol::LocalExecutor::new();
    let _reactor = executor.spawn(async move {
        loop {
            driver.get_ref().turn()?;
            driver.readable().await?;
        }
        #[allow(unreachable_code, reason = "tells the type of the block")]
        Ok::<(), Box<dyn std::error::Error>>(())
    });
    smol::block_on(executor.run(stage.run_async(port)))
}

pub(super) fn over() -> crate::Error {
    "the channel ended too early".into()
}

/// A packet a call.
struct Single {
    tx: Sender,
    rx: Receiver,
    memory: Bytes,
}

impl Single {
    fn new((tx, rx): Halves) -> Self {
        Self { tx, rx, memory: Bytes::new() }
    }

    #[inline]
    fn next(&mut self, source: &mut Source) -> Bytes {
        source.refill(&mut self.memory);
        self.memory.clone()
    }
}

impl AsyncPort for Single {
    async fn send(&mut self, source: &mut Source) -> Result<()> {
        let packet = self.next(source);
        Ok(self.tx.send(packet).await?)
    }

    async fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        sink.take(&self.rx.recv().await.ok_or_else(over)?);
        Ok(())
    }
}

/// Calls that return when they are done.
struct Blocking<P>(P);

impl Port for Blocking<Single> {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        let packet = self.0.next(source);
        Ok(self.0.tx.send_blocking(packet)?)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        sink.take(&self.0.rx.recv_blocking().ok_or_else(over)?);
        Ok(())
    }
}

/// Calls that return at once.
struct Trying(Single);

impl Port for Trying {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        let mut packet = self.0.next(source);
        spin(|| match self.0.tx.try_send(std::mem::take(&mut packet)) {
            Ok(()) => Ok(Some(())),
            Err(TrySendError::Full(back)) => {
                packet = back;
                Ok(None)
            }
            Err(error) => Err(error)?,
        })
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        let packet = spin(|| match self.0.rx.try_recv() {
            Ok(packet) => Ok(Some(packet)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(error) => Err(error)?,
        })?;
        sink.take(&packet);
        Ok(())
    }
}

/// Packets of a call, at most, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

/// Packets of a batch.
pub(super) fn batch_of(bytes: usize) -> usize {
    (BATCH_BYTES / bytes).clamp(1, BATCH)
}

/// Many packets a call.
struct Batch {
    tx: Sender,
    rx: Receiver,
    out: Vec<Bytes>,
    received: Vec<Bytes>,
}

impl Batch {
    fn new((tx, rx): Halves, bytes: usize) -> Self {
        let most = batch_of(bytes);
        Self { tx, rx, out: vec![Bytes::new(); most], received: Vec::with_capacity(most) }
    }

    fn fill(&mut self, source: &mut Source) {
        self.out.iter_mut().for_each(|memory| source.refill(memory));
    }

    fn empty(&mut self, sink: &mut Sink) -> Result<()> {
        if self.received.is_empty() {
            return Err(over());
        }
        self.received.drain(..).for_each(|packet| sink.take(&packet));
        Ok(())
    }
}

impl AsyncPort for Batch {
    async fn send(&mut self, source: &mut Source) -> Result<()> {
        source.refill(&mut self.out[0]);
        Ok(self.tx.send_batch(&self.out[..1]).await?)
    }

    async fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        self.rx.recv_batch(&mut self.received, 1).await;
        self.empty(sink)
    }

    async fn send_some(&mut self, source: &mut Source) -> Result<()> {
        self.fill(source);
        Ok(self.tx.send_batch(&self.out).await?)
    }

    async fn recv_some(&mut self, sink: &mut Sink) -> Result<()> {
        self.rx.recv_batch(&mut self.received, self.out.len()).await;
        self.empty(sink)
    }
}

impl Port for Blocking<Batch> {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        source.refill(&mut self.0.out[0]);
        Ok(self.0.tx.send_batch_blocking(&self.0.out[..1])?)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        self.0.rx.recv_batch_blocking(&mut self.0.received, 1);
        self.0.empty(sink)
    }

    fn send_some(&mut self, source: &mut Source) -> Result<()> {
        self.0.fill(source);
        Ok(self.0.tx.send_batch_blocking(&self.0.out)?)
    }

    fn recv_some(&mut self, sink: &mut Sink) -> Result<()> {
        self.0.rx.recv_batch_blocking(&mut self.0.received, self.0.out.len());
        self.0.empty(sink)
    }
}

/// What a channel takes on each side, from the difference that many of them make.
fn idle(stage: &mut Stage) -> Result<Outcome> {
    const CHANNELS: u64 = 32;

    // The first one starts the driver.
    let _first = open(stage, RunBy::Background)?;
    stage.link.meet()?;
    let before = resident_bytes()?;
    let channels: Result<Vec<_>> = (0..CHANNELS).map(|_| open(stage, RunBy::Background)).collect();
    let _channels = channels?;
    stage.link.meet()?;
    let resident = resident_bytes()?.saturating_sub(before) / CHANNELS;
    stage.link.meet()?;
    Ok(Outcome { resident, ..Outcome::default() })
}
