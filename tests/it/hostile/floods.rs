//! A second process that sends wakes without a cause, or makes us send them. Other channels of the
//! driver go on, and the channel with the flood ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wakering::{
    Backend, CloseReason, Driver, Endpoint, RecvTimeoutError, SpscFace, TryRecvError, TrySendError,
    Violation,
};

use super::attacker::{Attacker, Honest, against_each};
use crate::common::raw_peer::{ENDS, RX_CLOSED};
use crate::common::{self, PATIENCE, number, on_both_backends, packet, wait};

on_both_backends!(
    a_flood_of_bell_wakes_ends_the_channel,
    a_flood_of_futex_wakes_ends_the_channel_where_the_driver_sees_them,
    a_flood_of_the_lifeline_ends_the_channel,
    incrementing_our_bell_has_no_effect_or_is_a_flood,
    a_flood_of_a_half_closed_channel_ends_it,
    a_flood_of_a_closed_end_has_no_effect,
    a_blocked_thread_is_not_kept_busy_by_bare_wakes,
    a_peer_that_always_wants_to_be_woken_costs_a_wake_a_packet,
);

const FLOOD: Option<CloseReason> = Some(CloseReason::Violation(Violation::WakeFlood));

/// Floods a channel in this way for a while, in both roles, while a task receives.
fn flooded(driver: &Driver, how: &str, judge: impl Fn(&Endpoint, &mut Attacker)) {
    against_each(driver, &format!("flood of {how} on {}", driver.backend()), |attacker, end, _| {
        // One packet comes before the flood, and one in the middle of it.
        attacker.say("send 1");
        assert_eq!(number(&wait("recv", end.recv()).unwrap()), 0);
        attacker.order(&format!("flood {how} 400"));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(400) {
            match pollster::block_on(futures::future::select(
                std::pin::pin!(end.recv()),
                async_io::Timer::after(Duration::from_millis(50)),
            )) {
                futures::future::Either::Left((received, _)) => {
                    assert_eq!(received, None, "nothing was sent");
                    break;
                }
                futures::future::Either::Right(_) => {}
            }
        }
        attacker.done();
        judge(&end, attacker);
    });
}

/// Floods until the end is over. What counts is how often the driver was disturbed. On a busy
/// machine the driver rarely runs, and many wakes disturb it once.
fn flood_until_over(end: &Endpoint, attacker: &mut Attacker, how: &str) {
    let begin = Instant::now();
    while end.close_reason().is_none() {
        assert!(begin.elapsed() < PATIENCE, "the channel never ends under a flood of {how}");
        attacker.say(&format!("flood {how} 400"));
    }
}

/// Checks that this kind of flood ends the channel.
fn shuts_out(driver: &Driver, how: &str) {
    flooded(driver, how, |end, attacker| {
        flood_until_over(end, attacker, how);
        assert_shut_out(end);
    });
}

fn assert_shut_out(end: &Endpoint) {
    assert_eq!(end.close_reason(), FLOOD);
    assert_eq!(end.try_recv(), Err(TryRecvError::Closed(FLOOD.unwrap())));
    assert!(end.stats().wakes_received < 1000, "{:?}", end.stats());
}

fn a_flood_of_bell_wakes_ends_the_channel(driver: &Driver) {
    shuts_out(driver, "bells");
}

fn a_flood_of_futex_wakes_ends_the_channel_where_the_driver_sees_them(driver: &Driver) {
    if driver.backend() == Backend::IoUring {
        shuts_out(driver, "wakes");
    } else {
        // Nothing waits on the bell itself.
        flooded(driver, "wakes", |end, _| assert_eq!(end.close_reason(), None));
    }
}

fn a_flood_of_the_lifeline_ends_the_channel(driver: &Driver) {
    shuts_out(driver, "bytes");
    shuts_out(driver, "longs");
}

fn incrementing_our_bell_has_no_effect_or_is_a_flood(driver: &Driver) {
    flooded(driver, "counts", |end, _| {
        // The attacker may have incremented the bell again and again while the driver armed its
        // wait.
        assert!(matches!(end.close_reason(), None | FLOOD), "{end:?}");
    });
}

fn a_flood_of_a_half_closed_channel_ends_it(driver: &Driver) {
    against_each(driver, "flood of a half-closed channel", |attacker, end, ours| {
        let at = ours.words().1 + ENDS;
        attacker.say(&format!("or32 {at:x} {RX_CLOSED:x}; ring"));
        assert!(wait("send", end.send(packet(0, 8))).is_err());
        assert_eq!(end.close_reason(), None);
        // Repeats the flood as long as it takes: see `flood_until_over`.
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    attacker.say("flood bells 300");
                }
            });
            let end = wait("the end", end.recv());
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(end, None);
        });
        // Each direction has its own reason.
        let sent = end.try_send(packet(0, 8));
        assert!(matches!(sent, Err(TrySendError::Closed(_, CloseReason::Peer))), "{sent:?}");
        assert_eq!(end.finished(), Some(Err(FLOOD.unwrap())));
        assert_eq!(end.close_reason(), FLOOD);
        assert!(end.stats().wakes_received < 1000, "{:?}", end.stats());
    });
}

fn a_flood_of_a_closed_end_has_no_effect(driver: &Driver) {
    against_each(driver, "flood of a closed end", |attacker, end, ours| {
        end.close();
        attacker.say("flood bells 300");
        assert!(end.stats().wakes_received < 1000, "{:?}", end.stats());
        let end = attacker.meet(driver, ours);
        drop(end);
        attacker.say("flood bells 300");
    });
}

/// Returns how much processor time this thread has used.
fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap()
}

fn a_blocked_thread_is_not_kept_busy_by_bare_wakes(driver: &Driver) {
    let honest = Honest::start(driver);
    // No thread runs the driver of this end, so nothing counts its wakes either.
    let idle = Driver::builder().backend(driver.backend()).build().unwrap();
    let mut attacker = Attacker::start();
    let name = attacker.next_name();
    let face = SpscFace::builder().ring_bytes(common::SMALL).driver(&idle).create(&name).unwrap();
    attacker.order(&format!("connect {name}"));
    idle.block_on(face.connected()).unwrap();
    attacker.done();
    for how in ["wakes", "bells", "counts"] {
        attacker.order(&format!("flood {how} 400"));
        let before = thread_time();
        let received = face.recv_timeout(Duration::from_millis(400));
        let used = thread_time() - before;
        attacker.done();
        eprintln!("a thread blocked under a flood of {how}: {used:?} of 400 ms");
        assert!(used < Duration::from_millis(200), "{how}: {used:?}");
        if received != Err(RecvTimeoutError::Timeout) {
            assert_eq!(
                (received, face.close_reason()),
                (Err(RecvTimeoutError::Closed(FLOOD.unwrap())), FLOOD)
            );
            break;
        }
    }
    honest.finish("flood of a blocked thread");
}

fn a_peer_that_always_wants_to_be_woken_costs_a_wake_a_packet(driver: &Driver) {
    const COUNT: u64 = 20_000;
    against_each(driver, "bits that are always set", |attacker, end, _| {
        attacker.order(&format!("insist; receive {COUNT:x}"));
        for n in 0..COUNT {
            wait("send", end.send(packet(n, 20))).unwrap();
        }
        attacker.done();
        assert_eq!(end.close_reason(), None);
        let sent = end.stats().wakes_sent;
        assert!(sent <= 2 * COUNT + 100, "{sent}");
    });
}
