//! Drivers that run, in each of the four ways.

use async_io::Async;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, select};
use wakering::{Backend, Driver, PolledDriver};

use super::own_ring::Executor;

/// How a driver is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// On a thread of its own.
    Background,
    /// On another thread of the test, which parks in it.
    Parked,
    /// In a reactor, on another thread of the test.
    Polled,
    /// In the ring of an executor, on another thread of the test.
    Embedded,
}

pub const WAYS: [Way; 4] = [Way::Background, Way::Parked, Way::Polled, Way::Embedded];

/// Does `work` with a driver that runs in this way meanwhile.
pub fn running(way: Way, backend: Backend, work: impl FnOnce(&Driver)) {
    let builder = Driver::builder().backend(backend);
    match way {
        Way::Background => work(&builder.background().unwrap()),
        Way::Parked => {
            let driver = builder.build().unwrap();
            meanwhile(|end| _ = driver.block_on(end), || work(&driver));
        }
        Way::Polled => {
            let driver = builder.polled().unwrap();
            let handle = Driver::clone(&driver);
            meanwhile(|end| smol::block_on(turn(driver, end)), || work(&handle));
        }
        Way::Embedded => {
            let driver = builder.embedded().unwrap();
            let handle = Driver::clone(&driver);
            meanwhile(|end| _ = Executor::new(driver).block_on(end), || work(&handle));
        }
    }
}

/// Runs `run` on another thread until `work` is done.
pub fn meanwhile(run: impl FnOnce(oneshot::Receiver<()>) + Send, work: impl FnOnce()) {
    std::thread::scope(|scope| {
        // This is dropped when `work` ends, in whatever way.
        let (_working, end) = oneshot::channel();
        scope.spawn(|| run(end));
        work();
    });
}

/// Turns a driver whenever async-io's reactor reports it, until `end`.
pub async fn turn(driver: PolledDriver, mut end: oneshot::Receiver<()>) {
    let driver = Async::new(driver).unwrap();
    loop {
        driver.get_ref().turn().unwrap();
        if let Either::Right(_) = select(driver.readable().boxed(), &mut end).await {
            return;
        }
    }
}
