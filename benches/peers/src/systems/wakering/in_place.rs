//! wakering without copies of its own: packets are written where they are read.

use std::hint::spin_loop;

use bytes::BufMut;
use wakering::{Driver, Packet, Receiver, Sender, TryRecvError, TryReserveError};

use super::open::{Runner, SLEEPING, batch_of, open, over};
use crate::Result;
use crate::loops::Loops;
use crate::packet::{Sink, Source};
use crate::system::{STREAM, System, Waits, Way};
use crate::trips::{Echo, Trips};

const SINGLE: System = System {
    way: Some(Way::InPlace),
    limits: &["bare ring, in place", "cache line", "futex"],
    ..SLEEPING
};
const BATCH: System = System {
    way: Some(Way::InPlace),
    measures: STREAM,
    limits: &["bare ring, in place, batch", "bare ring, in place"],
    ..SLEEPING
};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "wakering, in place, background",
        about: "reserve, recv_ref; background driver, pollster",
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Single { tx, rx }))
        },
        ..SINGLE
    },
    System {
        name: "wakering, in place, background, batch",
        about: "Sender::batch, recv_ref; background driver, pollster",
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Batch { tx, rx }))
        },
        ..BATCH
    },
    System {
        name: "wakering, in place, parked in",
        about: "reserve, recv_ref; Driver::block_on",
        perform: |stage| {
            let driver = Driver::new()?;
            let (tx, rx) = open(stage, Runner::Parked(&driver))?;
            driver.block_on(stage.run(Single { tx, rx }))
        },
        ..SINGLE
    },
    System {
        name: "wakering, in place, blocking",
        about: "reserve_blocking, recv_ref_blocking",
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Blocking { tx, rx }))
        },
        ..SINGLE
    },
    System {
        name: "wakering, in place, try",
        about: "try_reserve, try_recv_ref, again and again",
        waits: Waits::Spinning,
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Trying { tx, rx }))
        },
        ..SINGLE
    },
    System {
        name: "wakering, in place, try, batch",
        about: "Sender::batch with try_reserve, try_recv_ref, again and again",
        waits: Waits::Spinning,
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(TryingBatch(Trying { tx, rx })))
        },
        ..BATCH
    },
];

/// The bytes of a packet where they lie.
#[inline(always)]
pub(super) fn bytes<'a>(packet: &'a Packet<'_>) -> &'a [u8] {
    // SAFETY: the peer is this same program, and does not write to what it has sent.
    unsafe { packet.as_slice() }
}

pub(super) struct Single {
    pub(super) tx: Sender,
    pub(super) rx: Receiver,
}

impl<const N: usize> Loops<N> for Single {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            let mut grant = self.tx.reserve(N).await?;
            grant.put_slice(packet);
            grant.commit()?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv_ref().await {
            if !sink.take(bytes(&packet)) {
                return Ok(());
            }
        }
        Err(over())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            let mut grant = self.tx.reserve(N).await?;
            grant.put_slice(packet);
            grant.commit()?;
            trips.take(bytes(&self.rx.recv_ref().await.ok_or_else(over)?));
        }
        let mut grant = self.tx.reserve(N).await?;
        grant.put_slice(trips.last());
        Ok(grant.commit()?)
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv_ref().await {
            if !echo.take(bytes(&packet)) {
                return Ok(());
            }
            let mut grant = self.tx.reserve(N).await?;
            grant.put_slice(echo.answer());
            grant.commit()?;
        }
        Err(over())
    }
}

/// Many packets between two publications.
struct Batch {
    tx: Sender,
    rx: Receiver,
}

impl<const N: usize> Loops<N> for Batch {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let mut is_over = false;
        while !is_over {
            let mut batch = self.tx.batch();
            for _ in 0..batch_of(N) {
                let Some(packet) = source.next() else {
                    is_over = true;
                    break;
                };
                let mut grant = batch.reserve(N).await?;
                grant.put_slice(packet);
                grant.commit()?;
            }
            batch.publish()?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv_ref().await {
            if !sink.take(bytes(&packet)) {
                return Ok(());
            }
        }
        Err(over())
    }
}

struct Blocking {
    tx: Sender,
    rx: Receiver,
}

impl<const N: usize> Loops<N> for Blocking {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            let mut grant = self.tx.reserve_blocking(N)?;
            grant.put_slice(packet);
            grant.commit()?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv_ref_blocking() {
            if !sink.take(bytes(&packet)) {
                return Ok(());
            }
        }
        Err(over())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            let mut grant = self.tx.reserve_blocking(N)?;
            grant.put_slice(packet);
            grant.commit()?;
            trips.take(bytes(&self.rx.recv_ref_blocking().ok_or_else(over)?));
        }
        let mut grant = self.tx.reserve_blocking(N)?;
        grant.put_slice(trips.last());
        Ok(grant.commit()?)
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while let Some(packet) = self.rx.recv_ref_blocking() {
            if !echo.take(bytes(&packet)) {
                return Ok(());
            }
            let mut grant = self.tx.reserve_blocking(N)?;
            grant.put_slice(echo.answer());
            grant.commit()?;
        }
        Err(over())
    }
}

struct Trying {
    tx: Sender,
    rx: Receiver,
}

impl Trying {
    #[inline(always)]
    fn put(&mut self, packet: &[u8]) -> Result<()> {
        let mut grant = loop {
            match self.tx.try_reserve(packet.len()) {
                Ok(grant) => break grant,
                Err(TryReserveError::Full) => spin_loop(),
                Err(error) => return Err(error.into()),
            }
        };
        grant.put_slice(packet);
        Ok(grant.commit()?)
    }

    #[inline(always)]
    fn look<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        loop {
            match self.rx.try_recv_ref() {
                Ok(packet) => return Ok(look(bytes(&packet))),
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
        while self.look(|packet| sink.take(packet))? {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.put(packet)?;
            self.look(|answer| trips.take(answer))?;
        }
        self.put(trips.last())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while self.look(|packet| echo.take(packet))? {
            self.put(echo.answer())?;
        }
        Ok(())
    }
}

struct TryingBatch(Trying);

impl<const N: usize> Loops<N> for TryingBatch {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let mut is_over = false;
        while !is_over {
            let mut batch = self.0.tx.batch();
            for _ in 0..batch_of(N) {
                let Some(packet) = source.next() else {
                    is_over = true;
                    break;
                };
                let mut grant = loop {
                    match batch.try_reserve(N) {
                        Ok(grant) => break grant,
                        Err(TryReserveError::Full) => spin_loop(),
                        Err(error) => return Err(error.into()),
                    }
                };
                grant.put_slice(packet);
                grant.commit()?;
            }
            batch.publish()?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        self.0.receive(sink).await
    }
}
