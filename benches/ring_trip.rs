//! What a packet costs: alone on its way between two threads, and without any waiting at all.
//!
//! Both ends live in this process and find each other by name, as two processes would.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::fs::DirBuilder;
use std::hint::black_box;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::block_on;
use wakering::{Backend, Driver, SpscFace, SpscHandle};

const PACKET: Bytes = Bytes::from_static(&[7; 64]);

/// How long is a packet of 64 bytes on its way to another thread and back, if both sleep until it
/// comes?
fn round_trip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round trip of 64 B between two threads");
    for backend in [Backend::IoUring, Backend::Epoll] {
        let Ok(driver) = Driver::builder().backend(backend).background() else { continue };
        let (face, handle) = pair(&driver);
        let echo = thread::spawn(move || {
            block_on(async {
                while let Some(packet) = handle.recv().await {
                    handle.send(packet).await.expect("the face is there");
                }
            });
        });
        let trip = async || {
            face.send(PACKET).await.expect("the handle is there");
            face.recv().await
        };
        assert_eq!(block_on(trip()).as_ref(), Some(&PACKET));
        group.bench_function(backend.to_string(), |bench| bench.iter(|| block_on(trip())));
        drop(face);
        echo.join().expect("the echo ends with its face");
    }
    group.finish();
}

/// What do a send and a receive cost where nobody ever waits?
fn hot(criterion: &mut Criterion) {
    let driver = Driver::builder().background().expect("a driver");
    let (face, handle) = pair(&driver);
    let (mut tx, _rx) = wakering::Endpoint::from(face).into_split();
    let (_tx, mut rx) = wakering::Endpoint::from(handle).into_split();
    let mut pass = || {
        tx.try_send(PACKET).expect("there is room");
        rx.try_recv()
    };
    assert_eq!(pass(), Ok(PACKET));
    let mut group = criterion.benchmark_group("one thread");
    group.throughput(Throughput::Elements(1));
    group.bench_function("try_send and try_recv of 64 B", |bench| bench.iter(|| black_box(pass())));
    group.finish();
}

/// Two ends of a channel.
fn pair(driver: &Driver) -> (SpscFace, SpscHandle) {
    let directory = std::env::temp_dir().join(format!("wakering-bench-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&directory).expect("a directory of our own");
    let ends = connect(driver, &directory.join("trip.sock"));
    // The two have found each other; nobody needs the socket's name any more.
    std::fs::remove_dir_all(&directory).expect("ours to remove");
    ends
}

fn connect(driver: &Driver, socket: &Path) -> (SpscFace, SpscHandle) {
    let name = socket.to_str().expect("a path in UTF-8");
    let face = SpscFace::builder().driver(driver).create(name).expect("a face");
    let handle = SpscHandle::builder().driver(driver).connect(name).expect("its handle");
    (face, handle)
}

criterion_group!(benches, round_trip, hot);
criterion_main!(benches);
