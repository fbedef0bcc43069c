//! Many tasks on one end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::executor::ThreadPool;
use futures::future::join_all;
use futures::task::SpawnExt;
use wakering::{Driver, TryRecvError, TrySendError};

use crate::common::{
    SMALL, both_roles, eventually, fill, join, number, on_both_backends, packet, poll_once,
    poll_to_sleep, wait,
};

on_both_backends!(
    many_senders_lose_and_double_nothing,
    senders_are_served_in_the_order_in_which_they_came,
    a_batch_keeps_its_place,
    a_batch_keeps_its_place_from_blocking_senders_too,
    try_send_is_full_while_others_queue,
    a_dropped_waiter_passes_its_wake_on,
    a_dropped_waiter_that_was_woken_passes_its_wake_on,
    many_receivers_get_every_packet_once,
    receivers_are_served_in_the_order_in_which_they_came,
    a_receiver_that_was_woken_and_dropped_passes_the_wake_on,
    one_wake_for_three_packets_serves_three_receivers,
    blocking_and_async_callers_share_an_end,
    tasks_of_both_directions_share_an_end,
);

fn many_senders_lose_and_double_nothing(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let here = Arc::new(here);
        let pool = ThreadPool::builder().pool_size(2).create().unwrap();
        for task in 0..20 {
            let here = here.clone();
            let send = async move {
                for n in 0..200 {
                    if n % 10 == 0 {
                        let batch =
                            [packet(task << 32 | n, 20), packet(task << 32 | n | 1 << 16, 8)];
                        here.send_batch(&batch).await.unwrap();
                    } else {
                        here.send(packet(task << 32 | n, 8 + usize::try_from(task).unwrap()))
                            .await
                            .unwrap();
                    }
                }
            };
            pool.spawn(send).unwrap();
        }
        let mut next = [0; 20];
        for _ in 0..20 * 220 {
            let received = number(&wait("recv", there.recv()).unwrap());
            let task = usize::try_from(received >> 32).unwrap();
            let (n, second) = (received & 0xffff, received & 1 << 16 != 0);
            // Packets of one task come in order, and the second packet of a batch right after its
            // first.
            assert_eq!(n, next[task] - u64::from(second));
            next[task] += u64::from(!second);
        }
        assert_eq!(there.try_recv(), Err(TryRecvError::Empty));
    });
}

fn senders_are_served_in_the_order_in_which_they_came(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut sends: Vec<_> =
            (0..50).map(|n| Box::pin(here.send(packet(filled + n, 8)))).collect();
        for send in &mut sends {
            assert!(poll_once(send.as_mut()).is_pending());
        }
        // Senders that are polled without a wake, in another order, keep their places.
        for send in sends.iter_mut().rev() {
            assert!(poll_once(send.as_mut()).is_pending());
        }
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| wait("all", join_all(sends)));
            for n in 0..filled + 50 {
                assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
            }
            assert!(sending.join().unwrap().into_iter().all(|result| result.is_ok()));
        });
    });
}

fn a_batch_keeps_its_place(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let batch: Vec<_> = (0..2000).map(|n| packet(n, 8)).collect();
        let mut whole = Box::pin(here.send_batch(&batch));
        assert!(poll_once(whole.as_mut()).is_pending());
        let mut other = Box::pin(here.send(packet(5000, 8)));
        assert!(poll_once(other.as_mut()).is_pending());
        std::thread::scope(|scope| {
            let first = scope.spawn(|| wait("the batch", whole));
            let second = scope.spawn(|| wait("the other", other));
            for n in (0..2000).chain([5000]) {
                assert_eq!(number(&wait("recv", there.recv()).unwrap()), n);
                // Room in the ring is not room for others.
                assert!(n >= 1700 || here.try_send(packet(9, 8)).is_err());
            }
            assert!(first.join().unwrap().is_ok() && second.join().unwrap().is_ok());
        });
    });
}

fn a_batch_keeps_its_place_from_blocking_senders_too(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let here = Arc::new(here);
        let threads: Vec<_> = (0..4)
            .map(|thread: u64| {
                let here = here.clone();
                std::thread::spawn(move || {
                    let batch: Vec<_> = (0..600).map(|n| packet(thread << 32 | n, 8)).collect();
                    for _ in 0..3 {
                        if thread.is_multiple_of(2) {
                            here.send_batch_blocking(&batch).unwrap();
                        } else {
                            pollster::block_on(here.send_batch(&batch)).unwrap();
                        }
                    }
                })
            })
            .collect();
        for _ in 0..4 * 3 {
            let first = number(&wait("recv", there.recv()).unwrap());
            assert_eq!(first & 0xffff_ffff, 0);
            for n in 1..600 {
                assert_eq!(number(&wait("recv", there.recv()).unwrap()), first + n);
            }
        }
        for thread in threads {
            join("a sender", thread);
        }
    });
}

