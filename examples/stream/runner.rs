//! Who runs the driver of a channel, and the tasks that use it.

use async_io::Async;
use wakering::{Driver, FaceBuilder, HandleBuilder, PolledDriver, SpscFace, SpscHandle};

use crate::{HELP, Result};

pub(crate) enum Runner {
    /// The process's own driver, on a thread of its own. This thread waits for the task alone.
    Background,
    /// The same, with smol for the task.
    Smol,
    /// This thread, which parks in the driver.
    ParkedIn(Driver),
    /// This thread, in whose reactor the driver lies.
    Polled(Box<Async<PolledDriver>>),
}

impl Runner {
    pub(crate) fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "background" => Self::Background,
            "smol" => Self::Smol,
            "parked-in" => Self::ParkedIn(Driver::new()?),
            "polled" => Self::Polled(Box::new(Async::new(Driver::builder().polled()?)?)),
            _ => Err(HELP)?,
        })
    }

    pub(crate) fn face(&self) -> FaceBuilder {
        let face = SpscFace::builder();
        self.driver().into_iter().fold(face, |face, driver| face.driver(driver))
    }

    pub(crate) fn handle(&self) -> HandleBuilder {
        let handle = SpscHandle::builder();
        self.driver().into_iter().fold(handle, |handle, driver| handle.driver(driver))
    }

    fn driver(&self) -> Option<&Driver> {
        match self {
            Self::Background | Self::Smol => None,
            Self::ParkedIn(driver) => Some(driver),
            Self::Polled(driver) => Some(driver.get_ref()),
        }
    }

    /// Runs a task to its end, and the driver meanwhile.
    pub(crate) fn run<T>(&self, task: impl Future<Output = Result<T>>) -> Result<T> {
        match self {
            Self::Background => pollster::block_on(task),
            Self::Smol => smol::block_on(task),
            Self::ParkedIn(driver) => driver.block_on(task),
            Self::Polled(driver) => {
                smol::block_on(driver.get_ref().drive(|| driver.readable(), task))?
            }
        }
    }
}
