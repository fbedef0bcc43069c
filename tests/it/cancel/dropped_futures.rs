//! Futures that are dropped before they are ready.

use std::task::Poll;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use proptest::prelude::{ProptestConfig, any, proptest};
use wakering::{CloseReason, Driver, Endpoint, SpscFace, SpscHandle, TryRecvError};

use crate::common::{
    Dir, SMALL, both_roles, fill, number, on_both_backends, packet, pair, poll_once, wait,
};

on_both_backends!(
    dropping_recv_loses_no_packet,
    dropping_recv_batch_leaves_its_vec_alone,
    dropping_send_sends_nothing,
    dropping_send_batch_has_sent_a_prefix,
    dropping_a_parked_send_passes_its_place_on,
    dropping_closed_and_connected_changes_nothing,
    dropping_connect_async_hangs_up,
    futures_dropped_at_random_lose_and_double_nothing,
);

fn dropping_recv_loses_no_packet(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..2000 {
            let mut recv = Box::pin(there.recv());
            assert!(poll_once(recv.as_mut()).is_pending());
            if n % 2 == 0 {
                drop(recv);
                here.try_send(packet(n, 8)).unwrap();
            } else {
                // The future may have been woken, and is dropped anyway.
                here.try_send(packet(n, 8)).unwrap();
                drop(recv);
            }
            // A future that was never polled takes nothing.
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
        // The future is not polled again after there is room.
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
            // Receives the rest of the prefix, and then what is sent next.
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

fn dropping_a_parked_send_passes_its_place_on(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut sends: Vec<_> = (0..10).map(|n| Box::pin(here.send(packet(1000 + n, 8)))).collect();
        for send in &mut sends {
            assert!(poll_once(send.as_mut()).is_pending());
        }
        // Drops the first in the queue, one in the middle, and the last.
        drop(sends.remove(9));
        drop(sends.remove(4));
        drop(sends.remove(0));
        let here = &here;
        thread::scope(|scope| {
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
    let connected = thread::scope(|scope| {
        let connected = scope.spawn(|| wait("connected", face.connected()));
        drop(SpscHandle::builder().driver(driver).connect(&dir.name("face")).unwrap());
        connected.join().unwrap()
    });
    assert!(connected.is_ok());
    assert_eq!(wait("closed", face.closed()), CloseReason::Peer);
}

fn dropping_connect_async_hangs_up(driver: &Driver) {
    // No engine answers, so the future can be dropped at any point. The next connect finds an
    // engine.
    let dir = Dir::new();
    let name = dir.name("face");
    for round in 0..50 {
        let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
        let mut connect = Box::pin(SpscHandle::builder().driver(driver).connect_async(&name));
        match poll_once(connect.as_mut()) {
            Poll::Ready(handle) => drop(handle.unwrap()),
            Poll::Pending => {
                if round % 2 == 0 {
                    thread::sleep(Duration::from_micros(100));
                }
            }
        }
        drop(connect);
        // Either the face did not see that client at all, or its channel is over.
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

/// Sends and receives whose futures are polled a few times and dropped, at random.
fn futures_dropped_at_random_lose_and_double_nothing(driver: &Driver) {
    let ends = pair(driver, SMALL);
    let (face, handle) = (&Endpoint::from(ends.0), &Endpoint::from(ends.1));
    // This includes empty batches that come when the budget is used up.
    poll_and_drop(face, handle, [0, 3, 2].repeat(1000));
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in proptest::collection::vec(any::<u8>(), 1..300))| {
        poll_and_drop(face, handle, steps);
    });
}

/// Each step chooses a call, and how often its future is polled before it is dropped.
fn poll_and_drop(face: &Endpoint, handle: &Endpoint, steps: Vec<u8>) {
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
                // An empty batch is pending too when the budget is used up.
                assert!(done == (now == batch.len() as u64) || batch.is_empty());
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
}
