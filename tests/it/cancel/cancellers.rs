//! Cancellers, and drops that cancel.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Barrier};
use std::thread;

use futures::{FutureExt, SinkExt, StreamExt, stream};
use wakering::{Canceller, CloseReason, Driver, Endpoint, SpscFace, TryRecvError, TrySendError};

use crate::common::{
    self, Dir, SMALL, both_roles, fill, join, number, on_both_backends, packet, pair, poll_once,
    wait,
};

on_both_backends!(
    one_canceller_ends_many_ends,
    an_end_has_any_number_of_cancellers,
    a_used_canceller_ends_what_it_is_given,
    each_of_two_cancels_at_once_returns_after_the_ends,
    a_canceller_keeps_no_end_alive,
    a_canceller_leaves_a_dropped_end_alone,
    a_canceller_reaches_an_end_that_was_split,
    cancel_on_cancels_when_its_future_is_done,
    a_cancel_races_a_new_end_and_wins,
    a_cancel_right_before_a_drop_is_no_orderly_end,
    a_drop_in_a_panic_cancels_both_directions,
    a_close_before_the_panic_makes_it_an_orderly_drop,
    a_receiver_dropped_in_a_panic_ends_its_own_direction,
    an_end_in_an_arc_is_cancelled_by_a_panic_only_if_that_drops_it,
    a_panic_that_is_caught_before_the_drop_needs_cancel_on_drop,
    a_task_that_panics_in_an_executor_cancels_what_it_owns,
    cancel_on_drop_cancels_whatever_is_not_closed,
    cancel_on_drop_spares_what_was_closed,
    cancel_on_drop_goes_with_the_sender,
    a_pipeline_with_cancel_on_drop_fails_at_both_its_ends,
);

fn one_canceller_ends_many_ends(driver: &Driver) {
    let canceller = Canceller::new();
    let pairs: Vec<_> = (0..20).map(|_| pair(driver, SMALL)).collect();
    for (n, (face, handle)) in pairs.iter().enumerate() {
        if n % 2 == 0 { face.set_cancel(&canceller) } else { handle.set_cancel(&canceller) }
    }
    thread::scope(|scope| {
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

fn each_of_two_cancels_at_once_returns_after_the_ends(driver: &Driver) {
    for _ in 0..20 {
        let canceller = Canceller::new();
        let pairs: Vec<_> = (0..50).map(|_| pair(driver, SMALL)).collect();
        pairs.iter().for_each(|(face, _)| face.set_cancel(&canceller));
        let both = Barrier::new(2);
        let cancel = || {
            both.wait();
            canceller.cancel();
            assert!(pairs.iter().all(|(face, _)| face.is_closed()));
        };
        thread::scope(|scope| {
            scope.spawn(cancel);
            cancel();
        });
    }
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
    // The canceller's own list does not grow with the ends that are gone either.
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
        let receiver = thread::spawn(move || {
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

fn cancel_on_cancels_when_its_future_is_done(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let mut future =
            Box::pin(here.canceller().cancel_on(async { there.recv().await.unwrap() }));
        assert!(poll_once(future.as_mut()).is_pending());
        assert!(!here.is_closed());
        // A future that is dropped before it is done cancels nothing.
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
        thread::scope(|scope| {
            scope.spawn(|| {
                begin.wait();
                here.cancel();
                drop(here);
            });
            begin.wait();
            // Looks between any two stores of the other thread.
            let ended = loop {
                if let Err(TryRecvError::Closed(reason)) = there.try_recv() {
                    break reason;
                }
            };
            assert_eq!(ended, CloseReason::Cancelled, "round {round}");
            assert_eq!(there.close_reason(), Some(ended), "round {round}");
        });
    }
}

/// Panics in a thread that owns `what`.
fn panic_with<T: Send + 'static>(what: T) {
    let thread = thread::spawn(move || {
        let _what = what;
        // Unwinds as a panic does, without printing a message.
        std::panic::resume_unwind(Box::new("in the middle of the stream"));
    });
    assert!(thread.join().is_err());
}

fn assert_ended(end: &Endpoint, expected: CloseReason) {
    assert_eq!(end.try_recv(), Err(TryRecvError::Closed(expected)));
    assert_eq!(wait("closed", end.closed()), expected);
    match end.try_send(packet(0, 8)) {
        Err(TrySendError::Closed(_, reason)) => assert_eq!(reason, expected),
        other => panic!("{other:?}"),
    }
}

/// Asserts that everything that `end` sent is there, and then an orderly end.
fn assert_complete(end: &Endpoint, sent: u64) {
    for n in 0..sent {
        assert_eq!(number(&end.try_recv().expect("cut off")), n);
    }
    assert_eq!(wait("recv", end.recv()), None);
    assert_eq!(end.finished(), Some(Ok(())));
}

fn a_drop_in_a_panic_cancels_both_directions(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        fill(&here);
        fill(&there);
        panic_with(here);
        assert_ended(&there, CloseReason::Cancelled);
    });
    // The sender alone is dropped; the other half learns of the cancel too.
    both_roles(driver, SMALL, None, |here, there| {
        fill(&here);
        fill(&there);
        let (tx, mut rx) = here.into_split();
        panic_with(tx);
        assert_eq!(rx.try_recv(), Err(TryRecvError::Closed(CloseReason::Cancelled)));
        assert_eq!(rx.finished(), Some(Err(CloseReason::Cancelled)));
        assert_ended(&there, CloseReason::Cancelled);
    });
    // The same holds for the last half that is left, which may hold a packet back.
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, rx) = here.into_split();
        drop(rx);
        let filled = (0..).find(|n| tx.try_send(packet(*n, 8)).is_err()).unwrap();
        tx.start_send_unpin(packet(filled, 8)).unwrap();
        panic_with(tx);
        assert_eq!(there.try_recv(), Err(TryRecvError::Closed(CloseReason::Cancelled)));
        assert_eq!(there.close_reason(), Some(CloseReason::Cancelled));
    });
}

