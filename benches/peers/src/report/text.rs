//! How numbers are written.

use crate::quartiles::Quartiles;

/// Three figures, no more.
pub(super) fn figures(number: f64) -> String {
    match number.abs() {
        0.0 => "0".into(),
        size if size >= 99.95 => format!("{number:.0}"),
        size if size >= 9.995 => format!("{number:.1}"),
        size if size >= 0.1 => format!("{number:.2}"),
        size if size >= 0.01 => format!("{number:.3}"),
        _ => format!("{number:.5}"),
    }
}

/// A median, and in brackets the quartiles.
pub(super) fn spread(Quartiles { lower, median, upper, count, .. }: Quartiles) -> String {
    if count == 1 {
        return figures(median);
    }
    format!("{} ({}–{})", figures(median), figures(lower), figures(upper))
}
