//! Keeps a distance from a producer that is busy.
//!
//! A consumer directly after the producer takes each line from the other core's cache while it is
//! being written, and each look at an empty ring does it again: both are then as slow as the
//! interconnect. At some distance, the lines are complete and prefetched. So a consumer that has
//! taken many packets in a short time and then finds none pauses before it looks again. Meanwhile
//! the producer gets ahead of it undisturbed.
//!
//! This costs a single packet nothing, and a round trip next to nothing: a stream has to be seen
//! first, as [`STREAM_PACKETS`] in no more time than [`STREAM_GAP`] and [`LONG_BYTES_A_NANO`]
//! allow. A pause is judged by the same rate when the ring is empty for the first time after it. If
//! it has brought fewer packets than that, it was without effect: the next one needs twice as many
//! packets, up to [`MAX_STREAM_PACKETS`], until a pause has paid again. A round trip brings one
//! packet at most in a pause, which never pays.

use std::time::{Duration, Instant};

/// The length of a pause. Longer ones give more distance, but may delay a single packet after a
/// stream by as much.
///
/// 64 bytes, async, two cores, rings of 256 KiB, 1 MiB and 4 MiB: 6, 8 and 7 million packets a
/// second without it, 7, 9 and 10 with 1 us, 9, 14 and 15 with 4 us, and no more with 8 us.
const PAUSE: Duration = Duration::from_micros(4);

/// The largest distance between packets of a stream. Directly after the producer, each packet costs
/// about one transfer of a line from core to core, which is 50 to 250 ns. A round trip costs more
/// than two. (With 150 ns, where the transfer takes 200, streams were sometimes not recognized.)
const STREAM_GAP: Duration = Duration::from_nanos(300);

/// A packet may take a nanosecond more for each so many bytes between [`LONG`] and [`LONGEST`].
///
/// In place on two cores, packets a second with this over without: 1.4 to 1.6 with packets of 4
/// KiB, 1.0 to 1.25 with 8 KiB. Pauses for packets of 1 KiB or 64 KiB that come more slowly gained
/// nothing (0.95).
const LONG_BYTES_A_NANO: u64 = 4;

/// Up to so many bytes a packet is short.
const LONG: u64 = 2048;

/// More bytes of a packet than these do not count.
const LONGEST: u64 = 6144;

/// How many packets, or KiB if they are more, show that there is a stream.
const STREAM_PACKETS: u64 = 32;
const MAX_STREAM_PACKETS: u64 = 4096;

/// Packets that were taken, and their bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) packets: u32,
    pub(crate) bytes: u64,
}

impl Load {
    fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(before.packets),
            bytes: self.bytes.wrapping_sub(before.bytes),
        }
    }

    /// Returns for how many packets this counts: the KiB, if they are more.
    fn count(self) -> u64 {
        u64::from(self.packets).max(self.counted_bytes() / 1024)
    }

    /// Returns how long this takes at most in a stream.
    fn longest_stream(self) -> Duration {
        let short = u64::from(self.packets).saturating_mul(LONG);
        let long = self.counted_bytes().saturating_sub(short);
        STREAM_GAP.saturating_mul(self.packets) + Duration::from_nanos(long / LONG_BYTES_A_NANO)
    }

    fn counted_bytes(self) -> u64 {
        self.bytes.min(u64::from(self.packets).saturating_mul(LONGEST))
    }
}

/// What a consumer knows of how its packets come.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The empty look from which the packets are counted, and what had been taken then.
    since: Option<(Instant, Load)>,
    /// How many packets are needed, or KiB if they are more.
    needed: u64,
    /// A pause followed the last empty look that read the clock.
    waited: bool,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { since: None, needed: STREAM_PACKETS, waited: false }
    }

    /// Called when the ring is empty, after `taken` in total. Returns for how long not to look at
    /// it.
    ///
    /// Reads the clock once for many packets, so that a round trip does not pay for that either.
    #[inline]
    pub(crate) fn at_empty(
        &mut self,
        taken: Load,
        now: impl FnOnce() -> Instant,
    ) -> Option<Duration> {
        let needed = if self.waited { 1 } else { self.needed };
        match self.since {
            Some((_, before)) if taken.since(before).count() < needed => None,
            since => self.judge(since, taken, now()),
        }
    }

    #[cold]
    fn judge(
        &mut self,
        since: Option<(Instant, Load)>,
        taken: Load,
        now: Instant,
    ) -> Option<Duration> {
        self.since = Some((now, taken));
        let (since, before) = since?;
        let mut time = now.saturating_duration_since(since);
        if self.waited {
            // Where the caller may not wait for as long, no less has to come.
            time = time.max(PAUSE);
        }
        let in_time = time <= taken.since(before).longest_stream();
        if self.waited && !in_time {
            self.needed = (self.needed * 2).min(MAX_STREAM_PACKETS);
        } else if self.waited {
            self.needed = STREAM_PACKETS;
        }
        self.waited = in_time;
        in_time.then_some(PAUSE)
    }
}

