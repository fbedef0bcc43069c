//! Descriptors that sources have watched.

use std::os::fd::AsFd;

use super::*;

on_both_backends! {
    descriptors_are_reported
    a_descriptor_watched_by_a_callback_is_reported
    one_busy_descriptor_starves_nobody
}

fn descriptors_are_reported(backend: Backend) {
    let driver = driver(backend);
    let (ours, theirs) = pair();
    let ours = Arc::new(ours);
    let (sender, calls) = channel();
    let (sender, socket) = (Mutex::new(sender), ours.clone());
    let probe = Probe::new(move |probe, call| {
        let mut buffer = [0; 8];
        match rustix::io::read(&*socket, &mut buffer) {
            Ok(0) => {
                // Hung up, and stays so.
                probe.registration.get().unwrap().unwatch(socket.as_fd());
                report(&sender, Call::Abandoned);
            }
            Ok(_) => report(&sender, call),
            Err(_) => {}
        }
    });
    let registration = driver.register(probe.clone()).unwrap();
    probe.registration.set(registration).unwrap();
    let registration = probe.registration.get().unwrap();
    registration.watch(ours.as_fd(), 42).unwrap();
    assert!(registration.watch(ours.as_fd(), 43).is_err(), "watched twice");
    for _ in 0..100 {
        asleep(&driver);
        rustix::io::write(&theirs, b"x").unwrap();
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Ready(42)));
    }
    registration.unwatch(ours.as_fd());
    rustix::io::write(&theirs, b"y").unwrap();
    assert!(calls.recv_timeout(Duration::from_millis(50)).is_err(), "not watched now");
    registration.watch(ours.as_fd(), 44).unwrap();
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Ready(44)));
    drop(theirs);
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Abandoned));
    registration.cancel();
    assert!(registration.watch(ours.as_fd(), 45).is_err(), "cancelled");
}

fn a_descriptor_watched_by_a_callback_is_reported(backend: Backend) {
    let driver = driver(backend);
    let (ours, theirs) = pair();
    rustix::io::write(&theirs, b"x").unwrap();
    let (inner, calls) = Probe::reporting();
    let (handle, registered) = (driver.clone(), OnceLock::new());
    let outer = Probe::new(move |_, _| {
        registered.get_or_init(|| {
            let registration = handle.register(inner.clone()).unwrap();
            registration.watch(ours.as_fd(), 5).unwrap();
            registration.wake_at(Instant::now());
            registration
        });
    });
    let registration = driver.register(outer.clone()).unwrap();
    outer.wake(&registration);
    let mut seen = [calls.recv_timeout(DEADLINE).unwrap(), calls.recv_timeout(DEADLINE).unwrap()];
    while !seen.contains(&Call::Timer) || !seen.contains(&Call::Ready(5)) {
        seen[1] = calls.recv_timeout(DEADLINE).unwrap();
    }
}

fn one_busy_descriptor_starves_nobody(backend: Backend) {
    let driver = driver(backend);
    let busy: Vec<_> = (0..200).map(|_| pair()).collect();
    let idle = Probe::new(|_, _| {});
    let noise = driver.register(idle).unwrap();
    for (ours, theirs) in &busy {
        rustix::io::write(theirs, b"never read").unwrap();
        noise.watch(ours.as_fd(), 0).unwrap();
    }
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    let (ours, theirs) = pair();
    registration.watch(ours.as_fd(), 1).unwrap();
    probe.wake(&registration);
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    // One wake may be reported twice: its count fails the compare of the wait that is armed next,
    // and its wake then ends the wait after that.
    let next = || loop {
        match calls.recv_timeout(DEADLINE) {
            Ok(Call::Wake) => {}
            call => return call,
        }
    };
    registration.wake_at(Instant::now());
    assert_eq!(next(), Ok(Call::Timer));
    rustix::io::write(&theirs, b"x").unwrap();
    assert_eq!(next(), Ok(Call::Ready(1)));
    registration.unwatch(ours.as_fd());
    for (ours, _) in &busy {
        noise.unwatch(ours.as_fd());
    }
    asleep(&driver);
}
