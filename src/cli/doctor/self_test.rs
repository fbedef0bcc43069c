//! Packets between two ends of this process, as a test that channels work here.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join;
use wakering::{Backend, Driver, Endpoint, SpscFace, SpscHandle};

use super::section::Section;
use crate::failure::Failure;
use crate::json::Object;
use crate::text;
use crate::times::nanoseconds;

/// Packets that pass each way.
const PACKETS: u64 = 1000;

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tests each backend, by a name if there is one that can be served, else by a pair.
pub(super) fn look(name: Option<String>) -> Section {
    let mut section = Section::new("self_test").fact("by_name", name.is_some());
    let mut tests = Vec::new();
    for backend in [Backend::IoUring, Backend::Epoll] {
        // Whether there is one, others have said.
        let Ok(driver) = Driver::builder().backend(backend).background() else { continue };
        let outcome = watched(driver, name.clone());
        let test = Object::new()
            .with("backend", backend.to_string())
            .with("packets", PACKETS)
            .with("nanoseconds", outcome.as_ref().ok().map(|time| nanoseconds(*time)))
            .with("error", outcome.as_ref().err().map(ToString::to_string));
        tests.push(test);
        let way = if name.is_some() { "an engine and an application" } else { "a pair" };
        section = match outcome {
            Ok(time) => section.ok(format!(
                "{} went each way between {way} in {}, by {backend}",
                text::count(PACKETS, "packet"),
                text::time(nanoseconds(time))
            )),
            Err(failure) => section.problem(format!("between {way}, by {backend}: {failure}")),
        };
    }
    let section = section.fact("tests", tests.clone());
    if tests.is_empty() { section.problem("no driver can be made") } else { section }
}

/// Has another thread do it, because it may hang.
fn watched(driver: Driver, name: Option<String>) -> Result<Duration, Failure> {
    let (done, outcome) = mpsc::channel();
    let test = move || done.send(test(&driver, name.as_deref()));
    thread::Builder::new().spawn(test).map_err(Failure::io("starting a thread"))?;
    outcome.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(Failure::new(format!("it did not end in {} s", PATIENCE.as_secs())))
    })
}

fn test(driver: &Driver, name: Option<&str>) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let (face, handle) = (SpscFace::builder().driver(driver), SpscHandle::builder().driver(driver));
    let (face, handle) = match name {
        Some(name) => {
            let face = face.create(name)?;
            (face, handle.connect(name)?)
        }
        None => {
            let (face, descriptor) = face.pair()?;
            (face, handle.from_fd(descriptor)?)
        }
    };
    driver.block_on(try_join(talk(face.into(), 1), talk(handle.into(), 2)))?;
    Ok(begin.elapsed())
}

/// Sends, and checks what the other end sends.
async fn talk(end: Endpoint, side: u64) -> Result<(), Failure> {
    let (mut tx, mut rx) = end.into_split();
    let sending = async move {
        for number in 0..PACKETS {
            tx.send(packet(side, number)).await?;
        }
        Ok(())
    };
    let receiving = async move {
        let mut number = 0;
        while let Some(received) = rx.recv().await {
            if received != packet(3 - side, number) {
                return Err(Failure::new(format!("packet {number} came changed")));
            }
            number += 1;
        }
        match rx.finished() {
            Some(Err(reason)) => Err(reason.into()),
            _ if number != PACKETS => {
                Err(Failure::new(format!("{number} of {PACKETS} packets have come")))
            }
            _ => Ok(()),
        }
    };
    try_join(sending, receiving).await.map(drop)
}

/// A packet that differs from the others, also in length.
fn packet(side: u64, number: u64) -> Bytes {
    let words =
        [side, number].into_iter().cycle().take(2 + usize::try_from(number % 100).unwrap_or(0));
    words.flat_map(u64::to_le_bytes).collect()
}