fn a_close_before_the_panic_makes_it_an_orderly_drop(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        here.close();
        panic_with(here);
        assert_complete(&there, filled);
        assert_eq!(there.close_reason(), Some(CloseReason::Peer));
    });
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (mut tx, mut rx) = here.into_split();
        wait("close", tx.close()).unwrap();
        panic_with(tx);
        assert_complete(&there, filled);
        there.try_send(packet(0, 8)).unwrap();
        assert_eq!(rx.try_recv(), Ok(packet(0, 8)));
    });
}

fn a_receiver_dropped_in_a_panic_ends_its_own_direction(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, rx) = here.into_split();
        panic_with(rx);
        let sent = there.try_send(packet(0, 8));
        assert!(matches!(sent, Err(TrySendError::Closed(_, CloseReason::Peer))), "{sent:?}");
        tx.try_send(packet(0, 8)).unwrap();
        assert_eq!(there.try_recv(), Ok(packet(0, 8)));
    });
}

fn an_end_in_an_arc_is_cancelled_by_a_panic_only_if_that_drops_it(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let here = Arc::new(here);
        panic_with(here.clone());
        assert!(!here.is_closed() && !there.is_closed());
        assert_eq!(number(&there.try_recv().unwrap()), 0);
        here.try_send(packet(filled, 8)).unwrap();
        panic_with(here);
        assert_ended(&there, CloseReason::Cancelled);
    });
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let here = Arc::new(here);
        panic_with(here.clone());
        drop(here);
        assert_complete(&there, filled);
    });
}

fn a_panic_that_is_caught_before_the_drop_needs_cancel_on_drop(driver: &Driver) {
    for cancels in [false, true] {
        both_roles(driver, SMALL, None, |here, there| {
            let (tx, _rx) = here.into_split();
            tx.cancel_on_drop(cancels);
            // The future that panics does not own the sender. The future around it does, and is
            // dropped after the panic has been caught.
            let source = stream::iter(0..3).map(|n| match n {
                2 => std::panic::resume_unwind(Box::new("in the middle of the stream")),
                n => Ok(packet(n, 8)),
            });
            let forwarding = AssertUnwindSafe(source.forward(tx)).catch_unwind();
            assert!(wait("forward", forwarding).is_err());
            if cancels {
                assert_eq!(there.try_recv(), Err(TryRecvError::Closed(CloseReason::Cancelled)));
            } else {
                assert_complete(&there, 2);
            }
        });
    }
}

fn a_task_that_panics_in_an_executor_cancels_what_it_owns(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, _rx) = here.into_split();
        let executor = smol::Executor::new();
        let source = stream::iter(0..3).map(|n| match n {
            2 => std::panic::resume_unwind(Box::new("in the middle of the stream")),
            n => Ok(packet(n, 8)),
        });
        // The executor catches the panic, but what the async block owns is dropped before that.
        let forwarding = async move { source.forward(tx).await };
        let task = executor.spawn(forwarding);
        assert!(executor.try_tick());
        assert_eq!(there.try_recv(), Err(TryRecvError::Closed(CloseReason::Cancelled)));
        let panicked = thread::scope(|scope| scope.spawn(|| smol::block_on(task)).join());
        assert!(panicked.is_err());
    });
}

fn cancel_on_drop_cancels_whatever_is_not_closed(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        fill(&here);
        fill(&there);
        here.cancel_on_drop(true);
        drop(here);
        assert_ended(&there, CloseReason::Cancelled);
    });
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, mut rx) = here.into_split();
        tx.cancel_on_drop(true);
        // A `?` in the middle of a stream.
        let sent = wait("the stream", async move {
            tx.send(packet(0, 8)).await?;
            let number: u64 = "not a number".parse()?;
            tx.send(packet(number, 8)).await?;
            tx.close().await?;
            Ok::<_, Box<dyn std::error::Error>>(())
        });
        assert!(sent.is_err());
        assert_eq!(there.try_recv(), Err(TryRecvError::Closed(CloseReason::Cancelled)));
        assert_eq!(wait("recv", rx.recv()), None);
        assert_eq!(rx.finished(), Some(Err(CloseReason::Cancelled)));
    });
    // A future that is dropped.
    both_roles(driver, SMALL, None, |here, there| {
        let (mut tx, _rx) = here.into_split();
        tx.cancel_on_drop(true);
        let mut sending = Box::pin(async move {
            for n in 0.. {
                tx.send(packet(n, 8)).await.unwrap();
            }
        });
        assert!(poll_once(sending.as_mut()).is_pending());
        drop(sending);
        assert_eq!(there.try_recv(), Err(TryRecvError::Closed(CloseReason::Cancelled)));
    });
}

