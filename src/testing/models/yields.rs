//! Receivers that look again after other tasks have run, before they park.

use loom::thread;

use super::{
    Ends, FULL, both_threads_receive, explore, fill, kept, misses_no_packet, packet, ping_pong,
    receive, unkept_with,
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
            let [(face, _), (handle, driver)] = channel(64);
            face.try_send(packet(0)).unwrap();
            assert_eq!(handle.try_recv(), Ok(packet(0)));
            let closer = thread::spawn(move || {
                if cancel {
                    face.cancel()
                } else {
                    face.close()
                };
                face
            });
            assert_eq!(driver.block_on(handle.recv()), None);
            closer.join().unwrap();
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

/// The sender sleeps for room. No timer fires: the receiver gives it what it has taken. At most 2
/// preemptions.
#[test]
fn a_sender_that_sleeps_meanwhile_misses_no_room() {
    explore(Some(2), || {
        let [(face, driver), (handle, other)] = channel(64);
        fill(&face, FULL);
        let sender = thread::spawn(move || {
            driver.block_on(face.send(packet(FULL))).unwrap();
            face
        });
        other.block_on(receive(&handle, 0..=FULL));
        sender.join().unwrap();
    });
}
