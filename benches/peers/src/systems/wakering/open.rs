//! How a channel is made, and who runs its driver.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use wakering::{Driver, PolledDriver, Receiver, Sender, SpscFace, SpscHandle};

use super::embedded::Executor;
use crate::Result;
use crate::row::Side;
use crate::stage::Stage;
use crate::system::{Family, System, Waits};

/// What most of its ways have in common.
pub(super) const SLEEPING: System =
    System { family: Family::Wakering, waits: Waits::Sleeping, ..System::RIVAL };

pub(super) type Halves = (Sender, Receiver);

/// Who runs the driver of a channel.
#[derive(Clone, Copy)]
pub(super) enum Runner<'a> {
    /// The process's own thread.
    Background,
    /// This thread, which parks in it.
    Parked(&'a Driver),
    /// This thread, in turns.
    Polled(&'a PolledDriver),
    /// This thread, which sleeps in a ring of its own.
    Embedded(&'a RefCell<Executor>),
}

impl Runner<'_> {
    fn driver(&self) -> Option<Driver> {
        match self {
            Self::Background => None,
            Self::Parked(driver) => Some(Driver::clone(driver)),
            Self::Polled(driver) => Some(Driver::clone(driver)),
            Self::Embedded(executor) => Some(Driver::clone(&executor.borrow().driver)),
        }
    }

    /// Lets the driver work for a moment.
    fn run(&self) -> Result<()> {
        const MOMENT: Duration = Duration::from_millis(1);
        match self {
            Self::Background => thread::sleep(MOMENT),
            Self::Parked(driver) => driver.park(Some(MOMENT))?,
            Self::Polled(driver) => {
                driver.turn()?;
                thread::sleep(MOMENT);
            }
            Self::Embedded(executor) => executor.borrow_mut().run_for(MOMENT)?,
        }
        Ok(())
    }
}

/// Makes a channel, or joins it, by name, as programs do that know nothing of each other.
pub(super) fn open(stage: &mut Stage, runner: Runner<'_>) -> Result<Halves> {
    static CHANNELS: AtomicU32 = AtomicU32::new(0);
    let driver = runner.driver();
    Ok(match stage.side() {
        Side::A => {
            let number = CHANNELS.fetch_add(1, Ordering::Relaxed);
            let name = format!("peers-{}-{number}", std::process::id());
            let face = SpscFace::builder();
            let face = driver.iter().fold(face, |face, driver| face.driver(driver));
            let face = face.create(&name)?;
            stage.link.tell(&name)?;
            while !face.is_connected() {
                runner.run()?;
            }
            face.into_split()
        }
        Side::B => {
            let handle = SpscHandle::builder();
            let handle = driver.iter().fold(handle, |handle, driver| handle.driver(driver));
            handle.connect(&stage.link.hear()?)?.into_split()
        }
    })
}

/// The error of a receive that found the end of the channel before the end of the run.
pub(super) fn over() -> crate::Error {
    "the channel ended too early".into()
}

/// Packets that are published together: at most so many, and so many bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

/// Packets of a batch.
pub(super) const fn batch_of(bytes: usize) -> usize {
    let fitting = BATCH_BYTES / bytes;
    if fitting > BATCH { BATCH } else { fitting }
}
