//! A polled driver in smol's own reactor: wakes and timers come by the same epoll, no thread of
//! wakering's is started.

#![allow(clippy::print_stdout, reason = "an example says what it did")]

use std::time::Duration;

use async_io::{Async, Timer};
use bytes::Bytes;
use wakering::{Driver, PolledDriver, ShmError, SpscFace, SpscHandle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROUNDS: u32 = 1000;

fn main() -> Result<()> {
    let driver = Driver::builder().polled()?;
    let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
    let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
    let driver = Async::new(driver)?;

    let executor = smol::LocalExecutor::new();
    let _reactor = executor.spawn(run(driver));
    let _server = executor.spawn(serve(face));
    let ticking = executor.spawn(async {
        for _ in 0..10 {
            Timer::after(Duration::from_millis(1)).await;
        }
    });
    smol::block_on(executor.run(async {
        for round in 0..ROUNDS {
            let packet = Bytes::copy_from_slice(&round.to_le_bytes());
            handle.send(packet.clone()).await?;
            assert_eq!(handle.recv().await, Some(packet));
        }
        ticking.await;
        Ok::<_, ShmError>(())
    }))?;

    for task in std::fs::read_dir("/proc/self/task")? {
        let name = std::fs::read_to_string(task?.path().join("comm"))?;
        assert_ne!(name.trim(), "wakering", "a background driver was started");
    }
    println!("{ROUNDS} round trips in smol's reactor, beside its timers");
    Ok(())
}

/// The whole of the glue: one turn each time that the descriptor is readable.
async fn run(driver: Async<PolledDriver>) -> Result<()> {
    loop {
        driver.get_ref().turn()?;
        driver.readable().await?;
    }
}

async fn serve(face: SpscFace) -> std::result::Result<(), ShmError> {
    while let Some(packet) = face.recv().await {
        face.send(packet).await?;
    }
    Ok(())
}
