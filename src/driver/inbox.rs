//! What other threads ask of a driver: commands, and requests to spin.

use std::collections::HashSet;
use std::time::Duration;

use super::clock::AWAKE;
use super::slot::Slot;
use super::source::Source;
use super::table::{Id, Ids};
use crate::sync::Arc;

/// A command to the driver.
pub(super) enum Command {
    /// Serve a source; its bell was last seen at `seen`.
    Admit { slot: Arc<Slot>, source: Arc<dyn Source>, seen: u32 },
    /// Wait again on the bell, which was last seen at this value.
    Arm(Id, u32),
    /// Call `on_wake`.
    Notify(Id),
    /// Call `on_timer` at this time.
    Timer(Id, u64),
    /// Let go of a source.
    Retire(Id),
    /// End, as soon as no source is left.
    Stop,
}

impl Command {
    /// Returns the time by which the driver must be awake to do it.
    fn due(&self) -> u64 {
        match self {
            Self::Timer(_, at) => *at,
            _ => AWAKE + 1,
        }
    }

    /// Returns the source that it is about.
    fn id(&self) -> Option<Id> {
        match self {
            Self::Admit { slot, .. } => Some(slot.id),
            Self::Arm(id, _) | Self::Notify(id) | Self::Timer(id, _) | Self::Retire(id) => {
                Some(*id)
            }
            Self::Stop => None,
        }
    }
}

/// The driver checks the hints of at most this many sources. The tasks of the others arm their
/// bells.
pub(super) const MAX_REQUESTS: usize = 8;

/// A request is over after this many turns: the hint may be wrong, and an executor that always has
/// something to run never sleeps.
const MAX_TURNS: u32 = 64;

/// When this many commands wait, the inbox drops those that no longer matter.
const TIDY_AT: usize = 256;

/// A source whose task has asked the driver to spin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) id: Id,
    /// For how long the driver may spin for it.
    pub(super) spin: Duration,
    /// How many turns have checked the hint.
    pub(super) turns: u32,
}

impl Request {
    /// Whether the task must check for itself now.
    pub(super) fn is_over(&self) -> bool {
        self.turns >= MAX_TURNS
    }
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) commands: Vec<Command>,
    pub(super) ids: Ids,
    /// How many commands must wait before the next `tidy`.
    tidy_at: usize,
    /// `AWAKE`, or the time on the driver's clock at which it wakes up by itself.
    pub(super) asleep_until: u64,
    /// The requests to spin. The driver does not sleep before it has taken these out.
    pub(super) requests: Vec<Request>,
    /// The driver has spun without effect, and is about to sleep: it takes no requests until it has
    /// slept, or the kernel had something.
    pub(super) is_falling_asleep: bool,
    /// The driver has ended, and nothing will read `commands` again.
    pub(super) closed: bool,
}

impl Inbox {
    /// Adds a command; returns whether the driver must be interrupted for it.
    pub(super) fn push(&mut self, command: Command) -> bool {
        let due = command.due();
        self.commands.push(command);
        self.wake_if_asleep_past(due)
    }

    /// Removes the commands about sources that came and went while no thread ran the driver.
    pub(super) fn tidy(&mut self) -> Vec<Command> {
        if self.commands.len() < self.tidy_at.max(TIDY_AT) {
            return Vec::new();
        }
        let retired = |command: &Command| match command {
            Command::Retire(id) => Some(*id),
            _ => None,
        };
        let retired: HashSet<Id> = self.commands.iter().filter_map(retired).collect();
        let came = |command: &&Command| matches!(command, Command::Admit { .. });
        let came = self.commands.iter().filter(came).filter_map(Command::id);
        let gone: HashSet<Id> = came.filter(|id| retired.contains(id)).collect();
        gone.iter().for_each(|&id| self.ids.give_back(id));
        self.requests.retain(|request| !gone.contains(&request.id));
        let (dropped, kept) = std::mem::take(&mut self.commands)
            .into_iter()
            .partition(|command| command.id().is_some_and(|id| gone.contains(&id)));
        self.commands = kept;
        self.tidy_at = self.commands.len() * 2;
        dropped
    }

    /// Marks the driver awake if it sleeps past `due`; returns whether it must be interrupted.
    pub(super) fn wake_if_asleep_past(&mut self, due: u64) -> bool {
        let interrupt = due < self.asleep_until;
        if interrupt {
            self.wake_up();
        }
        interrupt
    }

    pub(super) fn wake_up(&mut self) {
        self.is_falling_asleep &= self.asleep_until == AWAKE;
        self.asleep_until = AWAKE;
    }
}

/// The outcome of an attempt to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SleepAttempt {
    /// The driver may sleep; from now on others interrupt it.
    Asleep,
    /// There are commands; they were handed over.
    Busy,
    /// The driver's thread is wanted back.
    Unparked,
    /// A task has asked for a spin first.
    Requested,
}
