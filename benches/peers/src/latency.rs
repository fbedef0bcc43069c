//! A histogram of times, exact to one part in 128.

const EXACT: usize = 128;
const BUCKETS: usize = 64 * EXACT;

pub(crate) struct Latencies {
    counts: Vec<u64>,
    pub(crate) count: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0 }
    }

    pub(crate) fn add(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.count += 1;
    }

    /// The time that so many of a thousand did not exceed.
    pub(crate) fn permille(&self, permille: u64) -> u64 {
        let rank = (self.count * permille).div_ceil(1000);
        let mut seen = 0;
        let reached = |count: &u64| {
            seen += count;
            seen >= rank
        };
        self.counts.iter().position(reached).map_or(0, lower_bound)
    }
}

/// Below 128 each number has its bucket; above, each power of two is divided into 128.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(8);
    let leading = usize::try_from(value >> shift).expect("eight bits");
    shift as usize * EXACT + leading
}

fn lower_bound(bucket: usize) -> u64 {
    let shift = (bucket / EXACT).saturating_sub(1);
    ((bucket - shift * EXACT) as u64) << shift
}
