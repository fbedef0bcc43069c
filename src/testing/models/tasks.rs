//! Several tasks and threads on one end: none of them takes another's wake for good.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use futures::channel::oneshot;
use futures::{SinkExt, StreamExt};
use loom::thread;

use super::{FULL, channel, explore, packet};
use crate::api::endpoint::Endpoint;
use crate::driver::model::{Driver, Task};
use crate::error::CloseReason;
use crate::sync::Arc;

/// Fills the ring, and returns the number of the next packet.
fn fill(end: &Endpoint) -> u8 {
    (0..FULL).for_each(|n| end.try_send(packet(n)).unwrap());
    FULL
}

/// Polls once, with a waker that wakes nobody.
fn poll_for_nobody<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// One task waits for room and one for packets, and each is polled only for its own wakes. The peer
/// gives both, in either order. At most 2 preemptions.
#[test]
fn two_tasks_wait_for_opposite_directions() {
    for data_first in [true, false] {
        explore(Some(2), move || {
            let [(face, driver), (handle, other)] = channel(64);
            let next = fill(&face);
            let peer = thread::spawn(move || {
                other.block_on(async {
                    if data_first {
                        handle.send(packet(9)).await.unwrap();
                    }
                    for n in 0..=next {
                        assert_eq!(handle.recv().await, Some(packet(n)));
                    }
                    if !data_first {
                        handle.send(packet(9)).await.unwrap();
                    }
                });
                handle
            });
            driver.run([
                Box::pin(async { face.send(packet(next)).await.unwrap() }) as Task<'_>,
                Box::pin(async { assert_eq!(face.recv().await, Some(packet(9))) }),
            ]);
            peer.join().unwrap();
        });
    }
}

/// A receive is polled again with another waker: the last one is woken. At most 3 preemptions.
#[test]
fn a_receive_polled_with_another_waker_wakes_that_one() {
    explore(Some(3), || {
        let [(face, _), (handle, driver)] = channel(64);
        let sender = thread::spawn(move || {
            face.try_send(packet(0)).unwrap();
            face
        });
        let mut recv = pin!(handle.recv());
        let received = match poll_for_nobody(recv.as_mut()) {
            Poll::Ready(received) => received,
            Poll::Pending => driver.block_on(recv),
        };
        assert_eq!(received, Some(packet(0)));
        sender.join().unwrap();
    });
}

/// As above, for a send that waits for room. At most 2 preemptions.
#[test]
fn a_send_polled_with_another_waker_wakes_that_one() {
    explore(Some(2), || {
        let [(face, driver), (handle, other)] = channel(64);
        let next = fill(&face);
        let receiver = thread::spawn(move || {
            other.block_on(async {
                for n in 0..=next {
                    assert_eq!(handle.recv().await, Some(packet(n)));
                }
            });
            handle
        });
        let mut send = pin!(face.send(packet(next)));
        match poll_for_nobody(send.as_mut()) {
            Poll::Ready(sent) => sent.unwrap(),
            Poll::Pending => driver.block_on(send).unwrap(),
        }
        receiver.join().unwrap();
    });
}

/// As above, for the halves, whose place in the queue outlives the future that made it. At most 2
/// preemptions.
#[test]
fn halves_polled_by_another_task_wake_that_one() {
    explore(Some(2), || {
        let [(face, driver), (handle, other)] = channel(64);
        let next = fill(&face);
        let ((mut tx, _face_rx), (_handle_tx, mut rx)) = (face.into_split(), handle.into_split());
        let sender = thread::spawn(move || {
            tx.start_send_unpin(packet(next)).unwrap();
            let _ = poll_for_nobody(pin!(tx.flush()));
            driver.block_on(tx.flush()).unwrap();
            tx
        });
        for n in 0..=next {
            let received = match poll_for_nobody(pin!(rx.next())) {
                Poll::Ready(received) => received,
                Poll::Pending => other.block_on(rx.next()),
            };
            assert_eq!(received.unwrap().unwrap(), packet(n));
        }
        sender.join().unwrap();
    });
}

/// Two tasks receive, and a batch of two packets wakes both, with one wake of the bell. At most 2
/// preemptions.
#[test]
fn a_batch_wakes_every_receiver_that_it_has_a_packet_for() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        let sender = thread::spawn(move || {
            let packets = [packet(0), packet(1)];
            assert!(poll_for_nobody(pin!(face.send_batch(&packets))).is_ready());
            face
        });
        let receive = || Box::pin(async { assert!(handle.recv().await.is_some()) }) as Task<'_>;
        driver.run([receive(), receive()]);
        sender.join().unwrap();
    });
}

