//! Lent `Bytes`: parts of the ring that go from task to task.

use std::mem;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use wakering::{Driver, TryRecvError};

use super::{halves, lend, small_halves};
use crate::common::{
    PATIENCE, SMALL, both_roles, fill_with, join, number, on_both_backends, packet, wait,
};

on_both_backends!(
    lent_bytes_give_room_back_oldest_first,
    lent_bytes_outlive_the_channel,
    lent_bytes_that_are_dropped_wake_a_parked_sender,
    a_stream_is_lent_and_dropped_in_any_order_on_any_thread,
    two_sleepers_do_not_wake_each_other_over_lent_bytes,
);

fn lent_bytes_give_room_back_oldest_first(driver: &Driver) {
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let all = tx.free_bytes();
    for n in 0..4 {
        tx.try_send(packet(n, 504)).unwrap();
    }
    let one = lend(rx.try_recv_ref().unwrap());
    assert_eq!(number(&rx.try_recv().unwrap()), 1);
    let two = lend(rx.try_recv_ref().unwrap());
    let three = lend(rx.try_recv_ref().unwrap());
    assert_eq!(tx.free_bytes(), all - 4 * 512);
    drop(two);
    assert_eq!(tx.free_bytes(), all - 4 * 512, "the oldest is out");
    let part = one.slice(8..16);
    drop(one);
    assert_eq!(tx.free_bytes(), all - 4 * 512, "a part of the oldest is out");
    drop(part);
    assert_eq!(tx.free_bytes(), all - 512, "but for the last");
    // A packet after one that is still lent keeps its room, whatever happens to it.
    tx.try_send(packet(4, 504)).unwrap();
    mem::forget(rx.try_recv_ref().unwrap());
    assert_eq!(rx.try_recv_ref().unwrap_err(), TryRecvError::Empty);
    assert_eq!(tx.free_bytes(), all - 2 * 512);
    assert_eq!(number(&three), 3);
    drop(three);
    assert_eq!(tx.free_bytes(), all);
    // An empty packet needs no room.
    tx.try_send(Bytes::new()).unwrap();
    let nothing = lend(rx.try_recv_ref().unwrap());
    assert_eq!((nothing.len(), tx.free_bytes()), (0, all));
}

fn lent_bytes_outlive_the_channel(driver: &Driver) {
    let (mut tx, mut rx, unused) = small_halves(driver);
    for n in 0..3 {
        tx.try_send(packet(n, 504)).unwrap();
    }
    let mut lent: Vec<_> = (0..3).map(|_| lend(rx.try_recv_ref().unwrap())).collect();
    drop(rx);
    assert_eq!(number(&lent.remove(0)), 0);
    drop(tx);
    drop(unused);
    let thread = std::thread::spawn(move || {
        assert_eq!(number(&lent.pop().unwrap()), 2);
        assert_eq!(number(&lent.pop().unwrap()), 1);
    });
    join("the one that drops them", thread);
}

fn lent_bytes_that_are_dropped_wake_a_parked_sender(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let len = 504;
        let filled = fill_with(&here, len);
        let (mut tx, mut rx, _unused) = halves(here, there);
        let (begun, begins) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            for n in 0..40 {
                begun.send(()).unwrap();
                let next = packet(filled + n, len);
                match n % 3 {
                    0 => wait("send", tx.send(next)).unwrap(),
                    1 => tx.send_blocking(next).unwrap(),
                    _ => {
                        let mut grant = wait("reserve", tx.reserve(len)).unwrap();
                        grant.put(next);
                        grant.commit().unwrap();
                    }
                }
            }
            tx
        });
        for n in 0..40 {
            let bytes = lend(rx.try_recv_ref().unwrap());
            begins.recv_timeout(PATIENCE).expect("the parked sender hangs");
            if n % 3 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            let dropper = std::thread::spawn(move || assert_eq!(number(&bytes), n));
            join("the one that drops it", dropper);
        }
        let tx = join("sender", sender);
        assert!(tx.stats().full_stalls > 0);
    });
}

fn a_stream_is_lent_and_dropped_in_any_order_on_any_thread(driver: &Driver) {
    const PACKETS: u64 = 6_000;
    let len = |n: u64| 8 + usize::try_from(n * 37 % 500).unwrap();
    let (mut tx, mut rx, _unused) = small_halves(driver);
    let sender = std::thread::spawn(move || {
        for n in 0..PACKETS {
            wait("send", tx.send(packet(n, len(n)))).unwrap();
        }
    });
    let droppers: Vec<_> = (0..2)
        .map(|_| {
            let (give, given) = std::sync::mpsc::channel::<(u64, Bytes)>();
            let thread = std::thread::spawn(move || {
                let mut kept = Vec::new();
                while let Ok((n, bytes)) = given.recv() {
                    kept.push((n, bytes));
                    // Drops everything that has come meanwhile, the last first.
                    kept.extend(given.try_iter());
                    while let Some((n, bytes)) = kept.pop() {
                        assert_eq!(number(&bytes), n);
                    }
                }
            });
            (give, thread)
        })
        .collect();
    for n in 0..PACKETS {
        let packet = wait("recv_ref", rx.recv_ref()).unwrap();
        assert_eq!(packet.len(), len(n));
        match n % 5 {
            0 => assert_eq!(number(&packet.to_bytes()), n),
            which => {
                let (give, _) = &droppers[usize::try_from(which).unwrap() % 2];
                give.send((n, lend(packet))).unwrap();
            }
        }
    }
    join("sender", sender);
    for (give, thread) in droppers {
        drop(give);
        join("the one that drops them", thread);
    }
    assert!(wait("the end", rx.recv_ref()).is_none());
}

/// The receiver waits for packets, and the sender for room that is lent. Neither can help the
/// other.
fn two_sleepers_do_not_wake_each_other_over_lent_bytes(driver: &Driver) {
    for blocking in [false, true] {
        let (mut tx, mut rx, _unused) = small_halves(driver);
        let mut filled = 0;
        while tx.try_send(packet(filled, 504)).is_ok() {
            filled += 1;
        }
        let lent: Vec<_> = (0..filled).map(|_| lend(rx.try_recv_ref().unwrap())).collect();
        let wakes = std::sync::Arc::new(std::sync::Mutex::new((0, 0)));
        let seen = wakes.clone();
        let receiver = std::thread::spawn(move || {
            let packet = if blocking { rx.recv_blocking() } else { wait("recv", rx.recv()) };
            assert_eq!(number(&packet.unwrap()), filled);
            seen.lock().unwrap().0 = rx.stats().wakes_sent;
            rx
        });
        let seen = wakes.clone();
        let sender = std::thread::spawn(move || {
            let next = packet(filled, 504);
            if blocking {
                tx.send_blocking(next).unwrap();
            } else {
                wait("send", tx.send(next)).unwrap();
            }
            seen.lock().unwrap().1 = tx.stats().wakes_sent;
            tx
        });
        // Long enough for the wakes that a faulty library would send.
        std::thread::sleep(Duration::from_millis(150));
        drop(lent);
        let (_tx, _rx) = (join("sender", sender), join("receiver", receiver));
        let (by_receiver, by_sender) = *wakes.lock().unwrap();
        assert!(by_receiver + by_sender < 20, "{by_receiver} and {by_sender} wakes");
    }
}
