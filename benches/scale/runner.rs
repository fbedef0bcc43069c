//! The ways of running a driver, all of whose tasks run on this thread.

use std::fmt;

use async_io::Async;
use wakering::{Backend, Driver, PolledDriver, ShmError};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The driver has a thread of its own.
    Background,
    /// This thread parks in the driver.
    ParkedIn,
    /// The driver lies in smol's reactor.
    Polled,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Background, Self::ParkedIn, Self::Polled];

    /// The way with this name.
    pub(crate) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|way| way.to_string() == name).expect("a name of a way")
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Background => "background",
            Self::ParkedIn => "parked-in",
            Self::Polled => "polled",
        })
    }
}

/// A driver, and who runs it.
pub(crate) enum Runner {
    Background(Driver),
    ParkedIn(Driver),
    Polled(Box<Async<PolledDriver>>),
}

impl Runner {
    pub(crate) fn new(way: Way, backend: Backend) -> Result<Self, ShmError> {
        let builder = Driver::builder().backend(backend);
        Ok(match way {
            Way::Background => Self::Background(builder.background()?),
            Way::ParkedIn => Self::ParkedIn(builder.build()?),
            Way::Polled => {
                let driver = builder.polled()?;
                Self::Polled(Box::new(Async::new(driver).expect("a reactor takes it")))
            }
        })
    }

    pub(crate) fn driver(&self) -> &Driver {
        match self {
            Self::Background(driver) | Self::ParkedIn(driver) => driver,
            Self::Polled(driver) => driver.get_ref(),
        }
    }

    /// Runs a future on this thread, and the driver where it is run.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::Background(_) => pollster::block_on(future),
            Self::ParkedIn(driver) => driver.block_on(future),
            Self::Polled(driver) => {
                smol::block_on(driver.get_ref().drive(|| driver.readable(), future))
                    .expect("the driver runs")
            }
        }
    }
}
