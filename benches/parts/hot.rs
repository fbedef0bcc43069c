//! What do a push and a pop cost if neither side ever waits?

use criterion::{Criterion, Throughput};

use crate::{one_way, own_time, packet};

pub(crate) fn hot(criterion: &mut Criterion) {
    let (mut tx, mut rx, _others) = one_way();
    let packet = packet(64);
    let mut group = criterion.benchmark_group("hot, 64 B");
    group.throughput(Throughput::Elements(1));

    let mut copied = || {
        tx.try_send(packet.clone()).expect("there is room");
        rx.try_recv()
    };
    assert_eq!(copied().as_ref(), Ok(&packet));
    group.bench_function("try_send, try_recv", |bench| {
        bench.iter_custom(|times| own_time(times, &mut copied))
    });

    let mut in_place = || {
        let mut grant = tx.try_reserve(64).expect("there is room");
        bytes::BufMut::put_slice(&mut grant, &packet);
        grant.commit().expect("the other end is here");
        let mut first = [0; 8];
        rx.try_recv_ref().expect("it was committed").copy_to_slice_at(56, &mut first);
        first
    };
    assert_eq!(in_place(), [7; 8]);
    let name = "try_reserve, try_recv_ref and a look at 8 B";
    group.bench_function(name, |bench| bench.iter_custom(|times| own_time(times, &mut in_place)));
    group.finish();
}
