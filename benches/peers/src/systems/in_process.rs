//! What does not leave its process: how fast a channel between two threads is.

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use rtrb::chunks::ChunkError;
use rtrb::{Consumer, Producer, RingBuffer};

use super::{BOTH, Family, STREAM, System, Waits, spin, with_size};
use crate::Result;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::{AsyncPort, Port};
use crate::stage::Stage;

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "rtrb (threads)",
        family: Family::Yardstick,
        waits: Waits::Spinning,
        about: "push and pop of arrays, again and again",
        measures: BOTH,
        sizes: &[],
        perform: |stage| with_size!(stage.bytes(), ring, stage),
    },
    System {
        name: "rtrb, chunks (threads)",
        family: Family::Yardstick,
        waits: Waits::Spinning,
        about: "chunks of up to an eighth of the ring, looked at where they lie",
        measures: STREAM,
        sizes: &[],
        perform: |stage| with_size!(stage.bytes(), chunks, stage),
    },
    System {
        name: "async-channel (threads)",
        family: Family::Yardstick,
        waits: Waits::Sleeping,
        about: "send and recv of Bytes, bounded; pollster on both threads",
        measures: BOTH,
        sizes: &[],
        perform: channel,
    },
];

const RING: usize = 4 << 20;

fn ring<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (to_b, from_a) = RingBuffer::<[u8; N]>::new(RING / N);
    let (to_a, from_b) = RingBuffer::new(RING / N);
    stage.run_threads([Ring { tx: to_b, rx: from_b }, Ring { tx: to_a, rx: from_a }])
}

struct Ring<const N: usize> {
    tx: Producer<[u8; N]>,
    rx: Consumer<[u8; N]>,
}

impl<const N: usize> Port for Ring<N> {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        let packet = source.packet().first_chunk().ok_or("a packet of another size")?;
        spin(|| Ok(self.tx.push(*packet).ok()))
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        spin(|| match self.rx.read_chunk(1) {
            Ok(chunk) => {
                sink.take(&chunk.as_slices().0[0]);
                chunk.commit_all();
                Ok(Some(()))
            }
            Err(ChunkError::TooFewSlots(_)) => Ok(None),
        })
    }
}

fn chunks<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (to_b, from_a) = RingBuffer::<[u8; N]>::new(RING / N);
    let (to_a, from_b) = RingBuffer::new(RING / N);
    let port = |tx, rx| Chunks(Ring { tx, rx });
    stage.run_threads([port(to_b, from_b), port(to_a, from_a)])
}

struct Chunks<const N: usize>(Ring<N>);

impl<const N: usize> Port for Chunks<N> {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        self.0.send(source)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        self.0.recv(sink)
    }

    fn send_some(&mut self, source: &mut Source) -> Result<()> {
        let tx = &mut self.0.tx;
        spin(|| {
            let room = tx.slots().min(RING / 8 / N);
            let Ok(mut chunk) = tx.write_chunk_uninit(room) else { return Ok(None) };
            let (first, second) = chunk.as_mut_slices();
            for place in first.iter_mut().chain(second) {
                place.write(*source.packet().first_chunk().expect("packets are of this size"));
            }
            // SAFETY: all places of the chunk were just written.
            unsafe { chunk.commit_all() };
            Ok((room > 0).then_some(()))
        })
    }

    fn recv_some(&mut self, sink: &mut Sink) -> Result<()> {
        let rx = &mut self.0.rx;
        spin(|| {
            let there = rx.slots().min(RING / 8 / N);
            let Ok(chunk) = rx.read_chunk(there) else { return Ok(None) };
            let (first, second) = chunk.as_slices();
            first.iter().chain(second).for_each(|packet| sink.take(packet));
            chunk.commit_all();
            Ok((there > 0).then_some(()))
        })
    }
}

fn channel(stage: &mut Stage) -> Result<Outcome> {
    let packets = RING / stage.bytes();
    let (to_b, from_a) = async_channel::bounded(packets);
    let (to_a, from_b) = async_channel::bounded(packets);
    let port = |tx, rx| Channel { tx, rx, packet: Bytes::new() };
    stage.run_threads_async([port(to_b, from_b), port(to_a, from_a)])
}

struct Channel {
    tx: Sender<Bytes>,
    rx: Receiver<Bytes>,
    packet: Bytes,
}

impl AsyncPort for Channel {
    async fn send(&mut self, source: &mut Source) -> Result<()> {
        // The receiver holds what was sent, so each packet is an allocation.
        source.refill(&mut self.packet);
        Ok(self.tx.send(std::mem::take(&mut self.packet)).await?)
    }

    async fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        sink.take(&self.rx.recv().await?);
        Ok(())
    }
}
