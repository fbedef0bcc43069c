//! Detects the peer's death for the blocking calls of an end whose driver may have no thread.
//!
//! Blocking calls sleep on the bell itself. A wake, a cancel and a deadline reach them there, but
//! only the lifeline and the peer's process show that the peer has died. So from the first blocking
//! call on, this process's background driver watches these two as well.

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};

use crate::driver::{Driver, Registration, Source};
use crate::error::ShmError;
use crate::rendezvous::lifeline::Lifeline;

/// The tokens of the lifeline and of the peer's process in the background driver.
const LIFELINE: u16 = 0;
const PROCESS: u16 = 1;

/// What the background driver asks of an end, and what it reports to the end.
pub(super) trait HangupTarget: Debug + Send + Sync {
    fn lifeline(&self) -> Option<&Lifeline>;

    /// Wakes the threads that sleep on the bell, so that they check the peer themselves.
    fn wake_threads(&self);

    fn hung_up(&self);
}

/// One end as a source of the background driver, which does not wait on its bell.
#[derive(Debug)]
pub(super) struct Hangup {
    /// Weak, because the channel owns this.
    channel: Weak<dyn HangupTarget>,
    /// A call has blocked.
    is_needed: AtomicBool,
    /// A thread has begun to set up the watch.
    has_begun: AtomicBool,
    /// The background driver watches.
    is_watched: AtomicBool,
    /// Cancelled when the channel leaves, or is dropped.
    driver: OnceLock<Registration>,
}

impl Hangup {
    pub(super) fn new(channel: Weak<dyn HangupTarget>) -> Arc<Self> {
        Arc::new(Self {
            channel,
            is_needed: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            driver: OnceLock::new(),
        })
    }

    /// Notes that a call is about to block. Returns `false` if the peer is connected and nothing
    /// would report its death.
    pub(super) fn ensure_watched(self: &Arc<Self>, channel: &dyn HangupTarget) -> bool {
        // ORDERING: Relaxed; a thread that sees it set by another leaves the rest to that thread.
        let is_first = || !self.is_needed.swap(true, Ordering::Relaxed);
        if !self.is_needed.load(Ordering::Relaxed) && is_first() {
            // ORDERING: the partner of the fence in `connected`: at least one of the two sees both
            // `is_needed` and the lifeline.
            fence(Ordering::SeqCst);
            self.begin(channel);
        }
        // ORDERING: Relaxed; a thread that misses the store checks the peer itself for a while.
        self.is_watched.load(Ordering::Relaxed) || channel.lifeline().is_none()
    }

    /// Notes that the lifeline is there.
    pub(super) fn connected(self: &Arc<Self>, channel: &dyn HangupTarget) {
        // ORDERING: see `ensure_watched`.
        fence(Ordering::SeqCst);
        if self.is_needed.load(Ordering::Relaxed) {
            self.begin(channel);
        }
    }

    fn begin(self: &Arc<Self>, channel: &dyn HangupTarget) {
        let Some(lifeline) = channel.lifeline() else { return };
        // ORDERING: Relaxed; it only elects one thread.
        if self.has_begun.swap(true, Ordering::Relaxed) {
            return;
        }
        // Before the watch: if the background driver ends meanwhile, `on_abandoned` has the last
        // word.
        self.is_watched.store(true, Ordering::Relaxed);
        if self.watch(lifeline).is_ok() {
            return;
        }
        // There was no descriptor or no thread left. The next call that blocks tries again.
        self.dismiss(lifeline);
        self.is_watched.store(false, Ordering::Relaxed);
        self.has_begun.store(false, Ordering::Relaxed);
        // ORDERING: Release, and the fence after the exchange in `ensure_watched`: who finds that
        // nobody needs the watch finds, too, that nobody has begun.
        self.is_needed.store(false, Ordering::Release);
        // Threads that have blocked already must check the peer themselves.
        channel.wake_threads();
    }

    fn watch(self: &Arc<Self>, lifeline: &Lifeline) -> Result<(), ShmError> {
        if self.driver.get().is_none() {
            let registration = Driver::global()?.binding().register(self.clone())?;
            // Set once: only one thread begins.
            let _ = self.driver.set(registration);
        }
        let Some(driver) = self.driver.get() else { return Ok(()) };
        // Only for hang-up, not for input: on some backends, input is for the end's own driver.
        driver.watch_hang_up(lifeline.as_fd(), LIFELINE)?;
        // ORDERING: the partner of the fence in `learn_of_peer`.
        fence(Ordering::SeqCst);
        lifeline.watch_process(driver, PROCESS);
        Ok(())
    }

    /// Watches the peer's process, which has just become known.
    pub(super) fn learned(&self, lifeline: &Lifeline) {
        if let Some(driver) = self.driver.get() {
            lifeline.watch_process(driver, PROCESS);
        }
    }

    /// Stops watching, because this end or the peer is gone.
    fn dismiss(&self, lifeline: &Lifeline) {
        if let Some(driver) = self.driver.get() {
            lifeline.unwatch(driver);
        }
    }

