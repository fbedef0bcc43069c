//! What the packets hold: the packet's number in the first word, and its complement in the last.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Numbers from 0 on, until a moment. Looks at the clock once in many numbers.
pub(crate) struct Numbers {
    next: u64,
    end: Instant,
}

impl Numbers {
    pub(crate) fn until(end: Instant) -> Self {
        Self { next: 0, end }
    }
}

impl Iterator for Numbers {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        if self.next.is_multiple_of(1024) && Instant::now() >= self.end {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

/// Returns the packet, and has the optimizer keep it in memory, where a program's packets are.
///
/// Otherwise it may make packets of 64 bytes of a number in a register, which is up to 1.2 times as
/// fast: a copy waits for words that were written right before it.
#[inline]
pub(crate) fn in_memory<const N: usize>(packet: &mut [u8; N]) -> &mut [u8; N] {
    black_box(packet)
}

/// Makes a packet the one with this number.
#[inline]
pub(crate) fn stamp(packet: &mut [u8], number: u64) {
    let last = packet.len() - 8;
    packet[..8].copy_from_slice(&number.to_le_bytes());
    packet[last..].copy_from_slice(&(!number).to_le_bytes());
}

/// Checks packets as they come, and counts them.
pub(crate) struct Check {
    next: u64,
    begun: Option<Instant>,
}

impl Check {
    pub(crate) fn new() -> Self {
        Self { next: 0, begun: None }
    }

    /// Panics unless `packet` is the next one.
    #[inline]
    pub(crate) fn take<const N: usize>(&mut self, packet: &[u8]) {
        let number = self.next;
        if number == 0 {
            self.begun = Some(Instant::now());
        }
        assert!(
            packet.len() == N
                && packet[..8] == number.to_le_bytes()
                && packet[N - 8..] == (!number).to_le_bytes(),
            "another packet than number {number}"
        );
        self.next += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.next
    }

    /// The time since the first packet.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| begun.elapsed())
    }
}