/// The first of two receives is dropped as soon as it is woken: the second gets the packet. At most
/// 2 preemptions.
#[test]
fn a_receive_that_is_dropped_passes_its_wake_on() {
    explore(Some(2), || {
        let [(face, _), (handle, driver)] = channel(64);
        let sender = thread::spawn(move || {
            (0..2).for_each(|n| face.try_send(packet(n)).unwrap());
            face
        });
        let mut dropped = Some(Box::pin(handle.recv()));
        let mut is_woken = false;
        let dropper = poll_fn(|cx| {
            if let Some(recv) = dropped.as_mut().filter(|_| !is_woken)
                && recv.as_mut().poll(cx).is_pending()
            {
                is_woken = true;
                return Poll::Pending;
            }
            dropped = None;
            Poll::Ready(())
        });
        let stays = async { assert!(handle.recv().await.is_some()) };
        driver.run([Box::pin(dropper) as Task<'_>, Box::pin(stays)]);
        sender.join().unwrap();
    });
}

/// Two tasks send into a full ring: one after the other, in the order in which they came. At most 2
/// preemptions.
#[test]
fn senders_that_queue_are_served_in_order() {
    explore(Some(2), || {
        let [(face, driver), (handle, _)] = channel(64);
        let next = fill(&face);
        let receiver = thread::spawn(move || {
            for n in 0..next + 2 {
                assert_eq!(handle.recv_blocking(), Some(packet(n)));
            }
            handle
        });
        let face = &face;
        driver.run(
            [next, next + 1]
                .map(|n| Box::pin(async move { face.send(packet(n)).await.unwrap() }) as Task<'_>),
        );
        receiver.join().unwrap();
    });
}

/// Two threads send into a full ring, and only one of them runs the driver: the place of the first
/// sender passes from one to the other. At most 1 preemption.
#[test]
fn the_place_at_the_front_goes_from_thread_to_thread() {
    explore(Some(1), || {
        let [(face, driver), (handle, _other)] = channel(64);
        let next = fill(&face);
        let face = Arc::new(face);
        let (done, is_done) = oneshot::channel();
        let elsewhere = {
            let face = face.clone();
            thread::spawn(move || {
                Driver::new().block_on(face.send(packet(next))).unwrap();
                done.send(()).unwrap();
            })
        };
        let peer = thread::spawn(move || {
            for n in (0..next).chain([next; 2]) {
                assert_eq!(handle.recv_blocking(), Some(packet(n)));
            }
            handle
        });
        driver.run([
            Box::pin(async { face.send(packet(next)).await.unwrap() }) as Task<'_>,
            Box::pin(async { is_done.await.unwrap() }),
        ]);
        elsewhere.join().unwrap();
        peer.join().unwrap();
    });
}

/// The calls that block, which sleep on the bell itself, with a full ring. At most 2 preemptions.
#[test]
fn threads_that_block_never_both_sleep() {
    explore(Some(2), || {
        let [(face, _), (handle, _)] = channel(64);
        let next = fill(&face);
        let sender = thread::spawn(move || {
            face.send_blocking(packet(next)).unwrap();
            face
        });
        for n in 0..=next {
            assert_eq!(handle.recv_blocking(), Some(packet(n)));
        }
        sender.join().unwrap();
    });
}

/// A cancel on another thread, of a thread that blocks. At most 3 preemptions.
#[test]
fn a_canceller_ends_a_thread_that_blocks() {
    explore(Some(3), || {
        let [(face, _), (_handle, _)] = channel(64);
        let canceller = face.canceller();
        let elsewhere = thread::spawn(move || canceller.cancel());
        assert_eq!(face.recv_blocking(), None);
        assert_eq!(face.close_reason(), Some(CloseReason::Cancelled));
        elsewhere.join().unwrap();
    });
}

/// A task and a thread that blocks receive on one end, with one bell. At most 2 preemptions.
#[test]
fn a_task_and_a_thread_that_blocks_share_a_bell() {
    explore(Some(2), || {
        let [(face, driver), (handle, _)] = channel(64);
        let face = Arc::new(face);
        let blocks = {
            let face = face.clone();
            thread::spawn(move || assert!(face.recv_blocking().is_some()))
        };
        let sender = thread::spawn(move || {
            (0..2).for_each(|n| handle.try_send(packet(n)).unwrap());
            handle
        });
        driver.block_on(async { assert!(face.recv().await.is_some()) });
        blocks.join().unwrap();
        sender.join().unwrap();
    });
}

/// A send gives up its place while two others come. One of these waits for room, the other for its
/// place. Their batches do not mix. At most 3 preemptions.
#[test]
fn a_place_that_is_given_up_goes_to_one() {
    explore(Some(3), || {
        let [(face, _driver), (handle, _)] = channel(64);
        fill(&face);
        let face = Arc::new(face);
        let theirs = face.clone();
        let mut first = Box::pin(async move { theirs.send(packet(20)).await });
        assert!(poll_for_nobody(first.as_mut()).is_pending());
        let leaving = thread::spawn(move || drop(first));
        let batches = [[packet(30), packet(31)], [packet(40), packet(41)]];
        let mut sends = batches.each_ref().map(|batch| Box::pin(face.send_batch(batch)));
        let mut is_done = sends.each_mut().map(|send| poll_for_nobody(send.as_mut()).is_ready());
        leaving.join().unwrap();
        let mut received = Vec::new();
        while received.len() < usize::from(FULL) + 4 {
            received.push(handle.try_recv().unwrap());
            // Offers the room to them in turn.
            for n in [received.len() % 2, 1 - received.len() % 2] {
                is_done[n] = is_done[n] || poll_for_nobody(sends[n].as_mut()).is_ready();
            }
        }
        assert!(is_done.iter().all(|is_done| *is_done));
        let [one, other] = batches.each_ref().map(|[begin, end]| {
            let at = received.iter().position(|packet| packet == begin).unwrap();
            received.get(at + 1) == Some(end)
        });
        assert!(one && other, "the batches mix");
    });
}
