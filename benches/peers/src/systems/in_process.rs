//! What does not leave its process: how fast a channel between two threads is.

use std::hint::spin_loop;

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::row::with_size;
use crate::stage::Stage;
use crate::system::{Family, STREAM, System, Waits};
use crate::trips::{Echo, Trips};

const YARDSTICK: System = System { family: Family::Yardstick, ..System::RIVAL };

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "rtrb (threads)",
        about: "push and pop of arrays, again and again",
        perform: |stage| with_size!(stage.bytes(), ring, stage),
        ..YARDSTICK
    },
    System {
        name: "rtrb, chunks (threads)",
        about: "chunks of up to an eighth of the ring, looked at where they lie",
        measures: STREAM,
        perform: |stage| with_size!(stage.bytes(), chunks, stage),
        ..YARDSTICK
    },
    System {
        name: "async-channel (threads)",
        waits: Waits::Sleeping,
        about: "send and recv of Bytes, bounded; pollster on both threads",
        perform: |stage| with_size!(stage.bytes(), channel, stage),
        ..YARDSTICK
    },
];

const RING: usize = 4 << 20;

/// Items of a chunk, at most: an eighth of the ring.
const fn chunk(bytes: usize) -> usize {
    RING / 8 / bytes
}

fn ring<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (to_b, from_a) = RingBuffer::<[u8; N]>::new(RING / N);
    let (to_a, from_b) = RingBuffer::new(RING / N);
    stage.run_threads([Ring { tx: to_b, rx: from_b }, Ring { tx: to_a, rx: from_a }])
}

struct Ring<const N: usize> {
    tx: Producer<[u8; N]>,
    rx: Consumer<[u8; N]>,
}

impl<const N: usize> Ring<N> {
    #[inline(always)]
    fn push(&mut self, packet: &[u8; N]) {
        while let Err(PushError::Full(_)) = self.tx.push(*packet) {
            spin_loop();
        }
    }

    #[inline(always)]
    fn pop(&mut self) -> [u8; N] {
        loop {
            match self.rx.pop() {
                Ok(packet) => return packet,
                Err(_empty) => spin_loop(),
            }
        }
    }
}

impl<const N: usize> Loops<N> for Ring<N> {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.push(packet);
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(&self.pop()) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.push(packet);
            trips.take(&self.pop());
        }
        self.push(trips.last());
        Ok(())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(&self.pop()) {
            self.push(echo.answer());
        }
        Ok(())
    }
}

fn chunks<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (to_b, from_a) = RingBuffer::<[u8; N]>::new(RING / N);
    let (to_a, from_b) = RingBuffer::new(RING / N);
    stage.run_threads([Chunks { tx: to_b, rx: from_b }, Chunks { tx: to_a, rx: from_a }])
}

struct Chunks<const N: usize> {
    tx: Producer<[u8; N]>,
    rx: Consumer<[u8; N]>,
}

impl<const N: usize> Loops<N> for Chunks<N> {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let mut is_over = false;
        while !is_over {
            let room = self.tx.slots().min(chunk(N));
            if room == 0 {
                spin_loop();
                continue;
            }
            let mut chunk = self.tx.write_chunk_uninit(room)?;
            let (first, second) = chunk.as_mut_slices();
            let mut written = 0;
            for place in first.iter_mut().chain(second) {
                if !source.write(|filling| place.write(filling)) {
                    is_over = true;
                    break;
                }
                written += 1;
            }
            // SAFETY: so many places of the chunk were just written, from its first on.
            unsafe { chunk.commit(written) };
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        loop {
            let there = self.rx.slots().min(chunk(N));
            if there == 0 {
                spin_loop();
                continue;
            }
            let chunk = self.rx.read_chunk(there)?;
            let (first, second) = chunk.as_slices();
            for packet in first.iter().chain(second) {
                if !sink.take(packet) {
                    return Ok(());
                }
            }
            chunk.commit_all();
        }
    }
}

fn channel<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (to_b, from_a) = async_channel::bounded(RING / N);
    let (to_a, from_b) = async_channel::bounded(RING / N);
    let sides = [Channel { tx: to_b, rx: from_b }, Channel { tx: to_a, rx: from_a }];
    stage.run_threads::<N>(sides)
}

struct Channel {
    tx: Sender<Bytes>,
    rx: Receiver<Bytes>,
}

impl<const N: usize> Loops<N> for Channel {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.tx.send(Bytes::copy_from_slice(packet)).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(&self.rx.recv().await?) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.tx.send(Bytes::copy_from_slice(packet)).await?;
            trips.take(&self.rx.recv().await?);
        }
        Ok(self.tx.send(Bytes::copy_from_slice(trips.last())).await?)
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(&self.rx.recv().await?) {
            self.tx.send(Bytes::copy_from_slice(echo.answer())).await?;
        }
        Ok(())
    }
}
