//! Makes drivers, and holds the default driver of the process.

use std::sync::{Mutex, PoisonError};

use super::epoll::EpollPoller;
use super::parker::Parker;
use super::polled::PolledDriver;
use super::poller::{Failure, Poller};
use super::registration::Binding;
use super::shared::Shared;
use super::uring::{self, RingPoller};
use super::{Backend, Driver, EmbeddedDriver, Run, background};
use crate::error::ShmError;
use crate::sync::Arc;
use crate::sys::cpu;
use crate::sys::fork::PerProcess;
use crate::sys::trace;

/// The process's default driver, once an endpoint has needed one.
static GLOBAL: PerProcess<Mutex<Option<Driver>>> = PerProcess::new();

impl Driver {
    /// Makes a driver to park in, with the best available backend.
    ///
    /// # Errors
    ///
    /// As [`DriverBuilder::build`].
    pub fn new() -> Result<Self, ShmError> {
        Self::builder().build()
    }

    /// Returns a builder for a driver.
    pub fn builder() -> DriverBuilder {
        DriverBuilder { backend: Backend::Auto }
    }

    /// Returns the process's default driver. The first call starts it. A later call starts it again
    /// if that failed or if the driver has ended since.
    pub(crate) fn global() -> Result<Self, ShmError> {
        let mut global = GLOBAL.get().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = global.as_ref().filter(|driver| driver.is_alive()) {
            return Ok(driver.clone());
        }
        let driver = Self::builder().background()?;
        *global = Some(driver.clone());
        Ok(driver)
    }

    fn is_alive(&self) -> bool {
        // Ask `is_forked` first: in a child, the lock that `is_closed` takes may be held for ever.
        !self.shared().is_forked() && !self.shared().is_closed()
    }
}

/// Configures a [`Driver`]; made by [`Driver::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct DriverBuilder {
    backend: Backend,
}

impl DriverBuilder {
    /// Sets how the driver waits. The default is [`Backend::Auto`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Makes a driver that no thread runs yet: see [`Driver::park`] and [`Driver::block_on`].
    ///
    /// The first thread that parks in it makes its io_uring ring.
    ///
    /// # Errors
    ///
    /// - [`ShmError::Unsupported`] if io_uring was requested and is not available, because of an
    ///   old kernel or a sandbox.
    /// - [`ShmError::Io`] if its descriptors could not be made. [`Backend::Auto`] does not fall
    ///   back to epoll in this case.
    pub fn build(self) -> Result<Driver, ShmError> {
        let shared = Shared::parked_in(self.probe()?)?;
        let parker = Parker::new(shared.clone());
        trace::driver("parked in", shared.backend());
        Ok(Driver { binding: Binding::new(shared, false), run: Run::Parked(Arc::new(parker)) })
    }

    /// Makes a driver for a reactor. Its descriptor is readable whenever there is something to do,
    /// and [`turn`](PolledDriver::turn) does it.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn polled(self) -> Result<PolledDriver, ShmError> {
        let driver = PolledDriver::open(self.probe()?)?;
        trace::driver("polled", driver.backend());
        Ok(driver)
    }

    /// Makes a driver for an executor that owns an io_uring: the executor submits what the driver
    /// wants, and passes the completions back.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn embedded(self) -> Result<EmbeddedDriver, ShmError> {
        let driver = EmbeddedDriver::open(self.probe()?)?;
        trace::driver("embedded", driver.backend());
        Ok(driver)
    }

    /// Starts a driver on a thread of its own, which works under every executor.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), or [`ShmError::Io`] if the thread could not be started.
    pub fn background(self) -> Result<Driver, ShmError> {
        let shared = background::start(self.requested())?;
        trace::driver("background", shared.backend());
        Ok(Driver { binding: Binding::new(shared, true), run: Run::Background })
    }

    /// Returns the requested backend. For `Auto` under valgrind this is epoll: valgrind 3.19 lets
    /// no other thread run while one sleeps in a ring.
    fn requested(&self) -> Backend {
        match self.backend {
            Backend::Auto if cpu::is_under_valgrind() => {
                trace::fallback(
                    "valgrind lets no other thread run while one sleeps in an io_uring",
                );
                Backend::Epoll
            }
            backend => backend,
        }
    }

    /// Returns the backend to use here: tests whether io_uring works.
    fn probe(&self) -> Result<Backend, ShmError> {
        match self.requested() {
            Backend::Epoll => Ok(Backend::Epoll),
            requested => uring::probe()
                .map_or_else(|error| uring::fallback(requested, error), |()| Ok(Backend::IoUring)),
        }
    }
}

/// Makes a poller in which the calling thread can sleep.
pub(super) fn poller_of_this_thread(shared: &Arc<Shared>) -> Result<Box<dyn Poller>, Failure> {
    Ok(match shared.backend() {
        Backend::Epoll => Box::new(EpollPoller::new(shared.clone())),
        Backend::Auto | Backend::IoUring => {
            Box::new(RingPoller::open(shared).map_err(uring::failure)?)
        }
    })
}
