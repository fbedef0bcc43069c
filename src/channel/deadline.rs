//! When a call gives up.

use std::time::{Duration, Instant};

use super::shared::Channel;

/// When a send gives up. Set when the send first has to wait, so that a send that does not wait
/// does not read the clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Deadline {
    #[default]
    Unset,
    At(Option<Instant>),
}

impl Deadline {
    /// Waits as long as it takes, for a `Sink`.
    pub(super) fn never() -> Self {
        Self::At(None)
    }

    pub(super) fn get(&mut self, channel: &Channel) -> Option<Instant> {
        if let Self::Unset = self {
            *self = Self::At(channel.send_timeout.and_then(deadline_after));
        }
        match self {
            Self::At(at) => *at,
            Self::Unset => None,
        }
    }

    pub(super) fn has_passed(&mut self, channel: &Channel) -> bool {
        self.get(channel).is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Returns the deadline. One that the clock cannot express is the same as none.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
