//! Tests of sources whose tasks ask a driver that is parked in to spin.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::*;

on_both_backends! {
    what_comes_while_the_driver_spins_is_found
    a_driver_has_tasks_look_before_it_sleeps
    a_driver_that_is_about_to_sleep_takes_no_requests
    a_driver_that_may_not_sleep_looks_at_the_hints
    a_park_that_finds_an_unpark_looks_at_hints_and_bells
    a_driver_that_never_sleeps_has_tasks_look_now_and_then
    a_source_that_left_is_not_looked_after
    sources_that_left_before_the_first_turn_keep_nobody_awake
    others_are_not_spun_for
    a_spin_that_something_else_ends_costs_the_thread_as_well
    a_spin_that_a_timer_cuts_short_is_no_miss
    only_a_source_that_leaves_has_others_dropped
}

/// A source with a hint.
#[derive(Default)]
struct Waiter {
    word: AtomicU32,
    hint: AtomicBool,
    hints: AtomicUsize,
    hinted: AtomicUsize,
    looks: AtomicUsize,
    /// How many of those came after a whole spin.
    misses: AtomicUsize,
}

impl Source for Waiter {
    fn bell(&self) -> Option<&AtomicU32> {
        Some(&self.word)
    }
    fn hint(&self) -> bool {
        self.hints.fetch_add(1, SeqCst);
        self.hint.load(SeqCst)
    }
    fn on_hint(&self) {
        self.hinted.fetch_add(1, SeqCst);
    }
    fn look_again(&self, spun: bool) {
        self.looks.fetch_add(1, SeqCst);
        self.misses.fetch_add(usize::from(spun), SeqCst);
    }
}

impl Waiter {
    /// Returns how often its task was woken: for its hint, and to check for itself.
    fn wakes(&self) -> (usize, usize) {
        (self.hinted.load(SeqCst), self.looks.load(SeqCst))
    }
}

/// Longer than any test: the end of the spin is not what is tested.
const LONG: Duration = Duration::from_secs(60);

const SHORT: Duration = Duration::from_millis(2);

fn parked_in(backend: Backend) -> Driver {
    Driver::builder().backend(backend).build().unwrap()
}

fn registered(driver: &Driver) -> (Arc<Waiter>, Registration) {
    let waiter = Arc::new(Waiter::default());
    let registration = driver.register(waiter.clone()).unwrap();
    (waiter, registration)
}

fn what_comes_while_the_driver_spins_is_found(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    assert!(registration.ask_to_spin(LONG) && registration.ask_to_spin(LONG));
    let peer = waiter.clone();
    let peer = std::thread::spawn(move || {
        eventually("a look", || peer.hints.load(SeqCst) > 2);
        peer.hint.store(true, SeqCst);
    });
    driver.park(None).unwrap();
    peer.join().unwrap();
    assert_eq!(waiter.wakes(), (1, 0));
    // The request is over: the driver checks the hint no more, unless asked again.
    let hints = waiter.hints.load(SeqCst);
    driver.park(Some(SHORT)).unwrap();
    assert_eq!(waiter.hints.load(SeqCst), hints);
    assert!(registration.ask_to_spin(LONG));
    driver.park(None).unwrap();
    assert_eq!(waiter.wakes(), (2, 0));
}

fn a_driver_has_tasks_look_before_it_sleeps(backend: Backend) {
    let driver = parked_in(backend);
    let (waiters, registrations): (Vec<_>, Vec<_>) = (0..5).map(|_| registered(&driver)).unzip();
    for registration in &registrations {
        assert!(registration.ask_to_spin(Duration::from_micros(10)));
    }
    // Without a timeout: it would sleep for ever if it did not have them look.
    driver.park(None).unwrap();
    for waiter in &waiters {
        assert_eq!(waiter.wakes(), (0, 1));
    }
}

fn a_driver_that_is_about_to_sleep_takes_no_requests(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    assert!(registration.ask_to_spin(Duration::ZERO));
    driver.park(None).unwrap();
    assert_eq!(waiter.wakes(), (0, 1));
    // The task comes back and arms its bell. So the driver sleeps.
    assert!(!registration.ask_to_spin(LONG));
    let sleeper = driver.clone();
    let sleeper = std::thread::spawn(move || sleeper.park(Some(DEADLINE)).unwrap());
    asleep(&driver);
    assert!(!registration.ask_to_spin(LONG));
    driver.unparker().unpark();
    sleeper.join().unwrap();
    // It has slept.
    assert!(registration.ask_to_spin(LONG));
}

fn a_driver_that_may_not_sleep_looks_at_the_hints(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    assert!(registration.ask_to_spin(LONG));
    for round in 1..4 {
        driver.park(Some(Duration::ZERO)).unwrap();
        assert_eq!((waiter.hints.load(SeqCst), waiter.wakes()), (round, (0, 0)));
    }
    waiter.hint.store(true, SeqCst);
    driver.park(Some(Duration::ZERO)).unwrap();
    assert_eq!(waiter.wakes(), (1, 0));
}

fn a_park_that_finds_an_unpark_looks_at_hints_and_bells(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    waiter.hint.store(true, SeqCst);
    for round in 1..4 {
        assert!(registration.ask_to_spin(LONG));
        driver.unparker().unpark();
        driver.park(Some(DEADLINE)).unwrap();
        assert_eq!(waiter.wakes(), (round, 0));
    }
    // A source that has not asked has armed its bell.
    let (probe, calls) = Probe::reporting();
    let registration = driver.register(probe.clone()).unwrap();
    driver.park(Some(SHORT)).unwrap();
    probe.wake(&registration);
    driver.unparker().unpark();
    driver.park(Some(DEADLINE)).unwrap();
    assert_eq!(calls.try_recv(), Ok(Call::Wake));
}

