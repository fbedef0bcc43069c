//! Cancellers, and futures that are dropped before they are done.

mod common;

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use common::{
    Dir, SMALL, both_roles, fill, join, number, on_both_backends, packet, pair, poll_once, wait,
};
use futures::FutureExt;
use proptest::prelude::{ProptestConfig, any, proptest};
use wakering::{Canceller, CloseReason, Driver, Endpoint, SpscFace, SpscHandle, TryRecvError};

on_both_backends!(
    one_canceller_ends_many_ends,
    an_end_has_any_number_of_cancellers,
    a_used_canceller_ends_what_it_is_given,
    a_canceller_keeps_no_end_alive,
    a_canceller_leaves_a_dropped_end_alone,
    a_canceller_reaches_an_end_that_was_split,
    cancel_on_cancels_when_its_future_is_through,
    a_cancel_races_a_new_end_and_wins,
    a_cancel_right_before_a_drop_is_no_orderly_end,
    dropping_recv_loses_no_packet,
    dropping_recv_batch_leaves_its_vec_alone,
    dropping_send_sends_nothing,
    dropping_send_batch_has_sent_a_prefix,
    dropping_a_parked_send_passes_the_turn_on,
    dropping_closed_and_connected_changes_nothing,
    dropping_connect_async_hangs_up,
    futures_dropped_at_random_lose_and_double_nothing,
);

fn one_canceller_ends_many_ends(driver: &Driver) {
    let canceller = Canceller::new();
    let pairs: Vec<_> = (0..20).map(|_| pair(driver, SMALL)).collect();
    for (n, (face, handle)) in pairs.iter().enumerate() {
        if n % 2 == 0 { face.set_cancel(&canceller) } else { handle.set_cancel(&canceller) }
    }
    std::thread::scope(|scope| {
        let waiting: Vec<_> = pairs
            .iter()
            .flat_map(|(face, handle)| [&**face, &**handle])
            .map(|end: &Endpoint| scope.spawn(|| (wait("recv", end.recv()), end.close_reason())))
            .collect();
        let clone = canceller.clone();
        assert!(!clone.is_cancelled());
        clone.cancel();
        assert!(canceller.is_cancelled());
        canceller.cancel();
        for end in waiting {
            assert_eq!(end.join().unwrap(), (None, Some(CloseReason::Cancelled)));
        }
    });
}

fn an_end_has_any_number_of_cancellers(driver: &Driver) {
    for which in 0..3 {
        both_roles(driver, SMALL, None, |here, there| {
            let cancellers: [Canceller; 3] = std::array::from_fn(|_| here.canceller());
            cancellers[which].cancel();
            assert_eq!(here.close_reason(), Some(CloseReason::Cancelled));
            assert_eq!(there.close_reason(), Some(CloseReason::Cancelled));
            for canceller in cancellers {
                canceller.cancel();
            }
        });
    }
}

fn a_used_canceller_ends_what_it_is_given(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let canceller = Canceller::new();
        canceller.cancel();
        here.set_cancel(&canceller);
        assert_eq!(here.close_reason(), Some(CloseReason::Cancelled));
        assert_eq!(wait("recv", there.recv()), None);
        assert_eq!(there.close_reason(), Some(CloseReason::Cancelled));
    });
}

fn a_canceller_keeps_no_end_alive(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let canceller = here.canceller();
        drop(here);
        assert_eq!(wait("recv", there.recv()), None);
        assert_eq!(there.close_reason(), Some(CloseReason::Peer));
        canceller.cancel();
        assert!(canceller.is_cancelled());
    });
    // Not even its own list grows with the ends that are gone.
    let canceller = Canceller::new();
    let dir = Dir::new();
    let name = dir.name("again");
    for _ in 0..50 {
        let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
        face.set_cancel(&canceller);
    }
    assert!(!canceller.is_cancelled());
}

fn a_canceller_leaves_a_dropped_end_alone(driver: &Driver) {
    for _ in 0..100 {
        both_roles(driver, SMALL, None, |here, there| {
            let canceller = here.canceller();
            let filled = fill(&here);
            wait("the whole", canceller.cancel_on(async move { drop(here) }));
            for n in 0..filled {
                assert_eq!(number(&there.try_recv().expect("cut off")), n);
            }
            assert_eq!(wait("recv", there.recv()), None);
            assert_eq!(there.close_reason(), Some(CloseReason::Peer));
        });
    }
}

fn a_canceller_reaches_an_end_that_was_split(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let canceller = here.canceller();
        let (tx, rx) = here.into_split();
        let (of_tx, of_rx) = (tx.canceller(), rx.canceller());
        drop(tx);
        let receiver = std::thread::spawn(move || {
            let mut rx = rx;
            (wait("recv", rx.recv()), rx.close_reason())
        });
        of_tx.cancel();
        assert_eq!(join("receiver", receiver), (None, Some(CloseReason::Cancelled)));
        assert!(there.is_closed());
        of_rx.cancel();
        canceller.cancel();
    });
}

