//! What the machine gives at best: a cache line that both look at, and a futex that both sleep on.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::thread::futex;

use super::words::{memory, put, seen, words};
use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::row::Side;
use crate::stage::Stage;
use crate::system::{Family, ROUND_TRIP, System, Waits};
use crate::trips::{Echo, Trips};

const LIMIT: System = System {
    family: Family::Limit,
    measures: ROUND_TRIP,
    sizes: &[64],
    limits: &[],
    ..System::RIVAL
};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "cache line",
        about: "a number in a shared cache line each way, spun on",
        perform: cache_line,
        ..LIMIT
    },
    System {
        name: "futex",
        waits: Waits::Sleeping,
        about: "a number in shared memory, waited for and woken by two system calls each",
        perform: futex_words,
        ..LIMIT
    },
];

fn cache_line(stage: &mut Stage) -> Result<Outcome> {
    let memory = memory(stage)?;
    let words = [memory.word(0), memory.word(256)];
    let [to, from] = match stage.side() {
        Side::A => words,
        Side::B => [words[1], words[0]],
    };
    pollster::block_on(stage.run_sized::<64>(Line { to, from, last: 0 }))
}

/// A line each way; whoever writes stores, whoever reads looks until it changes.
struct Line<'a> {
    to: &'a AtomicU64,
    from: &'a AtomicU64,
    last: u64,
}

/// Added to a number, so that none is 0, which is in a word from the start.
const OFFSET: u64 = 2;

impl Line<'_> {
    #[inline(always)]
    fn put(&self, number: u64) {
        self.to.store(number.wrapping_add(OFFSET), Ordering::Release);
    }

    #[inline(always)]
    fn take(&mut self) -> u64 {
        loop {
            let word = self.from.load(Ordering::Acquire);
            if word != self.last {
                self.last = word;
                return word.wrapping_sub(OFFSET);
            }
            spin_loop();
        }
    }
}

impl Loops<64> for Line<'_> {
    async fn ask(&mut self, trips: &mut Trips<64>) -> Result<()> {
        while let Some(number) = trips.next_number() {
            self.put(number);
            trips.take_number(self.take());
        }
        self.put(trips.last_number());
        Ok(())
    }

    async fn answer(&mut self, echo: &mut Echo<64>) -> Result<()> {
        loop {
            let number = self.take();
            if !echo.take_number(number) {
                return Ok(());
            }
            self.put(number);
        }
    }
}

fn futex_words(stage: &mut Stage) -> Result<Outcome> {
    let memory = memory(stage)?;
    let (to, from) = words(stage, &memory);
    pollster::block_on(stage.run_sized::<64>(Futex { to, from, last: 0 }))
}

/// A word each way; whoever writes wakes, whoever reads waits until it changes.
struct Futex<'a> {
    to: &'a AtomicU32,
    from: &'a AtomicU32,
    last: u32,
}

impl Futex<'_> {
    fn take(&mut self) -> Result<u64> {
        while self.from.load(Ordering::Acquire) == self.last {
            match futex::wait(self.from, futex::Flags::empty(), self.last, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => Err(error)?,
            }
        }
        self.last = self.from.load(Ordering::Acquire);
        Ok(seen(self.last))
    }
}

impl Loops<64> for Futex<'_> {
    async fn ask(&mut self, trips: &mut Trips<64>) -> Result<()> {
        while let Some(number) = trips.next_number() {
            put(self.to, number)?;
            trips.take_number(self.take()?);
        }
        put(self.to, trips.last_number())
    }

    async fn answer(&mut self, echo: &mut Echo<64>) -> Result<()> {
        loop {
            let number = self.take()?;
            if !echo.take_number(number) {
                return Ok(());
            }
            put(self.to, number)?;
        }
    }
}
