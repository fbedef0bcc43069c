//! wakering without copies of its own: packets are written where they are read.

use bytes::BufMut;
use wakering::{Driver, Packet, TryRecvError, TryReserveError};

use super::wakering::{Halves, Runner, SLEEPING, open, over};
use super::{System, Waits, spin};
use crate::Result;
use crate::packet::{Sink, Source};
use crate::port::{AsyncPort, Port};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "wakering, in place, background",
        about: "reserve, recv_ref; background driver, pollster",
        perform: |stage| {
            let port = InPlace(open(stage, Runner::Background)?);
            pollster::block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, in place, parked in",
        about: "reserve, recv_ref; Driver::block_on",
        perform: |stage| {
            let driver = Driver::new()?;
            let port = InPlace(open(stage, Runner::Parked(&driver))?);
            driver.block_on(stage.run_async(port))
        },
        ..SLEEPING
    },
    System {
        name: "wakering, in place, blocking",
        about: "reserve_blocking, recv_ref_blocking",
        perform: |stage| {
            let port = Blocking(open(stage, Runner::Background)?);
            stage.run(port)
        },
        ..SLEEPING
    },
    System {
        name: "wakering, in place, try",
        about: "try_reserve, try_recv_ref, again and again",
        waits: Waits::Spinning,
        perform: |stage| {
            let port = Trying(open(stage, Runner::Background)?);
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

struct Trying(Halves);

impl Port for Trying {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        let packet = source.packet();
        spin(|| match self.0.0.try_reserve(packet.len()) {
            Ok(mut grant) => {
                grant.put_slice(packet);
                Ok(Some(grant.commit()?))
            }
            Err(TryReserveError::Full) => Ok(None),
            Err(error) => Err(error)?,
        })
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        spin(|| match self.0.1.try_recv_ref() {
            Ok(packet) => {
                look(&packet, sink);
                Ok(Some(()))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(error) => Err(error)?,
        })
    }
}
