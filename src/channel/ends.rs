//! How each direction of a channel ended, as settled by this side.

use std::sync::OnceLock;

use crate::error::{CloseReason, Violation};
use crate::sync::{AtomicU32, Ordering};
use crate::sys::fork::Gate;
use crate::sys::trace::Told;

/// A set of directions, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Directions(u32);

impl Directions {
    pub(crate) const TX: Self = Self(1);
    pub(crate) const RX: Self = Self(2);
    pub(crate) const BOTH: Self = Self(3);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Why this end can send no more and why it can receive no more. Each reason is settled once and
/// then constant.
///
/// Receiving ends in two steps. First nothing more can come, but the ring may still hold packets:
/// the direction is *over*, and [`rx_over`](Self::rx_over) returns why. Then a receive finds the
/// ring empty, or something cuts the ring off: the direction has *ended*, and [`rx`](Self::rx)
/// returns why. Between the two steps, a cancel or a violation can still cut off what is in the
/// ring.
///
/// The channel is over when sending has ended and receiving is over. Its reason is the worse of the
/// two. It is computed when somebody asks for the first time, and then stays.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Four bits for each reason, which are 0 while there is none, and the flags.
    state: AtomicU32,
    /// Shut before an end of the direction is recorded in `state`, so that a packet needs to look
    /// at nothing else. Who finds one shut asks `state`.
    tx_gate: Gate,
    rx_gate: Gate,
    violation: OnceLock<Violation>,
    /// What `tracing` was told.
    told: Told,
}

const TX: u32 = 0;
const RX: u32 = 4;
/// The reason that moves to `RX` when the ring is found empty.
const RX_OVER: u32 = 8;
/// The worse of both reasons, once it was returned.
const CHANNEL: u32 = 12;
const PEER_GONE: u32 = 1 << 16;
/// A call has returned that sending, or receiving, has ended.
const TX_RETURNED: u32 = 1 << 17;
const RX_RETURNED: u32 = 1 << 18;

// From the least bad to the worst.
const LOCAL: u32 = 1;
const PEER: u32 = 2;
const CANCELLED: u32 = 3;
const FORKED: u32 = 4;
const DRIVER_GONE: u32 = 5;
const PEER_DIED: u32 = 6;
const VIOLATION: u32 = 7;

