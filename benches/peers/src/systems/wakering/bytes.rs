//! wakering by the calls that carry `Bytes`.

use std::hint::spin_loop;

use async_io::Async;
use bytes::{BufMut, Bytes, BytesMut};
use wakering::{Driver, PolledDriver, Receiver, Sender, TryRecvError, TrySendError};

use super::open::{Halves, Runner, SLEEPING, batch_of, open, over};
use crate::Result;
use crate::loops::{AllLoops, Loops};
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::stage::Stage;
use crate::system::{ROUND_TRIP, STREAM, System, Waits, Way};
use crate::trips::{Echo, Trips};

/// What those have in common that send a packet a call, and those that send many.
const SINGLE: System = System {
    way: Some(Way::Bytes),
    limits: &["bare ring, Bytes", "bare ring, in place", "cache line", "futex"],
    ..SLEEPING
};
const BATCH: System = System {
    way: Some(Way::Bytes),
    measures: STREAM,
    limits: &["bare ring, Bytes, batch", "bare ring, in place"],
    ..SLEEPING
};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "wakering, background",
        about: "send, recv; background driver, pollster",
        perform: |stage| {
            let loops = Single::new(open(stage, Runner::Background)?);
            pollster::block_on(stage.run(loops))
        },
        ..SINGLE
    },
    System {
        name: "wakering, background, smol",
        about: "send, recv; background driver, smol",
        limits: &[
            "bare ring, Bytes",
            "futex, in a thread's ring, smol",
            "bare ring, in place",
            "cache line",
            "futex",
        ],
        perform: |stage| {
            let loops = Single::new(open(stage, Runner::Background)?);
            smol::block_on(stage.run(loops))
        },
        ..SINGLE
    },
    System {
        name: "wakering, background, batch",
        about: "send_batch, recv_batch; background driver, pollster",
        perform: |stage| {
            let loops = Batch::new(open(stage, Runner::Background)?);
            pollster::block_on(stage.run(loops))
        },
        ..BATCH
    },
    System {
        name: "wakering, polled, smol",
        about: "send, recv; driver in smol's reactor, PolledDriver::drive",
        limits: &[
            "bare ring, Bytes",
            "futex, in a ring in smol",
            "bare ring, in place",
            "cache line",
            "futex",
        ],
        perform: |stage| {
            let driver = Driver::builder().polled()?;
            let loops = Single::new(open(stage, Runner::Polled(&driver))?);
            in_reactor(stage, driver, loops)
        },
        ..SINGLE
    },
    System {
        name: "wakering, polled by a task, smol",
        about: "send, recv; driver in smol's reactor, turned by a task of its own",
        measures: ROUND_TRIP,
        limits: &["bare ring, Bytes", "futex, in a ring in smol", "futex"],
        perform: |stage| {
            let driver = Driver::builder().polled()?;
            let loops = Single::new(open(stage, Runner::Polled(&driver))?);
            by_a_task(stage, driver, loops)
        },
        ..SINGLE
    },
    System {
        name: "wakering, polled, smol, batch",
        about: "send_batch, recv_batch; driver in smol's reactor",
        perform: |stage| {
            let driver = Driver::builder().polled()?;
            let loops = Batch::new(open(stage, Runner::Polled(&driver))?);
            in_reactor(stage, driver, loops)
        },
        ..BATCH
    },
    System {
        name: "wakering, parked in",
        about: "send, recv; Driver::block_on",
        limits: &[
            "bare ring, Bytes",
            "futex, in a ring",
            "bare ring, Bytes, asleep",
            "bare ring, in place",
            "cache line",
            "futex",
        ],
        perform: |stage| {
            let driver = Driver::new()?;
            let loops = Single::new(open(stage, Runner::Parked(&driver))?);
            driver.block_on(stage.run(loops))
        },
        ..SINGLE
    },
    System {
        name: "wakering, parked in, batch",
        about: "send_batch, recv_batch; Driver::block_on",
        perform: |stage| {
            let driver = Driver::new()?;
            let loops = Batch::new(open(stage, Runner::Parked(&driver))?);
            driver.block_on(stage.run(loops))
        },
        ..BATCH
    },
    System {
        name: "wakering, blocking",
        about: "send_blocking, recv_blocking",
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Blocking { tx, rx }))
        },
        ..SINGLE
    },
    System {
        name: "wakering, blocking, batch",
        about: "send_batch_blocking, recv_batch_blocking",
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(BlockingBatch { tx, rx }))
        },
        ..BATCH
    },
    System {
        name: "wakering, try",
        about: "try_send, try_recv, again and again",
        waits: Waits::Spinning,
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Trying { tx, rx }))
        },
        ..SINGLE
    },
];

/// Runs a polled driver where smol looks for what is ready, beside the loops.
fn in_reactor(stage: &mut Stage, driver: PolledDriver, loops: impl AllLoops) -> Result<Outcome> {
    let driver = Async::new(driver)?;
    let work = stage.run(loops);
    smol::block_on(driver.get_ref().drive(|| driver.readable(), work))?
}

