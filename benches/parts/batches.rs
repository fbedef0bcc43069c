//! What does a packet in a batch cost, with the calls that take many packets and with the `Sink`
//! and `Stream`?
//!
//! All runs on one thread, so neither side ever waits for the other.

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use futures::{FutureExt, SinkExt, StreamExt};
use wakering::{Receiver, Sender};

use crate::{one_way, own_time, packet};

pub(crate) fn batches(criterion: &mut Criterion) {
    for len in [64, 1024] {
        let mut group = criterion.benchmark_group(format!("batches, {len} B"));
        for count in [1, 8, 64, 512] {
            group.throughput(Throughput::Elements(count as u64));
            let packets = vec![packet(len); count];
            measure(&mut group, &packets);
        }
        group.finish();
    }
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, packets: &[Bytes]) {
    let count = packets.len();
    let (mut tx, mut rx, _others) = one_way();

    assert_eq!(as_batch(&mut tx, &mut rx, packets, Vec::new()), packets);
    group.bench_function(BenchmarkId::new("send_batch, recv_batch", count), |bench| {
        let mut received = Vec::with_capacity(count);
        bench.iter_custom(|times| {
            own_time(times, || {
                received = as_batch(&mut tx, &mut rx, packets, std::mem::take(&mut received));
                received.clear();
            })
        });
    });

    assert_eq!(as_chunk(&mut tx, rx.by_ref(), packets), packets);
    group.bench_function(BenchmarkId::new("feed and flush, ready_chunks", count), |bench| {
        let mut chunks = rx.by_ref().ready_chunks(count);
        bench.iter_custom(|times| {
            own_time(times, || {
                feed(&mut tx, packets);
                chunks.next().now_or_never().flatten().map(|chunk| chunk.len())
            })
        });
    });
}

fn as_batch(
    tx: &mut Sender,
    rx: &mut Receiver,
    packets: &[Bytes],
    mut received: Vec<Bytes>,
) -> Vec<Bytes> {
    tx.send_batch(packets).now_or_never().expect("there is room").expect("the other end is here");
    rx.recv_batch(&mut received, packets.len()).now_or_never().expect("they were sent");
    received
}

fn as_chunk(tx: &mut Sender, rx: &mut Receiver, packets: &[Bytes]) -> Vec<Bytes> {
    feed(tx, packets);
    let mut chunks = rx.ready_chunks(packets.len());
    let chunk = chunks.next().now_or_never().expect("they were sent").expect("no end");
    chunk.into_iter().collect::<Result<_, _>>().expect("no end")
}

fn feed(tx: &mut Sender, packets: &[Bytes]) {
    let sent = async {
        for packet in packets {
            tx.feed(packet.clone()).await?;
        }
        SinkExt::<Bytes>::flush(tx).await
    };
    sent.now_or_never().expect("there is room").expect("the other end is here");
}
