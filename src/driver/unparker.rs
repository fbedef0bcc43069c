//! Ending a park from elsewhere.

use std::fmt;
use std::task::Waker;

use super::shared::Shared;
use crate::sync::Arc;

/// Ends a [`Driver::park`](super::Driver::park), or keeps the next one from sleeping; made by
/// [`Driver::unparker`](super::Driver::unparker).
///
/// Works from any thread, as a [`Waker`] too. Several unparks before a park count as one, and none
/// is lost; those that come inside of a park, from a waker, are done with when it returns. What the
/// unparking thread wrote before is visible to the parked one after. Costs a system call only if
/// the driver sleeps.
///
/// It makes a polled driver's descriptor readable, and means nothing to a background driver.
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

    /// Ends the park that is under way, or the next one.
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
