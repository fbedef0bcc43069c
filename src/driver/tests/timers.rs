//! Timers.

use super::*;

on_both_backends! {
    timers_come_in_time
    only_an_earlier_timer_interrupts
    a_timer_that_has_passed_comes_at_once
}

fn timers_come_in_time(backend: Backend) {
    let driver = driver(backend);
    let (sender, calls) = channel();
    let sender = Mutex::new(sender);
    let wanted = Arc::new(Mutex::new(None));
    let next = wanted.clone();
    let probe = Probe::new(move |probe, call| {
        if call == Call::Timer {
            return report(&sender, call);
        }
        // Both in one call of the driver's: no timer can come in between.
        let wanted: Option<(Instant, Duration)> = next.lock().unwrap().take();
        if let Some((start, after)) = wanted {
            let registration = probe.registration.get().unwrap();
            registration.wake_at(start + after);
            registration.wake_at(start + after * 2);
        }
    });
    let registration = driver.register(probe.clone()).unwrap();
    probe.registration.set(registration).unwrap();
    for millis in [1, 20, 50] {
        let start = Instant::now();
        let after = Duration::from_millis(millis);
        *wanted.lock().unwrap() = Some((start, after));
        probe.wake(probe.registration.get().unwrap());
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Timer));
        let late = start.elapsed().checked_sub(after).expect("not before its time");
        assert!(late < Duration::from_secs(2), "{late:?} late");
    }
    assert!(calls.recv_timeout(Duration::from_millis(150)).is_err(), "one call for all requests");
}

fn only_an_earlier_timer_interrupts(backend: Backend) {
    let driver = driver(backend);
    let (one, calls) = Probe::reporting();
    let (another, _calls) = Probe::reporting();
    let one = driver.register(one).unwrap();
    let another = driver.register(another).unwrap();
    let now = Instant::now();

    one.wake_at(now + Duration::from_secs(100));
    let mut until = 0;
    eventually("it sleeps for the alarm", || {
        until = asleep(&driver);
        until != clock::NEVER
    });
    let interrupts = driver.shared().control().load(SeqCst);
    another.wake_at(now + Duration::from_secs(200));
    one.wake_at(now + Duration::from_secs(150));
    assert_eq!(driver.shared().asleep_until(), until, "it sleeps on");
    if backend == Backend::IoUring {
        assert_eq!(driver.shared().control().load(SeqCst), interrupts);
    }

    let start = Instant::now();
    one.wake_at(start + Duration::from_millis(5));
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Timer));
    assert!(start.elapsed() >= Duration::from_millis(5));
    eventually("it sleeps for the other", || asleep(&driver) > until);
}

fn a_timer_that_has_passed_comes_at_once(backend: Backend) {
    let driver = driver(backend);
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe).unwrap();
    registration.wake_at(Instant::now() - Duration::from_millis(1));
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Timer));
}
