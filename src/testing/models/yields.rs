//! Receivers that look again after other tasks have run, before they park.

use super::{
    Ends, both_threads_receive, explore, kept, learns_of_the_end, leaves_no_sender_asleep,
    misses_no_packet, packet, ping_pong, unkept_with,
};
use crate::channel::Options;
use crate::driver::model::Driver;

/// A channel whose receivers look again from their first dry spell on.
fn channel(ring_bytes: usize) -> Ends {
    let options = Options { first_backoff: 0, ..Options::default() };
    unkept_with(options, ring_bytes, Driver::new).map(kept)
}

/// The second packet comes before the receiver looks again, before it parks, or after that. At most
/// 3 preemptions.
#[test]
fn a_receiver_that_looks_again_misses_no_packet() {
    explore(Some(3), || misses_no_packet(channel(64)));
}

/// The end comes instead of a second packet. At most 3 preemptions.
#[test]
fn a_receiver_that_looks_again_misses_no_end() {
    for cancel in [true, false] {
        explore(Some(3), move || {
            let ends = channel(64);
            ends[0].0.try_send(packet(0)).unwrap();
            assert_eq!(ends[1].0.try_recv(), Ok(packet(0)));
            learns_of_the_end(ends, cancel);
        });
    }
}

/// Two receivers share the looks of one dry spell. At most 2 preemptions.
#[test]
fn two_receivers_that_look_again_miss_no_packet() {
    explore(Some(2), || both_threads_receive(channel(64)));
}

/// Both ends look again in turn. At most 1 preemption.
#[test]
fn ends_that_look_again_never_both_sleep() {
    explore(Some(1), || ping_pong(channel(64)));
}

/// At most 2 preemptions.
#[test]
fn a_receiver_that_looks_again_leaves_no_sender_asleep() {
    explore(Some(2), || leaves_no_sender_asleep(channel(64)));
}