/// Waits for `pause` without looking at the ring.
pub(crate) fn pause_for(pause: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < pause {
        std::hint::spin_loop();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn load(packets: u32, bytes: u64) -> Load {
        Load { packets, bytes: bytes * u64::from(packets) }
    }

    /// So many packets of 64 bytes.
    fn small(packets: u32) -> Load {
        load(packets, 64)
    }

    /// Packets come in groups of `group`, one group each `apart`. Returns how many of `looks` empty
    /// looks were followed by a pause.
    fn pauses(pace: &mut Pace, looks: u32, group: u32, apart: Duration) -> usize {
        pauses_at(pace, looks, group, 64, apart)
    }

    /// The same with packets of `bytes` each.
    fn pauses_at(pace: &mut Pace, looks: u32, group: u32, bytes: u64, apart: Duration) -> usize {
        let (mut now, mut taken) = (Instant::now(), 0);
        let mut count = 0;
        for _ in 0..looks {
            now += apart;
            taken += group;
            if let Some(pause) = pace.at_empty(load(taken, bytes), || now) {
                count += 1;
                now += pause;
                // Packets that come meanwhile are taken then.
                taken += u32::try_from(pause.as_nanos() / apart.as_nanos()).unwrap() * group;
            }
        }
        count
    }

    #[test]
    fn a_round_trip_never_waits() {
        assert_eq!(pauses(&mut Pace::new(), 10_000, 1, Duration::from_nanos(400)), 0);
    }

    #[test]
    fn a_round_trip_that_passes_for_a_stream_waits_once_in_thousands() {
        let mut pace = Pace::new();
        let (mut now, mut waited) = (Instant::now(), 0);
        for trip in 1..100_000 {
            now += Duration::from_nanos(200);
            if let Some(pause) = pace.at_empty(small(trip), || now) {
                // The answer comes only after we have sent, so nothing came meanwhile.
                (now, waited) = (now + pause, waited + 1);
            }
        }
        assert!(waited < 40, "{waited}");
    }

    #[test]
    fn a_stream_waits_at_each_empty_look() {
        let waited = pauses(&mut Pace::new(), 1_000, 2, Duration::from_nanos(100));
        assert!(waited > 900, "{waited}");
    }

    /// Makes `trips` round trips with packets of `bytes`, whose receiver pauses for `cap` at most.
    /// Returns how often it did.
    fn pauses_of_round_trips(trips: u32, bytes: u64, trip: Duration, cap: Duration) -> usize {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        let (mut taken, mut count) = (0, 0);
        while taken < trips {
            now += trip;
            taken += 1;
            if let Some(pause) = pace.at_empty(load(taken, bytes), || now) {
                count += 1;
                // The answer that was on its way comes, and nothing else.
                now += pause.min(cap);
                taken += 1;
            }
        }
        count
    }

    #[test]
    fn a_round_trip_waits_rarely_whatever_its_length() {
        for bytes in [64, 1024, 3072, 4096, 5120, 6144, 7168, 8192, 16_384, 65_536, 1 << 20] {
            for trip in [200, 400, 600, 800, 1_200].map(Duration::from_nanos) {
                for cap in [1, 4].map(Duration::from_micros) {
                    let waited = pauses_of_round_trips(20_000, bytes, trip, cap);
                    assert!(waited < 50, "{bytes} bytes in {trip:?}, {cap:?}: {waited}");
                }
            }
        }
    }

    #[test]
    fn long_packets_have_more_time() {
        let waits = |bytes, apart: u64| {
            // A few packets come between two pauses.
            pauses_at(&mut Pace::new(), 1_000, 1, bytes, Duration::from_nanos(apart)) > 500
        };
        assert!(waits(64, 100) && !waits(64, 500) && !waits(1024, 500));
        assert!(waits(4096, 400) && waits(8192, 600));
        assert!(!waits(4096, 1_000) && !waits(8192, 1_500) && !waits(65_536, 2_000));
    }

    #[test]
    fn bursts_that_end_do_not_wait() {
        let mut pace = Pace::new();
        let (mut now, mut taken) = (Instant::now(), 0);
        for _ in 0..1_000 {
            // 64 packets at once, and nothing for a while.
            taken += 64;
            now += Duration::from_micros(1);
            assert_eq!(pace.at_empty(small(taken), || now), None);
            now += Duration::from_micros(50);
            assert_eq!(pace.at_empty(small(taken), || now), None);
        }
        // A stream is recognized at once.
        assert!(pauses(&mut pace, 1_000, 2, Duration::from_nanos(100)) > 900);
    }

    #[test]
    fn pauses_without_effect_become_rare() {
        let mut pace = Pace::new();
        let (mut now, mut taken, mut waited) = (Instant::now(), 0, 0);
        for _ in 0..1_000 {
            // Bursts of 96 packets in two groups, the second of which looks like the continuation
            // of a stream.
            for _ in 0..2 {
                taken += 48;
                now += Duration::from_micros(1);
                waited += usize::from(pace.at_empty(small(taken), || now).is_some());
            }
            now += Duration::from_micros(50);
        }
        assert!((1..10).contains(&waited), "{waited}");
        // A stream is recognized again, but later.
        assert!(pauses(&mut pace, 10_000, 2, Duration::from_nanos(100)) > 5_000);
    }

    #[test]
    fn a_round_trip_does_not_ask_for_the_time() {
        let mut pace = Pace::new();
        let (begun, mut asked) = (Instant::now(), 0);
        for trip in 0..3_200_u32 {
            let now = || {
                asked += 1;
                begun + Duration::from_nanos(500) * trip
            };
            assert_eq!(pace.at_empty(small(trip), now), None);
        }
        assert!((50..150).contains(&asked), "{asked}");
    }
}
