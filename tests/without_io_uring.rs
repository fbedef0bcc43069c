//! Where io_uring is forbidden, in part or completely, drivers use epoll, and nothing else changes.
//!
//! Each test runs in a process of its own, because a filter cannot be removed. `cargo run --example
//! without_io_uring -- EPERM cargo test` runs the rest of the suite under such a filter.
#![allow(unsafe_code, reason = "a signal handler that sets a register")]

mod common;

use std::future::pending;
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use common::child::{Child, arguments, passes, say, test_path};
use common::seccomp::{Refuse, refuse};
use common::woken::Woken;
use common::{PATIENCE, SMALL, number, packet, pair, poll_with, wait, watched};
use futures::join;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wakering::{Backend, CloseReason, Driver, PolledDriver, ShmError, SpscFace, SpscHandle};

/// Every way in which sandboxes are known to refuse.
const ERRNOS: [Errno; 4] = [Errno::PERM, Errno::NOSYS, Errno::ACCESS, Errno::INVAL];

fn refusal(call: &str, errno: Errno) -> Refuse {
    match call {
        "setup" => Refuse::io_uring_setup(errno),
        "enter" => Refuse::io_uring_enter(errno),
        "register" => Refuse::io_uring_register(errno),
        other => panic!("no call {other}"),
    }
}

/// A thousand round trips between tasks that sleep each time.
async fn ping_pong(face: SpscFace, handle: SpscHandle) {
    let echo = async {
        while let Some(packet) = face.recv().await {
            face.send(packet).await.unwrap();
        }
    };
    let ask = async {
        for n in 0..1000 {
            handle.send(packet(n, 100)).await.unwrap();
            assert_eq!(number(&handle.recv().await.unwrap()), n);
        }
        handle.close();
    };
    join!(echo, ask);
}

/// Checks that all kinds of drivers use epoll, however io_uring is refused, and that a request for
/// io_uring fails with that `errno`. With `None`, another call may be refused first.
fn expect_epoll(errno: Option<Errno>) {
    let builder = || Driver::builder().backend(Backend::IoUring);
    let name = match errno {
        _ if cfg!(not(feature = "io-uring")) => "this build",
        Some(Errno::PERM) => "(EPERM)",
        Some(Errno::NOSYS) => "(ENOSYS)",
        Some(Errno::ACCESS) => "(EACCES)",
        Some(Errno::INVAL) => "(EINVAL)",
        Some(other) => panic!("{other}"),
        None => "io_uring",
    };
    let refused = |error: ShmError| {
        let ShmError::Unsupported { reason } = error else { panic!("{error:?}") };
        assert!(reason.contains(name), "no {name} in {reason:?}");
    };
    refused(builder().build().unwrap_err());
    refused(builder().background().unwrap_err());
    refused(builder().polled().unwrap_err());
    refused(builder().embedded().unwrap_err());

    // The default driver.
    let (face, descriptor) = SpscFace::pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    wait("the default driver", ping_pong(face, handle));

    let auto = || Driver::builder().backend(Backend::Auto);
    let background = auto().background().unwrap();
    assert_eq!(background.backend(), Backend::Epoll);
    let (face, handle) = pair(&background, SMALL);
    wait("a background driver", ping_pong(face, handle));

    for parked in [Driver::new().unwrap(), auto().build().unwrap()] {
        assert_eq!(parked.backend(), Backend::Epoll);
        let (face, descriptor) = SpscFace::builder().driver(&parked).pair().unwrap();
        let handle = SpscHandle::builder().driver(&parked).from_fd(descriptor).unwrap();
        parked.block_on(ping_pong(face, handle));
    }

    let polled = auto().polled().unwrap();
    assert_eq!(polled.backend(), Backend::Epoll);
    let (face, descriptor) = SpscFace::builder().driver(&polled).pair().unwrap();
    let handle = SpscHandle::builder().driver(&polled).from_fd(descriptor).unwrap();
    let mut future = std::pin::pin!(ping_pong(face, handle));
    let deadline = Instant::now() + PATIENCE;
    while common::poll_once(future.as_mut()).is_pending() {
        assert!(Instant::now() < deadline, "a polled driver");
        polled.turn().unwrap();
    }
}

#[test]
#[ignore = "run by epoll_takes_its_place"]
fn refused_to() {
    let Some(arguments) = arguments() else { return };
    let errno = Errno::from_raw_os_error(arguments[1].parse().unwrap());
    refuse(&[refusal(&arguments[0], errno)]).unwrap();
    // Before an enter or a register, the kernel or a filter around this one may refuse the setup.
    expect_epoll((arguments[0] == "setup").then_some(errno));
}

fn epoll_takes_its_place(call: &str) {
    for errno in ERRNOS {
        passes(test_path!(refused_to), &[call, &errno.raw_os_error().to_string()]);
    }
}

#[test]
fn epoll_takes_its_place_without_setup() {
    epoll_takes_its_place("setup");
}

#[test]
fn epoll_takes_its_place_without_enter() {
    epoll_takes_its_place("enter");
}

