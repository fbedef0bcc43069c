//! What it costs at best to sleep for a futex by way of an io_uring: as a parked-in, a polled and a
//! background driver do it, but without a channel around it.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;

use async_io::Async;
use bytes::Bytes;
use futures::task::AtomicWaker;
use io_uring::{IoUring, opcode};
use rustix::thread::futex;

use super::bare_ring::{self, Both};
use super::words::{memory, put, seen, words};
use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::stage::Stage;
use crate::system::{Family, ROUND_TRIP, System, Waits};
use crate::trips::{Echo, Trips};

const LIMIT: System = System {
    family: Family::Limit,
    waits: Waits::Sleeping,
    measures: ROUND_TRIP,
    sizes: &[64],
    limits: &["futex"],
    ..System::RIVAL
};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "futex, in a ring",
        about: "the same, waited for in an io_uring that the thread sleeps in",
        perform: |stage| {
            let memory = memory(stage)?;
            let (to, from) = words(stage, &memory);
            let loops = Slept { to, wait: Wait::new(from, sleeping_ring()?) };
            pollster::block_on(stage.run_sized::<64>(loops))
        },
        ..LIMIT
    },
    System {
        name: "bare ring, Bytes, asleep",
        about: "`Bytes` in a bare ring; each packet wakes by such a futex, waited for in an io_uring",
        perform: |stage| {
            let memory = memory(stage)?;
            let (to, from) = words(stage, &memory);
            let both = bare_ring::open(stage)?;
            let wait = Wait::new(from, sleeping_ring()?);
            pollster::block_on(stage.run_sized::<64>(Carried { both, to, wait }))
        },
        ..LIMIT
    },
    System {
        name: "futex, in a ring in smol",
        about: "the same, in an io_uring that lies in smol's reactor",
        perform: |stage| {
            let memory = memory(stage)?;
            let (to, from) = words(stage, &memory);
            let ring = IoUring::new(8)?;
            let reactor = Async::new(ring.as_fd().try_clone_to_owned()?)?;
            let loops = Polled { to, wait: Wait::new(from, ring), reactor };
            smol::block_on(stage.run_sized::<64>(loops))
        },
        ..LIMIT
    },
    System {
        name: "futex, in a thread's ring, smol",
        about: "the same, in the io_uring of a thread that wakes smol's task",
        perform: through_a_thread,
        ..LIMIT
    },
];

/// As the library's are that are slept in.
fn sleeping_ring() -> Result<IoUring> {
    Ok(IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8)?)
}

/// A wait that is in the kernel, or is not.
struct Wait<'a> {
    word: &'a AtomicU32,
    last: u32,
    ring: IoUring,
    is_armed: bool,
}

impl<'a> Wait<'a> {
    fn new(word: &'a AtomicU32, ring: IoUring) -> Self {
        Self { word, last: 0, ring, is_armed: false }
    }

    /// The next number, if it is there.
    fn take(&mut self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        let is_new = word != self.last;
        self.last = word;
        is_new.then(|| seen(word))
    }

    /// Waits for a change of the word, unless that is under way, from the next submission on.
    fn arm(&mut self) {
        /// `FUTEX2_SIZE_U32` of `linux/futex.h`, and not private.
        const FLAGS: u32 = 2;

        if std::mem::replace(&mut self.is_armed, true) {
            return;
        }
        let wait = opcode::FutexWait::new(
            self.word.as_ptr().cast_const(),
            u64::from(self.last),
            u64::from(u32::MAX),
            FLAGS,
        );
        // SAFETY: the kernel writes to no memory of ours for it, and the word stays mapped until
        // the run is over; there is never more than one in the queue.
        unsafe { self.ring.submission().push(&wait.build()) }.expect("room for eight");
    }

    /// Whether the wait came to its end.
    fn reap(&mut self) -> bool {
        let ended = self.ring.completion().count() > 0;
        self.is_armed &= !ended;
        ended
    }

    /// Submits, and sleeps until so many have come to their end.
    fn enter(&mut self, want: usize) -> Result<()> {
        match self.ring.submit_and_wait(want) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error)?,
            _ => Ok(()),
        }
    }
}

struct Slept<'a> {
    to: &'a AtomicU32,
    wait: Wait<'a>,
}

impl Slept<'_> {
    fn take(&mut self) -> Result<u64> {
        loop {
            if let Some(number) = self.wait.take() {
                return Ok(number);
            }
            self.wait.arm();
            self.wait.enter(1)?;
            self.wait.reap();
        }
    }
}

impl Loops<64> for Slept<'_> {
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

