//! What is sent arrives once, in order, unchanged, and with few wakes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wakering::{
    CloseReason, Driver, Endpoint, RecvTimeoutError, ShmError, SpscFace, SpscHandle, TryRecvError,
    TrySendError,
};

use crate::common::{
    self, PATIENCE, SMALL, both_roles, eventually, fill, join, number, on_both_backends, packet,
    pair, pair_of, pair_with_timeout, poll_once, wait,
};

on_both_backends!(
    packets_arrive_in_order_and_unchanged,
    both_directions_run_at_once,
    an_empty_packet_is_a_packet,
    every_length_arrives_at_every_alignment,
    the_longest_packet_arrives_at_every_place,
    a_packet_too_large_sends_nothing_of_its_batch,
    a_batch_larger_than_the_ring_arrives,
    an_empty_batch_is_sent_at_once,
    recv_batch_takes_what_is_there_up_to_its_maximum,
    recv_batch_appends_and_waits_for_the_first,
    try_calls_return_at_once,
    the_owner_of_a_packet_may_call_its_end,
    the_blocking_calls_work_like_the_others,
    recv_timeout_gives_up_in_time,
    packets_sent_before_the_connect_arrive,
    a_packet_sent_during_a_connect_wakes_the_application,
    who_has_sent_a_packet_is_connected_and_known,
    stats_add_up,
    stats_count_full_rings_and_wakes,
    a_peer_that_is_awake_gets_no_wake,
    a_park_is_woken_at_most_once,
    a_saturated_stream_hardly_wakes,
    settings_are_what_was_asked_for,
);

fn packets_arrive_in_order_and_unchanged(driver: &Driver) {
    both_roles(driver, 1 << 16, None, |here, there| {
        let len = |n: u64| 8 + usize::try_from(n * 37 % 3000).unwrap();
        let sender = std::thread::spawn(move || {
            for n in 0..20_000 {
                wait("send", here.send(packet(n, len(n)))).unwrap();
            }
        });
        pollster::block_on(async {
            for n in 0..20_000 {
                let received = there.recv().await.unwrap();
                assert_eq!((number(&received), received.len()), (n, len(n)));
            }
            assert_eq!(there.recv().await, None);
        });
        join("sender", sender);
    });
}

fn both_directions_run_at_once(driver: &Driver) {
    let (face, handle) = pair(driver, SMALL);
    let ends = [Arc::new(Endpoint::from(face)), Arc::new(Endpoint::from(handle))];
    let threads: Vec<_> = ends
        .iter()
        .flat_map(|end| {
            let (sender, receiver) = (end.clone(), end.clone());
            let send = std::thread::spawn(move || {
                pollster::block_on(async {
                    for n in 0..20_000 {
                        sender.send(packet(n, 40)).await.unwrap();
                    }
                });
            });
            let receive = std::thread::spawn(move || {
                pollster::block_on(async {
                    for n in 0..20_000 {
                        assert_eq!(number(&receiver.recv().await.unwrap()), n);
                    }
                });
            });
            [send, receive]
        })
        .collect();
    for thread in threads {
        join("one of four", thread);
    }
}

fn an_empty_packet_is_a_packet(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for round in 0..2000 {
            here.try_send(Bytes::new()).unwrap();
            if round % 3 == 0 {
                here.try_send(packet(round, 8)).unwrap();
            }
            assert_eq!(there.try_recv().unwrap(), "");
            if round % 3 == 0 {
                assert_eq!(number(&there.try_recv().unwrap()), round);
            }
        }
        assert_eq!(there.try_recv(), Err(TryRecvError::Empty));
        drop(here);
        assert_eq!(wait("the end", there.recv()), None);
    });
}

fn every_length_arrives_at_every_alignment(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for len in (8..80).chain(1000..=1016) {
            // Shifts what follows by one record.
            here.try_send(Bytes::from_static(b"x")).unwrap();
            here.try_send(packet(len as u64, len)).unwrap();
            here.try_send(packet(7, len)).unwrap();
            assert_eq!(there.try_recv().unwrap(), "x");
            assert_eq!(there.try_recv().unwrap(), packet(len as u64, len));
            assert_eq!(there.try_recv().unwrap(), packet(7, len));
        }
    });
}

fn the_longest_packet_arrives_at_every_place(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        assert_eq!(here.max_packet(), 1016);
        for n in 0..2000 {
            // Moves the place by 16 bytes each round, over the whole ring and its end.
            here.try_send(packet(n, 8)).unwrap();
            here.try_send(packet(n, 1016)).unwrap();
            assert_eq!(there.try_recv().unwrap().len(), 8);
            assert_eq!(there.try_recv().unwrap(), packet(n, 1016));
        }
    });
}