fn cancel_on_drop_spares_what_was_closed(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        here.cancel_on_drop(true);
        here.close();
        drop(here);
        assert_complete(&there, filled);
        assert_eq!(there.close_reason(), Some(CloseReason::Peer));
    });
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (mut tx, mut rx) = here.into_split();
        tx.cancel_on_drop(true);
        wait("close", tx.close()).unwrap();
        drop(tx);
        assert_complete(&there, filled);
        there.try_send(packet(0, 8)).unwrap();
        assert_eq!(rx.try_recv(), Ok(packet(0, 8)));
        drop(rx);
        assert_eq!(there.close_reason(), Some(CloseReason::Peer));
    });
    // The peer ended first, so the close changed nothing.
    both_roles(driver, SMALL, None, |here, there| {
        let (mut there_tx, there_rx) = there.into_split();
        let (mut tx, mut rx) = here.into_split();
        tx.cancel_on_drop(true);
        drop(there_rx);
        assert!(tx.try_send(packet(0, 8)).is_err());
        wait("close", tx.close()).unwrap();
        drop(tx);
        there_tx.try_send(packet(0, 8)).unwrap();
        assert_eq!(rx.try_recv(), Ok(packet(0, 8)));
    });
    // A setting that was reverted.
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        here.cancel_on_drop(true);
        here.cancel_on_drop(false);
        drop(here);
        assert_complete(&there, filled);
    });
}

fn cancel_on_drop_goes_with_the_sender(driver: &Driver) {
    let cancelled = Err(TryRecvError::Closed(CloseReason::Cancelled));
    for by_handle in [false, true] {
        let (face, handle) = pair(driver, SMALL);
        // The setting survives both newtypes, their conversion and the split.
        let (there, (tx, rx)): (Endpoint, _) = if by_handle {
            handle.cancel_on_drop(true);
            (face.into(), handle.into_split())
        } else {
            face.cancel_on_drop(true);
            (handle.into(), Endpoint::from(face).into_split())
        };
        drop(rx);
        assert!(!there.is_closed());
        drop(tx);
        assert_eq!(there.try_recv(), cancelled);
    }
}

fn a_pipeline_with_cancel_on_drop_fails_at_both_its_ends(driver: &Driver) {
    both_roles(driver, SMALL, None, |source, from| {
        let (to, sink) = common::pair_with_timeout(driver, SMALL, None);
        let (_from_tx, from_rx) = from.into_split();
        let (to_tx, _to_rx) = Endpoint::from(to).into_split();
        to_tx.cancel_on_drop(true);
        let forwarding = thread::spawn(move || wait("forward", from_rx.forward(to_tx)));
        source.try_send(packet(0, 8)).unwrap();
        assert_eq!(number(&wait("recv", sink.recv()).unwrap()), 0);
        source.cancel();
        assert!(join("forward", forwarding).is_err());
        assert_eq!(wait("recv", sink.recv()), None);
        assert_eq!(sink.finished(), Some(Err(CloseReason::Cancelled)));
    });
    // A pipeline that succeeds closes its sink.
    both_roles(driver, SMALL, None, |source, from| {
        let (to, sink) = common::pair_with_timeout(driver, SMALL, None);
        let (_from_tx, from_rx) = from.into_split();
        let (to_tx, _to_rx) = Endpoint::from(to).into_split();
        to_tx.cancel_on_drop(true);
        let filled = fill(&source);
        drop(source);
        let forwarding = thread::spawn(move || wait("forward", from_rx.forward(to_tx)));
        join("forward", forwarding).unwrap();
        assert_complete(&sink, filled);
    });
}

fn a_cancel_races_a_new_end_and_wins(driver: &Driver) {
    for _ in 0..100 {
        both_roles(driver, SMALL, None, |here, _there| {
            let canceller = Canceller::new();
            let clone = canceller.clone();
            let thread = thread::spawn(move || clone.cancel());
            here.set_cancel(&canceller);
            thread.join().unwrap();
            assert_eq!(here.close_reason(), Some(CloseReason::Cancelled));
        });
    }
}

#[test]
fn an_idle_canceller_can_be_shared_and_dropped() {
    let canceller = Arc::new(Canceller::new());
    assert!(!canceller.is_cancelled());
    assert_eq!(wait("a value", Canceller::clone(&canceller).cancel_on(async { 5 })), 5);
    assert!(canceller.is_cancelled());
}