fn cancel_on_cancels_when_its_future_is_through(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let mut future =
            Box::pin(here.canceller().cancel_on(async { there.recv().await.unwrap() }));
        assert!(poll_once(future.as_mut()).is_pending());
        assert!(!here.is_closed());
        // Dropped before that, it cancels nothing.
        drop(future);
        assert!(!here.is_closed());
        here.try_send(packet(1, 8)).unwrap();
        let future = here.canceller().cancel_on(async { there.recv().await.unwrap() });
        assert_eq!(wait("cancel_on", future), packet(1, 8));
        assert_eq!(here.close_reason(), Some(CloseReason::Cancelled));
        assert_eq!(there.close_reason(), Some(CloseReason::Cancelled));
    });
}

fn a_cancel_right_before_a_drop_is_no_orderly_end(driver: &Driver) {
    use std::sync::Barrier;
    for round in 0..400 {
        let (face, handle) = pair(driver, SMALL);
        let (here, there): (Endpoint, Endpoint) = if round % 2 == 0 {
            (face.into(), handle.into())
        } else {
            (handle.into(), face.into())
        };
        let begin = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begin.wait();
                here.cancel();
                drop(here);
            });
            begin.wait();
            // Looks between any two of the other's stores.
            let ended = loop {
                if there.try_recv() == Err(TryRecvError::Closed) {
                    break there.close_reason();
                }
            };
            assert_eq!(ended, Some(CloseReason::Cancelled), "round {round}");
        });
    }
}

fn a_cancel_races_a_new_end_and_wins(driver: &Driver) {
    for _ in 0..100 {
        both_roles(driver, SMALL, None, |here, _there| {
            let canceller = Canceller::new();
            let clone = canceller.clone();
            let thread = std::thread::spawn(move || clone.cancel());
            here.set_cancel(&canceller);
            thread.join().unwrap();
            assert_eq!(here.close_reason(), Some(CloseReason::Cancelled));
        });
    }
}

fn dropping_recv_loses_no_packet(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..2000 {
            let mut recv = Box::pin(there.recv());
            assert!(poll_once(recv.as_mut()).is_pending());
            if n % 2 == 0 {
                drop(recv);
                here.try_send(packet(n, 8)).unwrap();
            } else {
                // Woken, perhaps, and dropped all the same.
                here.try_send(packet(n, 8)).unwrap();
                drop(recv);
            }
            // Not polled: nothing taken.
            drop(there.recv());
            assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
        }
        assert_eq!(there.try_recv(), Err(TryRecvError::Empty));
    });
}

fn dropping_recv_batch_leaves_its_vec_alone(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let mut packets = vec![packet(7, 8)];
        for n in 0..500 {
            let mut recv = Box::pin(there.recv_batch(&mut packets, 10));
            assert!(poll_once(recv.as_mut()).is_pending());
            here.try_send(packet(n, 8)).unwrap();
            drop(recv);
            assert_eq!(packets, [packet(7, 8)]);
            assert_eq!(there.try_recv(), Ok(packet(n, 8)));
        }
    });
}

fn dropping_send_sends_nothing(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        for _ in 0..500 {
            let mut send = Box::pin(here.send(packet(999, 8)));
            assert!(poll_once(send.as_mut()).is_pending());
            drop(send);
            drop(here.send(packet(999, 8)));
        }
        // With room made, but not polled again.
        let mut send = Box::pin(here.send(packet(999, 8)));
        assert!(poll_once(send.as_mut()).is_pending());
        assert_eq!(number(&there.try_recv().unwrap()), 0);
        drop(send);
        here.try_send(packet(filled, 8)).unwrap();
        for n in 1..=filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        assert_eq!(there.try_recv(), Err(TryRecvError::Empty));
    });
}

fn dropping_send_batch_has_sent_a_prefix(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let batch: Vec<_> = (0..1000).map(|n| packet(n, 8)).collect();
        for polls in 1..6 {
            let mut send = Box::pin(here.send_batch(&batch));
            let mut next = 0;
            for _ in 0..polls {
                assert!(poll_once(send.as_mut()).is_pending());
                for _ in 0..30 {
                    assert_eq!(number(&there.try_recv().unwrap()), next);
                    next += 1;
                }
            }
            drop(send);
            // The rest of the prefix, then what is sent next.
            wait("send", here.send(packet(5000, 8))).unwrap();
            loop {
                let received = number(&there.try_recv().unwrap());
                if received == 5000 {
                    break;
                }
                assert_eq!(received, next);
                next += 1;
            }
            assert!(next < 1000);
            assert_eq!(there.try_recv(), Err(TryRecvError::Empty));
        }
    });
}

