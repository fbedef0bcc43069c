//! Whether the machine had two speeds while the comparison ran, and which run saw which.

use crate::quartiles::Quartiles;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Regime {
    Fast,
    Slow,
}

/// The two regimes: hops up to `limit` nanoseconds belong to the fast one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Regimes {
    limit: f64,
    pub(crate) fast: Quartiles,
    pub(crate) slow: Quartiles,
}

/// So far apart the medians of both have to be, and so many of the hops each of them has to have.
const APART: f64 = 1.7;
const SHARE: f64 = 0.05;

impl Regimes {
    /// Parts the hops where that leaves the least spread on both sides; `None` if they are of one
    /// kind.
    pub(crate) fn of(hops: &[f64]) -> Option<Self> {
        let mut hops = hops.to_vec();
        hops.sort_by(f64::total_cmp);
        let least = ((hops.len() as f64 * SHARE).ceil() as usize).max(3);
        let parts = least..(hops.len() + 1).checked_sub(least)?;
        let spread = |part: &usize| {
            let (low, high) = hops.split_at(*part);
            squares(low) + squares(high)
        };
        let part = parts.min_by(|a, b| spread(a).total_cmp(&spread(b)))?;
        let (low, high) = hops.split_at(part);
        let (fast, slow) =
            (Quartiles::of(low.iter().copied())?, Quartiles::of(high.iter().copied())?);
        let limit = (low[part - 1] * high[0]).sqrt();
        (slow.median >= APART * fast.median).then_some(Self { limit, fast, slow })
    }

    pub(crate) fn which(&self, hop: f64) -> Regime {
        if hop <= self.limit { Regime::Fast } else { Regime::Slow }
    }
}

/// The sum of the squares of how far the logarithms lie from their mean.
fn squares(values: &[f64]) -> f64 {
    let logs = || values.iter().map(|value| value.ln());
    let mean = logs().sum::<f64>() / values.len() as f64;
    logs().map(|log| (log - mean).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_kinds_of_hops_are_two_regimes() {
        let hops: Vec<f64> = (0..100)
            .map(|n| if n % 3 == 0 { 400.0 + f64::from(n) } else { 130.0 + f64::from(n % 7) })
            .collect();
        let regimes = Regimes::of(&hops).unwrap();
        assert_eq!((regimes.fast.count, regimes.slow.count), (66, 34));
        assert_eq!((regimes.which(140.0), regimes.which(390.0)), (Regime::Fast, Regime::Slow));
    }

    #[test]
    fn one_kind_of_hops_is_no_two_regimes() {
        let hops: Vec<f64> = (0..100).map(|n| 130.0 + f64::from(n % 10)).collect();
        assert!(Regimes::of(&hops).is_none());
        assert!(Regimes::of(&[]).is_none());
        // A single odd one is no regime.
        assert!(Regimes::of(&[&hops[..], &[900.0]].concat()).is_none());
    }
}