fn a_packet_too_large_sends_nothing_of_its_batch(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let batch = [packet(1, 8), packet(2, 1017), packet(3, 2000)];
        let is_refused =
            |result| matches!(result, Err(ShmError::PacketTooLarge { len: 1017, max: 1016 }));
        assert!(is_refused(wait("send_batch", here.send_batch(&batch))));
        assert!(is_refused(here.send_batch_blocking(&batch)));
        assert!(is_refused(wait("send", here.send(packet(2, 1017)))));
        assert!(is_refused(here.send_blocking(packet(2, 1017))));
        match here.try_send(packet(2, 1017)) {
            Err(TrySendError::TooLarge(back, 1016)) => assert_eq!(back, packet(2, 1017)),
            other => panic!("{other:?}"),
        }
        assert_eq!(there.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(here.stats().packets_sent, 0);

        // The check does not wait for room in a full ring.
        fill(&here);
        assert!(is_refused(here.send_batch_blocking(&batch)));

        let (mut tx, _rx) = here.into_split();
        assert!(is_refused(wait("send_batch", tx.send_batch(&batch))));
        assert!(is_refused(tx.send_batch_blocking(&batch)));
        assert!(is_refused(tx.send_blocking(packet(2, 1017))));
        assert!(matches!(tx.try_send(packet(2, 1017)), Err(TrySendError::TooLarge(_, 1016))));
    });
}

fn a_batch_larger_than_the_ring_arrives(driver: &Driver) {
    for blocking in [false, true] {
        both_roles(driver, SMALL, None, |here, there| {
            let batch: Vec<_> =
                (0..3000).map(|n| packet(n, 8 + usize::try_from(n).unwrap() % 500)).collect();
            let sender = std::thread::spawn(move || {
                if blocking {
                    here.send_batch_blocking(&batch).unwrap();
                } else {
                    pollster::block_on(here.send_batch(&batch)).unwrap();
                }
            });
            for n in 0..3000 {
                assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
            }
            join("the batch", sender);
            assert_eq!(wait("the end", there.recv()), None);
        });
    }
}

fn an_empty_batch_is_sent_at_once(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        assert!(wait("send_batch", here.send_batch(&[])).is_ok());
        fill(&here);
        assert!(wait("on a full ring", here.send_batch(&[])).is_ok());
        assert!(here.send_batch_blocking(&[]).is_ok());
        there.close();
        assert!(matches!(here.send_batch_blocking(&[]), Err(ShmError::Closed { sent: 0, .. })));
    });
}

fn recv_batch_takes_what_is_there_up_to_its_maximum(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..10 {
            here.try_send(packet(n, 8)).unwrap();
        }
        let mut packets = vec![packet(99, 8)];
        assert_eq!(wait("none", there.recv_batch(&mut packets, 0)), 0);
        assert_eq!(wait("some", there.recv_batch(&mut packets, 4)), 4);
        assert_eq!(there.recv_batch_blocking(&mut packets, 0), 0);
        assert_eq!(there.recv_batch_blocking(&mut packets, 3), 3);
        assert_eq!(wait("the rest", there.recv_batch(&mut packets, usize::MAX)), 3);
        let numbers: Vec<_> = packets.iter().map(|packet| number(packet)).collect();
        assert_eq!(numbers, [99, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        here.try_send(packet(10, 8)).unwrap();
        drop(here);
        assert_eq!(wait("the last", there.recv_batch(&mut packets, 9)), 1);
        assert_eq!(wait("the end", there.recv_batch(&mut packets, 9)), 0);
        assert_eq!(there.recv_batch_blocking(&mut packets, 9), 0);
        assert_eq!(packets.len(), 12);
    });
}

fn recv_batch_appends_and_waits_for_the_first(driver: &Driver) {
    for blocking in [false, true] {
        both_roles(driver, SMALL, None, |here, there| {
            let there = Arc::new(there);
            let receiver = there.clone();
            let thread = std::thread::spawn(move || {
                let mut packets = Vec::new();
                let taken = if blocking {
                    receiver.recv_batch_blocking(&mut packets, 100)
                } else {
                    pollster::block_on(receiver.recv_batch(&mut packets, 100))
                };
                (taken, packets)
            });
            eventually("the receiver parks", || there.stats().parks > 0);
            let batch: Vec<_> = (0..5).map(|n| packet(n, 8)).collect();
            here.send_batch_blocking(&batch).unwrap();
            // The first header publishes the whole batch: the receiver sees all or nothing.
            assert_eq!(join("recv_batch", thread), (5, batch));
        });
    }
}

