//! One thing to be measured, once: which system does what, with packets of which size, and where.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::Error;
use crate::systems::{self, System};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// A packet there and one back, and again.
    RoundTrip,
    /// Packets one way as fast as they go.
    Stream,
    /// Nothing: what a channel takes that nobody uses.
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pin {
    /// Each side has a core of its own.
    Two,
    /// Both sides share a core.
    One,
    /// As the scheduler likes.
    None,
}

/// A side of the channel, in a process of its own unless the system lives in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Asks, or sends; and makes the channel.
    A,
    /// Answers, or receives.
    B,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) system: &'static System,
    pub(crate) measure: Measure,
    pub(crate) pin: Pin,
    pub(crate) bytes: usize,
}

/// What a process of a run is told on its command line.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) cell: Cell,
    pub(crate) side: Side,
    pub(crate) time: Duration,
    /// Count system calls instead of time.
    pub(crate) counts_calls: bool,
    /// The core to stay on; none in particular without it.
    pub(crate) cores: [Option<usize>; 2],
    /// A place for files, and the beginning of unique names.
    pub(crate) scratch: String,
}

macro_rules! words {
    ($($type:ident { $($variant:ident => $word:literal),* $(,)? })*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),* })
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(word: &str) -> Result<Self, Error> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("{word:?}: allowed are {}", [$($word),*].join(", ")).into()),
                }
            }
        }
    )*};
}

words! {
    Measure { RoundTrip => "round-trip", Stream => "stream", Idle => "idle" }
    Pin { Two => "two", One => "one", None => "none" }
    Side { A => "a", B => "b" }
}

impl Order {
    pub(crate) fn to_words(&self) -> Vec<String> {
        let Self { cell: Cell { system, measure, pin, bytes }, side, time, .. } = self;
        let core = |core: Option<usize>| core.map_or("-".to_owned(), |core| core.to_string());
        vec![
            system.name.to_owned(),
            measure.to_string(),
            pin.to_string(),
            bytes.to_string(),
            side.to_string(),
            time.as_secs_f64().to_string(),
            self.counts_calls.to_string(),
            core(self.cores[0]),
            core(self.cores[1]),
            self.scratch.clone(),
        ]
    }

    pub(crate) fn from_words(mut words: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut word = || words.next().ok_or_else(|| Error::from("an order without an end"));
        let name = word()?;
        let system = systems::find(&name).ok_or_else(|| format!("no system {name:?}"))?;
        let cell = Cell {
            system,
            measure: word()?.parse()?,
            pin: word()?.parse()?,
            bytes: word()?.parse()?,
        };
        Ok(Self {
            cell,
            side: word()?.parse()?,
            time: Duration::try_from_secs_f64(word()?.parse()?)?,
            counts_calls: word()?.parse()?,
            cores: [word()?.parse().ok(), word()?.parse().ok()],
            scratch: word()?,
        })
    }
}
