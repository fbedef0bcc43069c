//! Ends a park from another thread.

use std::fmt;
use std::task::Waker;

use super::shared::Shared;
use crate::sync::Arc;

/// Ends a [`Driver::park`](super::Driver::park), or keeps the next one from sleeping; made by
/// [`Driver::unparker`](super::Driver::unparker).
///
/// Works from any thread, also as a [`Waker`]. Several unparks before a park count as one, and none
/// is lost. Those that come inside of a park, from a waker, are used up when it returns. Everything
/// that the unparking thread wrote before the unpark is visible to the parked thread after it. An
/// unpark costs a system call only if the driver sleeps.
///
/// On a polled driver it makes the descriptor readable. On a background driver it has no effect.
///
/// # Examples
///
/// ```
/// use std::task::Waker;
/// use wakering::Driver;
///
/// let driver = Driver::new()?;
/// let unparker = driver.unparker();
/// std::thread::spawn(move || unparker.unpark());
/// driver.park(None)?;
///
/// Waker::from(driver.unparker()).wake();
/// driver.park(None)?;
/// # Ok::<(), wakering::ShmError>(())
/// ```
#[derive(Clone)]
pub struct Unparker {
    shared: Arc<Shared>,
}

impl Unparker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ends the current park, or the next one.
    pub fn unpark(&self) {
        self.shared.unpark();
    }
}

impl From<Unparker> for Waker {
    fn from(unparker: Unparker) -> Self {
        Self::from(unparker.shared)
    }
}

impl fmt::Debug for Unparker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unparker").finish_non_exhaustive()
    }
}
