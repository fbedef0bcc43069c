//! When a call gives up.

use std::time::{Duration, Instant};

use super::shared::Channel;
use crate::sync::{Mutex, lock};

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

/// The earliest deadline of the tasks that queue for the place at the front.
///
/// The driver has one timer for the whole end. The sender at the front sets it again and again, to
/// look for room: only this tells whether those that queue have to be woken, too.
#[derive(Debug, Default)]
pub(super) struct QueueDeadline(Mutex<Option<Instant>>);

/// What a timer means for the tasks that queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueueTimer {
    /// None of them has a deadline.
    Idle,
    /// One has come. Each task that still waits notes its own again.
    Due,
    /// The driver has to be asked for this one again.
    Later(Instant),
}

impl QueueDeadline {
    /// Notes the deadline of a task, which waits for it.
    pub(super) fn note(&self, at: Instant) {
        let mut earliest = lock(&self.0);
        *earliest = earlier(*earliest, Some(at));
    }

    /// Called when the end's timer has fired.
    pub(super) fn on_timer(&self, now: Instant) -> QueueTimer {
        let mut earliest = lock(&self.0);
        match *earliest {
            None => QueueTimer::Idle,
            // In a model, time passes only for the driver, whatever the clock says.
            Some(at) if at > now && !cfg!(all(test, loom)) => QueueTimer::Later(at),
            Some(_) => {
                *earliest = None;
                QueueTimer::Due
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_counts_and_is_due_once() {
        let (queue, now) = (QueueDeadline::default(), Instant::now());
        let [soon, late] = [1, 2].map(|seconds| now + Duration::from_secs(seconds));
        assert_eq!(queue.on_timer(now), QueueTimer::Idle);
        queue.note(late);
        queue.note(soon);
        queue.note(late);
        assert_eq!(queue.on_timer(now), QueueTimer::Later(soon));
        assert_eq!(queue.on_timer(soon), QueueTimer::Due);
        // Whoever still waits has noted it again.
        assert_eq!(queue.on_timer(late), QueueTimer::Idle);
        queue.note(late);
        assert_eq!(queue.on_timer(soon), QueueTimer::Later(late));
    }
}