fn a_driver_that_never_sleeps_has_tasks_look_now_and_then(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    assert!(registration.ask_to_spin(LONG));
    for _ in 0..70 {
        driver.unparker().unpark();
        driver.park(None).unwrap();
    }
    assert_eq!(waiter.wakes(), (0, 1));
    // The driver is not about to sleep.
    assert!(registration.ask_to_spin(LONG));
}

fn a_source_that_left_is_not_looked_after(backend: Backend) {
    let driver = parked_in(backend);
    let (waiter, registration) = registered(&driver);
    assert!(registration.ask_to_spin(LONG));
    drop(registration);
    let begun = Instant::now();
    while Arc::strong_count(&waiter) > 1 && begun.elapsed() < DEADLINE {
        driver.park(Some(SHORT)).unwrap();
    }
    assert_eq!((waiter.wakes(), waiter.hints.load(SeqCst)), ((0, 0), 0));
    assert_eq!(Arc::strong_count(&waiter), 1);
}

fn sources_that_left_before_the_first_turn_keep_nobody_awake(backend: Backend) {
    let driver = parked_in(backend);
    // Enough that the inbox drops the commands about sources that came and went.
    for _ in 0..200 {
        let (_waiter, registration) = registered(&driver);
        registration.ask_to_spin(Duration::ZERO);
    }
    // A few parks end early because of commands that remained.
    let sleeps = |_| {
        let begun = Instant::now();
        driver.park(Some(10 * SHORT)).unwrap();
        begun.elapsed() >= 10 * SHORT
    };
    assert!((0..20).any(sleeps), "it does not sleep");
    let registered: Vec<_> = (0..8).map(|_| registered(&driver)).collect();
    assert!(registered.iter().all(|(_, registration)| registration.ask_to_spin(LONG)));
}

fn others_are_not_spun_for(backend: Backend) {
    let (_waiter, registration) = registered(&driver(backend));
    assert!(!registration.ask_to_spin(LONG));
    let polled = Driver::builder().backend(backend).polled().unwrap();
    let (_waiter, registration) = registered(&polled);
    assert!(!registration.ask_to_spin(LONG));
    // Nor for sources past the first few, until one of these leaves.
    let parked_in = parked_in(backend);
    let mut registered: Vec<_> = (0..20).map(|_| registered(&parked_in)).collect();
    let spun_for = |registered: &[(_, Registration)]| {
        registered.iter().filter(|(_, registration)| registration.ask_to_spin(LONG)).count()
    };
    assert_eq!(spun_for(&registered), 8);
    registered.drain(..3);
    parked_in.park(Some(Duration::ZERO)).unwrap();
    parked_in.park(Some(Duration::ZERO)).unwrap();
    assert_eq!(spun_for(&registered), 8);
}

/// A thread that unparks again and again must not keep the driver spinning all the time.
fn a_spin_that_something_else_ends_costs_the_thread_as_well(backend: Backend) {
    const SPIN: Duration = Duration::from_millis(1);
    let has_cost = move || {
        let driver = parked_in(backend);
        let (waiter, registration) = registered(&driver);
        assert!(registration.ask_to_spin(SPIN));
        let begun = Instant::now();
        driver.park_unless(None, &|| begun.elapsed() >= SPIN * 3 / 4).unwrap();
        // A thread that is kept waiting may have spun to the end.
        waiter.wakes() == (0, 0) && crate::wake::spin::Spinning::begin(SPIN).is_none()
    };
    // A thread that is kept waiting for milliseconds has earned the time back.
    let once = |_| std::thread::spawn(has_cost).join().unwrap();
    assert!((0..20).any(once), "it has cost nothing");
}

fn a_spin_that_a_timer_cuts_short_is_no_miss(backend: Backend) {
    let misses_of = move |spin, longest| {
        let driver = parked_in(backend);
        let (waiter, registration) = registered(&driver);
        assert!(registration.ask_to_spin(spin));
        driver.park(Some(longest)).unwrap();
        assert_eq!(waiter.wakes(), (0, 1));
        waiter.misses.load(SeqCst)
    };
    // Each on a new thread, which has not spent anything yet.
    let once = |spin, longest| std::thread::spawn(move || misses_of(spin, longest)).join().unwrap();
    assert_eq!((once(SHORT, Duration::from_secs(1)), once(LONG, SHORT)), (1, 0));
}

/// The caller of `notify` may hold a lock that the drop of a source takes.
fn only_a_source_that_leaves_has_others_dropped(backend: Backend) {
    let driver = parked_in(backend);
    let (_probe, stays) = registered(&driver);
    let gone: Vec<_> = (0..127).map(|_| registered(&driver)).collect();
    let gone: Vec<_> = gone.into_iter().map(|(waiter, _)| Arc::downgrade(&waiter)).collect();
    let left = || gone.iter().filter(|waiter| waiter.strong_count() > 0).count();
    assert_eq!(left(), 127);
    // The inbox now holds enough commands to be tidied.
    stays.notify();
    assert_eq!(left(), 127);
    drop(registered(&driver));
    assert_eq!(left(), 0);
}
