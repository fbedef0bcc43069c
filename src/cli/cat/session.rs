//! One channel, from its beginning to its end: standard input goes one way, and what comes the
//! other way goes to standard output.

use std::pin::pin;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, join, select};
use futures::{FutureExt, SinkExt};
use wakering::{CloseReason, Endpoint, Sender, ShmError, Stats};

use super::frames::Frames;
use super::input::{Input, Rest};
use super::output::{self, Written};
use crate::failure::Failure;
use crate::json::Object;
use crate::text::count;

/// How long a read that returns at once may take.
const READING: Duration = Duration::from_micros(100);

/// How many times as long the reader may take in all. It may wait for ever: another process that
/// reads the same pipe or terminal may have been faster.
const READS: u32 = 10_000;

/// What passed, and how it ended.
#[derive(Debug)]
pub(crate) struct Session {
    stats: Stats,
    pub(crate) verdict: Verdict,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// In order, both ways: nothing is missing.
    Complete,
    /// The peer cut it off, or did not stay for all of standard input.
    CutOff(Failure),
    /// Standard input or output failed.
    Broken(Failure),
}

/// Why not all of standard input was sent.
enum Unsent {
    /// Standard input has failed, or holds what is no packet.
    Input(Failure),
    /// The peer receives no more.
    Ended {
        reason: CloseReason,
        /// There was nothing to send.
        is_idle: bool,
    },
}

impl Session {
    /// Runs until both directions have ended. Without an `input` our own direction ends after the
    /// peer's, once all that came has been written. If this is the `last` session, what is left of
    /// the input is lost.
    pub(crate) async fn run(
        end: Endpoint,
        input: Option<&mut Input>,
        frames: Frames,
        last: bool,
    ) -> Result<Self, Failure> {
        let (mut tx, rx) = end.into_split();
        // Whatever goes wrong from here on must not look like the end of the stream.
        tx.cancel_on_drop(true);
        let written = output::start(rx, frames)?;
        let written = async {
            written.await.unwrap_or_else(|_| Err(Failure::new("the writer has panicked")))
        };
        let (sent, written) = match input {
            Some(input) => join(send_all(&mut tx, input), written).await,
            None => {
                let written = written.await;
                let sent =
                    if matches!(written, Ok(Ok(()))) { close(&mut tx).await } else { Ok(()) };
                (sent, written)
            }
        };
        let stats = tx.stats();
        Ok(Self { stats, verdict: judge(sent, written, stats.packets_sent, last) })
    }

    /// One line about it.
    pub(crate) fn text(&self) -> String {
        let passed =
            |packets, bytes| format!("{}, {}", count(packets, "packet"), count(bytes, "byte"));
        format!(
            "sent {}; received {}",
            passed(self.stats.packets_sent, self.stats.bytes_sent),
            passed(self.stats.packets_received, self.stats.bytes_received),
        )
    }

    pub(crate) fn json(&self) -> Object {
        Object::new()
            .with("packets_sent", self.stats.packets_sent)
            .with("bytes_sent", self.stats.bytes_sent)
            .with("packets_received", self.stats.packets_received)
            .with("bytes_received", self.stats.bytes_received)
            .with("error", self.verdict.failure().map(ToString::to_string))
    }
}

impl Verdict {
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Complete => None,
            Self::CutOff(failure) | Self::Broken(failure) => Some(failure),
        }
    }
}

/// Sends standard input, and ends our direction in order after it.
async fn send_all(tx: &mut Sender, input: &mut Input) -> Result<(), Unsent> {
    loop {
        let packets = match next(tx, input).await {
            Ok(packets) if packets.is_empty() => return close(tx).await,
            Ok(packets) => packets,
            Err(unsent) => {
                if let Unsent::Input(_) = unsent {
                    // What was sent is not all.
                    tx.cancel();
                }
                return Err(unsent);
            }
        };
        match tx.send_batch(&packets).await {
            Ok(()) => {}
            Err(ShmError::Closed { reason, sent }) => {
                input.give_back(packets[sent..].to_vec());
                return Err(Unsent::Ended { reason, is_idle: false });
            }
            Err(error) => {
                tx.cancel();
                return Err(Unsent::Input(error.into()));
            }
        }
    }
}

/// Returns the next packets, none at the end, unless the peer stops receiving meanwhile.
async fn next(tx: &Sender, input: &mut Input) -> Result<Vec<Bytes>, Unsent> {
    let reason = match select(pin!(input.next()), pin!(tx.closed())).await {
        Either::Left((packets, _)) => return packets.map_err(Unsent::Input),
        Either::Right((reason, _)) => reason,
    };
    // Standard input may hold more, or have ended, and its reader not have said so yet.
    for _ in 0..READS {
        // Before the packets: what is split off since then is among them.
        let rest = input.rest();
        if let Some(packets) = input.next().now_or_never() {
            let packets = packets.map_err(Unsent::Input)?;
            if packets.is_empty() {
                return Ok(packets);
            }
            input.give_back(packets);
            return Err(Unsent::Ended { reason, is_idle: false });
        }
        match rest {
            Rest::Nothing => return Err(Unsent::Ended { reason, is_idle: true }),
            Rest::Part => return Err(Unsent::Ended { reason, is_idle: false }),
            // The reader is at it. Nothing else is to be done here.
            Rest::Unread => thread::sleep(READING),
        }
    }
    Err(Unsent::Ended { reason, is_idle: false })
}

async fn close(tx: &mut Sender) -> Result<(), Unsent> {
    match SinkExt::close(tx).await {
        // Everything was sent, and the peer has left in order.
        Ok(()) | Err(ShmError::Closed { reason: CloseReason::Peer, .. }) => Ok(()),
        Err(ShmError::Closed { reason, .. }) => Err(Unsent::Ended { reason, is_idle: false }),
        Err(error) => Err(Unsent::Input(error.into())),
    }
}

fn judge(sent: Result<(), Unsent>, written: Written, packets_sent: u64, last: bool) -> Verdict {
    let (unsent, written) = match (sent, written) {
        (Err(Unsent::Input(failure)), _) | (_, Err(failure)) => return Verdict::Broken(failure),
        (Ok(()), Ok(written)) => (None, written),
        (Err(Unsent::Ended { reason, is_idle }), Ok(written)) => (Some((reason, is_idle)), written),
    };
    match (unsent, written) {
        (_, Err(reason)) => Verdict::CutOff(reason.into()),
        (None, Ok(())) => Verdict::Complete,
        // Nothing was sent, and nothing that was to be sent is lost.
        (Some((CloseReason::Peer, is_idle)), Ok(())) if packets_sent == 0 && (is_idle || !last) => {
            Verdict::Complete
        }
        (Some((CloseReason::Peer, _)), Ok(())) => Verdict::CutOff(Failure::new(format!(
            "the peer stopped receiving before the end of standard input, after {}",
            count(packets_sent, "packet")
        ))),
        (Some((reason, _)), Ok(())) => Verdict::CutOff(reason.into()),
    }
}