fn by_a_task(stage: &mut Stage, driver: PolledDriver, loops: impl AllLoops) -> Result<Outcome> {
    let driver = Async::new(driver)?;
    let executor = smol::LocalExecutor::new();
    let _reactor = executor.spawn(async move {
        loop {
            driver.get_ref().turn()?;
            driver.readable().await?;
        }
        #[allow(unreachable_code, reason = "tells the type of the block")]
        Ok::<(), crate::Error>(())
    });
    smol::block_on(executor.run(stage.run(loops)))
}

/// A packet a call.
pub(super) struct Single {
    tx: Sender,
    rx: Receiver,
}

impl Single {
    pub(super) fn new((tx, rx): Halves) -> Self {
        Self { tx, rx }
    }
}

impl<const N: usize> Loops<N> for Single {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.tx.send(Bytes::copy_from_slice(packet)).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv().await {
            if !sink.take(&packet) {
                return Ok(());
            }
        }
        Err(over())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.tx.send(Bytes::copy_from_slice(packet)).await?;
            trips.take(&self.rx.recv().await.ok_or_else(over)?);
        }
        Ok(self.tx.send(Bytes::copy_from_slice(trips.last())).await?)
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv().await {
            if !echo.take(&packet) {
                return Ok(());
            }
            self.tx.send(Bytes::copy_from_slice(echo.answer())).await?;
        }
        Err(over())
    }
}

/// The same on a thread, which the calls block.
struct Blocking {
    tx: Sender,
    rx: Receiver,
}

impl<const N: usize> Loops<N> for Blocking {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.tx.send_blocking(Bytes::copy_from_slice(packet))?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv_blocking() {
            if !sink.take(&packet) {
                return Ok(());
            }
        }
        Err(over())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.tx.send_blocking(Bytes::copy_from_slice(packet))?;
            trips.take(&self.rx.recv_blocking().ok_or_else(over)?);
        }
        Ok(self.tx.send_blocking(Bytes::copy_from_slice(trips.last()))?)
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv_blocking() {
            if !echo.take(&packet) {
                return Ok(());
            }
            self.tx.send_blocking(Bytes::copy_from_slice(echo.answer()))?;
        }
        Err(over())
    }
}

/// The same by calls that return at once.
struct Trying {
    tx: Sender,
    rx: Receiver,
}

impl Trying {
    #[inline(always)]
    fn put(&mut self, packet: &[u8]) -> Result<()> {
        let mut packet = Bytes::copy_from_slice(packet);
        while let Err(error) = self.tx.try_send(packet) {
            match error {
                TrySendError::Full(back) => packet = back,
                error => return Err(error.into()),
            }
            spin_loop();
        }
        Ok(())
    }

    #[inline(always)]
    fn take(&mut self) -> Result<Bytes> {
        loop {
            match self.rx.try_recv() {
                Ok(packet) => return Ok(packet),
                Err(TryRecvError::Empty) => spin_loop(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<const N: usize> Loops<N> for Trying {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.put(packet)?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(&self.take()?) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.put(packet)?;
            trips.take(&self.take()?);
        }
        self.put(trips.last())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(&self.take()?) {
            self.put(echo.answer())?;
        }
        Ok(())
    }
}

/// Many packets a call.
struct Batch {
    tx: Sender,
    rx: Receiver,
}

impl Batch {
    fn new((tx, rx): Halves) -> Self {
        Self { tx, rx }
    }
}

/// Puts the next packets of `source` into `batch`: pieces of one allocation, which `memory` gets
/// back once they are sent.
#[inline(always)]
fn fill<const N: usize>(batch: &mut Vec<Bytes>, memory: &mut BytesMut, source: &mut Source<N>) {
    batch.clear();
    memory.reserve(batch_of(N) * N);
    while batch.len() < batch_of(N)
        && let Some(packet) = source.next()
    {
        memory.put_slice(packet);
        batch.push(memory.split().freeze());
    }
}

impl<const N: usize> Loops<N> for Batch {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let (mut batch, mut memory) = (Vec::new(), BytesMut::new());
        loop {
            fill(&mut batch, &mut memory, source);
            if batch.is_empty() {
                return Ok(());
            }
            self.tx.send_batch(&batch).await?;
        }
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        let mut batch = Vec::new();
        while self.rx.recv_batch(&mut batch, batch_of(N)).await > 0 {
            for packet in batch.drain(..) {
                if !sink.take(&packet) {
                    return Ok(());
                }
            }
        }
        Err(over())
    }
}

struct BlockingBatch {
    tx: Sender,
    rx: Receiver,
}

impl<const N: usize> Loops<N> for BlockingBatch {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let (mut batch, mut memory) = (Vec::new(), BytesMut::new());
        loop {
            fill(&mut batch, &mut memory, source);
            if batch.is_empty() {
                return Ok(());
            }
            self.tx.send_batch_blocking(&batch)?;
        }
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        let mut batch = Vec::new();
        while self.rx.recv_batch_blocking(&mut batch, batch_of(N)) > 0 {
            for packet in batch.drain(..) {
                if !sink.take(&packet) {
                    return Ok(());
                }
            }
        }
        Err(over())
    }
}
