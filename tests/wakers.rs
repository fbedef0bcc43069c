//! Wakers that misbehave: they panic, drop, come late, or use what they wake for.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use common::{
    Dir, SMALL, both_roles, eventually, fill, number, on_both_backends, packet, pair, poll_once,
    wait,
};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle};

on_both_backends!(
    only_the_last_waker_counts,
    a_waker_that_panics_disturbs_nobody_else,
    a_waker_that_panics_keeps_its_place_until_it_is_dropped,
    a_waker_that_drops_another_waiter_does_no_harm,
    a_waker_that_drops_another_sender_does_no_harm,
    a_waker_that_drops_the_end_does_no_harm,
    a_waker_that_uses_the_end_does_no_harm,
);

/// A waker that does what it is told, once.
struct Does(Mutex<Option<Box<dyn FnOnce() + Send>>>, AtomicBool);

impl Does {
    fn new(action: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Box::new(action))), AtomicBool::new(false)))
    }

    fn was_called(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}

impl Wake for Does {
    fn wake(self: Arc<Self>) {
        // Behind the action, however it ends.
        struct Called<'a>(&'a AtomicBool);
        impl Drop for Called<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _called = Called(&self.1);
        let action = self.0.lock().unwrap().take();
        if let Some(action) = action {
            action();
        }
    }
}

fn poll_with<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Arc<Does>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(waker.clone())))
}

fn only_the_last_waker_counts(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for n in 0..100 {
            let mut recv = Box::pin(there.recv());
            let wakers: [_; 4] = std::array::from_fn(|_| Does::new(|| {}));
            for waker in &wakers {
                assert!(poll_with(recv.as_mut(), waker).is_pending());
            }
            here.try_send(packet(n, 8)).unwrap();
            eventually("the last is woken", || wakers[3].was_called());
            assert_eq!(poll_once(recv.as_mut()), Poll::Ready(Some(packet(n, 8))));
        }
    });
}

fn a_waker_that_panics_disturbs_nobody_else(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let panics = || Does::new(|| resume_unwind(Box::new("a waker")));
        let (bad_recv, bad_closed, good) = (panics(), panics(), Does::new(|| {}));
        let mut recv = Box::pin(there.recv());
        let mut closed = Box::pin(there.closed());
        let mut last = Box::pin(there.recv());
        assert!(poll_with(recv.as_mut(), &bad_recv).is_pending());
        assert!(poll_with(closed.as_mut(), &bad_closed).is_pending());
        assert!(poll_with(last.as_mut(), &good).is_pending());
        // An end wakes everybody.
        here.cancel();
        eventually("all are woken", || {
            bad_recv.was_called() && bad_closed.was_called() && good.was_called()
        });
        assert_eq!(poll_once(recv.as_mut()), Poll::Ready(None));
        assert_eq!(poll_once(last.as_mut()), Poll::Ready(None));
        assert_eq!(poll_once(closed.as_mut()), Poll::Ready(CloseReason::Cancelled));
    });
    // Nor does a panic in our own thread, out of a local cancel.
    both_roles(driver, SMALL, None, |_here, there| {
        let bad = Does::new(|| resume_unwind(Box::new("a waker")));
        let mut recv = Box::pin(there.recv());
        assert!(poll_with(recv.as_mut(), &bad).is_pending());
        assert!(catch_unwind(AssertUnwindSafe(|| there.cancel())).is_ok());
        // Here, or on the driver's thread.
        eventually("it is woken", || bad.was_called());
        assert_eq!(poll_once(recv.as_mut()), Poll::Ready(None));
    });
    // The driver goes on.
    let (face, handle) = pair(driver, SMALL);
    face.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", handle.recv()), Some(packet(1, 8)));
}

