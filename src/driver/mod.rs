//! Waits for the bells and descriptors of many endpoints, and calls them back.
//!
//! From below: [`table`] and [`alarms`] are plain data; [`shared`] is what other threads touch;
//! [`runner`] is what the one who runs the driver owns, and its `turn`; [`uring`] and [`epoll`] are
//! the two ways in which it waits; [`background`] is a thread that turns it. [`source`] is what a
//! driver knows of an endpoint.
#![cfg(not(all(test, loom)))]

mod source;
mod table;
mod alarms;
mod shared;
mod runner;
mod epoll;
#[allow(unsafe_code, reason = "submissions tell the kernel addresses to read")]
mod uring;
#[allow(unsafe_code, reason = "the signal mask is set by the libc alone")]
mod signals;
mod background;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::epoll as set;

use crate::error::ShmError;
use crate::sync::{Arc, Mutex, Ordering, lock};
use shared::{Command, Link, Shared};
pub(crate) use source::Source;

/// How a driver waits in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// io_uring where it is to be had, else epoll.
    #[default]
    Auto,
    /// io_uring with futex operations: Linux 6.7, and no sandbox that forbids it.
    IoUring,
    /// epoll, which works everywhere and costs the other side a byte on a socket for each wake.
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::IoUring => "io-uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Waits on behalf of any number of endpoints, and wakes their tasks.
///
/// Endpoints that are told of no other use a driver of the process's own, which runs on a thread
/// that starts with the first of them. Another one is for those who want a thread apart, or a
/// certain [`Backend`].
///
/// Clones are handles to the same driver. Its thread ends when the last handle and all endpoints
/// bound to it are gone, and keeps no process from exiting until then. It takes no signals.
///
/// # Examples
///
/// ```
/// use wakering::{Backend, Driver};
///
/// let driver = Driver::builder().background()?;
/// assert_ne!(driver.backend(), Backend::Auto);
/// # Ok::<(), wakering::ShmError>(())
/// ```
#[derive(Clone)]
pub struct Driver {
    keeper: Arc<Keeper>,
}

/// As long as one of these is held, the driver has a reason to run.
struct Keeper {
    shared: Arc<Shared>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.push(Command::Stop);
    }
}

/// The process's default driver, once somebody has needed it.
static GLOBAL: Mutex<Option<Driver>> = Mutex::new(None);

impl Driver {
    /// Starts to describe a driver.
    pub fn builder() -> DriverBuilder {
        DriverBuilder { backend: Backend::Auto }
    }

    /// How this driver waits: by io_uring or by epoll, never [`Backend::Auto`].
    pub fn backend(&self) -> Backend {
        self.keeper.shared.backend()
    }

    /// The process's default driver. It is started by the first call, and by the next one if that
    /// has failed or if it has ended since.
    pub(crate) fn global() -> Result<Self, ShmError> {
        let mut global = lock(&GLOBAL);
        if let Some(driver) = global.as_ref().filter(|driver| !driver.keeper.shared.is_closed()) {
            return Ok(driver.clone());
        }
        let driver = Self::builder().background()?;
        *global = Some(driver.clone());
        Ok(driver)
    }

    /// Has the driver look after `source` until the registration is cancelled or dropped.
    ///
    /// A bell that rings after this call is never missed. The source must not own the registration
    /// for ever: the driver keeps the source.
    ///
    /// # Errors
    ///
    /// The driver has ended because the kernel failed it.
    pub(crate) fn register(&self, source: Arc<dyn Source>) -> Result<Registration, ShmError> {
        // ORDERING: Acquire, as in the driver, which compares with this value before it sleeps.
        let seen = source.bell().map_or(0, |bell| bell.load(Ordering::Acquire));
        let link = self.keeper.shared.admit(source, seen)?;
        Ok(Registration { keeper: self.keeper.clone(), link })
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("backend", &self.backend()).finish_non_exhaustive()
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

    /// Starts a driver on a thread of its own, which works under every executor.
    ///
    /// # Errors
    ///
    /// [`ShmError::Unsupported`] if io_uring was asked for and is not to be had: an old kernel, or a
    /// sandbox. [`ShmError::Io`] if the thread or its descriptors could not be made.
    pub fn background(self) -> Result<Driver, ShmError> {
        let shared = background::start(self.backend)?;
        Ok(Driver { keeper: Arc::new(Keeper { shared }) })
    }
}

/// A source's hold on its driver.
pub(crate) struct Registration {
    keeper: Arc<Keeper>,
    link: Arc<Link>,
}

impl Registration {
    /// Has [`Source::ready`] called with `token` as long as `fd` is readable or hung up.
    ///
    /// Takes effect at once and does not disturb the driver. The caller unwatches the descriptor
    /// before it cancels the registration or closes it: a readable one that stays in the driver's
    /// set keeps the driver busy for nobody.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError> {
        if self.link.is_cancelled() {
            let cancelled = std::io::Error::other("the registration is cancelled");
            return Err(ShmError::Io { step: "watch a descriptor", source: cancelled });
        }
        let data = set::EventData::new_u64(self.link.id.pack(token));
        let flags = set::EventFlags::IN | set::EventFlags::RDHUP;
        set::add(self.keeper.shared.epoll(), fd, data, flags)
            .map_err(ShmError::io("watch a descriptor"))
    }

    /// Has [`Source::ready`] called no more for `fd`, but for a call that may be under way.
    pub(crate) fn unwatch(&self, fd: BorrowedFd<'_>) {
        // Fails for one that is not watched, which is what was asked for.
        let _ = set::delete(self.keeper.shared.epoll(), fd);
    }

    /// Has [`Source::alarm`] called at `at`, or a bit later, or earlier.
    ///
    /// An earlier wish covers a later one, and a call uses up all wishes: what is still wanted then
    /// is asked for again. Costs one atomic operation while an earlier wish stands.
    pub(crate) fn alarm(&self, at: Instant) {
        let shared = &self.keeper.shared;
        let at = shared.clock(at);
        if self.link.lower_alarm(at) {
            shared.push(Command::Alarm(self.link.id, at));
        }
    }

    /// Has [`Source::rung`] called soon on the driver's thread.
    pub(crate) fn nudge(&self) {
        if self.link.begin_nudge() {
            self.keeper.shared.push(Command::Nudge(self.link.id));
        }
    }

    /// Has the source called no more, but for a call that may be under way on the driver's thread,
    /// and dropped as soon as the kernel has let go of its bell. Also done on drop.
    pub(crate) fn cancel(&self) {
        if self.link.begin_cancel() {
            self.keeper.shared.push(Command::Retire(self.link.id));
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.link.is_cancelled()
    }

    /// How the driver waits, which decides how this side is rung.
    pub(crate) fn backend(&self) -> Backend {
        self.keeper.shared.backend()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("backend", &self.backend())
            .field("cancelled", &self.link.is_cancelled())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
