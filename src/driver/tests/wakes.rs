//! Wakes reach their sources.

use std::sync::atomic::AtomicUsize;

use super::*;

on_both_backends! {
    a_wake_reaches_the_source
    a_wake_before_the_driver_knows_the_bell_reaches_the_source
    no_wake_is_lost_in_a_ping_pong
    no_bell_of_thousands_is_missed
}

fn a_wake_reaches_the_source(backend: Backend) {
    let driver = driver(backend);
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    for _ in 0..100 {
        asleep(&driver);
        probe.wake(&registration);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    }
}

fn a_wake_before_the_driver_knows_the_bell_reaches_the_source(backend: Backend) {
    let driver = driver(backend);
    for _ in 0..100 {
        let (probe, calls) = Probe::reporting();
        let registration = driver.register(probe.clone()).unwrap();
        probe.wake(&registration);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    }
}

fn no_wake_is_lost_in_a_ping_pong(backend: Backend) {
    const ROUNDS: u32 = 100_000;
    let driver = driver(backend);
    let echo = Arc::new(AtomicU32::new(0));
    let answer = echo.clone();
    let probe = Probe::new(move |probe, _| {
        answer.store(probe.word.load(SeqCst), SeqCst);
        futex::wake(&answer);
    });
    let registration = driver.register(probe.clone()).unwrap();
    for round in 0..ROUNDS {
        probe.wake(&registration);
        let sent = Instant::now();
        loop {
            let heard = echo.load(SeqCst);
            if heard == 8 + round {
                break;
            }
            assert!(sent.elapsed() < DEADLINE, "lost in round {round}");
            futex::wait(&echo, heard, Some(DEADLINE));
        }
    }
}

fn no_bell_of_thousands_is_missed(backend: Backend) {
    // More at once than either queue of a ring holds.
    const BELLS: usize = 5000;
    let driver = driver(backend);
    let heard = Arc::new(AtomicUsize::new(0));
    let round = Arc::new(AtomicU32::new(0));
    let gate = Arc::new(Mutex::new(()));
    let probes: Vec<_> = (0..BELLS)
        .map(|_| {
            let (heard, round, gate) = (heard.clone(), round.clone(), gate.clone());
            let last = AtomicU32::new(0);
            let probe = Probe::new(move |_, _| {
                drop(lock(&gate));
                let now = round.load(SeqCst);
                if last.swap(now, SeqCst) != now {
                    heard.fetch_add(1, SeqCst);
                }
            });
            let registration = driver.register(probe.clone()).unwrap();
            (probe, registration)
        })
        .collect();
    for turn in 1..4 {
        asleep(&driver);
        heard.store(0, SeqCst);
        round.store(turn, SeqCst);
        let closed = lock(&gate);
        for (probe, registration) in &probes {
            probe.wake(registration);
        }
        drop(closed);
        eventually("all bells heard", || heard.load(SeqCst) == BELLS);
    }
    let weak: Vec<_> = probes.iter().map(|(probe, _)| Arc::downgrade(probe)).collect();
    drop(probes);
    eventually("all gone", || weak.iter().all(|weak| weak.strong_count() == 0));
}

#[test]
fn unparking_a_driver_that_is_awake_interrupts_nothing() {
    if !has_io_uring() {
        return;
    }
    let driver = Driver::builder().backend(Backend::IoUring).build().unwrap();
    driver.park(Some(Duration::ZERO)).unwrap();
    let interrupts = || driver.shared().control().load(SeqCst);
    let before = interrupts();
    for _ in 0..10 {
        driver.unparker().unpark();
    }
    driver.park(None).unwrap();
    assert_eq!(interrupts(), before);
}

#[test]
fn no_bell_of_thousands_is_missed_by_a_polled_driver() {
    if !has_io_uring() {
        return;
    }
    // More at once than the completion queue of a ring holds.
    const BELLS: usize = 5000;
    let driver = Driver::builder().backend(Backend::IoUring).polled().unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let probes: Vec<_> = (0..BELLS)
        .map(|_| {
            let heard = heard.clone();
            let probe = Probe::new(move |_, _| {
                heard.fetch_add(1, SeqCst);
            });
            let registration = driver.register(probe.clone()).unwrap();
            (probe, registration)
        })
        .collect();
    for round in 1..4 {
        driver.turn().unwrap();
        for (probe, registration) in &probes {
            probe.wake(registration);
        }
        let mut set = [rustix::event::PollFd::new(&driver, rustix::event::PollFlags::IN)];
        while heard.load(SeqCst) < round * BELLS {
            let timeout = rustix::event::Timespec::try_from(DEADLINE).unwrap();
            let ready = rustix::event::poll(&mut set, Some(&timeout));
            assert_ne!(ready, Ok(0), "{} heard", heard.load(SeqCst));
            driver.turn().unwrap();
        }
    }
}