fn a_waker_that_panics_keeps_its_place_until_it_is_dropped(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let bad = Does::new(|| resume_unwind(Box::new("a waker")));
        let good = Does::new(|| {});
        let mut first = Box::pin(there.recv());
        let mut second = Box::pin(there.recv());
        assert!(poll_with(first.as_mut(), &bad).is_pending());
        assert!(poll_with(second.as_mut(), &good).is_pending());
        here.try_send(packet(1, 8)).unwrap();
        eventually("the first is woken", || bad.was_called());
        assert!(!good.was_called());
        drop(first);
        eventually("the second is woken", || good.was_called());
        assert_eq!(poll_once(second.as_mut()), Poll::Ready(Some(packet(1, 8))));
    });
}

/// What is in there, to be dropped without the lock.
fn take<T: Default>(place: &Mutex<T>) -> T {
    std::mem::take(&mut *place.lock().unwrap())
}

/// A receive that owns its end.
fn owned_recv(end: &Arc<Endpoint>) -> BoxFuture<'static, Option<bytes::Bytes>> {
    let end = end.clone();
    async move { end.recv().await }.boxed()
}

fn owned_send(end: &Arc<Endpoint>, n: u64) -> BoxFuture<'static, Result<(), ShmError>> {
    let end = end.clone();
    async move { end.send(packet(n, 8)).await }.boxed()
}

fn a_waker_that_drops_another_waiter_does_no_harm(driver: &Driver) {
    for drops_next in [true, false] {
        both_roles(driver, SMALL, None, |here, there| {
            let there = Arc::new(there);
            let mut others: Vec<_> = (0..3).map(|_| owned_recv(&there)).collect();
            let mut first = owned_recv(&there);
            let good = Does::new(|| {});
            let victims = Arc::new(Mutex::new(Vec::new()));
            let taken = victims.clone();
            let dropper = Does::new(move || drop(take(&taken)));
            // Wakes may come for no reason: until all is in its place, this one has to wait.
            let mut place = victims.lock().unwrap();
            if drops_next {
                assert!(poll_with(first.as_mut(), &dropper).is_pending());
            }
            let silent = Does::new(|| {});
            for other in &mut others[..2] {
                assert!(poll_with(other.as_mut(), &silent).is_pending());
            }
            if !drops_next {
                assert!(poll_with(first.as_mut(), &dropper).is_pending());
            }
            assert!(poll_with(others[2].as_mut(), &good).is_pending());
            let mut last = others.pop().unwrap();
            *place = others;
            drop(place);
            here.try_send(packet(1, 8)).unwrap();
            if drops_next {
                eventually("the first is woken", || dropper.was_called());
                eventually("the others are gone", || victims.lock().unwrap().is_empty());
                assert_eq!(poll_once(first.as_mut()), Poll::Ready(Some(packet(1, 8))));
            } else {
                // The first two have the wake and do not heed it: they are dropped by an end.
                eventually("one is woken", || silent.was_called());
                drop(take(&victims));
                eventually("it is passed on", || dropper.was_called());
                assert_eq!(poll_once(first.as_mut()), Poll::Ready(Some(packet(1, 8))));
            }
            here.try_send(packet(2, 8)).unwrap();
            eventually("the last is woken", || good.was_called());
            assert_eq!(poll_once(last.as_mut()), Poll::Ready(Some(packet(2, 8))));
        });
    }
    // With everybody woken at once.
    both_roles(driver, SMALL, None, |here, there| {
        let there = Arc::new(there);
        let victims = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..20 {
            let mut recv = owned_recv(&there);
            let taken = victims.clone();
            let dropper = Does::new(move || {
                // Two, because one may have been woken before for no reason and has no waker left.
                let victims = {
                    let mut victims = taken.lock().unwrap();
                    let rest = victims.len().saturating_sub(2);
                    victims.split_off(rest)
                };
                drop(victims);
            });
            assert!(poll_with(recv.as_mut(), &dropper).is_pending());
            victims.lock().unwrap().push(recv);
        }
        here.cancel();
        eventually("all are gone", || victims.lock().unwrap().is_empty());
        assert_eq!(wait("recv", there.recv()), None);
    });
}

