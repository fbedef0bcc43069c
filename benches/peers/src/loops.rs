//! What a system has to offer to be measured: the loops that a program would have that uses it.

use std::time::Duration;

use crate::Result;
use crate::packet::{Sink, Source};
use crate::row::{Measure, Side};
use crate::trips::{Echo, Trips};

/// One side of a channel for packets of `N` bytes: two loops for a stream, two for round trips.
///
/// Each loop is as the system's own documentation would show it, with a packet from the source and
/// a check by the sink. It runs once a measurement, so nothing of how it is called costs a packet
/// anything. Loops that wait for nothing by a future are plain code all the same.
pub(crate) trait Loops<const N: usize> {
    /// Sends all packets of `source`.
    async fn send(&mut self, _source: &mut Source<N>) -> Result<()> {
        Err("it has no streams".into())
    }

    /// Receives packets until `sink` says that no more come.
    async fn receive(&mut self, _sink: &mut Sink<N>) -> Result<()> {
        Err("it has no streams".into())
    }

    /// Sends each packet of `trips` and takes its answer, then sends the last.
    async fn ask(&mut self, _trips: &mut Trips<N>) -> Result<()> {
        Err("it makes no round trips".into())
    }

    /// Sends an answer for each packet until there is none.
    async fn answer(&mut self, _echo: &mut Echo<N>) -> Result<()> {
        Err("it makes no round trips".into())
    }
}

/// The loops for packets of all lengths.
pub(crate) trait AllLoops: Loops<64> + Loops<1024> + Loops<8192> + Loops<65536> {}

impl<T: Loops<64> + Loops<1024> + Loops<8192> + Loops<65536>> AllLoops for T {}

/// How it went for one side.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Packets that this side sent in a stream.
    pub(crate) sent: u64,
    pub(crate) taken: u64,
    pub(crate) lost: u64,
    pub(crate) corrupt: u64,
    /// From the first packet to the last.
    pub(crate) elapsed: Duration,
    /// In nanoseconds: the median round trip, and those of which 1 % and 0.1 % took longer.
    pub(crate) quantiles: [u64; 3],
}

impl Tally {
    fn of<const N: usize>(sink: &Sink<N>) -> Self {
        Self {
            taken: sink.taken(),
            lost: sink.lost(),
            corrupt: sink.corrupt(),
            elapsed: sink.elapsed(),
            ..Self::default()
        }
    }
}

/// Runs the loop of this side.
pub(crate) async fn run<const N: usize>(
    measure: Measure,
    side: Side,
    time: Duration,
    loops: &mut impl Loops<N>,
) -> Result<Tally> {
    match (measure, side) {
        (Measure::Stream, Side::A) => {
            let mut source = Source::new(time);
            loops.send(&mut source).await?;
            Ok(Tally { sent: source.made(), ..Tally::default() })
        }
        (Measure::Stream, Side::B) => {
            let mut sink = Sink::new();
            loops.receive(&mut sink).await?;
            Ok(Tally::of(&sink))
        }
        (Measure::RoundTrip, Side::A) => {
            let mut trips = Trips::new(time);
            loops.ask(&mut trips).await?;
            let quantiles = [0.5, 0.99, 0.999].map(|quantile| trips.quantile(quantile));
            Ok(Tally { elapsed: trips.elapsed(), quantiles, ..Tally::of(trips.sink()) })
        }
        (Measure::RoundTrip, Side::B) => {
            let mut echo = Echo::new();
            loops.answer(&mut echo).await?;
            Ok(Tally::of(echo.sink()))
        }
        (Measure::Idle, _) => Err("an idle channel has no loops".into()),
    }
}
