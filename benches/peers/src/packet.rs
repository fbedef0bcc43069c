//! What the packets hold, and how their receiver checks them: the same work for every system.
//!
//! A packet's first word is its number, its last word the complement. The sender writes both into
//! a buffer that it uses again, and the receiver compares the length and both words. Nothing
//! touches what lies between them. (An item of many is written as a whole, directly to where it is
//! collected.) So a packet that is lost, doubled, out of order, cut off or torn is seen, and the
//! check costs each system the same two or three nanoseconds. The last packet of a run says that
//! it is the last, and how many there were.
//!
//! The packet's length is a constant of the compiler, for each system, as it is in a program that
//! sends one type of message.

use std::time::{Duration, Instant};

/// The number of the packet that ends a run; its last word tells how many came before it.
const STOP: u64 = u64::MAX;

/// What lies between the first word and the last.
const FILLING: u8 = 0x5a;

/// How often a sender looks at the clock: after this many packets, or bytes if that is less.
const PACKETS_A_LOOK: usize = 1024;
const BYTES_A_LOOK: usize = 128 << 10;

/// The packets of a stream, until its time is up.
#[derive(Debug)]
pub(crate) struct Source<const N: usize> {
    packet: Stamped<N>,
    next: u64,
    /// The number at which the clock is read.
    look_at: u64,
    time: Duration,
    begun: Option<Instant>,
    is_over: bool,
}

impl<const N: usize> Source<N> {
    pub(crate) fn new(time: Duration) -> Self {
        let packet = Stamped::new();
        Self { packet, next: 0, look_at: 0, time, begun: None, is_over: false }
    }

    /// Returns the next packet; after the time is up, one that says so, and then `None`.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<&[u8; N]> {
        if self.next == self.look_at && !self.is_in_time() {
            return self.last();
        }
        let number = self.next;
        self.next += 1;
        Some(self.packet.numbered(number))
    }

    /// Writes the next packet to the place that `fill` fills, unless there is none. Returns whether
    /// there was one.
    #[inline(always)]
    pub(crate) fn write<'a>(&mut self, fill: impl FnOnce([u8; N]) -> &'a mut [u8; N]) -> bool {
        if self.next == self.look_at && !self.is_in_time() {
            return self.last().copied().map(fill).is_some();
        }
        let number = self.next;
        self.next += 1;
        stamp(fill([FILLING; N]), number, complement(number));
        true
    }

    /// How many packets there were, without the last.
    pub(crate) fn made(&self) -> u64 {
        self.next
    }

    #[cold]
    #[inline(never)]
    fn is_in_time(&mut self) -> bool {
        let packets = PACKETS_A_LOOK.min(BYTES_A_LOOK / N).max(1);
        let now = Instant::now();
        let is_in_time = now - *self.begun.get_or_insert(now) < self.time;
        if is_in_time {
            self.look_at += packets as u64;
        }
        is_in_time
    }

    #[cold]
    #[inline(never)]
    fn last(&mut self) -> Option<&[u8; N]> {
        let is_first_time = !std::mem::replace(&mut self.is_over, true);
        is_first_time.then(|| self.packet.stamp(STOP, self.next))
    }
}

/// A packet in a buffer that is used again.
///
/// The buffer is where the loop has its variables, as in a program: the C library's copies from one
/// allocation to the next one are ten times as slow on some processors.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Stamped<const N: usize>([u8; N]);

impl<const N: usize> Stamped<N> {
    pub(crate) fn new() -> Self {
        const { assert!(N >= 16, "a packet has a first and a last word") };
        Self([FILLING; N])
    }

    /// The packet with this number.
    #[inline(always)]
    pub(crate) fn numbered(&mut self, number: u64) -> &[u8; N] {
        self.stamp(number, complement(number))
    }

    /// The packet that ends a run of so many.
    pub(crate) fn last(&mut self, count: u64) -> &[u8; N] {
        self.stamp(STOP, count)
    }

    #[inline(always)]
    fn stamp(&mut self, first: u64, last: u64) -> &[u8; N] {
        stamp(&mut self.0, first, last);
        &self.0
    }
}

#[inline(always)]
fn stamp<const N: usize>(packet: &mut [u8; N], first: u64, last: u64) {
    packet[N - 8..].copy_from_slice(&last.to_le_bytes());
    packet[..8].copy_from_slice(&first.to_le_bytes());
}

/// The last word of the packet with this number.
#[inline(always)]
fn complement(number: u64) -> u64 {
    !number
}

/// What is checked of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    len: usize,
    first: u64,
    last: u64,
}

