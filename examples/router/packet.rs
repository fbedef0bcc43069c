//! What the packets hold: a pattern over all bytes, so that any wrong byte shows.

/// Writes the packet with this number. Its length is a multiple of 8, and not 0.
pub(crate) fn fill(number: u64, packet: &mut [u8]) {
    let mut pattern = pattern(number);
    let (words, _) = packet.as_chunks_mut();
    let (first, rest) = words.split_first_mut().expect("a packet has room for its number");
    *first = number.to_le_bytes();
    for word in rest {
        *word = pattern.next();
    }
}

/// Returns the number of a packet, if all of its bytes are those that `fill` wrote.
pub(crate) fn check(packet: &[u8], bytes: usize) -> Option<u64> {
    let (words, _) = packet.as_chunks();
    let (first, rest) = words.split_first()?;
    let number = u64::from_le_bytes(*first);
    let mut pattern = pattern(number);
    // This collects differences and decides once. Such a loop compiles to vector instructions.
    let mut differences = 0;
    for word in rest {
        differences |= u64::from_le_bytes(*word) ^ u64::from_le_bytes(pattern.next());
    }
    (packet.len() == bytes && differences == 0).then_some(number)
}

/// A word for each place, different in every packet.
struct Pattern(u64);

fn pattern(number: u64) -> Pattern {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    Pattern(mixed ^ (mixed >> 27))
}

impl Pattern {
    #[inline]
    fn next(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.to_le_bytes()
    }
}

/// Follows the numbers of the packets that arrive.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// Packets that arrived whole and in order.
    pub(crate) intact: u64,
    /// Packets with wrong content, duplicates, and late packets.
    pub(crate) corrupt: u64,
    /// Packets that were skipped.
    pub(crate) lost: u64,
    /// The number of the next packet.
    pub(crate) next: u64,
}

impl Checker {
    #[inline]
    pub(crate) fn look(&mut self, packet: &[u8], bytes: usize) {
        match check(packet, bytes) {
            Some(number) if number >= self.next => {
                self.lost += number - self.next;
                self.next = number + 1;
                self.intact += 1;
            }
            Some(_) => self.corrupt += 1,
            None => {
                self.corrupt += 1;
                self.next += 1;
            }
        }
    }
}
