//! shmem-ipc: a ring of equal items with an event descriptor each way.

use std::fs::File;
use std::hint::spin_loop;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use shmem_ipc::sharedring::{Receiver, Sender};

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
        name: "shmem-ipc, polling",
        about: "send_raw and receive_raw of an item, again and again",
        perform: |stage| with_size!(stage.bytes(), polling, stage),
        ..System::RIVAL
    },
    System {
        name: "shmem-ipc, polling, batch",
        about: "send_raw and receive_raw of up to an eighth of the ring",
        measures: STREAM,
        perform: |stage| with_size!(stage.bytes(), polling_batch, stage),
        ..System::RIVAL
    },
    System {
        name: "shmem-ipc, blocking",
        waits: Waits::Sleeping,
        about: "of an item, after block_until_writable and block_until_readable",
        perform: |stage| with_size!(stage.bytes(), blocking, stage),
        ..System::RIVAL
    },
    System {
        name: "shmem-ipc, blocking, batch",
        waits: Waits::Sleeping,
        about: "both",
        measures: STREAM,
        perform: |stage| with_size!(stage.bytes(), blocking_batch, stage),
        ..System::RIVAL
    },
];

const RING: usize = 4 << 20;

/// Items of a batch, at most: an eighth of the ring.
const fn batch(bytes: usize) -> usize {
    RING / 8 / bytes
}

fn polling<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let ring = open::<N>(stage, false, 1)?;
    pollster::block_on(stage.run_sized(ring))
}

fn polling_batch<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let ring = open::<N>(stage, false, batch(N))?;
    pollster::block_on(stage.run_sized(ring))
}

fn blocking<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let ring = open::<N>(stage, true, 1)?;
    pollster::block_on(stage.run_sized(ring))
}

fn blocking_batch<const N: usize>(stage: &mut Stage) -> Result<Outcome> {
    let ring = open::<N>(stage, true, batch(N))?;
    pollster::block_on(stage.run_sized(ring))
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
    /// Items of one call, at most.
    batch: usize,
}

impl<const N: usize> Ring<N> {
    /// Has `fill` write up to a batch of items where there is room for them, until it says that
    /// there are no more; returns how many were written.
    #[inline(always)]
    fn put(&mut self, mut fill: impl FnMut(&mut MaybeUninit<[u8; N]>) -> bool) -> Result<usize> {
        let Self { tx, blocks, batch, .. } = self;
        if *blocks {
            tx.block_until_writable()?;
        }
        let mut written = 0;
        tx.send_raw(|place, room| {
            while written < room.min(*batch) {
                // SAFETY: the ring has told that so many items from `place` on may be written.
                let place = unsafe { place.add(written) };
                // SAFETY: as above; the reader gets to it only after this call.
                let place = unsafe { &mut *place.cast::<MaybeUninit<[u8; N]>>() };
                if !fill(place) {
                    break;
                }
                written += 1;
            }
            written
        })?;
        Ok(written)
    }

    /// Shows up to a batch of items to `look`, once there are some, until it says that it is
    /// enough; returns how many.
    #[inline(always)]
    fn take(&mut self, mut look: impl FnMut(&[u8; N]) -> bool) -> Result<usize> {
        let Self { rx, blocks, batch, .. } = self;
        if *blocks {
            rx.block_until_readable()?;
        }
        let mut read = 0;
        rx.receive_raw(|place, there| {
            let mut goes_on = true;
            while goes_on && read < there.min(*batch) {
                // SAFETY: the ring has told that so many items from `place` on may be read.
                let place = unsafe { place.add(read) };
                // SAFETY: as above; the writer, who is this same program, gets to it only after
                // this call.
                goes_on = look(unsafe { &*place });
                read += 1;
            }
            read
        })?;
        Ok(read)
    }

    #[inline(always)]
    fn put_one(&mut self, item: &[u8; N]) -> Result<()> {
        let fill = |place: &mut MaybeUninit<[u8; N]>| {
            place.write(*item);
            true
        };
        while self.put(fill)? == 0 {
            spin_loop();
        }
        Ok(())
    }

    #[inline(always)]
    fn take_one(&mut self) -> Result<Look> {
        let mut looked = None;
        loop {
            self.take(|item| {
                looked = Some(Look::at(item));
                false
            })?;
            match looked {
                Some(look) => return Ok(look),
                None => spin_loop(),
            }
        }
    }
}

impl<const N: usize> Loops<N> for Ring<N> {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let mut is_over = false;
        while !is_over {
            let fill = |place: &mut MaybeUninit<[u8; N]>| {
                is_over = !source.write(|filling| place.write(filling));
                !is_over
            };
            if self.put(fill)? == 0 {
                spin_loop();
            }
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        let mut goes_on = true;
        while goes_on {
            let look = |item: &[u8; N]| {
                goes_on = sink.take(item);
                goes_on
            };
            if self.take(look)? == 0 {
                spin_loop();
            }
        }
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.put_one(packet)?;
            trips.note(self.take_one()?);
        }
        self.put_one(trips.last())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.note(self.take_one()?) {
            self.put_one(echo.answer())?;
        }
        Ok(())
    }
}