fn try_calls_return_at_once(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        assert_eq!(there.try_recv(), Err(TryRecvError::Empty));
        let filled = fill(&here);
        match here.try_send(packet(9, 8)) {
            Err(TrySendError::Full(back)) => assert_eq!(back, packet(9, 8)),
            other => panic!("{other:?}"),
        }
        // Each taken packet makes room for another of its length, at once.
        for n in 0..1000 {
            assert_eq!(number(&there.try_recv().unwrap()), n);
            here.try_send(packet(n + filled, 8)).unwrap();
            assert!(matches!(here.try_send(packet(0, 8)), Err(TrySendError::Full(_))));
        }
        drop(there);
        match here.try_send(packet(9, 8)) {
            Err(error @ TrySendError::Closed(..)) => assert_eq!(error.into_inner(), packet(9, 8)),
            other => panic!("{other:?}"),
        }
        assert_eq!(here.try_recv(), Err(TryRecvError::Closed(CloseReason::Peer)));
    });
}

/// The owner of a packet's memory, which looks at the end when the memory is free again, as one
/// does that hands out credit.
struct Owner(Arc<Endpoint>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &[7; 100]
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        assert!(self.0.free_bytes() <= self.0.ring_bytes());
    }
}

fn the_owner_of_a_packet_may_call_its_end(driver: &Driver) {
    let (face, handle) = pair(driver, SMALL);
    let (here, there) = (Arc::new(Endpoint::from(face)), handle);
    let calls: [fn(&Endpoint, Bytes); 5] = [
        |end, packet| end.try_send(packet).unwrap(),
        |end, packet| end.send_blocking(packet).unwrap(),
        |end, packet| wait("send", end.send(packet)).unwrap(),
        |end, packet| wait("a batch", end.send_batch(&[packet])).unwrap(),
        // One that does not fit.
        |end, packet| {
            fill(end);
            drop(end.try_send(packet).unwrap_err());
        },
    ];
    for call in calls {
        let (here, packet) = (here.clone(), Bytes::from_owner(Owner(here.clone())));
        join("a call", std::thread::spawn(move || call(&here, packet)));
    }
    assert_eq!(there.try_recv().unwrap(), [7; 100][..]);
}

fn the_blocking_calls_work_like_the_others(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let sender = std::thread::spawn(move || {
            for n in 0..20_000 {
                here.send_blocking(packet(n, 100)).unwrap();
            }
        });
        for n in 0..20_000 {
            let received = if n % 2 == 0 {
                there.recv_blocking().unwrap()
            } else {
                there.recv_timeout(PATIENCE).unwrap()
            };
            assert_eq!(number(&received), n);
        }
        assert_eq!(there.recv_blocking(), None);
        assert_eq!(there.recv_timeout(PATIENCE), Err(RecvTimeoutError::Closed(CloseReason::Peer)));
        join("sender", sender);
    });
}

fn recv_timeout_gives_up_in_time(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for millis in [0, 1, 50] {
            let timeout = Duration::from_millis(millis);
            let begin = Instant::now();
            assert_eq!(there.recv_timeout(timeout), Err(RecvTimeoutError::Timeout));
            assert!(begin.elapsed() >= timeout && begin.elapsed() < PATIENCE);
        }
        here.try_send(packet(1, 8)).unwrap();
        assert_eq!(there.recv_timeout(Duration::ZERO), Ok(packet(1, 8)));
        here.try_send(packet(2, 8)).unwrap();
        assert_eq!(there.recv_timeout(Duration::MAX), Ok(packet(2, 8)));
        // The halves do the same.
        let (_tx, mut rx) = there.into_split();
        assert_eq!(rx.recv_timeout(Duration::from_millis(5)), Err(RecvTimeoutError::Timeout));
        here.try_send(packet(3, 8)).unwrap();
        assert_eq!(rx.recv_timeout(Duration::MAX), Ok(packet(3, 8)));
        here.close();
        assert_eq!(
            rx.recv_timeout(Duration::MAX),
            Err(RecvTimeoutError::Closed(CloseReason::Peer))
        );
    });
}

