//! Sends that find no room give up at their deadline, and say how many packets they sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, SinkExt};
use wakering::{Driver, Endpoint, ShmError, SpscFace};

use crate::common::{
    Dir, PATIENCE, SMALL, both_roles, eventually, fill, fill_with, join, number, on_both_backends,
    packet, poll_once, poll_with, wait, woken::Woken,
};

const TIMEOUT: Duration = Duration::from_millis(200);

on_both_backends!(
    a_send_on_a_full_ring_times_out,
    a_batch_that_times_out_says_how_many_were_sent,
    each_queued_sender_has_its_own_deadline,
    the_looks_of_the_first_sender_wake_no_other,
    a_deadline_counts_before_anybody_connected,
    a_send_with_room_in_time_does_not_time_out,
    a_batch_has_one_deadline_for_all,
    without_a_timeout_a_send_waits,
    a_timeout_of_zero_does_not_wait,
    a_timeout_too_long_for_the_clock_waits,
    a_sink_has_no_deadline,
    an_end_works_after_a_send_has_timed_out,
    a_send_has_its_own_timeout_in_place_of_the_builders,
    a_send_with_its_own_timeout_times_out_in_the_queue_too,
    a_packet_that_a_sink_holds_back_counts_in_the_timeout_of_the_next_send,
    a_send_with_its_own_timeout_is_sent_when_there_is_room_in_time,
);

fn assert_timed_out(result: Result<(), ShmError>, expected: usize) {
    match result {
        Err(ShmError::TimedOut { sent }) => assert_eq!(sent, expected),
        other => panic!("expected a time-out, got {other:?}"),
    }
}

/// Checks that the call took as long as it should: not less, and not for ever.
fn timed<T>(call: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = call();
    let elapsed = begin.elapsed();
    assert!(elapsed >= TIMEOUT, "too early: {elapsed:?}");
    assert!(elapsed < TIMEOUT + PATIENCE / 2, "too late: {elapsed:?}");
    result
}

fn a_send_on_a_full_ring_times_out(driver: &Driver) {
    both_roles(driver, SMALL, Some(TIMEOUT), |here, _there| {
        fill(&here);
        assert_timed_out(timed(|| wait("send", here.send(packet(0, 8)))), 0);
        assert_timed_out(timed(|| here.send_blocking(packet(0, 8))), 0);
        assert_timed_out(timed(|| wait("send_batch", here.send_batch(&[packet(0, 8)]))), 0);
        assert_timed_out(timed(|| here.send_batch_blocking(&[packet(0, 8)])), 0);
        let (mut tx, _rx) = here.into_split();
        assert_timed_out(timed(|| wait("send", tx.send(packet(0, 8)))), 0);
        assert_timed_out(timed(|| tx.send_blocking(packet(0, 8))), 0);
    });
}

fn a_batch_that_times_out_says_how_many_were_sent(driver: &Driver) {
    for blocking in [false, true] {
        both_roles(driver, SMALL, Some(TIMEOUT), |here, there| {
            let batch: Vec<_> = (0..1000).map(|n| packet(n, 8)).collect();
            let result = timed(|| {
                if blocking {
                    here.send_batch_blocking(&batch)
                } else {
                    wait("send_batch", here.send_batch(&batch))
                }
            });
            let mut received = 0;
            while let Ok(packet) = there.try_recv() {
                assert_eq!(number(&packet), received);
                received += 1;
            }
            assert!(received > 0);
            assert_timed_out(result, usize::try_from(received).unwrap());
        });
    }
}

fn each_queued_sender_has_its_own_deadline(driver: &Driver) {
    both_roles(driver, SMALL, Some(2 * TIMEOUT), |here, _there| {
        fill(&here);
        let here = Arc::new(here);
        let threads: Vec<_> = (0..6)
            .map(|n: u32| {
                let here = here.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(n * TIMEOUT / 4);
                    let begin = Instant::now();
                    let result = if n.is_multiple_of(2) {
                        wait("send", here.send(packet(0, 8)))
                    } else {
                        here.send_blocking(packet(0, 8))
                    };
                    assert_timed_out(result, 0);
                    begin.elapsed()
                })
            })
            .collect();
        for thread in threads {
            let elapsed = join("a queued sender", thread);
            assert!(elapsed >= 2 * TIMEOUT && elapsed < 2 * TIMEOUT + PATIENCE / 2, "{elapsed:?}");
        }
        // All of them have left the queue.
        assert_eq!(here.stats().packets_received, 0);
    });
}

