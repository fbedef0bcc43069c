//! Makes drivers, and the one that the process has for all.

use std::sync::{Mutex, PoisonError};

use super::epoll::EpollPoller;
use super::event_loop::{Failure, Poller};
use super::parker::Parker;
use super::polled::PolledDriver;
use super::registration::Binding;
use super::shared::Shared;
use super::uring::{self, RingPoller};
use super::{Backend, Driver, Run, background};
use crate::error::ShmError;
use crate::sync::Arc;
use crate::sys::cpu;
use crate::sys::fork::PerProcess;

/// The process's default driver, once somebody has needed one.
static GLOBAL: PerProcess<Mutex<Option<Driver>>> = PerProcess::new();

impl Driver {
    /// Makes a driver to be parked in, with the best backend that is to be had.
    ///
    /// # Errors
    ///
    /// As [`DriverBuilder::build`].
    pub fn new() -> Result<Self, ShmError> {
        Self::builder().build()
    }

    /// Starts to describe a driver.
    pub fn builder() -> DriverBuilder {
        DriverBuilder { backend: Backend::Auto }
    }

    /// The process's default driver. It is started by the first call, and by the next one if that
    /// has failed or if it has ended since.
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
        // In this order: in a child, the lock that the second takes may be held for ever.
        !self.shared().is_forked() && !self.shared().is_closed()
    }
}

/// Describes a [`Driver`]; made by [`Driver::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct DriverBuilder {
    backend: Backend,
}

impl DriverBuilder {
    /// How to wait. Without a call, io_uring where it is to be had.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Makes a driver that nobody runs yet: see [`Driver::park`] and [`Driver::block_on`].
    ///
    /// Its ring is made by the first thread that parks in it.
    ///
    /// # Errors
    ///
    /// [`ShmError::Unsupported`] if io_uring was asked for and is not to be had: an old kernel, or
    /// a sandbox. [`ShmError::Io`] if its descriptors could not be made, which is no reason for
    /// [`Backend::Auto`] to do without io_uring.
    pub fn build(self) -> Result<Driver, ShmError> {
        let shared = Shared::parked_in(self.probe()?)?;
        let parker = Parker::new(shared.clone());
        Ok(Driver { binding: Binding::new(shared, false), run: Run::Parked(Arc::new(parker)) })
    }

    /// Makes a driver for a reactor: it has a descriptor that is readable whenever there is
    /// something to do, and [`turn`](PolledDriver::turn) does it.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn polled(self) -> Result<PolledDriver, ShmError> {
        PolledDriver::open(self.probe()?)
    }

    /// Starts a driver on a thread of its own, which works under every executor.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), or [`ShmError::Io`] if the thread could not be started.
    pub fn background(self) -> Result<Driver, ShmError> {
        let shared = background::start(self.wish())?;
        Ok(Driver { binding: Binding::new(shared, true), run: Run::Background })
    }

    /// What was asked for, or what is best here. Under valgrind that is not io_uring: its version
    /// 3.19 lets no other thread run while one sleeps in a ring.
    fn wish(&self) -> Backend {
        match self.backend {
            Backend::Auto if cpu::is_under_valgrind() => Backend::Epoll,
            backend => backend,
        }
    }

    /// What the wish comes to here and now.
    fn probe(&self) -> Result<Backend, ShmError> {
        match self.wish() {
            Backend::Epoll => Ok(Backend::Epoll),
            wish => uring::probe()
                .map_or_else(|error| uring::instead(wish, error), |()| Ok(Backend::IoUring)),
        }
    }
}

/// What the calling thread can sleep in.
pub(super) fn poller_of_this_thread(shared: &Arc<Shared>) -> Result<Box<dyn Poller>, Failure> {
    Ok(match shared.backend() {
        Backend::Epoll => Box::new(EpollPoller::new(shared.clone())),
        Backend::Auto | Backend::IoUring => {
            Box::new(RingPoller::open(shared).map_err(uring::failure)?)
        }
    })
}
