//! What the parts cost, each by itself. Whole systems and rivals are in `benches/peers`.
//!
//! ```sh
//! cargo bench --bench parts              # all
//! cargo bench --bench parts -- batches   # one question: hot, batches, wakes, bytes, publication
//! ```
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

mod batches;
mod bytes;
mod hot;
mod publication;
mod wakes;

use std::hint::black_box;
use std::time::Duration;

use ::bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use wakering::{Driver, Receiver, Sender, SpscFace, SpscHandle};

/// Returns a channel with both ends in this process. They never spin, so every wait is a sleep.
fn pair(face: &Driver, handle: &Driver) -> (SpscFace, SpscHandle) {
    let face = SpscFace::builder().driver(face).spin(Duration::ZERO).ring_bytes(2 << 20);
    let (face, descriptor) = face.pair().expect("a face");
    let handle = SpscHandle::builder().driver(handle).spin(Duration::ZERO);
    (face, handle.from_fd(descriptor).expect("its handle"))
}

/// Returns one direction of such a channel, and the halves that keep the other direction from
/// ending.
fn one_way() -> (Sender, Receiver, (Receiver, Sender)) {
    let driver = Driver::builder().background().expect("a driver");
    let (face, handle) = pair(&driver, &driver);
    let (tx, other_rx) = wakering::Endpoint::from(face).into_split();
    let (other_tx, rx) = wakering::Endpoint::from(handle).into_split();
    (tx, rx, (other_rx, other_tx))
}

/// Returns how long `work` takes this many times, in processor time of this thread, because other
/// processes use the machine too.
fn own_time<T>(times: u64, mut work: impl FnMut() -> T) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("it does not go below zero")
    };
    let begin = now();
    for _ in 0..times {
        black_box(work());
    }
    now() - begin
}

fn packet(len: usize) -> Bytes {
    Bytes::from(vec![7; len])
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = parts;
    config = config();
    targets = hot::hot, batches::batches, wakes::wakes, bytes::bytes, publication::publication
}
criterion_main!(parts);
