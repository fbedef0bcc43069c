//! For the blocking calls of an end whose driver may not be run by anybody.
//!
//! They sleep on the bell itself. A wake, a cancel and a deadline reach them there, but of the
//! peer's death only the lifeline tells, and its process. So with the first blocking call this
//! process's background driver watches them too.

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};

use crate::driver::{Driver, Registration, Source};
use crate::error::ShmError;
use crate::rendezvous::lifeline::Lifeline;

/// Under which the background driver watches the lifeline, and the peer's process.
const LIFELINE: u16 = 0;
const PROCESS: u16 = 1;

/// What it is asked of an end, and what it tells it.
pub(super) trait HangupOf: Debug + Send + Sync {
    fn lifeline(&self) -> Option<&Lifeline>;

    /// The threads that sleep on the bell have to look for themselves.
    fn wake_threads(&self);

    fn hung_up(&self);
}

/// One end, as the background driver sees it that does not look after its bell.
#[derive(Debug)]
pub(super) struct Hangup {
    /// Weak, because the channel keeps this.
    channel: Weak<dyn HangupOf>,
    /// Somebody has blocked.
    is_wanted: AtomicBool,
    /// Somebody has seen to it.
    has_begun: AtomicBool,
    /// And the driver watches.
    is_watched: AtomicBool,
    /// Cancelled when the channel leaves, or is dropped.
    driver: OnceLock<Registration>,
}

impl Hangup {
    pub(super) fn new(channel: Weak<dyn HangupOf>) -> Arc<Self> {
        Arc::new(Self {
            channel,
            is_wanted: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            driver: OnceLock::new(),
        })
    }

    /// Somebody is about to block. `false` if the peer is there and nobody would tell of its end.
    pub(super) fn want(self: &Arc<Self>, channel: &dyn HangupOf) -> bool {
        // ORDERING: Relaxed; whoever sees it set by another thread leaves the rest to that one.
        let is_first = || !self.is_wanted.swap(true, Ordering::Relaxed);
        if !self.is_wanted.load(Ordering::Relaxed) && is_first() {
            // ORDERING: the partner of the fence in `connected`: at least one of the two sees both
            // the wish and the lifeline.
            fence(Ordering::SeqCst);
            self.begin(channel);
        }
        // ORDERING: Relaxed; who misses it looks for itself for a while.
        self.is_watched.load(Ordering::Relaxed) || channel.lifeline().is_none()
    }

    /// The lifeline is there.
    pub(super) fn connected(self: &Arc<Self>, channel: &dyn HangupOf) {
        // ORDERING: see `want`.
        fence(Ordering::SeqCst);
        if self.is_wanted.load(Ordering::Relaxed) {
            self.begin(channel);
            if !self.is_watched.load(Ordering::Relaxed) {
                // Those who have blocked have to look for themselves.
                channel.wake_threads();
            }
        }
    }

    fn begin(self: &Arc<Self>, channel: &dyn HangupOf) {
        let Some(lifeline) = channel.lifeline() else { return };
        // ORDERING: Relaxed; it only elects one.
        if self.has_begun.swap(true, Ordering::Relaxed) {
            return;
        }
        if self.watch(lifeline).is_ok() {
            self.is_watched.store(true, Ordering::Relaxed);
        } else {
            // For want of descriptors or a thread. The next call that blocks tries again.
            self.dismiss(lifeline);
            self.has_begun.store(false, Ordering::Relaxed);
            self.is_wanted.store(false, Ordering::Relaxed);
        }
    }

    fn watch(self: &Arc<Self>, lifeline: &Lifeline) -> Result<(), ShmError> {
        if self.driver.get().is_none() {
            let registration = Driver::global()?.binding().register(self.clone())?;
            // Set once: there is one who begins.
            let _ = self.driver.set(registration);
        }
        let Some(driver) = self.driver.get() else { return Ok(()) };
        // Not for what can be read: on some backends, that is for the other driver.
        driver.watch_hang_up(lifeline.as_fd(), LIFELINE)?;
        // ORDERING: the partner of the fence in `learn_of_peer`.
        fence(Ordering::SeqCst);
        lifeline.watch_process(driver, PROCESS);
        Ok(())
    }

    /// The peer's process is known from now on.
    pub(super) fn learned(&self, lifeline: &Lifeline) {
        if let Some(driver) = self.driver.get() {
            lifeline.watch_process(driver, PROCESS);
        }
    }

    /// The end is over, or the peer.
    fn dismiss(&self, lifeline: &Lifeline) {
        if let Some(driver) = self.driver.get() {
            lifeline.unwatch(driver);
        }
    }

    /// This end leaves its drivers.
    pub(super) fn leave(&self, lifeline: Option<&Lifeline>) {
        if let Some(driver) = self.driver.get() {
            driver.cancel();
        }
        if let Some(lifeline) = lifeline {
            self.dismiss(lifeline);
        }
    }
}

impl Source for Hangup {
    fn on_ready(&self, _token: u16) {
        let Some(channel) = self.channel.upgrade() else { return };
        if let Some(lifeline) = channel.lifeline() {
            self.dismiss(lifeline);
            // The other driver, whenever somebody runs it, hears of the end by this.
            lifeline.hang_up();
        }
        channel.hung_up();
    }

    fn on_abandoned(&self) {
        // ORDERING: Relaxed, as in `want`. Those who sleep look for themselves from now on.
        self.is_watched.store(false, Ordering::Relaxed);
        if let Some(channel) = self.channel.upgrade() {
            channel.wake_threads();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::api::face::SpscFace;
    use crate::api::handle::SpscHandle;
    use crate::error::{CloseReason, RecvTimeoutError};

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn threads_look_for_themselves_once_the_background_driver_has_failed() {
        let idle = Driver::builder().build().unwrap();
        let (face, descriptor) = SpscFace::builder().driver(&idle).pair().unwrap();
        let handle = SpscHandle::builder().driver(&idle).from_fd(descriptor).unwrap();
        let channel = face.channel().clone();
        let receiver = std::thread::spawn(move || face.recv_timeout(DEADLINE));
        let hangup = channel.hangup.get().unwrap();
        let begun = Instant::now();
        while !hangup.is_watched.load(Ordering::Relaxed) {
            assert!(begun.elapsed() < DEADLINE);
            std::thread::yield_now();
        }
        // The background driver is gone, and tells of nothing any more.
        hangup.leave(channel.lifeline());
        hangup.on_abandoned();
        handle.channel().lifeline().unwrap().hang_up();
        let received = receiver.join().unwrap();
        assert_eq!(received, Err(RecvTimeoutError::Closed(CloseReason::PeerDied)));
    }
}