/// A bare ring of packets, whose receiver sleeps: the least that a channel does.
struct Carried<'a> {
    both: Both<'static>,
    to: &'a AtomicU32,
    wait: Wait<'a>,
}

impl Carried<'_> {
    fn put(&mut self, packet: &[u8], number: u64) -> Result<()> {
        self.both.put(packet);
        put(self.to, number)
    }

    fn take(&mut self) -> Result<Bytes> {
        loop {
            // The word first: what is published after the look changes it.
            self.wait.take();
            if let Some(packet) = self.both.consumer.try_take(Bytes::copy_from_slice) {
                return Ok(packet);
            }
            self.wait.arm();
            self.wait.enter(1)?;
            self.wait.reap();
        }
    }
}

impl Loops<64> for Carried<'_> {
    async fn ask(&mut self, trips: &mut Trips<64>) -> Result<()> {
        let mut number = 0;
        while let Some(packet) = trips.next() {
            self.put(&Bytes::copy_from_slice(packet), number)?;
            number += 1;
            trips.take(&self.take()?);
        }
        let last = Bytes::copy_from_slice(trips.last());
        self.put(&last, number)
    }

    async fn answer(&mut self, echo: &mut Echo<64>) -> Result<()> {
        let mut number = 0;
        while echo.take(&self.take()?) {
            self.put(&Bytes::copy_from_slice(echo.answer()), number)?;
            number += 1;
        }
        Ok(())
    }
}

struct Polled<'a> {
    to: &'a AtomicU32,
    wait: Wait<'a>,
    reactor: Async<std::os::fd::OwnedFd>,
}

impl Polled<'_> {
    async fn take(&mut self) -> Result<u64> {
        loop {
            if let Some(number) = self.wait.take() {
                return Ok(number);
            }
            self.wait.arm();
            self.wait.enter(0)?;
            if !self.wait.reap() {
                self.reactor.readable().await?;
                self.wait.reap();
            }
        }
    }
}

impl Loops<64> for Polled<'_> {
    async fn ask(&mut self, trips: &mut Trips<64>) -> Result<()> {
        while let Some(number) = trips.next_number() {
            put(self.to, number)?;
            trips.take_number(self.take().await?);
        }
        put(self.to, trips.last_number())
    }

    async fn answer(&mut self, echo: &mut Echo<64>) -> Result<()> {
        loop {
            let number = self.take().await?;
            if !echo.take_number(number) {
                return Ok(());
            }
            put(self.to, number)?;
        }
    }
}

fn through_a_thread(stage: &mut Stage) -> Result<Outcome> {
    let memory = memory(stage)?;
    let (to, from) = words(stage, &memory);
    let (waker, is_over) = (AtomicWaker::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| wait_for_another(from, &waker, &is_over));
        let loops = Behind { to, from, last: 0, waker: &waker };
        let outcome = smol::block_on(stage.run_sized::<64>(loops));
        is_over.store(true, Ordering::SeqCst);
        while !waits.is_finished() {
            futex::wake(from, futex::Flags::empty(), 1)?;
        }
        waits.join().map_err(|_| "the waiting thread has panicked")??;
        outcome
    })
}

fn wait_for_another(from: &AtomicU32, waker: &AtomicWaker, is_over: &AtomicBool) -> Result<()> {
    let mut wait = Wait::new(from, sleeping_ring()?);
    while !is_over.load(Ordering::SeqCst) {
        wait.last = from.load(Ordering::Acquire);
        waker.wake();
        wait.arm();
        wait.enter(1)?;
        wait.reap();
    }
    Ok(())
}

struct Behind<'a> {
    to: &'a AtomicU32,
    from: &'a AtomicU32,
    last: u32,
    waker: &'a AtomicWaker,
}

impl Behind<'_> {
    async fn take(&mut self) -> u64 {
        let changed = poll_fn(|cx| {
            let look = || Some(self.from.load(Ordering::Acquire)).filter(|now| *now != self.last);
            if let Some(word) = look() {
                return Poll::Ready(word);
            }
            self.waker.register(cx.waker());
            look().map_or(Poll::Pending, Poll::Ready)
        });
        self.last = changed.await;
        seen(self.last)
    }
}

impl Loops<64> for Behind<'_> {
    async fn ask(&mut self, trips: &mut Trips<64>) -> Result<()> {
        while let Some(number) = trips.next_number() {
            put(self.to, number)?;
            trips.take_number(self.take().await);
        }
        put(self.to, trips.last_number())
    }

    async fn answer(&mut self, echo: &mut Echo<64>) -> Result<()> {
        loop {
            let number = self.take().await;
            if !echo.take_number(number) {
                return Ok(());
            }
            put(self.to, number)?;
        }
    }
}
