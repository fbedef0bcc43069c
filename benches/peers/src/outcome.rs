//! What one process tells of its run, as a line.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// How it went for one side, or, once merged, for both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Packets that this side sent.
    pub(crate) sent: u64,
    /// Packets that this side received whole and in order.
    pub(crate) taken: u64,
    pub(crate) lost: u64,
    pub(crate) corrupt: u64,
    /// From the first packet to the last.
    pub(crate) elapsed_ns: u64,
    pub(crate) cpu_ns: u64,
    /// System calls, if they were counted.
    pub(crate) calls: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    /// Resident bytes of an idle channel on this side, if that was the question.
    pub(crate) resident: u64,
}

/// Begins the line, in case a library prints others.
const MARK: &str = "outcome ";

impl Outcome {
    const FIELDS: usize = 11;

    fn numbers(&self) -> [u64; Self::FIELDS] {
        let Self { sent, taken, lost, corrupt, elapsed_ns, cpu_ns, calls, .. } = *self;
        let Self { p50_ns, p99_ns, p999_ns, resident, .. } = *self;
        [sent, taken, lost, corrupt, elapsed_ns, cpu_ns, calls, p50_ns, p99_ns, p999_ns, resident]
    }

    /// What the side that `tells` has measured, and what both have used up.
    pub(crate) fn with(self, other: &Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            corrupt: self.corrupt + other.corrupt,
            cpu_ns: self.cpu_ns + other.cpu_ns,
            calls: self.calls + other.calls,
            resident: self.resident.max(other.resident),
            ..self
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        self.numbers().iter().try_for_each(|number| write!(f, "{number} "))
    }
}

impl FromStr for Outcome {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        let rest = line.strip_prefix(MARK).ok_or("no outcome")?;
        let numbers: Vec<u64> =
            rest.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let numbers: [u64; Self::FIELDS] =
            numbers.try_into().map_err(|_| "an outcome of another length")?;
        let [
            sent,
            taken,
            lost,
            corrupt,
            elapsed_ns,
            cpu_ns,
            calls,
            p50_ns,
            p99_ns,
            p999_ns,
            resident,
        ] = numbers;
        Ok(Self {
            sent,
            taken,
            lost,
            corrupt,
            elapsed_ns,
            cpu_ns,
            calls,
            p50_ns,
            p99_ns,
            p999_ns,
            resident,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_all() {
        let outcome = Outcome { sent: 1, taken: 2, cpu_ns: 3, resident: 4, ..Outcome::default() };
        assert_eq!(outcome.to_string().parse::<Outcome>().unwrap(), outcome);
    }
}
