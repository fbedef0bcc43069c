//! News that no wake of the peer's tells of: because it came too early, or because the peer never
//! rings.

use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Instant;

use super::floods::{against_raw, say};
use super::*;
use crate::error::{CloseReason, TryRecvError, Violation};
use crate::shm::layout::CANCELLED;
use crate::sync::Ordering;

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `end` sleeps.
fn wait_until_parked(end: &Endpoint) {
    let begin = Instant::now();
    while end.stats().parks == 0 {
        assert!(begin.elapsed() < PATIENCE, "the end does not go to sleep");
        thread::yield_now();
    }
}

/// The peer has the region, and sleeps, before this side has the socket that its bytes go through.
#[test]
fn a_wake_that_came_before_the_lifeline_is_made_up_for() {
    for driver in drivers() {
        let (face, handle, face_line) = half_attached_pair(&driver, 4096);
        let handle = Arc::new(handle);
        let (received, receives) = mpsc::channel();
        let receiver = handle.clone();
        thread::spawn(move || received.send(pollster::block_on(receiver.recv())));
        wait_until_parked(&handle);
        face.try_send("early".into()).unwrap();
        face.channel().attach(face_line).unwrap();
        let packet = receives.recv_timeout(PATIENCE).expect("it sleeps on");
        assert_eq!(packet.unwrap(), "early");
    }
}

/// A call that finds a violation tells the tasks and threads that wait for the other direction.
#[test]
fn a_violation_that_a_call_finds_ends_the_waits_of_others() {
    let receives: [fn(&Endpoint) -> Option<Bytes>; 2] =
        [|end| pollster::block_on(end.recv()), Endpoint::recv_blocking];
    for driver in drivers() {
        for receive in receives {
            let (face, raw, _line) = against_raw(&driver);
            let face = Arc::new(face);
            let (ended, ends) = mpsc::channel();
            let receiver = face.clone();
            thread::spawn(move || ended.send(receive(&receiver)));
            wait_until_parked(&face);
            raw.side(Side::Handle).taken.0.store(4, Ordering::Release);
            assert_eq!(face.free_bytes(), 0);
            assert_eq!(ends.recv_timeout(PATIENCE), Ok(None), "{driver:?}");
            let reason = CloseReason::Violation(Violation::UnalignedHead(4));
            assert_eq!(face.close_reason(), Some(reason));
        }
    }
}

/// Tells that it was called.
struct Teller(mpsc::Sender<()>);

impl Wake for Teller {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

/// The peer cancels and does not ring. A call that sees it tells those who wait for the end.
#[test]
fn an_end_that_a_call_finds_is_told_to_those_who_wait_for_it() {
    for driver in drivers() {
        let (face, raw, _line) = against_raw(&driver);
        let (teller, told) = mpsc::channel();
        let waker = Waker::from(Arc::new(Teller(teller)));
        let mut closed = pin!(face.closed());
        assert!(closed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        say(&raw, CANCELLED);
        assert_eq!(face.try_recv(), Err(TryRecvError::Closed(CloseReason::Cancelled)));
        assert_eq!(told.recv_timeout(PATIENCE), Ok(()), "{driver:?}");
        assert!(closed.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }
}
