//! What it costs at best to sleep for a futex by way of an io_uring: as a parked-in, a polled and a
//! background driver do it, but without a channel around it.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;

use async_io::Async;
use futures::task::AtomicWaker;
use io_uring::{IoUring, opcode};
use rustix::thread::futex;

use super::limits::{memory, send, take, words};
use super::{Family, ROUND_TRIP, System, Waits};
use crate::Result;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::{AsyncPort, Port};
use crate::stage::Stage;

const LIMIT: System = System {
    name: "",
    family: Family::Limit,
    waits: Waits::Sleeping,
    about: "",
    measures: ROUND_TRIP,
    sizes: &[64],
    perform: |_| unreachable!("each has its own"),
};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "futex, in a ring",
        about: "the same, waited for in an io_uring that the thread sleeps in",
        perform: |stage| {
            let memory = memory(stage)?;
            let (to, from) = words(stage, &memory);
            stage.run(Slept { to, wait: Wait::new(from, sleeping_ring()?) })
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
            smol::block_on(stage.run_async(Polled { to, wait: Wait::new(from, ring), reactor }))
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

    /// Gives the number to `sink`, if there is one.
    fn take(&mut self, sink: &mut Sink) -> bool {
        let number = self.word.load(Ordering::Acquire);
        let is_new = number != self.last;
        if is_new {
            self.last = number;
            take(number, sink);
        }
        is_new
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

impl Port for Slept<'_> {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        send(self.to, source)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        while !self.wait.take(sink) {
            self.wait.arm();
            self.wait.enter(1)?;
            self.wait.reap();
        }
        Ok(())
    }
}

struct Polled<'a> {
    to: &'a AtomicU32,
    wait: Wait<'a>,
    reactor: Async<std::os::fd::OwnedFd>,
}

impl AsyncPort for Polled<'_> {
    async fn send(&mut self, source: &mut Source) -> Result<()> {
        send(self.to, source)
    }

    async fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        while !self.wait.take(sink) {
            self.wait.arm();
            self.wait.enter(0)?;
            if !self.wait.reap() {
                self.reactor.readable().await?;
                self.wait.reap();
            }
        }
        Ok(())
    }
}

fn through_a_thread(stage: &mut Stage) -> Result<Outcome> {
    let memory = memory(stage)?;
    let (to, from) = words(stage, &memory);
    let (waker, is_over) = (AtomicWaker::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| wait_for_another(from, &waker, &is_over));
        let outcome = smol::block_on(stage.run_async(Behind { to, from, last: 0, waker: &waker }));
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

impl AsyncPort for Behind<'_> {
    async fn send(&mut self, source: &mut Source) -> Result<()> {
        send(self.to, source)
    }

    async fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        let changed = poll_fn(|cx| {
            let look = || Some(self.from.load(Ordering::Acquire)).filter(|now| *now != self.last);
            if let Some(number) = look() {
                return Poll::Ready(number);
            }
            self.waker.register(cx.waker());
            look().map_or(Poll::Pending, Poll::Ready)
        });
        self.last = changed.await;
        take(self.last, sink);
        Ok(())
    }
}
