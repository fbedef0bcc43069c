//! Packets whose every byte can be checked.

use bytes::Bytes;

use super::random::{Random, mix};

/// The session, the number, and whether this is the last packet.
const HEADER: usize = 17;

/// Makes the packets of one direction of a session.
#[derive(Debug)]
pub(crate) struct Maker {
    session: u64,
    pub(crate) next: u64,
}

impl Maker {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self { session: random.next(), next: 0 }
    }

    /// Returns the packet that is `ahead` packets after the next one. Most packets are short, some
    /// are longer, and few are long.
    pub(crate) fn packet(&self, ahead: u64, max: usize, random: &mut Random) -> Bytes {
        let longest = match random.below(100) {
            0..80 => 128,
            80..95 => 1500,
            _ => max,
        };
        let len = HEADER + random.index(longest.min(max) - HEADER + 1);
        self.make(self.next + ahead, false, len)
    }

    /// Returns the last packet of its direction.
    pub(crate) fn last(&self) -> Bytes {
        self.make(self.next, true, HEADER)
    }

    fn make(&self, number: u64, is_last: bool, len: usize) -> Bytes {
        let mut packet = Vec::with_capacity(len + 8);
        packet.extend(self.session.to_le_bytes());
        packet.extend(number.to_le_bytes());
        packet.push(u8::from(is_last));
        let mut word = mix(self.session ^ number);
        while packet.len() < len {
            packet.extend(word.to_le_bytes());
            word = word.rotate_left(9) ^ 0x5bd1;
        }
        packet.truncate(len);
        Bytes::from(packet)
    }
}

/// Checks the packets of one direction of a session.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    session: Option<u64>,
    pub(crate) next: u64,
    pub(crate) was_last: bool,
}

impl Checker {
    /// Checks that this is the expected packet. If it is not, returns what is wrong with it.
    pub(crate) fn check(&mut self, packet: &[u8]) -> Result<(), String> {
        let word = |at: usize| packet.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        let (Some(session), Some(number)) = (word(0), word(8)) else {
            return Err(format!("a packet of {} bytes", packet.len()));
        };
        let (session, number) = (u64::from_le_bytes(session), u64::from_le_bytes(number));
        if session != *self.session.get_or_insert(session) {
            return Err("a packet of another channel".into());
        }
        if number != self.next || self.was_last {
            let after = if self.was_last { ", after the last" } else { "" };
            return Err(format!("packet {number} instead of {}{after}", self.next));
        }
        let is_last = packet.get(16) == Some(&1);
        if (Maker { session, next: 0 }).make(number, is_last, packet.len()) != packet {
            return Err(format!("packet {number} of {} bytes is not what was sent", packet.len()));
        }
        self.next += 1;
        self.was_last = is_last;
        Ok(())
    }
}