#[test]
fn epoll_takes_its_place_without_register() {
    epoll_takes_its_place("register");
}

/// Makes a trapped system call fail as sandboxes do: the handler of `SIGSYS` sets what it returns.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
mod trap {
    use std::ffi::{c_int, c_void};
    use std::ptr;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// How often the handler ran.
    pub(super) static TRAPS: AtomicU32 = AtomicU32::new(0);

    /// The libc's `struct sigaction`.
    #[repr(C)]
    struct Action {
        handler: extern "C" fn(c_int, *mut c_void, *mut c_void),
        mask: [u64; 16],
        flags: c_int,
        restorer: usize,
    }

    // SAFETY: this is the libc's declaration, with the structure that it takes.
    unsafe extern "C" {
        safe fn sigaction(signal: c_int, new: &Action, old: *mut c_void) -> c_int;
    }

    extern "C" fn fail(_signal: c_int, _info: *mut c_void, context: *mut c_void) {
        /// Where in a `ucontext_t` the registers begin, and which register is the result.
        const REGISTERS: usize = 40;
        const RAX: usize = 13;
        const ENOSYS: i64 = 38;
        TRAPS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the kernel passes a `ucontext_t` to a handler with SA_SIGINFO, and loads the
        // registers from it when the handler returns.
        unsafe { context.wrapping_byte_add(REGISTERS + RAX * 8).cast::<i64>().write(-ENOSYS) };
    }

    pub(super) fn handle() {
        const SIGSYS: c_int = 31;
        const SA_SIGINFO: c_int = 4;
        let action = Action { handler: fail, mask: [0; 16], flags: SA_SIGINFO, restorer: 0 };
        assert_eq!(sigaction(SIGSYS, &action, ptr::null_mut()), 0);
    }
}

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
#[test]
#[ignore = "run by epoll_takes_its_place_where_the_sandbox_traps"]
fn trapped() {
    if arguments().is_none() {
        return;
    }
    trap::handle();
    refuse(&[refusal("setup", Errno::NOSYS).by_a_signal()]).unwrap();
    expect_epoll(Some(Errno::NOSYS));
    if cfg!(feature = "io-uring") {
        assert!(trap::TRAPS.load(std::sync::atomic::Ordering::Relaxed) > 0, "not one call trapped");
    }
}

/// This includes the library's threads, which block all other signals.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
#[test]
fn epoll_takes_its_place_where_the_sandbox_traps() {
    passes(test_path!(trapped), &["setup"]);
}

#[test]
#[ignore = "run by entering_a_sandbox_later_hangs_no_call"]
fn entering_a_sandbox_later() {
    let Some(arguments) = arguments() else { return };
    let Ok(parked) = Driver::builder().backend(Backend::IoUring).build() else { return };
    let background = Driver::builder().backend(Backend::IoUring).background().unwrap();
    let ends = pair(&background, SMALL);
    let (face, descriptor) = SpscFace::builder().driver(&parked).pair().unwrap();
    let _handle = SpscHandle::builder().driver(&parked).from_fd(descriptor).unwrap();
    if arguments[0] == "after a park" {
        parked.park(Some(Duration::ZERO)).unwrap();
    }
    let all = [refusal("setup", Errno::PERM), refusal("enter", Errno::PERM)];
    refuse(&all).unwrap();
    // The filter of this thread does not apply to the other thread.
    wait("a thread that was there before", ping_pong(ends.0, ends.1));
    // The kernel refuses the parked driver for good, and its endpoints learn of that.
    assert_eq!(parked.block_on(face.recv()), None);
    assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    let parked = parked.park(None).unwrap_err();
    assert!(matches!(parked, ShmError::Closed { .. }), "{parked:?}");
    expect_epoll(Some(Errno::PERM));
}

#[test]
fn entering_a_sandbox_later_hangs_no_call() {
    for when in ["before any park", "after a park"] {
        passes(test_path!(entering_a_sandbox_later), &[when]);
    }
}

/// Whether a polled driver's descriptor becomes readable in this time.
fn is_readable(driver: &PolledDriver, patience: Duration) -> bool {
    let mut line = [PollFd::from_borrowed_fd(driver.as_fd(), PollFlags::IN)];
    let patience = Timespec::try_from(patience).unwrap();
    // The kernel interrupts the wait to work for the ring.
    rustix::io::retry_on_intr(|| poll(&mut line, Some(&patience))).unwrap() > 0
}

/// Turns a polled driver once with a system call refused, on a thread of its own, and returns what
/// the turn said.
fn turn_with(driver: &PolledDriver, refused: Refuse) -> Result<usize, ShmError> {
    std::thread::scope(|scope| {
        let turn = scope.spawn(|| {
            refuse(&[refused]).unwrap();
            driver.turn()
        });
        turn.join().unwrap()
    })
}

fn refusal_of_enter(errno: &str) -> Refuse {
    refusal("enter", if errno == "EAGAIN" { Errno::AGAIN } else { Errno::PERM })
}

