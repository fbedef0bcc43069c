//! wakering with packets that hold many items of one length: the like of a slice of items.
//!
//! The items are appended to a packet where it lies in the ring. The receiver copies the packet, as
//! a whole, to an aligned buffer of its own and looks at the items there; no `unsafe` is needed.

use std::hint::spin_loop;

use bytes::BufMut;
use wakering::{Receiver, Sender, TryRecvError, TryReserveError};

use super::open::{Runner, SLEEPING, open, over};
use crate::Result;
use crate::loops::Loops;
use crate::packet::{Sink, Source};
use crate::system::{STREAM, System, Waits};

const ITEMS: System = System {
    measures: STREAM,
    sizes: &[64, 1024],
    limits: &["bare ring, items", "bare ring, in place"],
    ..SLEEPING
};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "wakering, items, background",
        about: "packets of 4 KiB that hold the items: reserve, put_slice for each item; recv_ref, \
                copied as a whole; background driver, pollster",
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Items { tx, rx }))
        },
        ..ITEMS
    },
    System {
        name: "wakering, items, try",
        about: "the same by try_reserve and try_recv_ref, again and again",
        waits: Waits::Spinning,
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(TryingItems { tx, rx }))
        },
        ..ITEMS
    },
];

/// Bytes of a packet of items.
const PACKET: usize = 4096;

/// Where a received packet is copied to.
#[repr(align(64))]
struct Aligned([u8; PACKET]);

struct Items {
    tx: Sender,
    rx: Receiver,
}

impl<const N: usize> Loops<N> for Items {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let mut is_over = false;
        while !is_over {
            let mut grant = self.tx.reserve(PACKET).await?;
            while grant.remaining_mut() >= N {
                let Some(item) = source.next() else {
                    is_over = true;
                    break;
                };
                grant.put_slice(item);
            }
            grant.commit()?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        let mut buffer = Aligned([0; PACKET]);
        while let Some(packet) = self.rx.recv_ref().await {
            let items = &mut buffer.0[..packet.len()];
            packet.copy_to_slice(items);
            drop(packet);
            for item in items.chunks_exact(N) {
                if !sink.take(item) {
                    return Ok(());
                }
            }
        }
        Err(over())
    }
}

struct TryingItems {
    tx: Sender,
    rx: Receiver,
}

impl<const N: usize> Loops<N> for TryingItems {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let mut is_over = false;
        while !is_over {
            let mut grant = loop {
                match self.tx.try_reserve(PACKET) {
                    Ok(grant) => break grant,
                    Err(TryReserveError::Full) => spin_loop(),
                    Err(error) => return Err(error.into()),
                }
            };
            while grant.remaining_mut() >= N {
                let Some(item) = source.next() else {
                    is_over = true;
                    break;
                };
                grant.put_slice(item);
            }
            grant.commit()?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        let mut buffer = Aligned([0; PACKET]);
        loop {
            let packet = match self.rx.try_recv_ref() {
                Ok(packet) => packet,
                Err(TryRecvError::Empty) => {
                    spin_loop();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let items = &mut buffer.0[..packet.len()];
            packet.copy_to_slice(items);
            drop(packet);
            for item in items.chunks_exact(N) {
                if !sink.take(item) {
                    return Ok(());
                }
            }
        }
    }
}