fn packets_sent_before_the_connect_arrive(driver: &Driver) {
    let dir = common::Dir::new();
    let name = dir.name("early");
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
    assert!(!face.is_connected() && face.peer_credentials().is_none());
    let filled = fill(&face);
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    let peer = wait("connected", face.connected()).unwrap();
    assert!(face.is_connected() && handle.is_connected());
    assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
    assert_eq!(face.peer_credentials(), Some(peer));
    assert_eq!(wait("connected", handle.connected()).unwrap(), peer);
    for n in 0..filled {
        assert_eq!(number(&handle.try_recv().unwrap()), n);
    }

    // This also holds for a face that was closed in order. No application can connect to a face
    // that was dropped, so it is closed here.
    let name = dir.name("closed");
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
    face.try_send(packet(5, 8)).unwrap();
    face.close();
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    assert_eq!(wait("recv", handle.recv()).unwrap(), packet(5, 8));
    assert_eq!(wait("recv", handle.recv()), None);
}

/// The application has the region before the engine has noted its peer. A wake in between used to
/// be lost, once in some thousand connects.
fn a_packet_sent_during_a_connect_wakes_the_application(driver: &Driver) {
    let application = common::driver(driver.backend()).unwrap();
    let dir = common::Dir::new();
    let name = dir.name("early");
    for n in 0..300 {
        let builder = SpscFace::builder().ring_bytes(SMALL);
        let face = builder.driver(driver).create(&name).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let (name, application) = (name.clone(), application.clone());
        let receiver = std::thread::spawn(move || {
            let handle = SpscHandle::builder().driver(&application).connect(&name).unwrap();
            let handle = Arc::new(handle);
            tell.send(handle.clone()).unwrap();
            wait("the first packet", handle.recv()).unwrap()
        });
        let handle = told.recv_timeout(PATIENCE).unwrap();
        let begin = Instant::now();
        while handle.stats().parks == 0 && begin.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        face.try_send(packet(n, 8)).unwrap();
        assert_eq!(number(&join("receiver", receiver)), n);
    }
}

/// The application may be faster than the engine's driver, which has just let it in.
fn who_has_sent_a_packet_is_connected_and_known(driver: &Driver) {
    let dir = common::Dir::new();
    for round in 0..200 {
        let name = dir.name(&format!("fast-{round}"));
        let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
        std::thread::scope(|scope| {
            let application = scope.spawn(|| {
                let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
                handle.try_send(packet(1, 8)).unwrap();
                handle
            });
            let begun = Instant::now();
            while face.try_recv() != Ok(packet(1, 8)) {
                assert!(begun.elapsed() < PATIENCE, "no packet");
            }
            assert!(face.is_connected());
            let peer = face.peer_credentials().unwrap();
            assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
            drop(application.join().unwrap());
        });
    }
}

fn stats_add_up(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let there = Arc::new(there);
        let receiver = there.clone();
        let thread = std::thread::spawn(move || {
            pollster::block_on(async {
                let mut bytes = 0;
                while let Some(packet) = receiver.recv().await {
                    bytes += packet.len() as u64;
                }
                bytes
            })
        });
        let mut bytes = 0;
        for n in 0..5_000 {
            let next = packet(n, 8 + usize::try_from(n).unwrap() % 200);
            bytes += next.len() as u64;
            wait("send", here.send(next)).unwrap();
        }
        let sent = here.stats();
        drop(here);
        assert_eq!(join("receiver", thread), bytes);
        let received = there.stats();
        assert_eq!((sent.packets_sent, sent.bytes_sent), (5_000, bytes));
        assert_eq!((received.packets_received, received.bytes_received), (5_000, bytes));
        assert_eq!((sent.packets_received, received.packets_sent), (0, 0));
        assert!(sent.full_stalls <= sent.parks);
        assert_eq!((received.full_stalls, received.bytes_sent), (0, 0));
    });
}

fn stats_count_full_rings_and_wakes(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let fits = fill(&here);
        assert_eq!(here.stats().full_stalls, 0, "no sender has slept");
        let mut send = pin!(here.send(packet(fits, 8)));
        assert!(poll_once(send.as_mut()).is_pending());
        let parked = here.stats();
        assert_eq!((parked.full_stalls, parked.parks), (1, 1));
        assert_eq!((parked.wakes_sent, parked.packets_sent), (0, fits));
        while there.try_recv().is_ok() {}
        assert_eq!(there.stats().wakes_sent, 1);
        eventually("the driver looks", || here.stats().wakes_received > 0);
        wait("send", send).unwrap();
        assert_eq!(here.stats().full_stalls, 1);

        let mut recv = pin!(here.recv());
        assert!(poll_once(recv.as_mut()).is_pending());
        let parked = here.stats();
        assert_eq!((parked.full_stalls, parked.parks), (1, 2));
        there.try_send(packet(0, 8)).unwrap();
        assert_eq!(there.stats().wakes_sent, 2);
        assert_eq!(number(&wait("recv", recv).unwrap()), 0);
    });
}