fn try_send_is_full_while_others_queue(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut first = Box::pin(here.send(packet(filled, 8)));
        assert!(poll_once(first.as_mut()).is_pending());
        let mut second = Box::pin(here.send(packet(filled + 1, 8)));
        assert!(poll_once(second.as_mut()).is_pending());
        for _ in 0..20 {
            there.try_recv().unwrap();
        }
        let is_full = || matches!(here.try_send(packet(0, 8)), Err(TrySendError::Full(_)));
        assert!(is_full());
        assert!(poll_once(first.as_mut()).is_ready());
        assert!(is_full());
        wait("the second", second).unwrap();
        here.try_send(packet(filled + 2, 8)).unwrap();
        for n in 20..filled + 3 {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
    });
}

fn a_dropped_waiter_passes_its_wake_on(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut first = Box::pin(here.send(packet(777, 8)));
        assert!(poll_once(first.as_mut()).is_pending());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let mut second = Box::pin(here.send(packet(filled, 8)));
                assert!(poll_once(second.as_mut()).is_pending());
                tell.send(()).unwrap();
                wait("the second", second)
            });
            told.recv().unwrap();
            for n in 0..10 {
                assert_eq!(number(&there.try_recv().unwrap()), n);
            }
            drop(first);
            second.join().unwrap().unwrap();
        });
        for n in 10..=filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
    });
}

fn a_dropped_waiter_that_was_woken_passes_its_wake_on(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut sends: Vec<_> = (0..5).map(|n| Box::pin(here.send(packet(900 + n, 8)))).collect();
        for send in &mut sends {
            assert!(poll_once(send.as_mut()).is_pending());
        }
        for n in 0..filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        // The first sender sends and passes its place to the second, which is dropped. So is the
        // third, which gets the place then.
        assert!(poll_once(sends.remove(0).as_mut()).is_ready());
        drop(sends.remove(0));
        drop(sends.remove(0));
        for send in sends {
            wait("the rest", send).unwrap();
        }
        let received: Vec<_> =
            std::iter::from_fn(|| there.try_recv().ok()).map(|packet| number(&packet)).collect();
        assert_eq!(received, [900, 903, 904]);
    });
}

fn many_receivers_get_every_packet_once(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let there = Arc::new(there);
        let pool = ThreadPool::builder().pool_size(2).create().unwrap();
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let tasks: Vec<_> = (0..10)
            .map(|task| {
                let (there, seen) = (there.clone(), seen.clone());
                let receive = async move {
                    let mut last = None;
                    let mut batch = Vec::new();
                    loop {
                        if task % 3 == 0 {
                            if there.recv_batch(&mut batch, 3).await == 0 {
                                return;
                            }
                        } else if let Some(packet) = there.recv().await {
                            batch.push(packet);
                        } else {
                            return;
                        }
                        for packet in batch.drain(..) {
                            let n = number(&packet);
                            assert!(last < Some(n), "in order for each task");
                            last = Some(n);
                            assert!(seen.lock().unwrap().insert(n), "{n} came twice");
                        }
                    }
                };
                pool.spawn_with_handle(receive).unwrap()
            })
            .collect();
        for n in 0..5000 {
            wait("send", here.send(packet(n, 8))).unwrap();
            if n % 100 == 0 {
                // Now and then, all of them sleep.
                eventually("all is taken", || seen.lock().unwrap().len() as u64 == n + 1);
            }
        }
        drop(here);
        wait("the receivers", join_all(tasks));
        assert_eq!(seen.lock().unwrap().len(), 5000);
    });
}

