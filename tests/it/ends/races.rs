//! Ends that race with sends and receives.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use wakering::{CloseReason, Driver, Receiver};

use super::assert_closed;
use crate::common::{
    SMALL, both_roles, eventually, fill, join, number, on_both_backends, packet, poll_once, wait,
};

on_both_backends!(
    no_send_returns_ok_after_close_has_returned,
    no_send_that_is_about_to_park_returns_ok_after_close,
    a_sender_is_woken_for_room_after_its_own_receiver_was_dropped,
    a_sender_is_woken_for_room_together_with_the_peers_half_close,
    everything_sent_before_the_end_arrives_however_they_race,
);

fn no_send_returns_ok_after_close_has_returned(driver: &Driver) {
    for round in 0..150 {
        both_roles(driver, SMALL, None, |here, there| {
            let here = Arc::new(here);
            let is_closed = Arc::new(AtomicBool::new(false));
            let sent = Arc::new(AtomicU64::new(0));
            let senders: Vec<JoinHandle<()>> = (0..3)
                .map(|kind| {
                    let (here, is_closed) = (here.clone(), is_closed.clone());
                    let sent = sent.clone();
                    std::thread::spawn(move || {
                        loop {
                            let was_closed = is_closed.load(Ordering::SeqCst);
                            let result = match kind {
                                0 => here.try_send(packet(0, 8)).map_err(|_| ()),
                                1 => pollster::block_on(here.send(packet(0, 8))).map_err(|_| ()),
                                _ => here.send_blocking(packet(0, 8)).map_err(|_| ()),
                            };
                            assert!(!was_closed || result.is_err(), "Ok after close");
                            if result.is_ok() {
                                sent.fetch_add(1, Ordering::SeqCst);
                            } else if was_closed {
                                return;
                            }
                        }
                    })
                })
                .collect();
            let receiver = std::thread::spawn(move || {
                let mut received = 0;
                while there.recv_blocking().is_some() {
                    received += 1;
                }
                received
            });
            eventually("some were sent", || sent.load(Ordering::SeqCst) > round * 3);
            here.close();
            is_closed.store(true, Ordering::SeqCst);
            for sender in senders {
                join("sender", sender);
            }
            // Exactly the packets whose send returned `Ok` arrive.
            assert_eq!(join("receiver", receiver), sent.load(Ordering::SeqCst));
        });
    }
}

/// A waker that runs an action when this thread drops it: foreign code in the middle of a poll. If
/// the driver drops it, because it has called it, the action does not run.
struct OnDrop {
    thread: ThreadId,
    action: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Wake for OnDrop {
    fn wake(self: Arc<Self>) {}
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        let action = self.action.lock().unwrap().take();
        if std::thread::current().id() == self.thread
            && let Some(action) = action
        {
            action();
        }
    }
}

fn no_send_that_is_about_to_park_returns_ok_after_close(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (here, there) = (Arc::new(here), Arc::new(there));
        let mut send = std::pin::pin!(here.send(packet(filled, 8)));
        let is_closed = Arc::new(AtomicBool::new(false));
        // The sender's second look, or the driver, may take the waker before the poll replaces it.
        eventually("a poll replaces the waker", || {
            let (end, peer, is_closed_now) = (here.clone(), there.clone(), is_closed.clone());
            let action = move || {
                peer.try_recv().unwrap();
                end.close();
                is_closed_now.store(true, Ordering::SeqCst);
            };
            let on_drop = Arc::new(OnDrop {
                thread: std::thread::current().id(),
                action: Mutex::new(Some(Box::new(action))),
            });
            let waker = Waker::from(on_drop.clone());
            assert!(send.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            drop(waker);
            if let Some(mut taken) = Arc::into_inner(on_drop) {
                taken.action.get_mut().unwrap().take();
                return false;
            }
            // This poll replaces the waker between the failed attempt and the last look.
            match poll_once(send.as_mut()) {
                Poll::Ready(result) => assert_closed(result, CloseReason::Local),
                Poll::Pending => {
                    assert!(!is_closed.load(Ordering::SeqCst), "pending after close");
                }
            }
            is_closed.load(Ordering::SeqCst)
        });
    });
}

fn a_sender_is_woken_for_room_after_its_own_receiver_was_dropped(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (mut tx, rx) = here.into_split();
        drop(rx);
        let before = tx.stats().parks;
        let thread = std::thread::spawn(move || {
            wait("send", tx.send(packet(filled, 8))).unwrap();
            tx
        });
        // The sender has parked, and stays parked past its second look.
        eventually("the sender parks", || there.stats().packets_received == 0 && before == 0);
        std::thread::sleep(Duration::from_millis(20));
        for n in 0..filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        join("the sender", thread);
        assert_eq!(number(&there.try_recv().unwrap()), filled);
    });
}

fn a_sender_is_woken_for_room_together_with_the_peers_half_close(driver: &Driver) {
    for _ in 0..200 {
        both_roles(driver, SMALL, None, |here, there| {
            let filled = fill(&here);
            let here = Arc::new(here);
            let sender = here.clone();
            let thread =
                std::thread::spawn(move || wait("send", sender.send(packet(filled, 8))).unwrap());
            eventually("the sender parks", || here.stats().full_stalls > 0);
            std::thread::sleep(Duration::from_millis(2));
            let (tx, mut rx) = there.into_split();
            let mut next = 0;
            let mut take_all = |rx: &mut Receiver| {
                while let Ok(packet) = rx.try_recv() {
                    assert_eq!(number(&packet), next);
                    next += 1;
                }
                next
            };
            take_all(&mut rx);
            drop(tx);
            join("the sender", thread);
            assert_eq!(take_all(&mut rx), filled + 1);
        });
    }
}

fn everything_sent_before_the_end_arrives_however_they_race(driver: &Driver) {
    for round in 0..300 {
        both_roles(driver, SMALL, None, |here, there| {
            let receiver = std::thread::spawn(move || {
                let mut received = 0;
                while let Some(next) = wait("recv", there.recv()) {
                    assert_eq!(number(&next), received);
                    received += 1;
                }
                assert_eq!(there.finished(), Some(Ok(())));
                if round % 3 < 2 {
                    // Both directions end at once, never one before the other.
                    assert_eq!(there.close_reason(), Some(CloseReason::Peer));
                }
                received
            });
            for n in 0..round % 40 {
                here.try_send(packet(n, 8)).unwrap();
            }
            match round % 3 {
                0 => drop(here),
                1 => here.close(),
                _ => drop(here.into_split()),
            }
            assert_eq!(join("receiver", receiver), round % 40);
        });
    }
}
