//! What the machine gives at best: a cache line, a futex, a copy.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use rustix::io::Errno;
use rustix::thread::futex;

use super::{Family, ROUND_TRIP, STREAM, System, Waits, spin};
use crate::Result;
use crate::cell::Side;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::Port;
use crate::shared::{self, Shared};
use crate::stage::Stage;

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "cache line",
        family: Family::Limit,
        waits: Waits::Spinning,
        about: "a number in a shared cache line each way, spun on",
        measures: ROUND_TRIP,
        sizes: &[64],
        perform: cache_line,
    },
    System {
        name: "futex",
        family: Family::Limit,
        waits: Waits::Sleeping,
        about: "a number in shared memory, waited for and woken by two system calls each",
        measures: ROUND_TRIP,
        sizes: &[64],
        perform: futex_words,
    },
    System {
        name: "memcpy",
        family: Family::Limit,
        waits: Waits::Spinning,
        about: "one thread copies a packet through 4 MiB of memory",
        measures: STREAM,
        sizes: &[],
        perform: memcpy,
    },
];

const PAGE: usize = 4096;

pub(super) fn memory(stage: &mut Stage) -> Result<Shared> {
    Shared::map(stage.share(|| shared::create(PAGE))?, PAGE)
}

fn cache_line(stage: &mut Stage) -> Result<Outcome> {
    let memory = memory(stage)?;
    let words = [memory.word(0), memory.word(256)];
    let [to, from] = match stage.side() {
        Side::A => words,
        Side::B => [words[1], words[0]],
    };
    stage.run(Line { to, from, last: 0 })
}

/// A line each way; whoever writes stores, whoever reads looks until it changes.
struct Line<'a> {
    to: &'a AtomicU64,
    from: &'a AtomicU64,
    last: u64,
}

/// A packet's number as it is in a word, where nothing was written yet if it is 0. The number that
/// ends a run becomes 0 as well by this, so it is shifted out of the way.
fn encoded(number: u64) -> u64 {
    number.wrapping_add(2)
}

impl Port for Line<'_> {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        self.to.store(encoded(source.number()), Ordering::Release);
        Ok(())
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        let Self { from, last, .. } = self;
        *last = spin(|| {
            let number = from.load(Ordering::Acquire);
            Ok((number != *last).then_some(number))
        })?;
        sink.take_number(last.wrapping_sub(2));
        Ok(())
    }
}

fn futex_words(stage: &mut Stage) -> Result<Outcome> {
    let memory = memory(stage)?;
    let (to, from) = words(stage, &memory);
    stage.run(Futex { to, from, last: 0 })
}

/// The word that this side writes, and the one that it waits for.
pub(super) fn words<'a>(stage: &Stage, memory: &'a Shared) -> (&'a AtomicU32, &'a AtomicU32) {
    let (one, other) = (memory.half_word(0), memory.half_word(256));
    if stage.side() == Side::A { (one, other) } else { (other, one) }
}

/// A word each way; whoever writes wakes, whoever reads waits until it changes.
struct Futex<'a> {
    to: &'a AtomicU32,
    from: &'a AtomicU32,
    last: u32,
}

/// The lower half of a number; all ones ends a run.
pub(super) fn send(to: &AtomicU32, source: &mut Source) -> Result<()> {
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is what is sent")]
    let number = encoded(source.number()) as u32;
    to.store(number, Ordering::Release);
    futex::wake(to, futex::Flags::empty(), 1)?;
    Ok(())
}

/// Gives to `sink` what [`send`] wrote.
pub(super) fn take(word: u32, sink: &mut Sink) {
    sink.take_number(u64::from(word).wrapping_sub(2));
}

impl Port for Futex<'_> {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        send(self.to, source)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        while self.from.load(Ordering::Acquire) == self.last {
            match futex::wait(self.from, futex::Flags::empty(), self.last, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => Err(error)?,
            }
        }
        self.last = self.from.load(Ordering::Acquire);
        take(self.last, sink);
        Ok(())
    }
}

fn memcpy(stage: &mut Stage) -> Result<Outcome> {
    const MEMORY: usize = 4 << 20;

    if stage.side() == Side::B {
        return Ok(Outcome::default());
    }
    let bytes = stage.bytes();
    let packet = vec![1_u8; bytes];
    let mut memory = vec![0_u8; MEMORY];
    let (mut copied, begun) = (0, Instant::now());
    while begun.elapsed() < stage.time() {
        for place in memory.chunks_exact_mut(bytes) {
            place.copy_from_slice(black_box(&packet));
        }
        black_box(&memory);
        copied += (MEMORY / bytes) as u64;
    }
    let elapsed_ns = u64::try_from(begun.elapsed().as_nanos())?;
    Ok(Outcome {
        sent: copied,
        taken: copied,
        elapsed_ns,
        cpu_ns: elapsed_ns,
        ..Outcome::default()
    })
}
