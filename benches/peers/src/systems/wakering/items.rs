//! wakering with packets that hold many items of one length: the like of a slice of items.

use std::hint::spin_loop;

use bytes::BufMut;
use wakering::{Packet, Receiver, Sender, TryRecvError, TryReserveError};

use super::in_place::bytes;
use super::open::{Runner, SLEEPING, open, over};
use crate::Result;
use crate::items::{Chunk, packet_bytes};
use crate::loops::Loops;
use crate::packet::{Sink, Source};
use crate::system::{STREAM, System, Waits, Way};

const ITEMS: System = System {
    way: Some(Way::Items),
    measures: STREAM,
    sizes: &[64, 1024],
    limits: &["bare ring, items", "bare ring, in place"],
    ..SLEEPING
};
const IN_PLACE: System =
    System { limits: &["bare ring, items in place", "bare ring, in place"], ..ITEMS };

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "wakering, items, background",
        about: "packets of 4 KiB, or 32 KiB for items of 1 KiB: reserve and put_slice of a chunk of \
                items; recv_ref and copy_to_slice_at of a chunk; background driver, pollster",
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Async { tx, rx, is_in_place: false }))
        },
        ..ITEMS
    },
    System {
        name: "wakering, items in place, background",
        about: "the same, but received items are looked at where they lie",
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Async { tx, rx, is_in_place: true }))
        },
        ..IN_PLACE
    },
    System {
        name: "wakering, items, try",
        about: "the same by try_reserve and try_recv_ref, again and again; copied out",
        waits: Waits::Spinning,
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Trying { tx, rx, is_in_place: false }))
        },
        ..ITEMS
    },
    System {
        name: "wakering, items in place, try",
        about: "the same, but received items are looked at where they lie",
        waits: Waits::Spinning,
        perform: |stage| {
            let (tx, rx) = open(stage, Runner::Background)?;
            pollster::block_on(stage.run(Trying { tx, rx, is_in_place: true }))
        },
        ..IN_PLACE
    },
];

/// Looks at all items of a packet, where it lies or in a chunk. Returns whether more are to come.
#[inline(always)]
fn look<const N: usize>(packet: Packet<'_>, chunk: Option<&mut Chunk>, sink: &mut Sink<N>) -> bool {
    let mut goes_on = true;
    match chunk {
        None => {
            bytes(&packet).chunks_exact(N).for_each(|item| goes_on = sink.take(item));
        }
        Some(chunk) => {
            for offset in (0..packet.len()).step_by(Chunk::BYTES) {
                let items = chunk.up_to(packet.len() - offset);
                packet.copy_to_slice_at(offset, items);
                items.chunks_exact(N).for_each(|item| goes_on = sink.take(item));
            }
        }
    }
    goes_on
}

struct Async {
    tx: Sender,
    rx: Receiver,
    is_in_place: bool,
}

impl<const N: usize> Loops<N> for Async {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let (mut chunk, mut is_over) = (Chunk::new(), false);
        while !is_over {
            let mut grant = self.tx.reserve(packet_bytes::<N>()).await?;
            while !is_over && grant.has_remaining_mut() {
                let items = chunk.collect(source);
                grant.put_slice(items);
                is_over = items.len() < Chunk::BYTES;
            }
            grant.commit()?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        let mut chunk = (!self.is_in_place).then(Chunk::new);
        while let Some(packet) = self.rx.recv_ref().await {
            if !look(packet, chunk.as_mut(), sink) {
                return Ok(());
            }
        }
        Err(over())
    }
}

struct Trying {
    tx: Sender,
    rx: Receiver,
    is_in_place: bool,
}

impl<const N: usize> Loops<N> for Trying {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let (mut chunk, mut is_over) = (Chunk::new(), false);
        while !is_over {
            let mut grant = loop {
                match self.tx.try_reserve(packet_bytes::<N>()) {
                    Ok(grant) => break grant,
                    Err(TryReserveError::Full) => spin_loop(),
                    Err(error) => return Err(error.into()),
                }
            };
            while !is_over && grant.has_remaining_mut() {
                let items = chunk.collect(source);
                grant.put_slice(items);
                is_over = items.len() < Chunk::BYTES;
            }
            grant.commit()?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        let mut chunk = (!self.is_in_place).then(Chunk::new);
        loop {
            match self.rx.try_recv_ref() {
                Ok(packet) => {
                    if !look(packet, chunk.as_mut(), sink) {
                        return Ok(());
                    }
                }
                Err(TryRecvError::Empty) => spin_loop(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