/// The one at the front looks for room by a timer of the end, which those behind it share.
fn the_looks_of_the_first_sender_wake_no_other(driver: &Driver) {
    const SENDERS: u64 = 100;

    for timeout in [None, Some(PATIENCE * 10)] {
        both_roles(driver, SMALL, timeout, |here, there| {
            let filled = fill_with(&here, 1000);
            let mut sends: Vec<_> = (0..SENDERS)
                .map(|n| (Box::pin(here.send(packet(filled + n, 1000))), Woken::counting(), 0))
                .collect();
            for (send, (_, waker), _) in &mut sends {
                assert!(poll_with(send.as_mut(), waker).is_pending());
            }
            // The peer takes so slowly that the first looks by itself in between.
            let (mut taken, mut wakes, mut took) = (0, 0, Instant::now());
            eventually("all are sent", || {
                sends.retain_mut(|(send, (woken, waker), seen)| {
                    let calls = woken.calls();
                    if calls == *seen {
                        return true;
                    }
                    wakes += calls - std::mem::replace(seen, calls);
                    poll_with(send.as_mut(), waker).is_pending()
                });
                if took.elapsed() >= Duration::from_millis(2)
                    && let Ok(packet) = there.try_recv()
                {
                    assert_eq!(number(&packet), taken);
                    (taken, took) = (taken + 1, Instant::now());
                }
                sends.is_empty()
            });
            // Each is woken for its place, and then for room or to look, a few times.
            assert!(wakes < 15 * 100, "{wakes} wakes of {SENDERS} senders");
        });
    }
}

fn a_deadline_counts_before_anybody_connected(driver: &Driver) {
    let dir = Dir::new();
    let face = SpscFace::builder().ring_bytes(SMALL).send_timeout(Some(TIMEOUT)).driver(driver);
    let face = face.create(&dir.name("alone")).unwrap();
    let filled = fill(&face);
    assert_timed_out(timed(|| wait("send", face.send(packet(0, 8)))), 0);
    assert_timed_out(timed(|| face.send_blocking(packet(0, 8))), 0);
    let batch = [packet(filled, 8)];
    assert_timed_out(timed(|| wait("send_batch", face.send_batch(&batch))), 0);
}

fn a_send_with_room_in_time_does_not_time_out(driver: &Driver) {
    both_roles(driver, SMALL, Some(PATIENCE), |here, there| {
        sends_when_there_is_room(&here, &there, |packet| wait("send", here.send(packet)));
        sends_when_there_is_room(&here, &there, |packet| here.send_blocking(packet));
    });
}

/// Fills the ring, sends one packet more, and makes room when the sender has parked.
fn sends_when_there_is_room(
    here: &Endpoint,
    there: &Endpoint,
    send: impl FnOnce(Bytes) -> Result<(), ShmError> + Send,
) {
    let filled = fill(here);
    std::thread::scope(|scope| {
        let before = here.stats().full_stalls;
        let sender = scope.spawn(move || send(packet(filled, 8)));
        eventually("the sender parks", || here.stats().full_stalls > before);
        assert_eq!(number(&there.try_recv().unwrap()), 0);
        sender.join().unwrap().unwrap();
    });
    for n in 1..=filled {
        assert_eq!(number(&there.try_recv().unwrap()), n);
    }
}

fn a_batch_has_one_deadline_for_all(driver: &Driver) {
    both_roles(driver, SMALL, Some(2 * TIMEOUT), |here, there| {
        let batch: Vec<_> = (0..1_000_000).map(|n| packet(n % 1000, 8)).collect();
        let begin = Instant::now();
        std::thread::scope(|scope| {
            // There is always some room, but never enough.
            let sender = scope.spawn(|| wait("send_batch", here.send_batch(&batch)));
            let mut taken = 0;
            while !sender.is_finished() {
                if there.try_recv().is_ok() {
                    taken += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
                assert!(begin.elapsed() < PATIENCE);
            }
            let elapsed = begin.elapsed();
            let Err(ShmError::TimedOut { sent }) = sender.join().unwrap() else {
                panic!("sent a million");
            };
            assert!(sent >= taken && elapsed >= 2 * TIMEOUT);
        });
    });
}

fn without_a_timeout_a_send_waits(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut send = Box::pin(here.send(packet(filled, 8)));
        assert!(poll_once(send.as_mut()).is_pending());
        std::thread::sleep(2 * TIMEOUT);
        assert!(poll_once(send.as_mut()).is_pending());
        there.try_recv().unwrap();
        wait("send", send).unwrap();
    });
}

fn a_timeout_of_zero_does_not_wait(driver: &Driver) {
    both_roles(driver, SMALL, Some(Duration::ZERO), |here, there| {
        for n in 0..100 {
            wait("send", here.send(packet(n, 8))).unwrap();
            here.send_blocking(packet(n, 8)).unwrap();
            there.try_recv().unwrap();
            there.try_recv().unwrap();
        }
        fill(&here);
        assert_timed_out(wait("send", here.send(packet(0, 8))), 0);
        assert_timed_out(here.send_blocking(packet(0, 8)), 0);
    });
}

