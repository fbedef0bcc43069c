//! How each direction of a channel ended, as this side has settled it.

use std::sync::OnceLock;

use crate::error::{CloseReason, Violation};
use crate::sync::{AtomicU32, Ordering};

/// Directions, as bits.
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

/// Three reasons in one word, each settled once and then constant: why sending ended, why
/// receiving ended, and what `close_reason` answers. Beside them, whether the peer is gone: then
/// receiving ends when the ring is empty.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Four bits for each reason, 0 while it is open.
    state: AtomicU32,
    violation: OnceLock<Violation>,
}

const TX: u32 = 0;
const RX: u32 = 4;
const CHANNEL: u32 = 8;
const PEER_GONE: u32 = 1 << 12;

const LOCAL: u32 = 1;
const PEER: u32 = 2;
const CANCELLED: u32 = 3;
const PEER_DIED: u32 = 4;
const DRIVER_GONE: u32 = 5;
const VIOLATION: u32 = 6;
const FORKED: u32 = 7;

impl Ends {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU32::new(0), violation: OnceLock::new() }
    }

    /// Everything at once, to tell whether something changed.
    #[inline]
    pub(crate) fn state(&self) -> u32 {
        // ORDERING: Acquire pairs with the AcqRel in `update`: who sees the end sees what was
        // recorded before it.
        self.state.load(Ordering::Acquire)
    }

    /// Why this side can send no more, if so.
    #[inline]
    pub(crate) fn tx(&self) -> Option<CloseReason> {
        self.decode(self.state() >> TX)
    }

    /// Why this side can receive no more, if so.
    #[inline]
    pub(crate) fn rx(&self) -> Option<CloseReason> {
        self.decode(self.state() >> RX)
    }

    /// What `close_reason` answers.
    pub(crate) fn channel(&self) -> Option<CloseReason> {
        self.decode(self.state() >> CHANNEL)
    }

    pub(crate) fn is_peer_gone(&self) -> bool {
        self.state() & PEER_GONE != 0
    }

    /// Notes that the peer is gone. Before this, the caller ends the directions that it ends.
    pub(crate) fn set_peer_gone(&self) {
        // ORDERING: AcqRel as in `update`.
        self.state.fetch_or(PEER_GONE, Ordering::AcqRel);
    }

    /// Ends directions for `reason`, as far as they have not ended yet.
    pub(crate) fn end(&self, directions: Directions, reason: CloseReason) {
        let code = self.encode(reason);
        self.update(|state| {
            let tx = if directions.has(Directions::TX) { fill(state, TX, code) } else { 0 };
            let rx = if directions.has(Directions::RX) { fill(state, RX, code) } else { 0 };
            tx | rx
        });
    }

    /// Settles what `close_reason` answers and returns it.
    pub(crate) fn settle(&self, reason: CloseReason) -> CloseReason {
        if let Some(settled) = self.channel() {
            return settled;
        }
        let code = self.encode(reason);
        self.update(|state| fill(state, CHANNEL, code));
        self.channel().unwrap_or(reason)
    }

    fn update(&self, bits: impl Fn(u32) -> u32) {
        // ORDERING: AcqRel orders what the caller recorded before the end; pairs with `state`.
        let _ = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| Some(state | bits(state)));
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
                // The first one counts; it was set before its code can be read.
                let _ = self.violation.set(violation);
                VIOLATION
            }
        }
    }

    #[inline]
    fn decode(&self, code: u32) -> Option<CloseReason> {
        // Nearly always open, and asked for each packet.
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

/// The bits that put `code` into an empty field of `state`.
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
        assert_eq!(ends.channel(), None);
    }

    #[test]
    fn the_settled_reason_never_changes() {
        let ends = Ends::new();
        assert_eq!(ends.settle(CloseReason::Local), CloseReason::Local);
        assert_eq!(ends.settle(CloseReason::PeerDied), CloseReason::Local);
        ends.set_peer_gone();
        assert_eq!(ends.channel(), Some(CloseReason::Local));
        assert!(ends.is_peer_gone() && ends.tx().is_none());
    }
}
