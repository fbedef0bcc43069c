//! shmem-ipc: a ring of equal items with an event descriptor each way.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use shmem_ipc::sharedring::{Receiver, Sender};

use super::{BOTH, Family, STREAM, System, Waits, spin, with_size};
use crate::Result;
use crate::cell::Side;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::Port;
use crate::stage::Stage;

/// What most of its ways have in common.
const POLLING: System = System {
    name: "shmem-ipc, polling",
    family: Family::Rival,
    waits: Waits::Spinning,
    about: "send_raw and receive_raw of an item, again and again",
    measures: BOTH,
    sizes: &[],
    perform: |stage| with_size!(stage.bytes(), polling, stage),
};

const BLOCKING: System = System {
    name: "shmem-ipc, blocking",
    waits: Waits::Sleeping,
    about: "the same after block_until_writable and block_until_readable",
    perform: |stage| with_size!(stage.bytes(), blocking, stage),
    ..POLLING
};

pub(crate) const SYSTEMS: &[System] = &[
    POLLING,
    System {
        name: "shmem-ipc, polling, batch",
        about: "send_raw and receive_raw of up to an eighth of the ring",
        measures: STREAM,
        perform: |stage| with_size!(stage.bytes(), polling_batch, stage),
        ..POLLING
    },
    BLOCKING,
    System {
        name: "shmem-ipc, blocking, batch",
        about: "both",
        measures: STREAM,
        perform: |stage| with_size!(stage.bytes(), blocking_batch, stage),
        ..BLOCKING
    },
];

const RING: usize = 4 << 20;

/// Items of a batch, at most: an eighth of the ring.
const fn batch(bytes: usize) -> usize {
    RING / 8 / bytes
}

fn polling<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let port = open::<N>(stage, false, 1)?;
    stage.run(port)
}

fn polling_batch<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let port = open::<N>(stage, false, batch(N))?;
    stage.run(port)
}

fn blocking<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let port = open::<N>(stage, true, 1)?;
    stage.run(port)
}

fn blocking_batch<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let port = open::<N>(stage, true, batch(N))?;
    stage.run(port)
}

fn open<const N: usize>(stage: &mut Stage, blocks: bool, batch: usize) -> Result<Ring<N>> {
    let items = RING / N;
    let (mut tx, mut rx) = (None, None);
    // Each side makes what it sends on; A passes its own on first.
    for turn in [Side::A, Side::B] {
        if stage.side() == turn {
            let made = Sender::new(items)?;
            let files = [made.memfd().as_file(), made.empty_signal(), made.full_signal()];
            let files = files.map(File::try_clone);
            let [memory, empty, full] = files;
            let descriptors = [OwnedFd::from(memory?), empty?.into(), full?.into()];
            stage.link.pass(&descriptors.each_ref().map(AsFd::as_fd))?;
            tx = Some(made);
        } else {
            let [memory, empty, full] = stage.link.take()?.map(File::from);
            rx = Some(Receiver::open(items, memory, empty, full)?);
        }
    }
    let (tx, rx) = tx.zip(rx).ok_or("each side has its turn")?;
    Ok(Ring { tx, rx, blocks, batch })
}

struct Ring<const N: usize> {
    tx: Sender<[u8; N]>,
    rx: Receiver<[u8; N]>,
    blocks: bool,
    /// Items of one call in a stream, at most.
    batch: usize,
}

impl<const N: usize> Ring<N> {
    #[inline]
    fn write(&mut self, most: usize, source: &mut Source) -> Result<()> {
        let Self { tx, blocks, .. } = self;
        spin(|| {
            if *blocks {
                tx.block_until_writable()?;
            }
            let mut written = 0;
            tx.send_raw(|place, room| {
                while written < room.min(most) {
                    let packet = source.packet().first_chunk().expect("packets are of this size");
                    // SAFETY: the ring has told that so many items from `place` on may be written.
                    let place = unsafe { place.add(written) };
                    // SAFETY: as above; the reader gets to it only after this call.
                    unsafe { place.write(*packet) };
                    written += 1;
                }
                written
            })?;
            Ok((written > 0).then_some(()))
        })
    }

    #[inline]
    fn read(&mut self, most: usize, sink: &mut Sink) -> Result<()> {
        let Self { rx, blocks, .. } = self;
        spin(|| {
            if *blocks {
                rx.block_until_readable()?;
            }
            let mut read = 0;
            rx.receive_raw(|place, there| {
                while read < there.min(most) && !sink.is_over() {
                    // SAFETY: the ring has told that so many items from `place` on may be read.
                    let place = unsafe { place.add(read) };
                    // SAFETY: as above; the writer, who is this same program, gets to it only after
                    // this call.
                    sink.take(unsafe { &*place });
                    read += 1;
                }
                read
            })?;
            Ok((read > 0).then_some(()))
        })
    }
}

impl<const N: usize> Port for Ring<N> {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        self.write(1, source)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        self.read(1, sink)
    }

    fn send_some(&mut self, source: &mut Source) -> Result<()> {
        self.write(self.batch, source)
    }

    fn recv_some(&mut self, sink: &mut Sink) -> Result<()> {
        self.read(self.batch, sink)
    }
}
