//! The middle of several numbers, and how far they lie apart.

/// The median, and the quartiles: half of the numbers lie between these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quartiles {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
    /// The largest number.
    pub(crate) most: f64,
    /// How many numbers there were.
    pub(crate) count: usize,
}

impl Quartiles {
    /// `None` if there are no numbers.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let last = count.checked_sub(1)?;
        // Between two numbers by how near the quantile lies to each.
        let at = |quantile: f64| {
            let place = quantile * last as f64;
            let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Self { lower: at(0.25), median: at(0.5), upper: at(0.75), most: values[last], count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_part_the_numbers_in_four() {
        let of = |values: &[f64]| {
            Quartiles::of(values.iter().copied()).map(|q| (q.lower, q.median, q.upper))
        };
        assert_eq!(of(&[5.0, 1.0, 3.0, 2.0, 4.0]), Some((2.0, 3.0, 4.0)));
        assert_eq!(of(&[2.0, 1.0]), Some((1.25, 1.5, 1.75)));
        assert_eq!(of(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(of(&[]), None);
    }
}
