//! Sources that leave their tasks' waiting to the runner of a driver that is parked in.

use std::sync::atomic::AtomicBool;

use super::*;

on_both_backends! {
    what_comes_while_the_runner_spins_is_found
    a_runner_arms_the_bells_before_it_sleeps
    what_came_before_the_bell_was_armed_is_found
    a_runner_that_may_not_sleep_only_looks
    those_who_come_with_their_first_turn_are_attended
    a_source_that_left_is_not_looked_after
    others_arm_their_bells_themselves
}

/// A source whose task waits for `there`.
#[derive(Default)]
struct Waiter {
    word: AtomicU32,
    there: AtomicBool,
    looks: AtomicUsize,
    found: AtomicUsize,
    armed: AtomicUsize,
}

impl Source for Waiter {
    fn bell(&self) -> Option<&AtomicU32> {
        Some(&self.word)
    }
    fn look(&self) -> bool {
        self.looks.fetch_add(1, SeqCst);
        self.there.load(SeqCst)
    }
    fn found(&self) {
        self.found.fetch_add(1, SeqCst);
    }
    fn arm(&self, _spun: bool) -> bool {
        self.armed.fetch_add(1, SeqCst);
        self.there.load(SeqCst)
    }
}

/// Longer than any test: the end of the spin is not what is tested.
const LONG: Duration = Duration::from_secs(60);

fn parked_in(backend: Backend) -> Driver {
    Driver::builder().backend(backend).build().unwrap()
}

fn registered(driver: &Driver) -> (Arc<Waiter>, Registration) {
    let waiter = Arc::new(Waiter::default());
    let registration = driver.register(waiter.clone()).unwrap();
    (waiter, registration)
}

fn what_comes_while_the_runner_spins_is_found(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    assert!(registration.attend(LONG) && registration.attend(LONG));
    let peer = waiter.clone();
    let peer = std::thread::spawn(move || {
        eventually("a look", || peer.looks.load(SeqCst) > 2);
        peer.there.store(true, SeqCst);
    });
    driver.park(None).unwrap();
    peer.join().unwrap();
    assert_eq!((waiter.found.load(SeqCst), waiter.armed.load(SeqCst)), (1, 0));
    // It is over: nobody looks any more, unless asked again.
    let looks = waiter.looks.load(SeqCst);
    driver.park(Some(Duration::from_millis(1))).unwrap();
    assert_eq!(waiter.looks.load(SeqCst), looks);
    assert!(registration.attend(LONG));
    driver.park(None).unwrap();
    assert_eq!(waiter.found.load(SeqCst), 2);
}

fn a_runner_arms_the_bells_before_it_sleeps(backend: Backend) {
    let driver = parked_in(backend);
    let (waiters, registrations): (Vec<_>, Vec<_>) = (0..5).map(|_| registered(&driver)).unzip();
    for registration in &registrations {
        assert!(registration.attend(Duration::from_micros(10)));
    }
    driver.park(Some(Duration::from_millis(2))).unwrap();
    for waiter in &waiters {
        assert_eq!((waiter.found.load(SeqCst), waiter.armed.load(SeqCst)), (0, 1));
    }
    // The bells are armed; who comes while the driver sleeps has to do that himself.
    let sleeper = driver.clone();
    let sleeper = std::thread::spawn(move || sleeper.park(Some(DEADLINE)).unwrap());
    asleep(&driver);
    assert!(!registrations[0].attend(LONG));
    driver.unparker().unpark();
    sleeper.join().unwrap();
}

fn what_came_before_the_bell_was_armed_is_found(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    // No time to spin: only the last look can find it.
    assert!(registration.attend(Duration::ZERO));
    let (late, other) = registered(&driver);
    assert!(other.attend(Duration::ZERO));
    late.there.store(true, SeqCst);
    let begun = Instant::now();
    driver.park(Some(DEADLINE)).unwrap();
    assert!(begun.elapsed() < DEADLINE / 2);
    assert_eq!(late.found.load(SeqCst) + late.armed.load(SeqCst), 1);
    drop((waiter, registration));
}

fn a_runner_that_may_not_sleep_only_looks(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    assert!(registration.attend(LONG));
    for round in 1..4 {
        driver.park(Some(Duration::ZERO)).unwrap();
        assert_eq!((waiter.looks.load(SeqCst), waiter.armed.load(SeqCst)), (round, 0));
    }
    waiter.there.store(true, SeqCst);
    driver.park(Some(Duration::ZERO)).unwrap();
    assert_eq!((waiter.found.load(SeqCst), waiter.armed.load(SeqCst)), (1, 0));
}

fn those_who_come_with_their_first_turn_are_attended(backend: Backend) {
    let driver = parked_in(backend);
    driver.park(Some(Duration::ZERO)).unwrap();
    let (waiter, registration) = registered(&driver);
    assert!(registration.attend(Duration::from_micros(5)));
    // An unpark ends the spin, and puts the arming off to the next time.
    driver.unparker().unpark();
    driver.park(Some(DEADLINE)).unwrap();
    assert_eq!(waiter.armed.load(SeqCst), 0);
    driver.park(Some(Duration::from_millis(2))).unwrap();
    assert_eq!(waiter.armed.load(SeqCst), 1);
}

fn a_source_that_left_is_not_looked_after(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    assert!(registration.attend(LONG));
    drop(registration);
    driver.park(Some(Duration::from_millis(2))).unwrap();
    assert_eq!((waiter.looks.load(SeqCst), waiter.armed.load(SeqCst)), (0, 0));
}

fn others_arm_their_bells_themselves(backend: Backend) {
    let (_waiter, registration) = registered(&driver(backend));
    assert!(!registration.attend(LONG));
    let polled = Driver::builder().backend(backend).polled().unwrap();
    let (_waiter, registration) = registered(&polled);
    assert!(!registration.attend(LONG));
    // And those beyond the first few.
    let parked_in = parked_in(backend);
    let registered: Vec<_> = (0..20).map(|_| registered(&parked_in)).collect();
    let attended = registered.iter().filter(|(_, registration)| registration.attend(LONG)).count();
    assert_eq!(attended, 8);
}
