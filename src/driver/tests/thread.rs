//! The thread of a driver in the background.

use super::*;

on_both_backends! {
    the_last_handle_ends_the_thread
    a_registration_alone_keeps_the_driver
    an_idle_driver_uses_no_processor
    the_thread_takes_no_signals
}

/// Returns a driver, a registration with it, and the id of the driver's thread.
fn with_thread(backend: Backend) -> (Driver, Registration, i32) {
    let driver = driver(backend);
    let (sender, thread) = channel();
    let sender = Mutex::new(sender);
    let probe = Probe::new(move |_, _| {
        let _ = lock(&sender).send(rustix::thread::gettid().as_raw_nonzero().get());
    });
    let registration = driver.register(probe.clone()).unwrap();
    probe.wake(&registration);
    let thread = thread.recv_timeout(DEADLINE).unwrap();
    (driver, registration, thread)
}

fn the_last_handle_ends_the_thread(backend: Backend) {
    let (driver, registration, thread) = with_thread(backend);
    let task = format!("/proc/self/task/{thread}");
    let comm = std::fs::read_to_string(format!("{task}/comm")).unwrap();
    assert_eq!(comm.trim(), "wakering");
    let weak = Arc::downgrade(driver.shared());
    let clone = driver.clone();
    drop((driver, registration));
    asleep(&clone);
    drop(clone);
    eventually("the thread ends", || !std::fs::exists(&task).unwrap());
    assert_eq!(weak.strong_count(), 0);
}

fn a_registration_alone_keeps_the_driver(backend: Backend) {
    let driver = driver(backend);
    let weak = Arc::downgrade(driver.shared());
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    drop(driver);
    for _ in 0..3 {
        probe.wake(&registration);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    }
    drop(registration);
    eventually("the driver ends", || weak.strong_count() == 0);
    assert_eq!(Arc::strong_count(&probe), 1);
}

fn an_idle_driver_uses_no_processor(backend: Backend) {
    let (driver, registration, thread) = with_thread(backend);
    let (ours, _theirs) = pair();
    registration.watch(ours.as_fd(), 0).unwrap();
    registration.wake_at(Instant::now() + Duration::from_secs(100));
    asleep(&driver);
    // Time on the processor in nanoseconds, time in the queue, times scheduled.
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
        let numbers: Vec<u64> = stat.split_whitespace().map(|n| n.parse().unwrap()).collect();
        (numbers[0], numbers[2])
    };
    let (mut time, mut slices) = spent();
    // While it waits for a processor, its numbers stand still, too.
    let sleeps = || {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('S')
    };
    eventually("it has settled", || {
        let before = (time, slices);
        std::thread::sleep(Duration::from_millis(20));
        (time, slices) = spent();
        sleeps() && before == (time, slices)
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(spent(), (time, slices));
}

fn the_thread_takes_no_signals(backend: Backend) {
    let blocked = |path: String| {
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let before = blocked("/proc/thread-self/status".into());
    let (_driver, _registration, thread) = with_thread(backend);
    assert_eq!(blocked("/proc/thread-self/status".into()), before, "the caller's is as before");
    let mask = blocked(format!("/proc/self/task/{thread}/status"));
    let is_blocked = |signal: i32| mask >> (signal - 1) & 1 == 1;
    for signal in [1, 2, 3, 10, 12, 13, 14, 15, 17, 18, 20, 28, 35, 64] {
        assert!(is_blocked(signal), "signal {signal} is not blocked");
    }
    // `SIGRTMIN`, which is one of musl's own signals and the program's elsewhere.
    assert_eq!(is_blocked(34), !cfg!(target_env = "musl"));
    // Signals that a thread raises itself, that cannot be blocked, or that belong to libc.
    for signal in [4, 5, 6, 7, 8, 9, 11, 19, 31, 32, 33] {
        assert!(!is_blocked(signal), "signal {signal} is blocked");
    }
}

#[test]
fn the_global_driver_is_one() {
    let one = Driver::global().unwrap();
    let another = Driver::global().unwrap();
    assert!(Arc::ptr_eq(one.shared(), another.shared()));
    assert_ne!(one.backend(), Backend::Auto);
}