fn a_peer_that_is_awake_gets_no_wake(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..10_000 {
            here.try_send(packet(n, 8)).unwrap();
            there.try_recv().unwrap();
        }
        assert_eq!((here.stats().wakes_sent, there.stats().wakes_sent), (0, 0));
        assert_eq!((here.stats().parks, there.stats().parks), (0, 0));
    });
}

fn a_park_is_woken_at_most_once(driver: &Driver) {
    let (face, handle) = pair_with_timeout(driver, SMALL, None);
    let (face, handle) = (Arc::new(face), Arc::new(handle));
    let echo = face.clone();
    let thread = std::thread::spawn(move || {
        pollster::block_on(async {
            while let Some(packet) = echo.recv().await {
                echo.send(packet).await.unwrap();
            }
        });
    });
    for n in 0..2_000 {
        // Round trips, and bursts that fill the ring.
        let burst = if n % 100 == 0 { 150 } else { 1 };
        for _ in 0..burst {
            wait("send", handle.send(packet(n, 8))).unwrap();
        }
        for _ in 0..burst {
            assert_eq!(number(&wait("recv", handle.recv()).unwrap()), n);
        }
    }
    let (here, there) = (handle.stats(), face.stats());
    assert!(here.wakes_sent <= there.parks, "{here:?} {there:?}");
    assert!(there.wakes_sent <= here.parks, "{here:?} {there:?}");
    handle.close();
    join("echo", thread);
}

/// The receiver is the slower side, so the sender parks on a full ring. This ring holds a thousand
/// packets or more. The receiver gives it back in large pieces, so larger packets mean fewer
/// packets to a wake. With a much slower receiver, the sender would look by itself each
/// millisecond, and the wakes would depend on time rather than on packets.
fn a_saturated_stream_hardly_wakes(driver: &Driver) {
    const PACKETS: u64 = 40_000;
    /// How far the receiver stays behind, so that it never sleeps, even where other processes leave
    /// little time to the sender.
    const BEHIND: u64 = 200;
    for len in [8, 100, 900] {
        let ring = SpscFace::builder().ring_bytes(1 << 20);
        let (face, handle) = pair_of(driver, ring, SpscHandle::builder().send_timeout(None));
        let sent = Arc::new(AtomicU64::new(0));
        let progress = sent.clone();
        let receiver = std::thread::spawn(move || {
            pollster::block_on(async {
                for n in 0..PACKETS {
                    while progress.load(Ordering::Relaxed) < PACKETS.min(n + BEHIND) {
                        std::thread::yield_now();
                    }
                    assert_eq!(face.recv().await.unwrap()[..8], n.to_le_bytes());
                    let busy = Instant::now();
                    while busy.elapsed() < Duration::from_micros(2) {}
                }
            });
            face.stats()
        });
        let mut bytes = packet(0, len).to_vec();
        pollster::block_on(async {
            for n in 0..PACKETS {
                bytes[..8].copy_from_slice(&n.to_le_bytes());
                handle.send(Bytes::copy_from_slice(&bytes)).await.unwrap();
                sent.store(n + 1, Ordering::Relaxed);
            }
        });
        let (received, sent) = (join("receiver", receiver), handle.stats());
        #[allow(clippy::cast_precision_loss, reason = "they are few")]
        let wakes = (sent.wakes_sent + received.wakes_sent) as f64 / PACKETS as f64;
        eprintln!("{} {len} B: {wakes} wakes a packet", driver.backend());
        assert!(wakes < 0.01, "{wakes} wakes a packet of {len} bytes: {sent:?} {received:?}");
    }
}

fn settings_are_what_was_asked_for(driver: &Driver) {
    let dir = common::Dir::new();
    let face = SpscFace::builder().max_packet(300).ring_bytes(8192).prefault(true).driver(driver);
    let face = face.create(&dir.name("one")).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(&dir.name("one")).unwrap();
    for end in [&*face, &*handle] {
        assert_eq!((end.max_packet(), end.ring_bytes()), (300, 8192));
    }
    assert!(handle.try_send(packet(0, 301)).is_err());
    let face = SpscFace::create_for_mtu(&dir.name("two"), 1 << 20).unwrap();
    assert_eq!((face.max_packet(), face.ring_bytes()), (1 << 20, 1 << 23));
    let face = SpscFace::create(&dir.name("three")).unwrap();
    assert_eq!((face.max_packet(), face.ring_bytes()), ((1 << 20) - 8, 1 << 22));
}