impl Ends {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
            tx_gate: Gate::new(),
            rx_gate: Gate::new(),
            violation: OnceLock::new(),
            told: Told::default(),
        }
    }

    /// Returns the whole state, to find out whether something changed.
    #[inline]
    pub(crate) fn state(&self) -> u32 {
        // ORDERING: Acquire pairs with the AcqRel in `update`: a caller that sees the end sees what
        // was recorded before it.
        self.state.load(Ordering::Acquire)
    }

    /// Returns why this side can send no more, if so.
    #[inline]
    pub(crate) fn tx(&self) -> Option<CloseReason> {
        self.decode(self.state() >> TX)
    }

    /// Returns why this side can receive no more, if so.
    #[inline]
    pub(crate) fn rx(&self) -> Option<CloseReason> {
        self.decode(self.state() >> RX)
    }

    /// Returns why nothing more can come, if so, whatever the ring still holds.
    pub(crate) fn rx_over(&self) -> Option<CloseReason> {
        self.decode(receiving(self.state()))
    }

    /// Whether sending has certainly not ended, and this is the process that made the end.
    #[inline(always)]
    pub(crate) fn is_tx_open(&self) -> bool {
        self.tx_gate.is_open()
    }

    /// Whether receiving has certainly not ended, more may come, and this is the process that made
    /// the end.
    #[inline(always)]
    pub(crate) fn is_rx_open(&self) -> bool {
        self.rx_gate.is_open()
    }

    /// Whether [`end_rx_when_empty`](Self::end_rx_when_empty) was called, so that nothing more can
    /// come. A receive that then finds the ring empty has found the end.
    #[inline]
    pub(crate) fn is_rx_over(&self) -> bool {
        self.state() & 0xf << RX_OVER != 0
    }

    /// Returns why the channel is over, if it is. Settles nothing.
    pub(crate) fn channel(&self) -> Option<CloseReason> {
        self.decode(channel(self.state()))
    }

    /// Returns why the channel is over, if it is. From then on the answer stays.
    pub(crate) fn settle(&self) -> Option<CloseReason> {
        let state = self.update(|state| fill(state, CHANNEL, channel(state)));
        self.decode(state >> CHANNEL)
    }

    /// Returns why receiving has ended, if a call has already returned that it has.
    pub(crate) fn rx_returned(&self) -> Option<CloseReason> {
        let state = self.state();
        if state & RX_RETURNED == 0 { None } else { self.decode(state >> RX) }
    }

    /// Returns what `tracing` was told of the channel.
    pub(crate) fn told(&self) -> &Told {
        &self.told
    }

    /// Tells `tracing` the violation, if there is one, and the ends of `state`, each once. The
    /// caller may hold this end's locks.
    pub(crate) fn tell(&self, state: u32) {
        if let Some(violation) = self.violation.get() {
            self.told.violated(violation);
        }
        self.told.ends(self.decode(state >> TX), self.decode(receiving(state)));
    }

    pub(crate) fn is_peer_gone(&self) -> bool {
        self.state() & PEER_GONE != 0
    }

    /// Notes that a call is about to return the end of `direction`. Returns `true` the first time.
    pub(crate) fn note_returned(&self, direction: Directions) -> bool {
        let tx = if direction.has(Directions::TX) { TX_RETURNED } else { 0 };
        let rx = if direction.has(Directions::RX) { RX_RETURNED } else { 0 };
        if self.state() & (tx | rx) == tx | rx {
            return false;
        }
        self.update(|_| tx | rx);
        true
    }

    /// Ends those of `directions` that have not ended yet, for `reason`.
    pub(crate) fn end(&self, directions: Directions, reason: CloseReason) {
        let code = self.encode(reason);
        if directions.has(Directions::TX) {
            self.tx_gate.shut();
        }
        if directions.has(Directions::RX) {
            self.rx_gate.shut();
        }
        self.update(|state| {
            let tx = if directions.has(Directions::TX) { fill(state, TX, code) } else { 0 };
            let rx = if directions.has(Directions::RX) { fill(state, RX, code) } else { 0 };
            tx | rx
        });
    }

    /// Notes that nothing more can come, for `reason`. Receiving ends when the ring is empty.
    pub(crate) fn end_rx_when_empty(&self, reason: CloseReason) {
        let code = self.encode(reason);
        self.rx_gate.shut();
        self.update(|state| fill(state, RX_OVER, code));
    }

    /// Notes that the peer is gone, which ends what has not ended in order. This is one step: who
    /// finds one direction ended finds the channel over, and the peer gone.
    pub(crate) fn end_without_peer(&self) {
        self.tx_gate.shut();
        self.rx_gate.shut();
        self.update(|state| {
            fill(state, TX, PEER_DIED) | fill(state, RX_OVER, PEER_DIED) | PEER_GONE
        });
    }

    /// Sets bits, and returns the state that has them. Stores nothing if they are already set.
    fn update(&self, bits: impl Fn(u32) -> u32) -> u32 {
        let add = |state: u32| Some(state | bits(state)).filter(|new| *new != state);
        // ORDERING: AcqRel orders what the caller recorded before the end; pairs with `state`, as
        // does the Acquire of a caller that finds nothing to store.
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, add) {
            Ok(before) => {
                let state = before | bits(before);
                self.tell(state);
                state
            }
            Err(unchanged) => unchanged,
        }
    }

    fn encode(&self, reason: CloseReason) -> u32 {
        match reason {
            CloseReason::Local => LOCAL,
            CloseReason::Peer => PEER,
            CloseReason::Cancelled => CANCELLED,
            CloseReason::PeerDied => PEER_DIED,
            CloseReason::DriverGone => DRIVER_GONE,
            CloseReason::Forked => FORKED,
            CloseReason::Violation(violation) => {
                // The first violation counts. It is set before its code can be read.
                if self.violation.set(violation).is_ok() {
                    self.told.violated(&violation);
                }
                VIOLATION
            }
        }
    }

    #[inline]
    fn decode(&self, code: u32) -> Option<CloseReason> {
        // The channel is nearly always open, and this is asked for each packet.
        if code & 0xf == 0 { None } else { self.reason(code & 0xf) }
    }

    #[cold]
    fn reason(&self, code: u32) -> Option<CloseReason> {
        match code {
            LOCAL => Some(CloseReason::Local),
            PEER => Some(CloseReason::Peer),
            CANCELLED => Some(CloseReason::Cancelled),
            PEER_DIED => Some(CloseReason::PeerDied),
            DRIVER_GONE => Some(CloseReason::DriverGone),
            FORKED => Some(CloseReason::Forked),
            VIOLATION => self.violation.get().map(|violation| CloseReason::Violation(*violation)),
            _ => None,
        }
    }
}

/// Returns why receiving is over in `state`: because it has ended, or will when the ring is empty.
fn receiving(state: u32) -> u32 {
    match state >> RX & 0xf {
        0 => state >> RX_OVER & 0xf,
        ended => ended,
    }
}

/// Returns why the channel is over in `state`: the reason that was returned before, otherwise the
/// worse reason of both directions.
fn channel(state: u32) -> u32 {
    let (returned, tx, rx) = (state >> CHANNEL & 0xf, state >> TX & 0xf, receiving(state));
    match (returned, tx, rx) {
        (0, 0, _) | (0, _, 0) => 0,
        (0, tx, rx) => tx.max(rx),
        (returned, ..) => returned,
    }
}

