//! Numbers as a reader likes them.

/// A time in nanoseconds: `812 ns`, `8.12 us`, `81.2 us`, `1.50 ms`, `2.00 s`.
pub(crate) fn time(nanoseconds: u64) -> String {
    const UNITS: [&str; 4] = ["ns", "us", "ms", "s"];
    let mut scaled = nanoseconds as f64;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1e3;
        unit += 1;
    }
    let decimals = match scaled {
        _ if unit == 0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$} {}", UNITS[unit])
}

/// A number of bytes, exactly: `100 B`, `64 KiB`, `4 MiB`.
pub(crate) fn size(bytes: usize) -> String {
    let of = |shift: u32| bytes >> shift << shift == bytes && bytes >> shift > 0;
    match bytes {
        _ if of(30) => format!("{} GiB", bytes >> 30),
        _ if of(20) => format!("{} MiB", bytes >> 20),
        _ if of(10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 packet", "2 packets".
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_units() {
        let times = [0, 812, 999, 1000, 8_124, 81_249, 812_499, 1_500_000, 2_000_000_000];
        let texts = [
            "0 ns", "812 ns", "999 ns", "1.00 us", "8.12 us", "81.2 us", "812 us", "1.50 ms",
            "2.00 s",
        ];
        assert_eq!(times.map(time), texts);
        assert_eq!(time(u64::MAX), "18446744074 s");
        let sizes = [0, 100, 1024, 1500, 65536, 4 << 20, 1 << 30];
        let texts = ["0 B", "100 B", "1 KiB", "1500 B", "64 KiB", "4 MiB", "1 GiB"];
        assert_eq!(sizes.map(size), texts);
        assert_eq!([7, 1234, 1_234_567].map(grouped), ["7", "1,234", "1,234,567"]);
        assert_eq!(count(1, "packet"), "1 packet");
        assert_eq!(count(2000, "packet"), "2,000 packets");
    }
}
