//! What a parked round trip costs: two processes, each of which sleeps in its driver.
//!
//! `taskset -c 0 ping_pong [rounds]` measures the time on one core, and `strace -c -f ping_pong`
//! the system calls: a wake and an enter for each process and round. With `ping_pong rounds
//! micros`, the drivers spin for that many microseconds before they sleep, on two cores: there are
//! hardly any system calls then.

#![allow(clippy::print_stdout, reason = "an example says what it did")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::join;
use wakering::{Driver, SpscFace, SpscHandle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Set in the child: the number of the descriptor that it inherited.
const INHERITED: &str = "WAKERING_INHERITED";

fn main() -> Result<()> {
    match std::env::var(INHERITED) {
        Ok(number) => answer(number.parse()?),
        Err(_) => ask(std::env::args().nth(1).map_or(Ok(100_000), |rounds| rounds.parse())?),
    }
}

/// Returns how long the drivers spin: the second argument, in microseconds, which the child also
/// gets.
fn spin() -> Result<Duration> {
    Ok(Duration::from_micros(std::env::args().nth(2).map_or(Ok(0), |micros| micros.parse())?))
}

fn ask(rounds: u64) -> Result<()> {
    let driver = Driver::new()?;
    let (face, descriptor) = SpscFace::builder().driver(&driver).spin(spin()?).pair()?;
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::empty())?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .env(INHERITED, descriptor.as_raw_fd().to_string())
        .spawn()?;
    drop(descriptor);
    let elapsed = driver.block_on(async {
        face.recv().await.ok_or("the child has gone")?;
        let start = Instant::now();
        for round in 0..rounds {
            let packet = Bytes::copy_from_slice(&round.to_le_bytes());
            // In this order, both sides park each time, however fast the other side is.
            let (answer, sent) = join!(face.recv(), face.send(packet.clone()));
            sent?;
            assert_eq!(answer, Some(packet));
        }
        Result::Ok(start.elapsed())
    })?;
    let stats = face.stats();
    drop(face);
    assert!(child.wait()?.success());
    let nanos = elapsed.as_nanos() / u128::from(rounds.max(1));
    println!(
        "{rounds} round trips by {}: {nanos} ns each, {} parks, {} spins paid, {} did not",
        driver.backend(),
        stats.parks,
        stats.spins_paid,
        stats.spins_unpaid,
    );
    Ok(())
}

fn answer(descriptor: i32) -> Result<()> {
    let driver = Driver::new()?;
    // SAFETY: the parent has passed this descriptor on, and nothing else in this process uses it.
    #[allow(unsafe_code, reason = "a number from the environment becomes a descriptor")]
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let builder = SpscHandle::builder().driver(&driver).spin(spin()?);
    let handle = builder.from_fd(descriptor)?;
    driver.block_on(async {
        let mut next = Bytes::from_static(b"ready");
        loop {
            let (received, sent) = join!(handle.recv(), handle.send(next));
            sent?;
            let Some(packet) = received else { break };
            next = packet;
        }
        Ok(())
    })
}
