//! ringfire: rings of fixed slots, and of references into an arena.
//!
//! Its fixed ring has a mode in which the writer waits for its readers; that is the one to compare.
//! Its arena has none, so the writer looks itself how much room its slowest reader has left.

use std::path::PathBuf;

use ringfire::{
    BlobConsumer, BlobProducer, FlowControl, FutexWait, RingConsumer, RingProducer,
    RingProducerBuilder,
};

use super::{BOTH, Family, STREAM, System, Waits, spin, with_size};
use crate::Result;
use crate::cell::Side;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::Port;
use crate::stage::Stage;

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "ringfire, fixed",
        family: Family::Rival,
        waits: Waits::Spinning,
        about: "push with lossless backpressure, try_recv",
        measures: BOTH,
        sizes: &[],
        perform: |stage| with_size!(stage.bytes(), fixed, stage),
    },
    System {
        name: "ringfire, fixed, batch",
        family: Family::Rival,
        waits: Waits::Spinning,
        about: "push_batch with lossless backpressure, recv_batch",
        measures: STREAM,
        sizes: &[],
        perform: |stage| with_size!(stage.bytes(), fixed_batch, stage),
    },
    System {
        name: "ringfire, blob",
        family: Family::Rival,
        waits: Waits::Spinning,
        about: "push within the readers' headroom, view",
        measures: BOTH,
        sizes: &[],
        perform: blob,
    },
    System {
        name: "ringfire, futex",
        family: Family::Rival,
        waits: Waits::Sleeping,
        about: "push with lossless backpressure, recv_blocking with its FutexWait",
        measures: BOTH,
        sizes: &[],
        perform: |stage| with_size!(stage.bytes(), futex, stage),
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
    stage.run(Fixed { producer, consumer })
}

struct Fixed<const N: usize> {
    producer: RingProducer<[u8; N]>,
    consumer: RingConsumer<[u8; N]>,
}

fn push<const N: usize>(producer: &mut RingProducer<[u8; N]>, source: &mut Source) -> Result<()> {
    producer.push(source.packet().first_chunk().ok_or("a packet of another size")?);
    Ok(())
}

impl<const N: usize> Port for Fixed<N> {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        push(&mut self.producer, source)
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        let packet = spin(|| Ok(self.consumer.try_recv()))?;
        sink.take(&packet);
        Ok(())
    }
}

fn fixed_batch<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (producer, consumer) = open_fixed::<N>(stage)?;
    let batch = vec![[0; N]; (BATCH_BYTES / N).clamp(1, BATCH)];
    stage.run(FixedBatch { single: Fixed { producer, consumer }, batch })
}

/// Packets of a call, at most, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

struct FixedBatch<const N: usize> {
    single: Fixed<N>,
    batch: Vec<[u8; N]>,
}

impl<const N: usize> Port for FixedBatch<N> {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        self.single.send(source)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        self.single.recv(sink)
    }

    fn send_some(&mut self, source: &mut Source) -> Result<()> {
        self.batch.iter_mut().for_each(|packet| packet.copy_from_slice(source.packet()));
        self.single.producer.push_batch(&self.batch);
        Ok(())
    }

    fn recv_some(&mut self, sink: &mut Sink) -> Result<()> {
        let Self { single, batch } = self;
        let count =
            spin(|| Ok(Some(single.consumer.recv_batch(batch)).filter(|count| *count > 0)))?;
        batch[..count].iter().for_each(|packet| sink.take(packet));
        Ok(())
    }
}

fn futex<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let (producer, consumer) = open_fixed::<N>(stage)?;
    stage.run(Sleeping { producer, consumer, wait: FutexWait::default() })
}

struct Sleeping<const N: usize> {
    producer: RingProducer<[u8; N]>,
    consumer: RingConsumer<[u8; N]>,
    wait: FutexWait,
}

impl<const N: usize> Port for Sleeping<N> {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        push(&mut self.producer, source)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        sink.take(&self.consumer.recv_blocking(&mut self.wait));
        Ok(())
    }
}

fn blob(stage: &mut Stage) -> Result<Outcome> {
    // Room for the references' padding besides the packets.
    let create = |path, slots| BlobProducer::create(path, slots, 2 * RING);
    let (producer, consumer) = open(stage, create, BlobConsumer::attach)?;
    stage.run(Blob { producer, consumer, headroom: 0 })
}

struct Blob {
    producer: BlobProducer<()>,
    consumer: BlobConsumer<()>,
    /// What was left for the slowest reader when last looked.
    headroom: u64,
}

impl Port for Blob {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        if self.headroom == 0 {
            self.headroom = spin(|| Ok(Some(self.producer.headroom()).filter(|room| *room > 0)))?;
        }
        self.headroom -= 1;
        self.producer.push_payload(source.packet()).map_err(|error| format!("{error:?}"))?;
        Ok(())
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        // A look may be repeated if the packet was overwritten meanwhile: what counts is the last.
        let mut taken = sink.clone();
        spin(|| {
            let seen = self.consumer.view(|(), packet| {
                taken = sink.clone();
                taken.take(packet);
            });
            seen.map_err(|error| format!("{error:?}").into())
        })?;
        *sink = taken;
        Ok(())
    }
}
