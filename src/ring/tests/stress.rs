//! Two threads and as many packets as a second or two allow.

use std::thread;
use std::time::{Duration, Instant};

use super::{LARGEST, NEARLY_WRAPPED, ends, region};

const PACKETS: u64 = 1_000_000;

/// For one packet.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lengths and places in the pattern, the same in both threads.
struct Draw {
    state: u64,
    pattern: Vec<u8>,
    /// When there was last headway.
    since: Instant,
}

impl Draw {
    fn new() -> Self {
        let pattern = (0..=250).cycle().take(4 * LARGEST).collect();
        Self { state: 88_172_645_463_325_252, pattern, since: Instant::now() }
    }

    fn packet(&mut self) -> &[u8] {
        self.since = Instant::now();
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        // One in 16 of any length, the others short.
        let limit = if self.state.is_multiple_of(16) { LARGEST + 1 } else { 64 };
        let len = usize::try_from(self.state >> 32).unwrap() % limit;
        let from = usize::try_from(self.state >> 8 & 0x3ff).unwrap();
        &self.pattern[from..from + len]
    }

    /// One wait for the other thread, which a busy machine may not run for a while.
    fn wait(&self) {
        assert!(self.since.elapsed() < PATIENCE, "the other thread is stuck");
        thread::yield_now();
    }
}

/// Publishes at each packet or in batches, by chance.
#[test]
fn a_million_packets_arrive() {
    let (mut producer, mut consumer) = ends(&region(LARGEST, NEARLY_WRAPPED), NEARLY_WRAPPED);
    let sender = thread::spawn(move || {
        let mut draw = Draw::new();
        for n in 0..PACKETS {
            let packet = draw.packet().to_vec();
            while !producer.stage(&packet).unwrap() {
                producer.publish();
                producer.look_at_taken().unwrap();
                draw.wait();
            }
            if n % 5 == 0 || producer.staged_enough() {
                producer.publish();
            }
        }
        producer.publish();
    });
    let mut draw = Draw::new();
    for n in 0..PACKETS {
        let packet = loop {
            match consumer.take().unwrap() {
                Some(packet) => break packet,
                None => draw.wait(),
            }
        };
        assert!(packet == draw.packet(), "packet {n} of {} bytes", packet.len());
    }
    sender.join().unwrap();
    assert_eq!(consumer.take(), Ok(None));
}