fn a_timeout_too_long_for_the_clock_waits(driver: &Driver) {
    both_roles(driver, SMALL, Some(Duration::MAX), |here, there| {
        let filled = fill(&here);
        assert!(here.send(packet(0, 8)).now_or_never().is_none());
        std::thread::scope(|scope| {
            let before = here.stats().full_stalls;
            let sender = scope.spawn(|| here.send_blocking(packet(filled, 8)));
            eventually("the sender parks", || here.stats().full_stalls > before);
            there.try_recv().unwrap();
            sender.join().unwrap().unwrap();
        });
    });
}

fn a_sink_has_no_deadline(driver: &Driver) {
    both_roles(driver, SMALL, Some(Duration::from_millis(20)), |here, there| {
        let filled = fill(&here);
        let (mut tx, _rx) = here.into_split();
        wait("feed", tx.feed(packet(filled, 8))).unwrap();
        let flushing = std::thread::spawn(move || wait("flush", tx.flush()));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!flushing.is_finished());
        for n in 0..filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        join("flush", flushing).unwrap();
        assert_eq!(number(&there.try_recv().unwrap()), filled);
    });
}

fn an_end_works_after_a_send_has_timed_out(driver: &Driver) {
    both_roles(driver, SMALL, Some(Duration::from_millis(5)), |here: Endpoint, there| {
        let filled = fill(&here);
        for _ in 0..10 {
            assert_timed_out(wait("send", here.send(packet(0, 8))), 0);
            assert_timed_out(here.send_blocking(packet(0, 8)), 0);
        }
        assert!(!here.is_closed() && !there.is_closed());
        for n in 0..filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
            here.try_send(packet(filled + n, 8)).unwrap();
        }
    });
}

fn a_send_has_its_own_timeout_in_place_of_the_builders(driver: &Driver) {
    // Longer and shorter than the builder's, and where that has none.
    for builders in [None, Some(PATIENCE), Some(Duration::ZERO)] {
        both_roles(driver, SMALL, builders, |here, _there| {
            fill(&here);
            let sent = || wait("send_timeout", here.send_timeout(packet(0, 8), TIMEOUT));
            assert_timed_out(timed(sent), 0);
            assert_timed_out(timed(|| here.send_timeout_blocking(packet(0, 8), TIMEOUT)), 0);
            let (mut tx, _rx) = here.into_split();
            let sent = wait("send_timeout", tx.send_timeout(packet(0, 8), Duration::ZERO));
            assert_timed_out(sent, 0);
            assert_timed_out(timed(|| wait("tx", tx.send_timeout(packet(0, 8), TIMEOUT))), 0);
            assert_timed_out(timed(|| tx.send_timeout_blocking(packet(0, 8), TIMEOUT)), 0);
        });
    }
}

fn a_send_with_its_own_timeout_times_out_in_the_queue_too(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut first = Box::pin(here.send(packet(filled, 8)));
        assert!(poll_once(first.as_mut()).is_pending());
        let sent = || wait("send_timeout", here.send_timeout(packet(0, 8), TIMEOUT));
        assert_timed_out(timed(sent), 0);
        assert_timed_out(timed(|| here.send_timeout_blocking(packet(0, 8), TIMEOUT)), 0);
        // The one at the front has no deadline, and still has its place.
        there.try_recv().unwrap();
        wait("the first send", first).unwrap();
        for n in 1..=filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
    });
}

fn a_packet_that_a_sink_holds_back_counts_in_the_timeout_of_the_next_send(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (mut tx, _rx) = here.into_split();
        wait("feed", tx.feed(packet(filled, 8))).unwrap();
        assert_timed_out(timed(|| wait("tx", tx.send_timeout(packet(0, 8), TIMEOUT))), 0);
        assert_timed_out(timed(|| tx.send_timeout_blocking(packet(0, 8), TIMEOUT)), 0);
        for n in 0..filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        wait("tx", tx.send_timeout(packet(filled + 1, 8), Duration::ZERO)).unwrap();
        assert_eq!(number(&there.try_recv().unwrap()), filled);
        assert_eq!(number(&there.try_recv().unwrap()), filled + 1);
    });
}

fn a_send_with_its_own_timeout_is_sent_when_there_is_room_in_time(driver: &Driver) {
    both_roles(driver, SMALL, Some(Duration::ZERO), |here, there| {
        for timeout in [PATIENCE, Duration::MAX] {
            sends_when_there_is_room(&here, &there, |packet| {
                wait("send_timeout", here.send_timeout(packet, timeout))
            });
            sends_when_there_is_room(&here, &there, |packet| {
                here.send_timeout_blocking(packet, timeout)
            });
        }
    });
}

#[test]
#[should_panic(expected = "resumed after completion")]
fn a_send_that_has_failed_is_not_polled_again() {
    let (face, _descriptor) =
        SpscFace::builder().ring_bytes(SMALL).send_timeout(Some(Duration::ZERO)).pair().unwrap();
    fill(&face);
    let mut send = std::pin::pin!(face.send(packet(1, 8)));
    let sent = wait("send", send.as_mut());
    assert!(matches!(sent, Err(ShmError::TimedOut { sent: 0 })), "{sent:?}");
    let _ = poll_once(send);
}
