//! A polled driver in smol's own reactor: wakes and timers come through the same epoll, and
//! wakering starts no thread.

#![allow(clippy::print_stdout, reason = "an example says what it did")]

use std::time::Duration;

use async_io::{Async, Timer};
use bytes::Bytes;
use wakering::{Driver, ShmError, SpscFace, SpscHandle};

const ROUNDS: u32 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let driver = Driver::builder().polled()?;
    let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
    let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
    let driver = Async::new(driver)?;

    let executor = smol::LocalExecutor::new();
    let _server = executor.spawn(serve(face));
    let ticking = executor.spawn(async {
        for _ in 0..10 {
            Timer::after(Duration::from_millis(1)).await;
        }
    });
    let working = executor.run(async {
        for round in 0..ROUNDS {
            let packet = Bytes::copy_from_slice(&round.to_le_bytes());
            handle.send(packet.clone()).await?;
            assert_eq!(handle.recv().await, Some(packet));
        }
        ticking.await;
        Ok::<_, ShmError>(())
    });
    // This is all that the integration takes.
    smol::block_on(driver.get_ref().drive(|| driver.readable(), working))??;

    for task in std::fs::read_dir("/proc/self/task")? {
        let name = std::fs::read_to_string(task?.path().join("comm"))?;
        assert_ne!(name.trim(), "wakering", "a background driver was started");
    }
    println!("{ROUNDS} round trips in smol's reactor, next to its timers");
    Ok(())
}

async fn serve(face: SpscFace) -> Result<(), ShmError> {
    while let Some(packet) = face.recv().await {
        face.send(packet).await?;
    }
    Ok(())
}