#[test]
#[ignore = "run by entering_a_sandbox_later_hangs_no_polled_driver"]
fn a_polled_driver_that_is_refused_later() {
    let Some(arguments) = arguments() else { return };
    let refusal = refusal_of_enter(&arguments[0]);
    let Ok(driver) = Driver::builder().backend(Backend::IoUring).polled() else { return };
    let (face, descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    let (woken, waker) = Woken::counting();
    let mut received = pin!(face.recv());
    assert!(poll_with(received.as_mut(), &waker).is_pending());
    if arguments[1] == "after a turn" {
        driver.turn().unwrap();
        driver.unparker().unpark();
    }
    assert!(is_readable(&driver, PATIENCE));
    // A turn that the kernel lets submit nothing. No later one would be asked for, so this is the
    // end of the driver, and its tasks learn of it.
    let refused = turn_with(&driver, refusal);
    assert!(matches!(refused, Err(ShmError::Io { .. })), "{refused:?}");
    assert_eq!(woken.calls(), 1);
    assert_eq!(poll_with(received.as_mut(), &waker), Poll::Ready(None));
    assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    let turned = driver.turn();
    assert!(matches!(turned, Err(ShmError::Closed { .. })), "{turned:?}");
    wait("the peer", async { assert_eq!(handle.recv().await, None) });
}

#[test]
#[ignore = "run by entering_a_sandbox_later_hangs_no_polled_driver"]
fn a_driven_driver_that_is_refused_later() {
    let Some(arguments) = arguments() else { return };
    let refusal = refusal_of_enter(&arguments[0]);
    let Ok(driver) = Driver::builder().backend(Backend::IoUring).polled() else { return };
    let (_face, _descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
    refuse(&[refusal]).unwrap();
    let driven = driver.drive(pending::<std::io::Result<()>>, pending::<()>());
    assert!(matches!(wait("the drive", driven), Err(ShmError::Closed { .. })));
}

#[test]
fn entering_a_sandbox_later_hangs_no_polled_driver() {
    for errno in ["EAGAIN", "EPERM"] {
        for when in ["before any turn", "after a turn"] {
            passes(test_path!(a_polled_driver_that_is_refused_later), &[errno, when]);
        }
        passes(test_path!(a_driven_driver_that_is_refused_later), &[errno]);
    }
}

#[test]
#[ignore = "run by two_backends_talk_to_each_other"]
fn an_engine_without() {
    let Some(arguments) = arguments() else { return };
    refuse(&[refusal("setup", Errno::PERM)]).unwrap();
    let face = SpscFace::builder().ring_bytes(SMALL).create(&arguments[0]).unwrap();
    say("ready");
    pollster::block_on(async {
        while let Some(packet) = face.recv().await {
            face.send(packet).await.unwrap();
        }
    });
    assert_eq!(face.close_reason(), Some(CloseReason::Peer));
}

/// One side is in a sandbox, and the other is not.
#[test]
fn two_backends_talk_to_each_other() {
    watched(|| {
        let dir = common::Dir::new();
        let mut engine = Child::start(test_path!(an_engine_without), &[&dir.name("face")]);
        engine.expect("ready");
        let handle = SpscHandle::connect(&dir.name("face")).unwrap();
        wait("the echo", async {
            for n in 0..2000 {
                handle.send(packet(n, 100)).await.unwrap();
                assert_eq!(number(&handle.recv().await.unwrap()), n);
            }
        });
        drop(handle);
        assert!(engine.wait().success());
    });
}

#[test]
#[ignore = "run by epoll_takes_its_place_where_the_machine_forbids_it"]
fn forbidden_by_the_machine() {
    if arguments().is_some() {
        expect_epoll(Some(Errno::PERM));
    }
}

/// This changes a setting of the whole machine for a moment, so it runs only on request:
/// `WAKERING_TEST_SYSCTL=1 cargo test --test without_io_uring -- --ignored machine`, as root.
#[test]
#[ignore = "changes kernel.io_uring_disabled for a moment"]
fn epoll_takes_its_place_where_the_machine_forbids_it() {
    const SETTING: &str = "/proc/sys/kernel/io_uring_disabled";
    struct Restore(String);
    impl Drop for Restore {
        fn drop(&mut self) {
            std::fs::write(SETTING, &self.0).unwrap();
        }
    }
    if std::env::var_os("WAKERING_TEST_SYSCTL").is_none() {
        eprintln!("left out: it was not asked for by WAKERING_TEST_SYSCTL");
        return;
    }
    let before = match std::fs::read_to_string(SETTING) {
        Ok(before) => before,
        Err(error) => return eprintln!("left out: {SETTING}: {error}"),
    };
    let restore = Restore(before.trim().to_owned());
    if let Err(error) = std::fs::write(SETTING, "2") {
        std::mem::forget(restore);
        return eprintln!("left out: {SETTING}: {error}");
    }
    passes(test_path!(forbidden_by_the_machine), &["now"]);
}
