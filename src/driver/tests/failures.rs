//! Waits that fail or end early, by pollers that stand for the kernel.

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::driver::epoll::EpollPoller;
use crate::driver::event_loop::EventLoop;
use crate::driver::poller::{Failure, Found, Poller};
use crate::driver::table::Id;
use crate::error::CloseReason;

/// A kernel whose waits always fail.
struct Broken;

impl Poller for Broken {
    fn arm(&mut self, _: Id, _: &AtomicU32, _: u32) -> bool {
        true
    }
    fn disarm(&mut self, _: Id) {}
    fn wait(&mut self, _: Option<Duration>, _: &mut Found) -> Result<(), Failure> {
        Err(Failure::Once(rustix::io::Errno::PERM.into()))
    }
    fn close(&mut self) {}
}

#[test]
fn a_driver_that_cannot_go_on_abandons_all_sources() {
    let shared = Shared::new(Backend::IoUring).unwrap();
    let event_loop: EventLoop = EventLoop::new(shared.clone(), Box::new(Broken));
    let driver = Driver { binding: Binding::new(shared, true), run: Run::Background };
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    background::run(event_loop);
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Abandoned));
    assert_eq!(Arc::strong_count(&probe), 1, "the source is dropped");
    let gone = driver.register(probe);
    assert!(matches!(gone, Err(ShmError::Closed { reason: CloseReason::DriverGone, .. })));
    registration.notify();
    registration.wake_at(Instant::now());
    registration.cancel();
}

#[test]
fn a_word_that_cannot_be_waited_on_abandons_its_source_alone() {
    // The kernel refuses a word whose address is not a multiple of four, with EINVAL. Safe code has
    // no such `&AtomicU32`, so this poller reports what the kernel would.
    struct Poisoned(Option<Id>);
    impl Poller for Poisoned {
        fn arm(&mut self, id: Id, _: &AtomicU32, _: u32) -> bool {
            assert!(self.0.replace(id).is_none(), "armed again");
            true
        }
        fn disarm(&mut self, _: Id) {}
        fn wait(&mut self, _: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
            found
                .wakes
                .extend(self.0.map(|id| poller::Wake { id, outcome: poller::Outcome::Poisoned }));
            Ok(())
        }
        fn close(&mut self) {}
    }
    let shared = Shared::new(Backend::IoUring).unwrap();
    let mut event_loop = EventLoop::new(shared.clone(), Box::new(Poisoned(None)));
    let driver = Driver { binding: Binding::new(shared, true), run: Run::Background };
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    event_loop.turn(None, &|| false).unwrap();
    assert_eq!(calls.try_recv(), Ok(Call::Abandoned));
    registration.cancel();
    event_loop.turn(None, &|| false).unwrap();
    assert_eq!(Arc::strong_count(&probe), 1, "the source is dropped");
}

#[test]
fn a_wait_that_was_only_cancelled_is_no_wake() {
    /// Ends every wait at once, without a wake.
    struct EndsAtOnce(Option<Id>, u32);
    impl Poller for EndsAtOnce {
        fn arm(&mut self, id: Id, _: &AtomicU32, seen: u32) -> bool {
            assert!(self.0.replace(id).is_none(), "armed twice");
            self.1 = seen;
            true
        }
        fn disarm(&mut self, _: Id) {}
        fn wait(&mut self, _: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
            let outcome = poller::Outcome::Lapsed;
            found.wakes.extend(self.0.take().map(|id| poller::Wake { id, outcome }));
            Ok(())
        }
        fn close(&mut self) {}
    }
    let shared = Shared::new(Backend::IoUring).unwrap();
    let mut event_loop = EventLoop::new(shared.clone(), Box::new(EndsAtOnce(None, 0)));
    let driver = Driver { binding: Binding::new(shared, true), run: Run::Background };
    let (probe, calls) = Probe::reporting();
    let _registration = driver.register(probe.clone()).unwrap();
    event_loop.turn(None, &|| false).unwrap();
    event_loop.turn(None, &|| false).unwrap();
    assert!(calls.try_recv().is_err(), "woken for nothing");
    probe.word.fetch_add(1, SeqCst);
    event_loop.turn(None, &|| false).unwrap();
    assert_eq!(calls.try_recv(), Ok(Call::Wake), "a bell that was counted up meanwhile");
}

#[test]
fn moved_waits_compare_with_what_was_handled_last() {
    /// Records what was armed.
    struct Kept(Arc<Mutex<Vec<u32>>>);
    impl Poller for Kept {
        fn arm(&mut self, _: Id, _: &AtomicU32, seen: u32) -> bool {
            lock(&self.0).push(seen);
            true
        }
        fn disarm(&mut self, _: Id) {}
        fn wait(&mut self, _: Option<Duration>, _: &mut Found) -> Result<(), Failure> {
            Ok(())
        }
        fn close(&mut self) {}
    }
    let shared = Shared::new(Backend::IoUring).unwrap();
    let armed = Arc::new(Mutex::new(Vec::new()));
    let mut event_loop = EventLoop::new(shared.clone(), Box::new(Kept(armed.clone())));
    let driver = Driver { binding: Binding::new(shared, true), run: Run::Background };
    let stays = Probe::new(|_, _| {});
    let leaves = Probe::new(|_, _| {});
    let _registration = driver.register(stays.clone()).unwrap();
    let leaving = driver.register(leaves.clone()).unwrap();
    event_loop.turn(None, &|| false).unwrap();
    // One bell is counted up while it is waited on, and no one reports it; the other is leaving.
    stays.word.fetch_add(5, SeqCst);
    leaving.cancel();
    event_loop.turn(None, &|| false).unwrap();
    assert_eq!(Arc::strong_count(&leaves), 2, "kept until its wait is over");
    lock(&armed).clear();
    event_loop.move_to(Box::new(Kept(armed.clone())));
    assert_eq!(*lock(&armed), [7], "it would be woken at once");
    assert_eq!(Arc::strong_count(&leaves), 1);
}

/// Whether a reactor would report the epoll set.
fn is_readable(shared: &Shared) -> bool {
    let mut set = [PollFd::new(shared.epoll_set.descriptor(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut set, Some(&now)).unwrap() > 0
}

/// Nothing else would have the reactor turn the driver again.
#[test]
fn a_turn_that_fails_leaves_the_descriptor_readable() {
    let shared = Shared::polled(Backend::Epoll).unwrap();
    let mut event_loop = EventLoop::new(shared.clone(), Broken);
    assert!(!is_readable(&shared));
    assert!(event_loop.sweep().is_err());
    assert!(is_readable(&shared));
}

/// A source that has more to do each time is not done in one turn.
#[test]
fn a_turn_that_leaves_something_leaves_the_descriptor_readable() {
    let shared = Shared::polled(Backend::Epoll).unwrap();
    let mut event_loop = EventLoop::new(shared.clone(), EpollPoller::new(shared.clone()));
    let driver = Driver { binding: Binding::new(shared.clone(), false), run: Run::ByTurns };
    let left = AtomicU32::new(50);
    let probe = Probe::new(move |probe, _| {
        if left.fetch_sub(1, SeqCst) > 1 {
            probe.registration.get().unwrap().notify();
        }
    });
    probe.registration.set(driver.register(probe.clone()).unwrap()).unwrap();
    probe.registration.get().unwrap().notify();
    let mut calls = 0;
    while is_readable(&shared) {
        calls += event_loop.sweep().unwrap().calls;
    }
    assert_eq!(calls, 50);
}
