//! Tests of the driver as endpoints see it, on both backends.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::sync::{AtomicU32, lock};
use crate::sys::futex;

/// No test waits longer than this for what must happen.
const DEADLINE: Duration =
    Duration::from_secs(if option_env!("WAKERING_SLOW").is_some() { 200 } else { 20 });

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Wake,
    Ready(u16),
    Timer,
    Abandoned,
}

type Hook = Box<dyn Fn(&Probe, Call) + Send + Sync>;

/// A source that reports its calls.
struct Probe {
    word: AtomicU32,
    hook: Hook,
    registration: OnceLock<Registration>,
}

impl Probe {
    fn new(hook: impl Fn(&Probe, Call) + Send + Sync + 'static) -> Arc<Self> {
        let registration = OnceLock::new();
        Arc::new(Self { word: AtomicU32::new(7), hook: Box::new(hook), registration })
    }

    /// Makes a probe whose calls come out of a channel.
    fn reporting() -> (Arc<Self>, Receiver<Call>) {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        (Self::new(move |_, call| report(&sender, call)), receiver)
    }

    /// Wakes the probe as the peer does, in the way that this backend needs.
    fn wake(&self, registration: &Registration) {
        self.word.fetch_add(1, SeqCst);
        match registration.backend() {
            Backend::IoUring => futex::wake(&self.word),
            _ => registration.notify(),
        }
    }
}

impl Source for Probe {
    fn bell(&self) -> Option<&AtomicU32> {
        Some(&self.word)
    }
    fn on_wake(&self) {
        (self.hook)(self, Call::Wake);
    }
    fn on_ready(&self, token: u16) {
        (self.hook)(self, Call::Ready(token));
    }
    fn on_timer(&self) {
        (self.hook)(self, Call::Timer);
    }
    fn on_abandoned(&self) {
        (self.hook)(self, Call::Abandoned);
    }
}

fn report(sender: &Mutex<Sender<Call>>, call: Call) {
    // The receiver is gone once a test is over.
    let _ = lock(sender).send(call);
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the driver sleeps, so that the next event meets a sleeper.
fn asleep(driver: &Driver) -> u64 {
    let mut until = 0;
    eventually("the driver sleeps", || {
        until = driver.shared().asleep_until();
        until != 0
    });
    until
}

fn driver(backend: Backend) -> Driver {
    let driver = Driver::builder().backend(backend).background().unwrap();
    assert_eq!(driver.backend(), backend);
    driver
}

/// Returns two sockets that are connected to each other.
fn pair() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// Makes each of these functions a test on each backend.
macro_rules! on_both_backends {
    ($($name:ident)*) => {
        mod io_uring {
            $(#[test] fn $name() {
                if $crate::driver::tests::has_io_uring() {
                    super::$name(super::Backend::IoUring)
                }
            })*
        }
        mod epoll { $(#[test] fn $name() { super::$name(super::Backend::Epoll) })* }
    };
}

/// Whether tests of io_uring can run here.
fn has_io_uring() -> bool {
    uring::probe().inspect_err(|error| eprintln!("left out, no io_uring here: {error}")).is_ok()
}

#[test]
fn handles_are_send_sync_and_debug() {
    fn check<T: Send + Sync + Unpin + fmt::Debug>() {}
    check::<Driver>();
    check::<DriverBuilder>();
    check::<Backend>();
    check::<Registration>();
    check::<PolledDriver>();
    check::<Unparker>();
    assert_eq!(Backend::default().to_string(), "auto");
    assert_eq!(
        (Backend::IoUring.to_string(), Backend::Epoll.to_string()),
        ("io-uring".into(), "epoll".into())
    );
}

mod descriptors;
mod failures;
mod leaving;
mod requests;
mod thread;
mod timers;
mod wakes;
