//! What the other side may not do.

use crate::wire::Malformed;

/// A rule of the protocol that the other side broke. The numbers are its claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("a message that does not fit the state of the circuit")]
    OutOfPlace,
    #[error("a packet of {len} bytes, at most {max}")]
    TooLong { len: usize, max: usize },
    #[error("more packets than the window has room for")]
    OverWindow,
    #[error("a message that nothing may follow was followed")]
    AfterEnd,
    #[error("an end after {claimed} packets, of which {received} came")]
    WrongTotal { claimed: u64, received: u64 },
    #[error("a cost of {0} freed in all, which cannot be")]
    WrongFreed(u64),
    #[error("an offer that no channel makes: a window of {window}, packets of {max_packet} bytes")]
    WrongOffer { window: u64, max_packet: u64 },
}
