//! The two sides of a round trip: who asks and takes the time, and who answers.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::packet::{Look, Sink, Stamped};

/// The packets of the side that asks, and the time that each takes to come back.
///
/// A trip lasts from the answer before it to its own answer, so it includes one look at the clock
/// and one entry in the histogram: some 40 ns, for every system.
#[derive(Debug)]
pub(crate) struct Trips<const N: usize> {
    packet: Stamped<N>,
    next: u64,
    sink: Sink<N>,
    time: Duration,
    begun: Instant,
    came: Instant,
    /// In nanoseconds.
    latencies: Histogram<u64>,
}

impl<const N: usize> Trips<N> {
    pub(crate) fn new(time: Duration) -> Self {
        let now = Instant::now();
        Self {
            packet: Stamped::new(),
            next: 0,
            sink: Sink::new(),
            time,
            begun: now,
            came: now,
            // Up to a minute, to three digits.
            latencies: Histogram::new_with_max(60_000_000_000, 3).expect("lawful bounds"),
        }
    }

    /// Returns the next packet, or `None` when the time is up.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<&[u8; N]> {
        let number = self.next_number()?;
        Some(self.packet.numbered(number))
    }

    /// The same for limits that carry no more than the number.
    #[inline(always)]
    pub(crate) fn next_number(&mut self) -> Option<u64> {
        let number = self.next;
        self.next += 1;
        (self.came - self.begun < self.time).then_some(number)
    }

    /// The packet that tells the other side that no more come. It has no answer.
    pub(crate) fn last(&mut self) -> &[u8; N] {
        self.packet.last(self.next - 1)
    }

    pub(crate) fn last_number(&mut self) -> u64 {
        Look::at(self.last()).number()
    }

    /// Checks an answer, and notes how long it took.
    #[inline(always)]
    pub(crate) fn take(&mut self, answer: &[u8]) {
        self.sink.take(answer);
        self.has_come();
    }

    #[inline(always)]
    pub(crate) fn note(&mut self, answer: Look) {
        self.sink.note(answer);
        self.has_come();
    }

    #[inline(always)]
    pub(crate) fn take_number(&mut self, answer: u64) {
        self.sink.take_number(answer);
        self.has_come();
    }

    #[inline(always)]
    fn has_come(&mut self) {
        let now = Instant::now();
        // The first tenth of the time is for caches, and for whatever adapts itself.
        if now - self.begun > self.time / 10 {
            let nanos = u64::try_from((now - self.came).as_nanos()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(nanos);
        }
        self.came = now;
    }

    pub(crate) fn sink(&self) -> &Sink<N> {
        &self.sink
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.came - self.begun
    }

    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        self.latencies.value_at_quantile(quantile)
    }
}

/// What the side that answers checks, and its answers.
#[derive(Debug)]
pub(crate) struct Echo<const N: usize> {
    packet: Stamped<N>,
    number: u64,
    sink: Sink<N>,
}

impl<const N: usize> Echo<N> {
    pub(crate) fn new() -> Self {
        Self { packet: Stamped::new(), number: 0, sink: Sink::new() }
    }

    /// Checks a packet. Returns whether it wants an [`answer`](Self::answer); the last does not.
    #[inline(always)]
    pub(crate) fn take(&mut self, packet: &[u8]) -> bool {
        self.note(Look::at(packet))
    }

    #[inline(always)]
    pub(crate) fn note(&mut self, packet: Look) -> bool {
        self.number = packet.number();
        self.sink.note(packet)
    }

    /// The answer: a packet of this side with the same number.
    #[inline(always)]
    pub(crate) fn answer(&mut self) -> &[u8; N] {
        self.packet.numbered(self.number)
    }

    /// The same for limits that carry no more than the number, which is the answer, too.
    #[inline(always)]
    pub(crate) fn take_number(&mut self, number: u64) -> bool {
        self.sink.take_number(number)
    }

    pub(crate) fn sink(&self) -> &Sink<N> {
        &self.sink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_is_answered_until_the_last() {
        let (mut trips, mut echo) = (Trips::<64>::new(Duration::from_millis(1)), Echo::<64>::new());
        while let Some(packet) = trips.next() {
            assert!(echo.take(packet));
            trips.take(echo.answer());
        }
        assert!(!echo.take(trips.last()));
        let counts = |sink: &Sink<64>| (sink.taken(), sink.lost(), sink.corrupt());
        assert!(counts(trips.sink()).0 > 0);
        assert_eq!(counts(trips.sink()), counts(echo.sink()));
        assert_eq!(counts(trips.sink()), (trips.next - 1, 0, 0));
        assert!(trips.quantile(0.5) > 0);
    }
}
