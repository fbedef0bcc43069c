//! Runs a driver on its own thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::Backend;
use super::epoll::EpollPoller;
use super::event_loop::EventLoop;
use super::parker::Inside;
use super::poller::{ATTEMPTS, Failure, pause_after};
use super::shared::Shared;
use super::uring::{self, RingPoller};
use crate::error::ShmError;
use crate::sync::Arc;
use crate::sys::signals;

type Answer = Result<Arc<Shared>, ShmError>;

/// Starts a thread that runs a driver until it is told to stop and no source is left.
///
/// The thread is detached: the process may exit at any time.
pub(super) fn start(backend: Backend) -> Answer {
    let (sender, receiver) = sync_channel(1);
    signals::blocked(|| {
        thread::Builder::new().name("wakering".into()).spawn(move || main(backend, &sender))
    })
    .map_err(ShmError::io("start the driver's thread"))?;
    // The thread ends without an answer only if it panicked.
    let lost = |_| ShmError::io("start the driver's thread")(io::Error::other("it panicked"));
    receiver.recv().map_err(lost)?
}

fn main(backend: Backend, started: &SyncSender<Answer>) {
    match open(backend) {
        Ok((shared, event_loop)) => {
            // The caller of `start` waits for this.
            let _ = started.send(Ok(shared));
            run(event_loop);
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

/// Makes a poller for the requested backend. A ring belongs to the thread that makes it.
fn open(requested: Backend) -> Result<(Arc<Shared>, EventLoop), ShmError> {
    if requested != Backend::Epoll {
        let shared = Shared::new(Backend::IoUring)?;
        match RingPoller::open(&shared) {
            Ok(poller) => return Ok((shared.clone(), EventLoop::new(shared, Box::new(poller)))),
            Err(error) => drop(uring::fallback(requested, error)?),
        }
    }
    let shared = Shared::new(Backend::Epoll)?;
    let poller = EpollPoller::new(shared.clone());
    Ok((shared.clone(), EventLoop::new(shared, Box::new(poller))))
}

/// Runs the driver until it ends.
pub(super) fn run(mut event_loop: EventLoop) {
    // A callback that blocks on a driver would hold this one up for ever.
    let _inside = Inside::now();
    // Panics of sources are caught one by one; this catches a bug in the driver itself, which must
    // not leave the sources asleep for ever.
    match catch_unwind(AssertUnwindSafe(|| serve(&mut event_loop))) {
        Ok(Ok(())) => event_loop.close(),
        Ok(Err(_)) | Err(_) => event_loop.abandon(),
    }
}

fn serve(event_loop: &mut EventLoop) -> io::Result<()> {
    let mut failures = 0;
    while !event_loop.is_done() {
        match event_loop.turn(None, &|| false) {
            Ok(()) => failures = 0,
            Err(Failure::Once(_)) if failures < ATTEMPTS => {
                failures += 1;
                thread::sleep(pause_after(failures));
            }
            Err(failure) => return Err(failure.into_error()),
        }
    }
    Ok(())
}
