//! Packets of random sizes, the same for the one who sends and the one who checks.

use bytes::Bytes;

/// Yields packets.
#[derive(Debug)]
pub struct Packets {
    left: u64,
    state: u64,
    lengths: Lengths,
}

#[derive(Debug)]
enum Lengths {
    /// 0 to this, most of them short.
    UpTo(usize),
    Fixed(usize),
}

impl Packets {
    /// `COUNT SEED MAX`.
    pub fn parse(words: &str) -> Self {
        let numbers: Vec<u64> = words.split(' ').map(|word| word.parse().unwrap()).collect();
        let &[left, seed, max] = numbers.as_slice() else { panic!("not three numbers: {words}") };
        Self { left, state: seed, lengths: Lengths::UpTo(usize::try_from(max).unwrap()) }
    }

    /// Packets of one length, without an end.
    pub fn of_length(length: usize) -> Self {
        Self { left: u64::MAX, state: 1, lengths: Lengths::Fixed(length) }
    }

    /// Ends after this many.
    pub fn take_only(self, left: u64) -> Self {
        Self { left, ..self }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn length(&mut self) -> usize {
        let max = match self.lengths {
            Lengths::Fixed(length) => return length,
            // One in a hundred may be as long as can be.
            Lengths::UpTo(max) => match self.random() % 100 {
                0 => max,
                1..10 => max.min(2048),
                _ => max.min(256),
            },
        };
        usize::try_from(self.random() % (max as u64 + 1)).unwrap()
    }
}

impl Iterator for Packets {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.left = self.left.checked_sub(1)?;
        let length = self.length();
        let content = self.random().to_le_bytes();
        let mut packet = content.repeat(length.div_ceil(8));
        packet.truncate(length);
        Some(packet.into())
    }
}