fn a_waker_that_drops_another_sender_does_no_harm(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let here = Arc::new(here);
        let filled = fill(&here);
        let mut first = owned_send(&here, filled);
        let victims = Arc::new(Mutex::new(Vec::new()));
        let taken = victims.clone();
        let dropper = Does::new(move || drop(take(&taken)));
        let mut place = victims.lock().unwrap();
        assert!(poll_with(first.as_mut(), &dropper).is_pending());
        let silent = Does::new(|| {});
        for _ in 0..3 {
            let mut send = owned_send(&here, 999);
            assert!(poll_with(send.as_mut(), &silent).is_pending());
            place.push(send);
        }
        drop(place);
        let last = owned_send(&here, filled + 1);
        std::thread::scope(|scope| {
            let last = scope.spawn(|| wait("the last", last));
            for n in 0..filled {
                assert_eq!(number(&there.try_recv().unwrap()), n);
            }
            eventually("the first is woken", || dropper.was_called());
            assert!(matches!(poll_once(first.as_mut()), Poll::Ready(Ok(()))));
            last.join().unwrap().unwrap();
        });
        let received: Vec<_> =
            std::iter::from_fn(|| there.try_recv().ok()).map(|packet| number(&packet)).collect();
        assert_eq!(received, [filled, filled + 1]);
    });
}

fn a_waker_that_drops_the_end_does_no_harm(driver: &Driver) {
    for _ in 0..20 {
        both_roles(driver, SMALL, None, |here, there| {
            let there = Arc::new(there);
            let mut recv = owned_recv(&there);
            drop(there);
            let place = Arc::new(Mutex::new(None));
            let taken = place.clone();
            // With it goes the last reference to the end, on the driver's thread.
            let dropper = Does::new(move || drop(take(&taken)));
            let mut waiting = place.lock().unwrap();
            assert!(poll_with(recv.as_mut(), &dropper).is_pending());
            *waiting = Some(recv);
            drop(waiting);
            // A wake that comes for no reason drops it before this.
            let _ = here.try_send(packet(1, 8));
            assert_eq!(wait("recv", here.recv()), None);
            assert_eq!(here.close_reason(), Some(CloseReason::Peer));
        });
    }
    // A face too, with its name.
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    let mut recv = async move { face.recv().await }.boxed();
    let place = Arc::new(Mutex::new(None));
    let taken = place.clone();
    let dropper = Does::new(move || drop(take(&taken)));
    let mut waiting = place.lock().unwrap();
    assert!(poll_with(recv.as_mut(), &dropper).is_pending());
    *waiting = Some(recv);
    drop(waiting);
    handle.cancel();
    eventually("the name is given up", || !std::path::Path::new(&name).exists());
    assert!(SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).is_ok());
}

fn a_waker_that_uses_the_end_does_no_harm(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let there = Arc::new(there);
        let used = Arc::new(AtomicUsize::new(0));
        let user = || {
            let (end, used) = (there.clone(), used.clone());
            Does::new(move || {
                while let Ok(packet) = end.try_recv() {
                    end.send_blocking(packet).unwrap();
                }
                end.stats();
                if let Poll::Ready(Some(packet)) = poll_once(owned_recv(&end).as_mut()) {
                    end.send_blocking(packet).unwrap();
                }
                used.fetch_add(1, Ordering::SeqCst);
            })
        };
        let mut recvs: Vec<_> = (0..5).map(|_| owned_recv(&there)).collect();
        for n in 0..50 {
            here.try_send(packet(n, 8)).unwrap();
            eventually("the echo", || {
                for recv in &mut recvs {
                    if let Poll::Ready(packet) = poll_with(recv.as_mut(), &user()) {
                        there.try_send(packet.unwrap()).unwrap();
                        *recv = owned_recv(&there);
                    }
                }
                here.try_recv().is_ok_and(|packet| number(&packet) == n)
            });
            // Asleep, all of them, so that the next one goes by a waker.
            for recv in &mut recvs {
                assert!(poll_with(recv.as_mut(), &user()).is_pending());
            }
        }
        here.close();
        eventually("wakers were called", || used.load(Ordering::SeqCst) >= 5);
        let ended = wait("the ends", join_all(recvs));
        assert!(ended.into_iter().all(|received| received.is_none()));
    });
}
