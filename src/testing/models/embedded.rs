//! Ends on the shipped embedded driver, whose waits an executor carries to its own ring and back.
//! The executor looks for ready tasks after a turn and before it sleeps; whatever happens between
//! two of its steps ends the sleep.

use loom::thread;

use super::{Ends, both_threads_receive, learns_of_the_end, misses_no_packet};
use super::{Event, channel_on, explore, fill_elsewhere, ping_pong, receive};
use crate::driver::model::Driver;

/// Returns both ends of a channel, each with an embedded driver.
fn channel() -> Ends {
    channel_on(64, Driver::embedded)
}

/// Packets come between any two steps of the executor. At most 3 preemptions.
#[test]
fn an_executor_with_a_ring_misses_no_packet() {
    explore(Some(3), || misses_no_packet(channel()));
}

/// As above, with an end or a cancel. At most 3 preemptions.
#[test]
fn an_executor_with_a_ring_learns_of_the_end() {
    for cancel in [false, true] {
        explore(Some(3), move || learns_of_the_end(channel(), cancel));
    }
}

/// Each end answers the other. At most 2 preemptions.
#[test]
fn executors_with_rings_never_both_sleep() {
    explore(Some(2), || ping_pong(channel()));
}

/// Another thread receives on the same end. Its task may take the wake, and asks the driver for
/// what it needs at any moment. At most 2 preemptions.
#[test]
fn a_receiver_on_another_thread_than_the_executor_is_woken() {
    explore(Some(2), || both_threads_receive(channel()));
}

/// Another thread wakes a task, or registers an end with the driver, between any two steps of the
/// executor. At most 3 preemptions.
#[test]
fn what_another_thread_asks_for_ends_the_sleep_of_the_executor() {
    explore(Some(3), || {
        let driver = Driver::embedded();
        let event = Event::new();
        let other = {
            let event = event.clone();
            thread::spawn(move || event.happen())
        };
        driver.block_on(async {
            event.await;
            other.join().unwrap();
        });
    });
    explore(Some(2), || {
        let driver = Driver::embedded();
        let (there, event) = (driver.clone(), Event::new());
        let other = {
            let event = event.clone();
            thread::spawn(move || {
                let [(face, _), (handle, _)] = channel_on(64, || there.clone());
                let sender = fill_elsewhere(face, 1);
                // The embedded driver wakes this task, which another driver runs.
                Driver::new().block_on(receive(&handle, [0]));
                event.happen();
                sender.join().unwrap();
            })
        };
        driver.block_on(async {
            event.await;
            other.join().unwrap();
        });
    });
}
