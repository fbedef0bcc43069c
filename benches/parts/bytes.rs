//! What is the cheapest memory for a packet that is handed out as `Bytes`?
//!
//! This measures how long it takes to make, copy and drop one packet, or 64 packets that are kept
//! until all are there, as in a batch. `src/ring/pool.rs` has the results. Memory that was freed
//! before changes what glibc gives back to the kernel, so run each benchmark in its own process for
//! reliable figures.

use std::hint::black_box;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};

use crate::own_time;

const LENGTHS: [usize; 5] = [64, 256, 1024, 8 << 10, 64 << 10];
const KEPT: [usize; 2] = [1, 64];
/// Packets that are copied into one allocation.
const IN_A_CHUNK: usize = 8;

/// Makes this many packets like the given one.
type Make<'a> = dyn FnMut(&[u8], &mut Vec<Bytes>, usize) + 'a;

pub(crate) fn bytes(criterion: &mut Criterion) {
    for kept in KEPT {
        for len in LENGTHS {
            let source = vec![7; len];
            let mut group = criterion.benchmark_group(format!("bytes, {len} B, {kept} kept"));
            group.throughput(Throughput::Elements(kept as u64));
            let mut measure = |name: &str, make: &mut Make<'_>| {
                let mut packets = Vec::with_capacity(kept);
                make(&source, &mut packets, kept);
                assert!(packets.len() == kept && packets.iter().all(|packet| packet == &source));
                group.bench_function(BenchmarkId::from_parameter(name), |bench| {
                    bench.iter_custom(|times| {
                        own_time(times, || {
                            packets.clear();
                            make(black_box(&source), &mut packets, kept);
                        })
                    });
                });
            };
            measure("exact", &mut |source, packets, count| {
                packets.extend((0..count).map(|_| Bytes::copy_from_slice(source)));
            });
            measure("chunk of 8, split", &mut chunks);
            for (name, size) in [("arena of 4 KiB", 4 << 10), ("arena of 16 KiB", 16 << 10)] {
                let mut arena = BytesMut::new();
                measure(name, &mut |source, packets, count| {
                    for _ in 0..count {
                        if arena.capacity() < source.len() {
                            // Reuses the old arena if no packet uses it any more.
                            arena.reserve(size.max(source.len()));
                        }
                        arena.extend_from_slice(source);
                        packets.push(arena.split().freeze());
                    }
                });
            }
            let pool = Pool::default();
            measure("pooled, from_owner", &mut |source, packets, count| {
                packets.extend((0..count).map(|_| pool.packet(source)));
            });
            group.finish();
        }
    }
}

/// Copies several packets at once into one allocation and splits it, as a batch would.
fn chunks(source: &[u8], packets: &mut Vec<Bytes>, count: usize) {
    for first in (0..count).step_by(IN_A_CHUNK) {
        let some = IN_A_CHUNK.min(count - first);
        let mut chunk = Vec::with_capacity(some * source.len());
        for _ in 0..some {
            chunk.extend_from_slice(source);
        }
        let mut chunk = Bytes::from(chunk);
        packets.extend((0..some).map(|_| chunk.split_to(source.len())));
    }
}

/// Works like `src/ring/pool.rs`, for packets of one length.
#[derive(Default)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

struct Lent {
    buffer: Vec<u8>,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Pool {
    fn packet(&self, source: &[u8]) -> Bytes {
        let buffer = self.0.lock().expect("nobody panics with it").pop();
        let mut buffer = buffer.unwrap_or_else(|| Vec::with_capacity(source.len()));
        buffer.extend_from_slice(source);
        Bytes::from_owner(Lent { buffer, home: self.0.clone() })
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.home.lock().expect("nobody panics with it").push(buffer);
    }
}