fn receivers_are_served_in_the_order_in_which_they_came(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let mut recvs: Vec<_> = (0..20).map(|_| Box::pin(there.recv())).collect();
        let woken: Arc<Mutex<Vec<usize>>> = Arc::default();
        struct Note(usize, Arc<Mutex<Vec<usize>>>);
        impl std::task::Wake for Note {
            fn wake(self: Arc<Self>) {
                self.1.lock().unwrap().push(self.0);
            }
        }
        for (place, recv) in recvs.iter_mut().enumerate() {
            let waker = Arc::new(Note(place, woken.clone())).into();
            let mut cx = std::task::Context::from_waker(&waker);
            assert!(recv.as_mut().poll(&mut cx).is_pending());
        }
        for n in 0..20 {
            here.try_send(packet(n, 8)).unwrap();
            let place = usize::try_from(n).unwrap();
            eventually("the next one is woken", || woken.lock().unwrap().len() > place);
            assert_eq!(woken.lock().unwrap()[place], place);
            let recv = recvs[place].as_mut();
            match poll_once(recv) {
                std::task::Poll::Ready(Some(packet)) => assert_eq!(number(&packet), n),
                other => panic!("{other:?}"),
            }
        }
    });
}

fn a_receiver_that_was_woken_and_dropped_passes_the_wake_on(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..200 {
            let mut first = Box::pin(there.recv());
            poll_to_sleep(first.as_mut());
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                let second = scope.spawn(|| {
                    let mut second = Box::pin(there.recv());
                    poll_to_sleep(second.as_mut());
                    tell.send(()).unwrap();
                    wait("the second", second)
                });
                told.recv().unwrap();
                let before = there.stats().wakes_received;
                here.try_send(packet(n, 8)).unwrap();
                // In half of the rounds, the wake has reached the first by now.
                if n.is_multiple_of(2) {
                    eventually("the wake comes", || there.stats().wakes_received > before);
                }
                drop(first);
                assert_eq!(number(&second.join().unwrap().unwrap()), n);
            });
        }
    });
}

fn one_wake_for_three_packets_serves_three_receivers(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..100 {
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                let receivers: Vec<_> = (0..3)
                    .map(|_| {
                        let (there, tell) = (&there, tell.clone());
                        scope.spawn(move || {
                            let mut recv = Box::pin(there.recv());
                            poll_to_sleep(recv.as_mut());
                            tell.send(()).unwrap();
                            number(&wait("one of three", recv).unwrap())
                        })
                    })
                    .collect();
                for _ in &receivers {
                    told.recv().unwrap();
                }
                // One publication, and one wake.
                let batch: [_; 3] = std::array::from_fn(|m| packet(3 * n + m as u64, 8));
                here.send_batch_blocking(&batch).unwrap();
                let mut received: Vec<_> =
                    receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect();
                received.sort_unstable();
                assert_eq!(received, [3 * n, 3 * n + 1, 3 * n + 2]);
            });
        }
    });
}

fn blocking_and_async_callers_share_an_end(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (here, there) = (Arc::new(here), Arc::new(there));
        let senders: Vec<_> = (0..4)
            .map(|kind: u64| {
                let here = here.clone();
                std::thread::spawn(move || {
                    for n in 0..1000 {
                        let next = packet(kind << 32 | n, 8);
                        if kind.is_multiple_of(2) {
                            here.send_blocking(next).unwrap();
                        } else {
                            pollster::block_on(here.send(next)).unwrap();
                        }
                    }
                })
            })
            .collect();
        let receivers: Vec<_> = (0..4)
            .map(|kind: u64| {
                let there = there.clone();
                std::thread::spawn(move || {
                    let mut numbers = Vec::new();
                    loop {
                        let received = if kind.is_multiple_of(2) {
                            there.recv_blocking()
                        } else {
                            wait("recv", there.recv())
                        };
                        match received {
                            Some(packet) => numbers.push(number(&packet)),
                            None => return numbers,
                        }
                    }
                })
            })
            .collect();
        for sender in senders {
            join("sender", sender);
        }
        here.close();
        let mut all: Vec<_> =
            receivers.into_iter().flat_map(|receiver| join("receiver", receiver)).collect();
        all.sort_unstable();
        let expected: Vec<_> =
            (0..4).flat_map(|kind| (0..1000).map(move |n| kind << 32 | n)).collect();
        assert_eq!(all, expected);
    });
}

fn tasks_of_both_directions_share_an_end(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let echo = async {
            while let Some(packet) = there.recv().await {
                there.send(packet).await.unwrap();
            }
        };
        let (here, count) = (&here, 5000);
        let send = async {
            for n in 0..count {
                here.send(packet(n, 30)).await.unwrap();
            }
        };
        let receive = async {
            for n in 0..count {
                assert_eq!(number(&here.recv().await.unwrap()), n);
            }
            here.close();
        };
        wait("all three, on one thread", async { futures::join!(echo, send, receive) });
    });
}
