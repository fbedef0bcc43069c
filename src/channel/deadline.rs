//! When a call gives up.

use std::time::{Duration, Instant};

use super::shared::Channel;

/// When a send gives up. Set when the send first has to wait, so that a send that does not wait
/// does not read the clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Deadline {
    /// The builder's `send_timeout` after the first wait.
    #[default]
    Unset,
    /// This long after the first wait.
    After(Duration),
    At(Option<Instant>),
}

impl Deadline {
    /// Waits as long as it takes, for a `Sink`.
    pub(super) fn never() -> Self {
        Self::At(None)
    }

    pub(super) fn get(&mut self, channel: &Channel) -> Option<Instant> {
        let at = match *self {
            Self::Unset => channel.send_timeout.and_then(deadline_after),
            Self::After(timeout) => deadline_after(timeout),
            Self::At(at) => return at,
        };
        *self = Self::At(at);
        at
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
