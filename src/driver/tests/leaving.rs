//! Sources that leave, and sources that panic.

use std::sync::Weak;

use super::*;

on_both_backends! {
    cancelling_drops_the_source
    cancelling_from_a_callback_ends_the_calls
    a_panic_disturbs_nobody_else
    a_source_may_own_its_registration_and_cancel_it
    churn_leaves_nothing_behind
    a_source_that_panics_when_it_is_dropped_stops_nobody
}

fn cancelling_drops_the_source(backend: Backend) {
    let driver = driver(backend);
    for armed in [true, false] {
        let (probe, calls) = Probe::reporting();
        let weak = Arc::downgrade(&probe);
        let registration = driver.register(probe).unwrap();
        registration.wake_at(Instant::now() + Duration::from_secs(100));
        if armed {
            // By now the wait is armed, and nothing will ever wake it.
            asleep(&driver);
        }
        registration.cancel();
        registration.cancel();
        eventually("the source is dropped", || weak.strong_count() == 0);
        registration.notify();
        registration.wake_at(Instant::now());
        assert_eq!(calls.iter().count(), 0, "calls after the end");
        drop(registration);
    }
    asleep(&driver);
}

fn cancelling_from_a_callback_ends_the_calls(backend: Backend) {
    let driver = driver(backend);
    let (sender, calls) = channel();
    let sender = Mutex::new(sender);
    let probe = Probe::new(move |probe, call| {
        report(&sender, call);
        probe.registration.get().unwrap().cancel();
        // Neither this wake nor the timer below causes a call any more.
        probe.wake(probe.registration.get().unwrap());
        probe.registration.get().unwrap().wake_at(Instant::now());
    });
    probe.registration.set(driver.register(probe.clone()).unwrap()).unwrap();
    let weak = Arc::downgrade(&probe);
    probe.wake(probe.registration.get().unwrap());
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    drop(probe);
    eventually("the source is dropped", || weak.strong_count() == 0);
    assert_eq!(calls.iter().count(), 0);
}

fn a_panic_disturbs_nobody_else(backend: Backend) {
    let driver = driver(backend);
    let unwinding = Probe::new(|_, _| std::panic::resume_unwind(Box::new(PanicsOnDrop)));
    let (probe, calls) = Probe::reporting();
    let bad = driver.register(unwinding.clone()).unwrap();
    let good = driver.register(probe.clone()).unwrap();
    for _ in 0..50 {
        asleep(&driver);
        unwinding.wake(&bad);
        bad.wake_at(Instant::now());
        probe.wake(&good);
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
    }
    let weak = Arc::downgrade(&unwinding);
    drop((bad, unwinding));
    eventually("it is dropped all the same", || weak.strong_count() == 0);
}

/// The payload of a panic that panics when it is dropped.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

fn a_source_may_own_its_registration_and_cancel_it(backend: Backend) {
    let driver = driver(backend);
    let weak = Arc::downgrade(driver.shared());
    let probe = Probe::new(|_, _| {});
    probe.registration.set(driver.register(probe.clone()).unwrap()).unwrap();
    drop(driver);
    // The last handle is dropped on the driver's own thread, with the source.
    probe.registration.get().unwrap().cancel();
    drop(probe);
    eventually("the driver ends", || weak.strong_count() == 0);
}

fn churn_leaves_nothing_behind(backend: Backend) {
    let driver = driver(backend);
    let sources: Vec<Weak<Probe>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut sources = Vec::new();
                    for round in 0..500 {
                        let (probe, calls) = Probe::reporting();
                        let registration = driver.register(probe.clone()).unwrap();
                        if round % 2 == 0 {
                            probe.wake(&registration);
                            assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
                        }
                        sources.push(Arc::downgrade(&probe));
                    }
                    sources
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    eventually("all gone", || sources.iter().all(|source| source.strong_count() == 0));
    asleep(&driver);
}

/// A source holds wakers, which are foreign code.
fn a_source_that_panics_when_it_is_dropped_stops_nobody(backend: Backend) {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("a source that panics when it is dropped");
        }
    }
    let driver = driver(backend);
    let (other, calls) = Probe::reporting();
    let stays = driver.register(other.clone()).unwrap();
    let panics = Panics;
    let source = Probe::new(move |_, _| _ = &panics);
    let leaves = driver.register(source).unwrap();
    leaves.cancel();
    eventually("it has left", || driver.shared().bound() == 1);
    asleep(&driver);
    other.wake(&stays);
    assert_eq!(calls.recv_timeout(DEADLINE), Ok(Call::Wake));
}
