//! A peer that wakes this side without a cause, in every way that there is.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Instant;

use rustix::net::{RecvFlags, SendFlags};

use super::*;
use crate::error::{CloseReason, RecvTimeoutError, TryRecvError, TrySendError, Violation};
use crate::rendezvous::lifeline::Lifeline;
use crate::shm::layout::{CANCELLED, RX_CLOSED, TX_CLOSED};

/// A face whose peer is raw memory and a socket, as a hostile process has them.
pub(super) fn against_raw(driver: &Driver) -> (Endpoint, Arc<Region>, OwnedFd) {
    let geometry = Geometry::new(Some(4096), None).unwrap();
    let (region, file) = Region::create(geometry, false, None).unwrap();
    let raw = Region::join(file).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let peer = PeerCredentials::of(one.as_fd()).unwrap();
    let face =
        Endpoint::open(region.into(), Side::Face, Options::default(), driver.binding()).unwrap();
    face.channel().attach(Lifeline::new(one, peer, None)).unwrap();
    (face, raw.into(), other)
}

/// Longer than anything takes that does not hang.
const LONG: Duration =
    Duration::from_secs(if option_env!("WAKERING_SLOW").is_some() { 200 } else { 20 });

/// Rings by all ways until the driver has had enough; false if it never has.
fn flood(raw: &Region, line: &OwnedFd) -> bool {
    let bell = &raw.side(Side::Face).bell.0.bell;
    let end = Instant::now() + LONG;
    let mut byte = [0; 1];
    while Instant::now() < end {
        bell.fetch_add(1, Ordering::Release);
        crate::sys::futex::wake(bell);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = rustix::net::send(line, &[1], flags);
        // The face hangs up when it leaves its driver.
        if matches!(rustix::net::recv(line, &mut byte, RecvFlags::DONTWAIT), Ok((_, 0))) {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

pub(super) fn say(raw: &Region, ends: u32) {
    raw.side(Side::Handle).ends.0.fetch_or(ends, Ordering::Release);
}

#[test]
fn a_flood_of_an_open_channel_ends_it() {
    for driver in drivers() {
        let (face, raw, line) = against_raw(&driver);
        assert!(flood(&raw, &line));
        let reason = Some(CloseReason::Violation(Violation::WakeFlood));
        assert_eq!(face.close_reason(), reason);
    }
}

#[test]
fn a_flood_after_an_end_does_not_keep_the_driver_busy() {
    for driver in drivers() {
        // Half-closed, and a send has failed: the other direction goes on.
        let (face, raw, line) = against_raw(&driver);
        say(&raw, RX_CLOSED);
        assert!(face.try_send(Bytes::new()).is_err());
        assert_eq!(face.close_reason(), None);
        assert!(flood(&raw, &line), "half-closed, {driver:?}");
        let flood_reason = CloseReason::Violation(Violation::WakeFlood);
        assert_eq!(face.try_recv(), Err(TryRecvError::Closed(flood_reason)));
        assert_eq!(face.close_reason(), Some(flood_reason));
        // Over, but not dropped: by the peer, and by ourselves.
        for ends in [CANCELLED, TX_CLOSED | RX_CLOSED] {
            let (face, raw, line) = against_raw(&driver);
            say(&raw, ends);
            assert!(face.is_closed());
            assert!(flood(&raw, &line), "ends {ends}, {driver:?}");
        }
        let (face, raw, line) = against_raw(&driver);
        face.close();
        assert!(flood(&raw, &line), "closed here, {driver:?}");
    }
}

#[test]
fn an_end_that_was_seen_cannot_be_taken_back() {
    for driver in drivers() {
        let (face, raw, _line) = against_raw(&driver);
        say(&raw, TX_CLOSED | RX_CLOSED);
        assert!(face.is_closed());
        raw.side(Side::Handle).ends.0.store(0, Ordering::Release);
        assert!(face.is_closed());
        assert_eq!(
            face.recv_timeout(Duration::ZERO),
            Err(RecvTimeoutError::Closed(CloseReason::Peer))
        );
        assert_eq!(face.finished(), Some(Ok(())));
        let sent = face.try_send(Bytes::new());
        assert!(matches!(sent, Err(TrySendError::Closed(_, CloseReason::Peer))), "{sent:?}");
        assert_eq!(face.close_reason(), Some(CloseReason::Peer));
    }
}

#[test]
fn a_violation_of_a_half_closed_channel_hangs_up() {
    for driver in drivers() {
        let (face, raw, line) = against_raw(&driver);
        say(&raw, RX_CLOSED);
        assert!(face.try_send(Bytes::new()).is_err());
        say(&raw, 1 << 31);
        let violation = Violation::UnknownEnds(1 << 31 | RX_CLOSED);
        let reason = CloseReason::Violation(violation);
        assert_eq!(face.try_recv(), Err(TryRecvError::Closed(reason)));
        let deadline = Instant::now() + LONG;
        while !matches!(rustix::net::recv(&line, &mut [0; 1], RecvFlags::DONTWAIT), Ok((_, 0))) {
            assert!(Instant::now() < deadline, "the line stands, {driver:?}");
            std::thread::yield_now();
        }
    }
}

/// Drivers that this thread parks in.
fn parked_in() -> Vec<Driver> {
    [Backend::IoUring, Backend::Epoll]
        .into_iter()
        .filter_map(|backend| Driver::builder().backend(backend).build().ok())
        .collect()
}

/// Whether a receive is over at its first poll. If not, its task has asked the driver to spin.
fn is_over(end: &Endpoint) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    pin!(end.recv()).poll(&mut cx).is_ready()
}

#[test]
fn a_header_that_comes_and_goes_does_not_keep_the_driver_awake() {
    for driver in parked_in() {
        let (face, raw, _line) = against_raw(&driver);
        let memory = raw.ring(Side::Handle);
        let mut rounds = 0;
        while !is_over(&face) {
            // Where all share one core, nobody spins.
            if std::thread::available_parallelism().map_or(1, usize::from) == 1 {
                return;
            }
            memory.header(0).store(16, Ordering::Release);
            driver.park(Some(Duration::ZERO)).unwrap();
            memory.header(0).store(0, Ordering::Release);
            rounds += 1;
            assert!(rounds < 200, "for ever");
        }
        let reason = CloseReason::Violation(Violation::WakeFlood);
        assert_eq!(face.close_reason(), Some(reason));
    }
}

#[test]
fn packets_that_others_take_before_the_task_are_no_flood() {
    for driver in parked_in() {
        let (face, handle) = pair(&driver, 4096);
        for round in 0..500 {
            assert!(!is_over(&face), "after {round}: {face:?}");
            handle.try_send("packet".into()).unwrap();
            // Before the driver has looked, and after it.
            let first = (round % 2 == 0).then(|| face.try_recv().unwrap());
            driver.park(Some(Duration::ZERO)).unwrap();
            assert_eq!(first.unwrap_or_else(|| face.try_recv().unwrap()), "packet");
        }
        assert_eq!(face.close_reason(), None);
    }
}

/// The end of our sending, which a receiver outlives, is announced and taken back all the time.
#[test]
fn an_end_that_comes_and_goes_does_not_keep_the_driver_awake() {
    for driver in parked_in() {
        let (face, raw, _line) = against_raw(&driver);
        let mut rounds = 0;
        while !is_over(&face) {
            // Where all share one core, nobody spins.
            if std::thread::available_parallelism().map_or(1, usize::from) == 1 {
                return;
            }
            for ends in [RX_CLOSED, 0] {
                raw.side(Side::Handle).ends.0.store(ends, Ordering::Release);
                driver.park(Some(Duration::ZERO)).unwrap();
            }
            rounds += 1;
            assert!(rounds < 500, "for ever");
        }
        let reason = CloseReason::Violation(Violation::WakeFlood);
        assert_eq!(face.try_recv(), Err(TryRecvError::Closed(reason)));
    }
}

/// Many bytes are taken at once, and each of them counts.
#[test]
fn a_flood_of_bytes_that_are_taken_together_ends_the_channel() {
    for driver in parked_in() {
        let (face, _raw, line) = against_raw(&driver);
        for _ in 0..200 {
            rustix::net::send(&line, &[1], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).unwrap();
        }
        for _ in 0..8 {
            driver.park(Some(Duration::ZERO)).unwrap();
        }
        let reason = CloseReason::Violation(Violation::WakeFlood);
        assert_eq!(face.close_reason(), Some(reason), "{driver:?}");
    }
}