impl Look {
    #[inline(always)]
    pub(crate) fn at(packet: &[u8]) -> Self {
        let word = |chunk: Option<&[u8; 8]>| chunk.map_or(0, |word| u64::from_le_bytes(*word));
        let (first, last) = (word(packet.first_chunk()), word(packet.last_chunk()));
        Self { len: packet.len(), first, last }
    }

    /// The packet's number.
    #[inline(always)]
    pub(crate) fn number(self) -> u64 {
        self.first
    }
}

/// Checks packets and counts them.
#[derive(Debug)]
pub(crate) struct Sink<const N: usize> {
    next: u64,
    /// Packets that were passed over, and those that had not come when the run ended.
    skipped: u64,
    missing: u64,
    corrupt: u64,
    /// When the first packet came, and the last.
    begun: Option<Instant>,
    ended: Option<Instant>,
}

/// No packet has this number, so that the first one is looked at more closely.
const NOT_BEGUN: u64 = u64::MAX - 1;

impl<const N: usize> Sink<N> {
    pub(crate) fn new() -> Self {
        Self { next: NOT_BEGUN, skipped: 0, missing: 0, corrupt: 0, begun: None, ended: None }
    }

    /// Checks a packet. Returns whether more are to come.
    #[inline(always)]
    pub(crate) fn take(&mut self, packet: &[u8]) -> bool {
        self.note(Look::at(packet))
    }

    #[inline(always)]
    pub(crate) fn note(&mut self, look: Look) -> bool {
        let is_next =
            look.len == N && look.first == self.next && look.last == complement(self.next);
        if is_next {
            self.next += 1;
            return true;
        }
        self.judge(look)
    }

    /// Checks a packet that was only its number, as those of limits that carry no more.
    #[inline(always)]
    pub(crate) fn take_number(&mut self, first: u64) -> bool {
        let last = if first == STOP { self.next } else { complement(first) };
        self.note(Look { len: N, first, last })
    }

    #[cold]
    #[inline(never)]
    fn judge(&mut self, look: Look) -> bool {
        if self.begun.is_none() {
            self.begun = Some(Instant::now());
            self.next = 0;
            return self.note(look);
        }
        let Look { len, first, last } = look;
        if len != N {
            self.corrupt += 1;
        } else if first == STOP {
            self.missing += last.saturating_sub(self.next);
            self.ended = Some(Instant::now());
            return false;
        } else if last != complement(first) || first < self.next {
            self.corrupt += 1;
        } else {
            self.skipped += first - self.next;
            self.next = first + 1;
        }
        true
    }

    /// Packets that came whole and in order.
    pub(crate) fn taken(&self) -> u64 {
        if self.begun.is_none() { 0 } else { self.next - self.skipped }
    }

    /// Packets that did not come.
    pub(crate) fn lost(&self) -> u64 {
        self.skipped + self.missing
    }

    /// Packets that were not what was sent, or came twice or late.
    pub(crate) fn corrupt(&self) -> u64 {
        self.corrupt
    }

    /// From the first packet to the last.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.zip(self.ended).map_or(Duration::ZERO, |(begun, ended)| ended - begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_made_is_taken_until_the_end() {
        let (mut source, mut sink) =
            (Source::<64>::new(Duration::from_millis(2)), Sink::<64>::new());
        let mut made = 0;
        while let Some(packet) = source.next() {
            let goes_on = sink.take(packet);
            made += u64::from(goes_on);
        }
        assert!(source.next().is_none());
        assert!(made > 0 && made.is_multiple_of(PACKETS_A_LOOK as u64));
        assert_eq!((sink.taken(), sink.lost(), sink.corrupt()), (made, 0, 0));
        assert!(sink.elapsed() >= Duration::from_millis(1) && source.made() == made);
    }

    #[test]
    fn lost_torn_and_doubled_packets_are_told() {
        let (mut source, mut sink) = (Source::<64>::new(HOUR), Sink::<64>::new());
        source.next();
        assert!(sink.take(source.next().unwrap()));
        assert_eq!((sink.taken(), sink.lost()), (1, 1));
        let mut torn = *source.next().unwrap();
        sink.take(&torn[..32]);
        torn[60] ^= 1;
        sink.take(&torn);
        assert_eq!(sink.corrupt(), 2);
        torn[60] ^= 1;
        sink.take(&torn);
        sink.take(&torn);
        assert_eq!((sink.taken(), sink.corrupt()), (2, 3));
        source.next();
        assert!(!sink.take(source.packet.last(4)));
        assert_eq!((sink.taken(), sink.lost()), (2, 2));
    }
}