    /// Removes this end from the background driver.
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
            // The end's own driver sees the hang-up by this, as soon as a thread runs it.
            lifeline.hang_up();
        }
        channel.hung_up();
    }

    fn on_abandoned(&self) {
        // ORDERING: Relaxed, as in `ensure_watched`. Threads that sleep check the peer themselves
        // from now on.
        self.is_watched.store(false, Ordering::Relaxed);
        if let Some(channel) = self.channel.upgrade() {
            channel.wake_threads();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::thread::futex::{Flags, requeue};

    use super::*;
    use crate::api::endpoint::Endpoint;
    use crate::api::face::SpscFace;
    use crate::api::handle::SpscHandle;
    use crate::channel::{Channel, Options};
    use crate::error::{CloseReason, RecvTimeoutError};
    use crate::rendezvous;
    use crate::shm::layout::{Geometry, Side};
    use crate::shm::region::Region;

    const DEADLINE: Duration = Duration::from_secs(20);

    type Received = (SpscFace, Result<bytes::Bytes, RecvTimeoutError>);
    type Receiver = std::thread::JoinHandle<Received>;

    /// Returns both ends of a driver that nobody runs, and a thread that blocks on the first one,
    /// whose peer is watched in the background. The thread returns that end.
    fn blocked(idle: &Driver) -> (Arc<Channel>, SpscHandle, Receiver) {
        let (face, descriptor) = SpscFace::builder().driver(idle).pair().unwrap();
        let handle = SpscHandle::builder().driver(idle).from_fd(descriptor).unwrap();
        let channel = face.channel().clone();
        let receiver = std::thread::spawn(move || {
            let received = face.recv_timeout(DEADLINE);
            (face, received)
        });
        let hangup = channel.hangup.get().unwrap();
        let begun = Instant::now();
        while !hangup.is_watched.load(Ordering::Relaxed) || hangup.driver.get().is_none() {
            assert!(begun.elapsed() < DEADLINE);
            std::thread::yield_now();
        }
        (channel, handle, receiver)
    }

    /// The background driver goes, and reports nothing any more; then the peer dies.
    fn learns_of_the_death(channel: &Channel, handle: &SpscHandle, receiver: Receiver) {
        let hangup = channel.hangup.get().unwrap();
        hangup.leave(channel.lifeline());
        hangup.on_abandoned();
        handle.channel().lifeline().unwrap().hang_up();
        let (_face, received) = receiver.join().unwrap();
        assert_eq!(received, Err(RecvTimeoutError::Closed(CloseReason::PeerDied)));
    }

    #[test]
    fn threads_look_for_themselves_once_the_background_driver_has_failed() {
        let idle = Driver::builder().build().unwrap();
        let (channel, handle, receiver) = blocked(&idle);
        learns_of_the_death(&channel, &handle, receiver);
    }

    /// A peer may move our sleepers to another word of the region.
    #[test]
    fn threads_that_were_moved_look_for_themselves_too() {
        let idle = Driver::builder().build().unwrap();
        let (channel, handle, receiver) = blocked(&idle);
        // Until long after the thread has begun to sleep on two words.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(400) {
            let theirs = handle.channel();
            let (from, to) = (theirs.peer_bell.word(), theirs.bell.word());
            requeue(from, Flags::empty(), 0, 100, to).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        learns_of_the_death(&channel, &handle, receiver);
    }

    /// A descriptor that stays ready would keep the background driver awake for ever.
    #[test]
    fn a_hang_up_that_was_reported_is_watched_no_more() {
        let idle = Driver::builder().build().unwrap();
        let (channel, handle, receiver) = blocked(&idle);
        handle.channel().lifeline().unwrap().hang_up();
        let (_face, received) = receiver.join().unwrap();
        assert_eq!(received, Err(RecvTimeoutError::Closed(CloseReason::PeerDied)));
        let background = channel.hangup.get().unwrap().driver.get().unwrap();
        let line = channel.lifeline().unwrap().as_fd();
        // The kernel refuses a descriptor that is watched already.
        background.watch_hang_up(line, LIFELINE).unwrap();
        background.unwatch(line);
    }

    /// It was dropped while the engine answered its application.
    #[test]
    fn a_channel_that_is_connected_as_it_leaves_stays_with_no_driver() {
        let idle = Driver::builder().build().unwrap();
        let binding = idle.binding();
        let (region, file) =
            Region::create(Geometry::new(None, None).unwrap(), false, None).unwrap();
        let end = Endpoint::open(region.into(), Side::Face, Options::default(), binding).unwrap();
        let channel = end.channel().clone();
        // A call that comes late to its sleep times out before it.
        let begun = Instant::now();
        while !channel.hangup.get().unwrap().is_needed.load(Ordering::Relaxed) {
            assert!(begun.elapsed() < DEADLINE, "no call blocks");
            let timed_out = end.recv_timeout(Duration::from_millis(1));
            assert_eq!(timed_out, Err(RecvTimeoutError::Timeout));
        }
        drop(end);
        let (lifeline, _theirs) = rendezvous::pair(file.as_fd()).unwrap();
        channel.attach(lifeline).unwrap();
        let hangup = Arc::downgrade(channel.hangup.get().unwrap());
        assert!(channel.hangup.get().unwrap().driver.get().is_some(), "the background was asked");
        drop((channel, idle));
        let begun = Instant::now();
        while hangup.strong_count() > 0 {
            assert!(begun.elapsed() < DEADLINE, "the background driver keeps it");
            std::thread::yield_now();
        }
    }
}
