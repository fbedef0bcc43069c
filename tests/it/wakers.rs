//! Wakers that misbehave: they panic, drop things, come late, use what they wake for, or belong to
//! an executor that is gone. On drivers that run in every way.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::executor::LocalPool;
use futures::future::{BoxFuture, join_all};
use futures::task::LocalSpawnExt;
use wakering::{CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, SpscListener};

use crate::common::running::Way;
use crate::common::woken::Woken;
use crate::common::{
    Dir, SMALL, both_roles, both_roles_of, eventually, fill, number, packet, pair, poll_once,
    poll_to_sleep, wait,
};

/// Makes a test of each function for each backend and each way to run a driver.
macro_rules! in_every_way {
    ($($name:ident),+ $(,)?) => {
        in_every_way!(@ background Background, $($name),+);
        in_every_way!(@ parked Parked, $($name),+);
        in_every_way!(@ polled Polled, $($name),+);
        in_every_way!(@ embedded Embedded, $($name),+);
    };
    (@ $module:ident $way:ident, $($name:ident),+) => {
        mod $module {
            use crate::common::on_both_backends;
            on_both_backends!($($name),+);
            $(fn $name(like: &wakering::Driver) {
                let backend = like.backend();
                crate::common::running::running(super::Way::$way, backend, super::$name);
            })+
        }
    };
}

in_every_way!(
    only_the_last_waker_counts,
    a_waker_that_panics_disturbs_no_other_waiter,
    a_panic_that_panics_when_it_is_dropped_disturbs_no_other_waiter,
    a_waker_that_panics_keeps_its_place_until_it_is_dropped,
    a_waker_that_drops_another_waiter_does_no_harm,
    a_waker_that_drops_another_sender_does_no_harm,
    a_waker_that_drops_the_end_does_no_harm,
    a_waker_that_uses_the_end_does_no_harm,
    a_waker_that_panics_harms_no_wait_of_any_kind,
    a_dead_executor_costs_no_other_task_its_wake,
);

/// A waker that runs an action, once.
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
        // This is dropped after the action, however the action ends.
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
            poll_to_sleep(recv.as_mut());
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

fn a_waker_that_panics_disturbs_no_other_waiter(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let panics = || Does::new(|| resume_unwind(Box::new("a waker")));
        let (bad_recv, bad_closed, good) = (panics(), panics(), Does::new(|| {}));
        let mut recv = Box::pin(there.recv());
        let mut closed = Box::pin(there.closed());
        let mut last = Box::pin(there.recv());
        assert!(poll_with(recv.as_mut(), &bad_recv).is_pending());
        assert!(poll_with(closed.as_mut(), &bad_closed).is_pending());
        assert!(poll_with(last.as_mut(), &good).is_pending());
        // An end wakes every waiter.
        here.cancel();
        eventually("all are woken", || {
            bad_recv.was_called() && bad_closed.was_called() && good.was_called()
        });
        assert_eq!(poll_once(recv.as_mut()), Poll::Ready(None));
        assert_eq!(poll_once(last.as_mut()), Poll::Ready(None));
        assert_eq!(poll_once(closed.as_mut()), Poll::Ready(CloseReason::Cancelled));
    });
    // A panic on our own thread, out of a local cancel, does no harm either.
    both_roles(driver, SMALL, None, |_here, there| {
        let bad = Does::new(|| resume_unwind(Box::new("a waker")));
        let mut recv = Box::pin(there.recv());
        assert!(poll_with(recv.as_mut(), &bad).is_pending());
        assert!(catch_unwind(AssertUnwindSafe(|| there.cancel())).is_ok());
        // On this thread, or on the driver's.
        eventually("it is woken", || bad.was_called());
        assert_eq!(poll_once(recv.as_mut()), Poll::Ready(None));
    });
    // The driver still works.
    let (face, handle) = pair(driver, SMALL);
    face.try_send(packet(1, 8)).unwrap();
    assert_eq!(wait("recv", handle.recv()), Some(packet(1, 8)));
}

