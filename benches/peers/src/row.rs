//! The words that a row of the tables is named by: what is measured, where, and with which packets.

use std::fmt;
use std::str::FromStr;

use crate::Error;

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

/// A side of a channel, in a process of its own unless the system lives in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Asks, or sends; and makes the channel.
    A,
    /// Answers, or receives.
    B,
}

/// Which row of which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) pin: Pin,
    pub(crate) measure: Measure,
    /// Of a packet.
    pub(crate) bytes: usize,
}

/// All lengths of packets.
pub(crate) const SIZES: [usize; 4] = [64, 1 << 10, 8 << 10, 64 << 10];

/// A length of packets, as it is written.
pub(crate) fn size(bytes: usize) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) }
}

/// Calls a function that has the packet's length as a constant parameter.
macro_rules! with_size {
    ($bytes:expr, $function:ident, $stage:expr) => {
        match $bytes {
            64 => $function::<64>($stage),
            1024 => $function::<1024>($stage),
            8192 => $function::<8192>($stage),
            65536 => $function::<65536>($stage),
            other => Err(format!("packets of {other} bytes are not prepared").into()),
        }
    };
}
pub(crate) use with_size;

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