/// Returns the bits that put `code` into `field` of `state`, if it is empty.
fn fill(state: u32, field: u32, code: u32) -> u32 {
    if (state >> field) & 0xf == 0 { code << field } else { 0 }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_of_a_direction_stays() {
        let ends = Ends::new();
        ends.end(Directions::RX, CloseReason::Peer);
        ends.end(Directions::BOTH, CloseReason::Violation(Violation::WakeFlood));
        ends.end(Directions::BOTH, CloseReason::Violation(Violation::UnalignedHead(1)));
        assert_eq!(ends.rx(), Some(CloseReason::Peer));
        assert_eq!(ends.tx(), Some(CloseReason::Violation(Violation::WakeFlood)));
    }

    /// Worst first.
    const REASONS: [CloseReason; 7] = [
        CloseReason::Violation(Violation::WakeFlood),
        CloseReason::PeerDied,
        CloseReason::DriverGone,
        CloseReason::Forked,
        CloseReason::Cancelled,
        CloseReason::Peer,
        CloseReason::Local,
    ];

    #[test]
    fn the_channel_is_over_with_the_worse_reason_of_both_directions() {
        for (n, tx) in REASONS.into_iter().enumerate() {
            for (m, rx) in REASONS.into_iter().enumerate() {
                let worse = Some(REASONS[n.min(m)]);
                for rx_is_first in [false, true] {
                    let ends = Ends::new();
                    let (first, then) = match rx_is_first {
                        false => ((Directions::TX, tx), (Directions::RX, rx)),
                        true => ((Directions::RX, rx), (Directions::TX, tx)),
                    };
                    ends.end(first.0, first.1);
                    assert_eq!((ends.channel(), ends.settle()), (None, None));
                    ends.end(then.0, then.1);
                    assert_eq!((ends.channel(), ends.settle()), (worse, worse));
                    assert_eq!((ends.tx(), ends.rx()), (Some(tx), Some(rx)));
                }
            }
        }
    }

    #[test]
    fn packets_in_the_ring_keep_no_channel_open() {
        let ends = Ends::new();
        ends.end(Directions::TX, CloseReason::Peer);
        ends.end_rx_when_empty(CloseReason::PeerDied);
        ends.end_rx_when_empty(CloseReason::Peer);
        assert_eq!((ends.rx(), ends.rx_over()), (None, Some(CloseReason::PeerDied)));
        assert_eq!(ends.channel(), Some(CloseReason::PeerDied));
    }

    #[test]
    fn what_cuts_the_ring_off_counts_until_the_reason_is_told() {
        let cut = |ends: &Ends| ends.end(Directions::BOTH, CloseReason::Cancelled);
        for is_told_before in [false, true] {
            let ends = Ends::new();
            ends.end(Directions::TX, CloseReason::Peer);
            ends.end_rx_when_empty(CloseReason::Peer);
            let returned = if is_told_before { ends.settle() } else { ends.channel() };
            assert_eq!(returned, Some(CloseReason::Peer));
            cut(&ends);
            assert_eq!(
                (ends.tx(), ends.rx()),
                (Some(CloseReason::Peer), Some(CloseReason::Cancelled))
            );
            let expected = if is_told_before { CloseReason::Peer } else { CloseReason::Cancelled };
            assert_eq!((ends.channel(), ends.settle()), (Some(expected), Some(expected)));
        }
    }

    #[test]
    fn an_end_is_told_once_for_each_direction() {
        let ends = Ends::new();
        ends.end(Directions::BOTH, CloseReason::Local);
        assert!(ends.note_returned(Directions::TX) && !ends.note_returned(Directions::TX));
        assert_eq!(ends.rx_returned(), None);
        assert!(ends.note_returned(Directions::RX) && !ends.note_returned(Directions::RX));
        assert_eq!(ends.rx_returned(), Some(CloseReason::Local));
    }

    #[test]
    fn a_peer_that_is_gone_ends_what_had_not_ended() {
        let died = Some(CloseReason::PeerDied);
        let ends = Ends::new();
        ends.end_without_peer();
        assert!(ends.is_peer_gone());
        assert_eq!(
            (ends.tx(), ends.rx(), ends.rx_over(), ends.channel()),
            (died, None, died, died)
        );

        let ends = Ends::new();
        ends.end(Directions::TX, CloseReason::Peer);
        ends.end_rx_when_empty(CloseReason::Peer);
        ends.end_without_peer();
        assert!(ends.is_peer_gone());
        assert_eq!(ends.channel(), Some(CloseReason::Peer));
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::model;
    use loom::thread;

    use super::*;
    use crate::sync::Arc;

    /// Whichever direction's call returns first. Every interleaving.
    #[test]
    fn who_finds_a_direction_ended_by_death_finds_the_channel_over() {
        model(|| {
            let ends = Arc::new(Ends::new());
            let caller = ends.clone();
            let caller = thread::spawn(move || {
                if caller.tx().is_some() || caller.is_rx_over() {
                    assert_eq!(caller.settle(), Some(CloseReason::PeerDied));
                    assert!(caller.is_peer_gone());
                }
            });
            ends.end_without_peer();
            caller.join().unwrap();
        });
    }
}