fn a_panic_that_panics_when_it_is_dropped_disturbs_no_other_waiter(driver: &Driver) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            resume_unwind(Box::new("a panic"));
        }
    }
    both_roles(driver, SMALL, None, |_here, there| {
        let bad = Does::new(|| resume_unwind(Box::new(Bomb)));
        let good = Does::new(|| {});
        let (mut first, mut second) = (Box::pin(there.recv()), Box::pin(there.recv()));
        assert!(poll_with(first.as_mut(), &bad).is_pending());
        assert!(poll_with(second.as_mut(), &good).is_pending());
        assert!(catch_unwind(AssertUnwindSafe(|| there.cancel())).is_ok());
        eventually("both are woken", || bad.was_called() && good.was_called());
    });
}

fn a_waker_that_panics_keeps_its_place_until_it_is_dropped(driver: &Driver) {
    // A driver that has spun in vain has all receivers look again. Here, a wake is a packet's.
    let face = SpscFace::builder().ring_bytes(SMALL).spin(Duration::ZERO);
    let handle = SpscHandle::builder().spin(Duration::ZERO);
    both_roles_of(driver, face, handle, |here, there| {
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

/// Takes the content out, so that it is dropped without the lock.
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
            // Spurious wakes may come at any time. The lock makes such a wake wait until everything
            // is in its place.
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
                // The first two got the wake and ignore it. A drop passes it on.
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
    // All waiters are woken at once.
    both_roles(driver, SMALL, None, |here, there| {
        let there = Arc::new(there);
        let victims = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..20 {
            let mut recv = owned_recv(&there);
            let taken = victims.clone();
            let dropper = Does::new(move || {
                // Two, because a spurious wake may have woken one before, and its waker is used up.
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

/// Polls `future` once. Its waker drops it.
fn leave_to_its_waker<F: Future + Send + ?Sized + 'static>(mut future: Pin<Box<F>>) {
    let place = Arc::new(Mutex::new(None));
    let taken = place.clone();
    let dropper = Does::new(move || drop(take(&taken)));
    let mut waiting = place.lock().unwrap();
    assert!(poll_with(future.as_mut(), &dropper).is_pending());
    *waiting = Some(future);
}

fn a_waker_that_drops_the_end_does_no_harm(driver: &Driver) {
    for _ in 0..20 {
        both_roles(driver, SMALL, None, |here, there| {
            let there = Arc::new(there);
            let recv = owned_recv(&there);
            drop(there);
            // This drops the last reference to the end, on the driver's thread.
            leave_to_its_waker(recv);
            // A spurious wake drops it before this.
            let _ = here.try_send(packet(1, 8));
            assert_eq!(wait("recv", here.recv()), None);
            assert_eq!(here.close_reason(), Some(CloseReason::Peer));
        });
    }
    // The same with a face, which gives its name up.
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    leave_to_its_waker(async move { face.recv().await }.boxed());
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
            // All of them sleep, so that the next one is woken through a waker.
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

/// Polls with a waker that panics, and returns the waker.
fn poll_badly<F: Future + ?Sized>(future: Pin<&mut F>) -> Arc<Does> {
    let bad = Does::new(|| resume_unwind(Box::new("a waker")));
    assert!(poll_with(future, &bad).is_pending());
    bad
}

fn a_waker_that_panics_harms_no_wait_of_any_kind(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("listener");
    let builder = || SpscListener::builder().ring_bytes(SMALL).driver(driver);
    let connect = |name: &str| SpscHandle::builder().driver(driver).connect(name).unwrap();

    // Accepts, of which one is woken for each application.
    let listener = builder().bind(&name).unwrap();
    let mut bad_accept = Box::pin(listener.accept());
    let bad = poll_badly(bad_accept.as_mut());
    let handle = connect(&name);
    eventually("it is woken", || bad.was_called());
    drop(bad_accept);
    let face = wait("accept", listener.accept()).unwrap();
    wait("send", handle.send(packet(1, 8))).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(1, 8)));

    // Waits for the peer.
    let single = builder().create(&dir.name("face")).unwrap();
    let mut bad_connected = Box::pin(single.connected());
    let bad = poll_badly(bad_connected.as_mut());
    let other = connect(&dir.name("face"));
    eventually("it is woken", || bad.was_called());
    wait("connected", bad_connected).unwrap();

    // Sends that wait for room and for their place.
    let filled = fill(&single);
    let mut bad_sends: Vec<_> = (0..2).map(|_| Box::pin(single.send(packet(filled, 8)))).collect();
    let bad: Vec<_> = bad_sends.iter_mut().map(|send| poll_badly(send.as_mut())).collect();
    for n in 0..filled {
        assert_eq!(number(&wait("recv", other.recv()).unwrap()), n);
    }
    eventually("the first is woken", || bad[0].was_called());
    drop(bad_sends.remove(0));
    eventually("the turn is passed on", || bad[1].was_called());
    drop(bad_sends);
    wait("send", single.send(packet(7, 8))).unwrap();
    assert_eq!(wait("recv", other.recv()), Some(packet(7, 8)));

    // A wait for the end, and a wait for an engine.
    let mut bad_closed = Box::pin(single.closed());
    let bad = poll_badly(bad_closed.as_mut());
    drop(other);
    eventually("it is woken", || bad.was_called());
    assert_eq!(wait("the end", bad_closed), CloseReason::Peer);
    let mut bad_connect = Box::pin(SpscHandle::builder().driver(driver).connect_async(&name));
    if poll_with(bad_connect.as_mut(), &bad).is_pending() {
        drop(wait("connect", bad_connect).unwrap());
    }
    wait("send", handle.send(packet(2, 8))).unwrap();
    assert_eq!(wait("recv", face.recv()), Some(packet(2, 8)));
}

/// A future that outlives the executors that poll it.
type Left = Arc<Mutex<BoxFuture<'static, Option<bytes::Bytes>>>>;

/// Each has an executor poll the future once and then ends the executor.
const EXECUTORS: [fn(Left); 3] = [
    |left| {
        let executor = smol::Executor::new();
        executor.spawn(poll_left(left)).detach();
        assert!(executor.try_tick());
    },
    |left| {
        let mut pool = LocalPool::new();
        pool.spawner().spawn_local(poll_left(left)).unwrap();
        pool.run_until_stalled();
    },
    |left| {
        // As `block_on` does: the waker unparks a thread, which has ended.
        let thread = std::thread::spawn(move || {
            struct Unpark(std::thread::Thread);
            impl Wake for Unpark {
                fn wake(self: Arc<Self>) {
                    self.0.unpark();
                }
            }
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            let polled = left.lock().unwrap().as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        });
        thread.join().unwrap();
    },
];

/// Does not keep the future alive: a waker may keep the task.
fn poll_left(left: Left) -> impl Future<Output = ()> + Send {
    let left = Arc::downgrade(&left);
    std::future::poll_fn(move |cx| {
        let Some(left) = left.upgrade() else { return Poll::Ready(()) };
        left.lock().unwrap().as_mut().poll(cx).map(drop)
    })
}

fn a_dead_executor_costs_no_other_task_its_wake(driver: &Driver) {
    for leave in EXECUTORS {
        both_roles(driver, SMALL, None, |here, there| {
            let (elsewhere, other) = pair(driver, SMALL);
            let there = Arc::new(there);
            let left: Left = Arc::new(Mutex::new(owned_recv(&there)));
            leave(left.clone());
            let ((next, next_waker), (beside, beside_waker)) =
                (Woken::counting(), Woken::counting());
            let mut waits_next = owned_recv(&there);
            let mut waits_beside = Box::pin(other.recv());
            let poll = |future: Pin<&mut dyn Future<Output = _>>, waker| {
                assert!(future.poll(&mut Context::from_waker(waker)).is_pending());
            };
            poll(waits_next.as_mut(), &next_waker);
            poll(waits_beside.as_mut(), &beside_waker);
            here.try_send(packet(1, 8)).unwrap();
            elsewhere.try_send(packet(2, 8)).unwrap();
            eventually("another channel's task is woken", || beside.calls() > 0);
            assert_eq!(poll_once(waits_beside.as_mut()), Poll::Ready(Some(packet(2, 8))));
            // The wake went to a dead executor. Dropping the future passes it on, with its packet.
            drop(left);
            // (A spurious wake may have come before.)
            let mut seen = 0;
            let received = loop {
                eventually("the next task is woken", || next.calls() > seen);
                seen = next.calls();
                let mut cx = Context::from_waker(&next_waker);
                if let Poll::Ready(received) = waits_next.as_mut().poll(&mut cx) {
                    break received;
                }
            };
            assert_eq!(received, Some(packet(1, 8)));
            // An end reaches all other waiters.
            let left: Left = Arc::new(Mutex::new(owned_recv(&there)));
            leave(left.clone());
            here.cancel();
            assert_eq!(wait("the end", there.recv()), None);
            assert_eq!(poll_once(left.lock().unwrap().as_mut()), Poll::Ready(None));
        });
    }
}
