//! Drivers: the ways to run one, and how not to use one.

mod block_on;
mod descriptors;
mod drive;
mod dropped;
mod embedded;
mod embedded_leftovers;
mod embedded_rings;
mod misuse;
mod not_run;
mod parked;
mod polled;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wakering::{Driver, Endpoint, PolledDriver, ShmError, SpscFace, SpscHandle};

use crate::common::{PATIENCE, SMALL, number, packet, unnamed_pair};

/// Returns a driver of the same backend that threads run by parking in it.
fn parked(like: &Driver) -> Driver {
    let driver = Driver::builder().backend(like.backend()).build().unwrap();
    assert_eq!(driver.backend(), like.backend());
    driver
}

/// Returns a driver of the same backend that runs by turns.
fn polled(like: &Driver) -> PolledDriver {
    let driver = Driver::builder().backend(like.backend()).polled().unwrap();
    assert_eq!(driver.backend(), like.backend());
    driver
}

/// Returns both ends of a channel, each bound to its driver, which never spin.
fn ends(face: &Driver, handle: &Driver) -> (SpscFace, SpscHandle) {
    let face = SpscFace::builder().driver(face).ring_bytes(SMALL).spin(Duration::ZERO);
    unnamed_pair(face, SpscHandle::builder().driver(handle).spin(Duration::ZERO))
}

/// Whether the driver has something to do within `timeout`.
fn is_readable(driver: &PolledDriver, timeout: Duration) -> bool {
    let mut set = [PollFd::new(driver, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        match poll(&mut set, Some(&timeout)) {
            // The kernel completes the requests that this thread has submitted, which interrupts
            // the call.
            Err(rustix::io::Errno::INTR) => assert!(Instant::now() < end),
            ready => return ready.unwrap() > 0,
        }
    }
}

/// Parks until the condition holds.
fn park_until(driver: &Driver, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        driver.park(Some(PATIENCE)).unwrap();
    }
}

fn kind(error: ShmError) -> ErrorKind {
    std::io::Error::from(error).kind()
}

fn echo(end: impl Into<Endpoint>) -> impl Future<Output = u64> + Send {
    let end = end.into();
    async move {
        let mut rounds = 0;
        while let Some(packet) = end.recv().await {
            end.send(packet).await.unwrap();
            rounds += 1;
        }
        rounds
    }
}

/// Sends packets one by one and receives each back. This end parks for each packet.
async fn ask(handle: &Endpoint, rounds: u64) {
    for round in 0..rounds {
        handle.send(packet(round, 8)).await.unwrap();
        assert_eq!(number(&handle.recv().await.unwrap()), round);
    }
}
