//! Is a packet better published by its own header, or by a tail that the consumer keeps a copy of?
//!
//! Two bare rings of the same size and with the same records, between two threads. They differ only
//! in where the consumer looks. The packets are copied as words, because these rings are ordinary
//! memory that both threads use, and this is safe code.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

/// The words of a packet of 64 bytes, and of its record.
const PACKET: usize = 8;
const RECORD: usize = 1 + PACKET;
/// The records in the ring, which has 1.1 MiB.
const RECORDS: u64 = 1 << 14;
/// How many records are taken before `head` is stored.
const EIGHTH: u64 = RECORDS / 8;

pub(crate) fn publication(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publication, 64 B");
    group.throughput(Throughput::Elements(1));
    for hints in [1, 300] {
        let pause = || (0..hints).for_each(|_| spin_loop());
        let name = |place| format!("{place}, {hints} hints between looks");
        group.bench_function(name("in the header"), |bench| {
            bench.iter_custom(|packets| stream::<InHeader>(packets, pause));
        });
        group.bench_function(name("by a shared tail"), |bench| {
            bench.iter_custom(|packets| stream::<ByTail>(packets, pause));
        });
    }
    group.finish();
}

/// A word that has its cache line, and the next one, to itself.
#[repr(align(128))]
#[derive(Default)]
struct Alone(AtomicU64);

struct Ring {
    words: Box<[AtomicU64]>,
    /// The position up to which records are published. Stays 0 where the headers publish.
    tail: Alone,
    /// The position up to which records may be written again.
    head: Alone,
}

impl Ring {
    fn new() -> Self {
        let words = (0..RECORDS * RECORD as u64).map(|_| AtomicU64::new(0)).collect();
        Self { words, tail: Alone::default(), head: Alone::default() }
    }

    /// Returns the header and the packet of a record.
    fn record(&self, position: u64) -> (&AtomicU64, &[AtomicU64]) {
        let begin = usize::try_from(position % RECORDS).expect("fits") * RECORD;
        (&self.words[begin], &self.words[begin + 1..begin + RECORD])
    }
}

trait Publication {
    /// How many records must be free to write one.
    const NEEDS: u64;
    fn prepare(ring: &Ring, position: u64);
    fn publish(ring: &Ring, position: u64);
    /// Whether the record is published. The consumer remembers in `seen` what it saw.
    fn is_published(ring: &Ring, position: u64, seen: &mut u64) -> bool;
}

struct InHeader;

impl Publication for InHeader {
    const NEEDS: u64 = 2;

    fn prepare(ring: &Ring, position: u64) {
        ring.record(position + 1).0.store(0, Ordering::Relaxed);
    }

    fn publish(ring: &Ring, position: u64) {
        // ORDERING: Release publishes the packet and the cleared header after it; pairs with the
        // Acquire below.
        ring.record(position).0.store(64, Ordering::Release);
    }

    fn is_published(ring: &Ring, position: u64, _seen: &mut u64) -> bool {
        ring.record(position).0.load(Ordering::Acquire) != 0
    }
}

struct ByTail;

impl Publication for ByTail {
    const NEEDS: u64 = 1;

    fn prepare(_ring: &Ring, _position: u64) {}

    fn publish(ring: &Ring, position: u64) {
        ring.record(position).0.store(64, Ordering::Relaxed);
        // ORDERING: Release publishes the record; pairs with the Acquire below.
        ring.tail.0.store(position + 1, Ordering::Release);
    }

    fn is_published(ring: &Ring, position: u64, seen: &mut u64) -> bool {
        if *seen == position {
            *seen = ring.tail.0.load(Ordering::Acquire);
        }
        // The header also has a length, which the consumer has to read.
        *seen != position && ring.record(position).0.load(Ordering::Relaxed) == 64
    }
}

/// Returns how long this many packets take, from the first look to the last packet.
fn stream<P: Publication>(packets: u64, pause: impl Fn() + Sync) -> Duration {
    let ring = Ring::new();
    thread::scope(|scope| {
        scope.spawn(|| produce::<P>(&ring, packets, &pause));
        let begin = Instant::now();
        let sum = consume::<P>(&ring, packets, &pause);
        let taken = begin.elapsed();
        let of_each = (0..PACKET as u64).sum::<u64>();
        let all = (0..packets).fold(0_u64, |sum, packet| sum.wrapping_add(packet * 8 + of_each));
        assert_eq!(sum, all, "a packet was lost or torn");
        taken
    })
}

fn produce<P: Publication>(ring: &Ring, packets: u64, pause: &impl Fn()) {
    let mut head = 0;
    for position in 0..packets {
        while position - head + P::NEEDS > RECORDS {
            // ORDERING: Acquire pairs with the Release in `consume`: everything before `head` was
            // read.
            head = ring.head.0.load(Ordering::Acquire);
            if position - head + P::NEEDS > RECORDS {
                pause();
            }
        }
        P::prepare(ring, position);
        for (word, number) in ring.record(position).1.iter().zip(position..) {
            word.store(number, Ordering::Relaxed);
        }
        P::publish(ring, position);
    }
}

fn consume<P: Publication>(ring: &Ring, packets: u64, pause: &impl Fn()) -> u64 {
    let (mut seen, mut sum) = (0, 0_u64);
    for position in 0..packets {
        while !P::is_published(ring, position, &mut seen) {
            pause();
        }
        for word in ring.record(position).1 {
            sum = sum.wrapping_add(word.load(Ordering::Relaxed));
        }
        if (position + 1) % EIGHTH == 0 {
            // ORDERING: Release orders the reads before it; pairs with the Acquire in `produce`.
            ring.head.0.store(position + 1, Ordering::Release);
        }
    }
    sum
}
