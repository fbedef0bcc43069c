//! What the packets hold, and how their receiver judges them: the same for every system.
//!
//! A packet's first word is its number, its last word a mixture of it. Both are written and read
//! for each packet; what lies between is written once, when the buffer is made. So a packet that is
//! lost, doubled, out of order, cut off or torn is seen, and the check costs everybody the same
//! few nanoseconds. The number after the last one is told by a packet that says so.

use bytes::{Bytes, BytesMut};

/// The number of the packet that ends a run; its last word tells how many there were.
const STOP: u64 = u64::MAX;

/// What is in between.
const FILLING: u8 = 0x5a;

/// The smallest packet: a number and its mixture.
pub(crate) const MIN_BYTES: usize = 16;

/// Makes packets, in memory that is used again.
pub(crate) struct Source {
    packet: Box<[u8]>,
    next: u64,
    is_over: bool,
}

impl Source {
    pub(crate) fn new(bytes: usize) -> Self {
        assert!(bytes >= MIN_BYTES, "a packet has a first and a last word");
        Self { packet: vec![FILLING; bytes].into(), next: 0, is_over: false }
    }

    /// How many were made, without the one that ends the run.
    pub(crate) fn made(&self) -> u64 {
        self.next
    }

    /// From now on each packet says that no more come.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// The next packet, for a system that copies it.
    #[inline]
    pub(crate) fn packet(&mut self) -> &[u8] {
        let words = self.words();
        stamp(&mut self.packet, words);
        &self.packet
    }

    /// The next packet in `memory`, which holds an earlier one that nobody needs any more.
    ///
    /// It is as if a program filled a buffer of its own that it gets back: no allocation unless
    /// somebody still holds `memory`, and two words written.
    #[inline]
    pub(crate) fn refill(&mut self, memory: &mut Bytes) {
        let words = self.words();
        let mut packet = match std::mem::take(memory).try_into_mut() {
            Ok(packet) if packet.len() == self.packet.len() => packet,
            // Split off, because such memory stays shared: a clone of it allocates nothing.
            _ => BytesMut::from(&*self.packet).split(),
        };
        stamp(&mut packet, words);
        *memory = packet.freeze();
    }

    /// The next packet's number alone, for limits that carry no more than a word.
    #[inline]
    pub(crate) fn number(&mut self) -> u64 {
        self.words().0
    }

    #[inline]
    fn words(&mut self) -> (u64, u64) {
        if self.is_over {
            return (STOP, self.next);
        }
        let number = self.next;
        self.next += 1;
        (number, mix(number))
    }
}

#[inline]
fn stamp(packet: &mut [u8], (first, last): (u64, u64)) {
    let end = packet.len() - 8;
    packet[end..].copy_from_slice(&last.to_le_bytes());
    packet[..8].copy_from_slice(&first.to_le_bytes());
}

#[inline]
fn mix(number: u64) -> u64 {
    (number ^ 0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

/// Takes packets and keeps the books.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    bytes: usize,
    next: u64,
    /// Packets that came whole.
    pub(crate) taken: u64,
    /// Packets that were passed over.
    pub(crate) lost: u64,
    /// Packets that were not what was sent, or came twice or late.
    pub(crate) corrupt: u64,
    is_over: bool,
}

impl Sink {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes, next: 0, taken: 0, lost: 0, corrupt: 0, is_over: false }
    }

    /// Whether the packet that ends the run has come.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    #[inline]
    pub(crate) fn take(&mut self, packet: &[u8]) {
        let words = (word(packet, 0), word(packet, packet.len().saturating_sub(8)));
        if packet.len() == self.bytes && words == (self.next, mix(self.next)) {
            self.next += 1;
            self.taken += 1;
        } else {
            self.judge(packet.len(), words);
        }
    }

    /// Takes what [`Source::number`] made.
    #[inline]
    pub(crate) fn take_number(&mut self, number: u64) {
        let last = if number == STOP { self.next } else { mix(number) };
        if number == self.next {
            self.next += 1;
            self.taken += 1;
        } else {
            self.judge(self.bytes, (number, last));
        }
    }

    #[cold]
    fn judge(&mut self, len: usize, (first, last): (u64, u64)) {
        if len != self.bytes {
            self.corrupt += 1;
        } else if first == STOP {
            self.is_over = true;
            self.lost += last.saturating_sub(self.next);
        } else if last != mix(first) || first < self.next {
            self.corrupt += 1;
        } else {
            self.lost += first - self.next;
            self.next = first + 1;
            self.taken += 1;
        }
    }
}

#[inline]
fn word(packet: &[u8], at: usize) -> u64 {
    packet.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_taken_until_the_end() {
        let (mut source, mut sink) = (Source::new(64), Sink::new(64));
        let mut memory = Bytes::new();
        for _ in 0..3 {
            sink.take(source.packet());
            source.refill(&mut memory);
            sink.take(&memory);
        }
        source.end();
        assert!(!sink.is_over());
        sink.take(source.packet());
        assert!(sink.is_over());
        assert_eq!((sink.taken, sink.lost, sink.corrupt, source.made()), (6, 0, 0, 6));
    }

    #[test]
    fn lost_torn_and_doubled_packets_are_told() {
        let (mut source, mut sink) = (Source::new(64), Sink::new(64));
        source.packet();
        sink.take(source.packet());
        assert_eq!((sink.taken, sink.lost), (1, 1));
        let mut torn = source.packet().to_vec();
        sink.take(&torn[..32]);
        torn[60] ^= 1;
        sink.take(&torn);
        assert_eq!(sink.corrupt, 2);
        torn[60] ^= 1;
        sink.take(&torn);
        sink.take(&torn);
        assert_eq!((sink.taken, sink.corrupt), (2, 3));
        source.packet();
        source.end();
        sink.take(source.packet());
        assert_eq!((sink.lost, sink.is_over()), (2, true));
    }
}
