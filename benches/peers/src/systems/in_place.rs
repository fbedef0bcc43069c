//! wakering without copies of its own: packets are written where they are read.

use bytes::BufMut;
use wakering::{Driver, Grant, Packet, Receiver, TryRecvError, TryReserveError};

use super::wakering::{Halves, RunBy, SLEEPING, batch_of, open, over};
use super::{STREAM, System, Waits, spin};
use crate::Result;
use crate::packet::{Sink, Source};
use crate::port::{AsyncPort, Port};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "wakering, in place, background",
        about: "reserve, recv_ref; background driver, pollster",
        perform: |stage| {
            let port = InPlace(open(stage, RunBy::Background)?);
            pollster::block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, in place, background, batch",
        about: "Sender::batch, recv_ref; background driver, pollster",
        measures: STREAM,
        perform: |stage| {
            let port = Batched::new(open(stage, RunBy::Background)?, stage.bytes());
            pollster::block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, in place, parked in",
        about: "reserve, recv_ref; Driver::block_on",
        perform: |stage| {
            let driver = Driver::new()?;
            let port = InPlace(open(stage, RunBy::Parked(&driver))?);
            driver.block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, in place, blocking",
        about: "reserve_blocking, recv_ref_blocking",
        perform: |stage| {
            let port = Blocking(open(stage, RunBy::Background)?);
            stage.run(port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, in place, try",
        about: "try_reserve, try_recv_ref, again and again",
        waits: Waits::Spinning,
        perform: |stage| {
            let port = Trying(open(stage, RunBy::Background)?);
            stage.run(port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, in place, try, batch",
        about: "Sender::batch with try_reserve, try_recv_ref, again and again",
        waits: Waits::Spinning,
        measures: STREAM,
        perform: |stage| {
            let port = Batched::new(open(stage, RunBy::Background)?, stage.bytes());
            stage.run(port)
        },
        ..SLEEPING
    },
];

#[inline]
fn look(packet: &Packet<'_>, sink: &mut Sink) {
    // SAFETY: the peer is this same program, and does not write to what it has sent.
    sink.take(unsafe { packet.as_slice() });
}

struct InPlace(Halves);

impl AsyncPort for InPlace {
    async fn send(&mut self, source: &mut Source) -> Result<()> {
        let packet = source.packet();
        let mut grant = self.0.0.reserve(packet.len()).await?;
        grant.put_slice(packet);
        Ok(grant.commit()?)
    }

    async fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        look(&self.0.1.recv_ref().await.ok_or_else(over)?, sink);
        Ok(())
    }
}

struct Blocking(Halves);

impl Port for Blocking {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        let packet = source.packet();
        let mut grant = self.0.0.reserve_blocking(packet.len())?;
        grant.put_slice(packet);
        Ok(grant.commit()?)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        look(&self.0.1.recv_ref_blocking().ok_or_else(over)?, sink);
        Ok(())
    }
}

/// Many packets between two publications.
struct Batched {
    halves: Halves,
    most: usize,
}

impl Batched {
    fn new(halves: Halves, bytes: usize) -> Self {
        Self { halves, most: batch_of(bytes) }
    }

    async fn send_many(&mut self, source: &mut Source, many: usize) -> Result<()> {
        let mut batch = self.halves.0.batch();
        for _ in 0..many {
            let packet = source.packet();
            let mut grant = batch.reserve(packet.len()).await?;
            grant.put_slice(packet);
            grant.commit()?;
        }
        Ok(batch.publish()?)
    }

    fn try_send_many(&mut self, source: &mut Source, many: usize) -> Result<()> {
        let mut batch = self.halves.0.batch();
        for _ in 0..many {
            let packet = source.packet();
            spin(|| match batch.try_reserve(packet.len()) {
                Ok(grant) => put(grant, packet),
                Err(TryReserveError::Full) => Ok(None),
                Err(error) => Err(error)?,
            })?;
        }
        Ok(batch.publish()?)
    }
}

impl AsyncPort for Batched {
    async fn send(&mut self, source: &mut Source) -> Result<()> {
        self.send_many(source, 1).await
    }

    async fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        look(&self.halves.1.recv_ref().await.ok_or_else(over)?, sink);
        Ok(())
    }

    async fn send_some(&mut self, source: &mut Source) -> Result<()> {
        self.send_many(source, self.most).await
    }
}

impl Port for Batched {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        self.try_send_many(source, 1)
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        try_recv(&mut self.halves.1, sink)
    }

    fn send_some(&mut self, source: &mut Source) -> Result<()> {
        self.try_send_many(source, self.most)
    }
}

/// Writes `packet` to the room that there is.
#[inline]
fn put(mut grant: Grant<'_>, packet: &[u8]) -> Result<Option<()>> {
    grant.put_slice(packet);
    Ok(Some(grant.commit()?))
}

#[inline]
fn try_recv(rx: &mut Receiver, sink: &mut Sink) -> Result<()> {
    spin(|| match rx.try_recv_ref() {
        Ok(packet) => {
            look(&packet, sink);
            Ok(Some(()))
        }
        Err(TryRecvError::Empty) => Ok(None),
        Err(error) => Err(error)?,
    })
}

struct Trying(Halves);

impl Port for Trying {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        let packet = source.packet();
        spin(|| match self.0.0.try_reserve(packet.len()) {
            Ok(grant) => put(grant, packet),
            Err(TryReserveError::Full) => Ok(None),
            Err(error) => Err(error)?,
        })
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        try_recv(&mut self.0.1, sink)
    }
}
