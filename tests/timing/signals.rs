//! Signals that a thread takes again and again, as in a program that is profiled by a timer.

use std::ffi::c_int;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wakering::{Driver, RecvTimeoutError, ShmError};

use crate::common::{SMALL, fill, on_both_backends, packet, pair};

on_both_backends!(signals_hold_up_no_deadline);

/// Less than the kernel's timer slack of 50 us, by which it lets a sleep end late.
const BETWEEN: Duration = Duration::from_micros(20);

// SAFETY: these are the libc's own, for targets where a `pthread_t` is as large as a pointer. The
// thread that is signalled has not ended: see `under_signals`.
unsafe extern "C" {
    safe fn signal(signal: c_int, handler: extern "C" fn(c_int)) -> usize;
    safe fn pthread_self() -> usize;
    safe fn pthread_kill(thread: usize, signal: c_int) -> c_int;
}

extern "C" fn ignore(_signal: c_int) {}

/// Ends what another thread does when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` while signals come to this thread.
fn under_signals<T>(work: impl FnOnce() -> T) -> T {
    let number = Signal::USR1.as_raw();
    signal(number, ignore);
    let (this, is_over) = (pthread_self(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(pthread_kill(this, number), 0);
                let begun = Instant::now();
                while begun.elapsed() < BETWEEN {
                    spin_loop();
                }
            }
        });
        let _over = Over(&is_over);
        work()
    })
}

/// Each signal breaks off the sleep of a blocking call. A pause that began anew after each, for
/// what the kernel says is left, would take seconds or for ever.
fn signals_hold_up_no_deadline(driver: &Driver) {
    const TIMEOUT: Duration = Duration::from_millis(30);
    const LATE: Duration = Duration::from_secs(2);
    let (face, handle) = pair(driver, SMALL);
    fill(&handle);
    under_signals(|| {
        for _ in 0..5 {
            let begun = Instant::now();
            assert_eq!(handle.recv_timeout(TIMEOUT), Err(RecvTimeoutError::Timeout));
            let received = begun.elapsed();
            let sent = handle.send_timeout_blocking(packet(0, 8), TIMEOUT);
            assert!(matches!(sent, Err(ShmError::TimedOut { sent: 0 })), "{sent:?}");
            let sent = begun.elapsed() - received;
            assert!(received < LATE && sent < LATE, "{received:?}, {sent:?}");
        }
    });
    drop(face);
}
