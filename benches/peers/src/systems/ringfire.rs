//! ringfire: rings of fixed slots, and of references into an arena.
//!
//! Its fixed ring has a mode in which the writer waits for its readers; that is the one to compare.
//! Its arena has none, so the writer looks itself how much room its slowest reader has left.

use std::hint::spin_loop;
use std::path::PathBuf;

use ringfire::{
    BlobConsumer, BlobProducer, FlowControl, FutexWait, RingConsumer, RingProducer,
    RingProducerBuilder,
};

use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::packet::{Look, Sink, Source};
use crate::row::{Side, with_size};
use crate::stage::Stage;
use crate::system::{STREAM, System, Waits};
use crate::trips::{Echo, Trips};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "ringfire, fixed",
        about: "push with lossless backpressure, try_recv",
        perform: |stage| with_size!(stage.bytes(), fixed, stage),
        ..System::RIVAL
    },
    System {
        name: "ringfire, fixed, batch",
        about: "push_batch with lossless backpressure, recv_batch",
        measures: STREAM,
        perform: |stage| with_size!(stage.bytes(), fixed_batch, stage),
        ..System::RIVAL
    },
    System {
        name: "ringfire, blob",
        about: "push within the readers' headroom, view",
        perform: blob,
        ..System::RIVAL
    },
    System {
        name: "ringfire, futex",
        waits: Waits::Sleeping,
        about: "push with lossless backpressure, recv_blocking with its FutexWait",
        perform: |stage| with_size!(stage.bytes(), futex, stage),
        ..System::RIVAL
    },
];

/// Bytes of packets in a ring, as with the others.
const RING: usize = 4 << 20;

/// Each side writes the ring that bears its name.
fn paths(stage: &Stage) -> [PathBuf; 2] {
    ["a", "b"].map(|name| PathBuf::from(format!("{}/ring-{name}", stage.scratch())))
}

/// Creates this side's ring, attaches to the other one.
fn open<P, C>(
    stage: &mut Stage,
    create: impl FnOnce(PathBuf, u64) -> ringfire::Result<P>,
    attach: impl FnOnce(PathBuf) -> ringfire::Result<C>,
) -> Result<(P, C)> {
    let [a, b] = paths(stage);
    let (ours, theirs) = if stage.side() == Side::A { (a, b) } else { (b, a) };
    let slots = (RING / stage.bytes()) as u64;
    let producer = create(ours, slots).map_err(|error| format!("{error:?}"))?;
    stage.link.meet()?;
    let consumer = attach(theirs).map_err(|error| format!("{error:?}"))?;
    stage.link.meet()?;
    Ok((producer, consumer))
}

type Pair<const N: usize> = (RingProducer<[u8; N]>, RingConsumer<[u8; N]>);

fn open_fixed<const N: usize>(stage: &mut Stage) -> Result<Pair<N>> {
    let create = |path, slots| {
        RingProducerBuilder::new(slots).flow_control(FlowControl::LosslessBackpressure).build(path)
    };
    open(stage, create, RingConsumer::attach)
}

fn fixed<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (producer, consumer) = open_fixed::<N>(stage)?;
    pollster::block_on(stage.run_sized(Fixed { producer, consumer }))
}

struct Fixed<const N: usize> {
    producer: RingProducer<[u8; N]>,
    consumer: RingConsumer<[u8; N]>,
}

impl<const N: usize> Fixed<N> {
    #[inline(always)]
    fn take(&mut self) -> [u8; N] {
        loop {
            match self.consumer.try_recv() {
                Some(packet) => return packet,
                None => spin_loop(),
            }
        }
    }
}

impl<const N: usize> Loops<N> for Fixed<N> {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.producer.push(packet);
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(&self.take()) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.producer.push(packet);
            trips.take(&self.take());
        }
        self.producer.push(trips.last());
        Ok(())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(&self.take()) {
            self.producer.push(echo.answer());
        }
        Ok(())
    }
}

/// Packets of a call, at most, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

fn fixed_batch<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (producer, consumer) = open_fixed::<N>(stage)?;
    let batch = vec![[0; N]; (BATCH_BYTES / N).clamp(1, BATCH)];
    pollster::block_on(stage.run_sized(FixedBatch { producer, consumer, batch }))
}

struct FixedBatch<const N: usize> {
    producer: RingProducer<[u8; N]>,
    consumer: RingConsumer<[u8; N]>,
    batch: Vec<[u8; N]>,
}

impl<const N: usize> Loops<N> for FixedBatch<N> {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        loop {
            let mut filled = 0;
            for place in &mut self.batch {
                let fill = |filling| {
                    *place = filling;
                    place
                };
                if !source.write(fill) {
                    break;
                }
                filled += 1;
            }
            if filled == 0 {
                return Ok(());
            }
            self.producer.push_batch(&self.batch[..filled]);
        }
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        loop {
            let count = self.consumer.recv_batch(&mut self.batch);
            for packet in &self.batch[..count] {
                if !sink.take(packet) {
                    return Ok(());
                }
            }
            if count == 0 {
                spin_loop();
            }
        }
    }
}

fn futex<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (producer, consumer) = open_fixed::<N>(stage)?;
    pollster::block_on(stage.run_sized(Sleeping { producer, consumer, wait: FutexWait::default() }))
}

struct Sleeping<const N: usize> {
    producer: RingProducer<[u8; N]>,
    consumer: RingConsumer<[u8; N]>,
    wait: FutexWait,
}

impl<const N: usize> Sleeping<N> {
    #[inline(always)]
    fn take(&mut self) -> [u8; N] {
        self.consumer.recv_blocking(&mut self.wait)
    }
}

impl<const N: usize> Loops<N> for Sleeping<N> {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.producer.push(packet);
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(&self.take()) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.producer.push(packet);
            trips.take(&self.take());
        }
        self.producer.push(trips.last());
        Ok(())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(&self.take()) {
            self.producer.push(echo.answer());
        }
        Ok(())
    }
}

fn blob(stage: &mut Stage) -> Result<Outcome> {
    // Room for the references' padding besides the packets.
    let create = |path, slots| BlobProducer::create(path, slots, 2 * RING);
    let (producer, consumer) = open(stage, create, BlobConsumer::attach)?;
    pollster::block_on(stage.run(Blob { producer, consumer, headroom: 0 }))
}

struct Blob {
    producer: BlobProducer<()>,
    consumer: BlobConsumer<()>,
    /// What was left for the slowest reader when last looked.
    headroom: u64,
}

impl Blob {
    #[inline(always)]
    fn put(&mut self, packet: &[u8]) -> Result<()> {
        while self.headroom == 0 {
            self.headroom = self.producer.headroom();
            spin_loop();
        }
        self.headroom -= 1;
        self.producer.push_payload(packet).map_err(|error| format!("{error:?}"))?;
        Ok(())
    }

    #[inline(always)]
    fn take<T>(&mut self, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
        loop {
            // The look may be repeated if the packet was overwritten meanwhile: the last one
            // counts.
            let mut looked = None;
            let seen = self.consumer.view(|(), packet| looked = Some(look(packet)));
            let seen = seen.map_err(|error| format!("{error:?}"))?;
            match seen.and(looked) {
                Some(looked) => return Ok(looked),
                None => spin_loop(),
            }
        }
    }
}

impl<const N: usize> Loops<N> for Blob {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.put(packet)?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.note(self.take(Look::at)?) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.put(packet)?;
            trips.note(self.take(Look::at)?);
        }
        self.put(trips.last())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.note(self.take(Look::at)?) {
            self.put(echo.answer())?;
        }
        Ok(())
    }
}