fn dropping_a_parked_send_passes_the_turn_on(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut sends: Vec<_> = (0..10).map(|n| Box::pin(here.send(packet(1000 + n, 8)))).collect();
        for send in &mut sends {
            assert!(poll_once(send.as_mut()).is_pending());
        }
        // The one that has the turn, one in the middle, and the last.
        drop(sends.remove(9));
        drop(sends.remove(4));
        drop(sends.remove(0));
        let here = &here;
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || {
                wait("the rest", futures::future::join_all(sends)).into_iter().all(|r| r.is_ok())
            });
            for n in 0..filled {
                assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
            }
            for n in [1, 2, 3, 5, 6, 7, 8] {
                assert_eq!(number(&wait("recv", there.recv()).unwrap()), 1000 + n);
            }
            assert!(sending.join().unwrap());
        });
        here.try_send(packet(1, 8)).unwrap();
    });
}

fn dropping_closed_and_connected_changes_nothing(driver: &Driver) {
    let dir = Dir::new();
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(driver);
    let face = builder.create(&dir.name("face")).unwrap();
    for _ in 0..100 {
        assert!(face.connected().now_or_never().is_none());
        assert!(face.closed().now_or_never().is_none());
    }
    let connected = std::thread::scope(|scope| {
        let connected = scope.spawn(|| wait("connected", face.connected()));
        drop(SpscHandle::builder().driver(driver).connect(&dir.name("face")).unwrap());
        connected.join().unwrap()
    });
    assert!(connected.is_ok());
    assert_eq!(wait("closed", face.closed()), CloseReason::Peer);
}

fn dropping_connect_async_hangs_up(driver: &Driver) {
    // Nobody answers: the future can be dropped at any point, and the next one finds an engine.
    let dir = Dir::new();
    let name = dir.name("face");
    for round in 0..50 {
        let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
        let mut connect = Box::pin(SpscHandle::builder().driver(driver).connect_async(&name));
        match poll_once(connect.as_mut()) {
            Poll::Ready(handle) => drop(handle.unwrap()),
            Poll::Pending => {
                if round % 2 == 0 {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        }
        drop(connect);
        // Either it was not seen at all, or the face is used up and over.
        match SpscHandle::builder().driver(driver).connect(&name) {
            Ok(handle) => {
                face.try_send(packet(1, 8)).unwrap();
                assert_eq!(wait("recv", handle.recv()), Some(packet(1, 8)));
            }
            Err(wakering::ShmError::Busy) => {
                assert_eq!(wait("recv", face.recv()), None);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Sends and receives whose futures are polled a few times and dropped, as chance has it.
fn futures_dropped_at_random_lose_and_double_nothing(driver: &Driver) {
    let ends = pair(driver, SMALL);
    let (face, handle) = (&Endpoint::from(ends.0), &Endpoint::from(ends.1));
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in proptest::collection::vec(any::<u8>(), 1..300))| {
        let (mut sent, mut received) = (0, 0);
        for step in steps {
            let polls = step >> 4;
            match step % 4 {
                0 | 1 => {
                    let mut send = Box::pin(face.send(packet(sent, 8 + usize::from(step))));
                    let done = (0..=polls).any(|_| poll_once(send.as_mut()).is_ready());
                    sent += u64::from(done);
                }
                2 => {
                    let batch: Vec<Bytes> =
                        (0..u64::from(polls)).map(|n| packet(sent + n, 100)).collect();
                    let before = face.stats().packets_sent;
                    let mut send = Box::pin(face.send_batch(&batch));
                    let done = poll_once(send.as_mut()).is_ready();
                    drop(send);
                    let now = face.stats().packets_sent - before;
                    assert_eq!(done, now == batch.len() as u64);
                    sent += now;
                }
                _ => {
                    let mut packets = Vec::new();
                    let mut recv = Box::pin(handle.recv_batch(&mut packets, usize::from(polls) + 1));
                    let done = poll_once(recv.as_mut()).is_ready();
                    drop(recv);
                    assert_eq!(done, !packets.is_empty());
                    for packet in packets {
                        assert_eq!(number(&packet), received);
                        received += 1;
                    }
                }
            }
        }
        while let Ok(packet) = handle.try_recv() {
            assert_eq!(number(&packet), received);
            received += 1;
        }
        assert_eq!(received, sent);
    });
}

#[test]
fn an_idle_canceller_can_be_shared_and_dropped() {
    let canceller = Arc::new(Canceller::new());
    assert!(!canceller.is_cancelled());
    assert_eq!(wait("a value", Canceller::clone(&canceller).cancel_on(async { 5 })), 5);
    assert!(canceller.is_cancelled());
}
