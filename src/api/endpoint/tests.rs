//! Two ends in one process, without a rendezvous.

mod batches;
mod floods;
mod looks;
mod silent;

use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Endpoint, Options};
use crate::driver::{Backend, Driver};
use crate::rendezvous::credentials::PeerCredentials;
use crate::rendezvous::lifeline::Lifeline;
use crate::shm::layout::{Geometry, Side};
use crate::shm::region::Region;
use crate::sync::{Arc, lock};
use crate::sys::fork::in_child;

fn drivers() -> Vec<Driver> {
    [Backend::IoUring, Backend::Epoll]
        .into_iter()
        .filter_map(|backend| Driver::builder().backend(backend).background().ok())
        .collect()
}

/// Both ends of a channel with rings of this size.
fn pair(driver: &Driver, ring_bytes: usize) -> (Endpoint, Endpoint) {
    let (face, handle, line) = half_attached_pair(driver, ring_bytes);
    face.channel().attach(line).unwrap();
    (face, handle)
}

/// As [`pair`], but the face has still to be given its lifeline.
fn half_attached_pair(driver: &Driver, ring_bytes: usize) -> (Endpoint, Endpoint, Lifeline) {
    let geometry = Geometry::new(Some(ring_bytes), None).unwrap();
    let (region, file) = Region::create(geometry, false, None).unwrap();
    let joined = Region::join(file).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let peer = PeerCredentials::of(one.as_fd()).unwrap();
    let options = Options { send_timeout: Some(Duration::from_secs(20)), ..Options::default() };
    let face = Endpoint::open(region.into(), Side::Face, options, driver.binding()).unwrap();
    let handle = Endpoint::open(joined.into(), Side::Handle, options, driver.binding()).unwrap();
    handle.channel().attach(Lifeline::new(other, peer, None)).unwrap();
    (face, handle, Lifeline::new(one, peer, None))
}

#[test]
fn a_child_leaks_a_half_that_a_thread_used_at_the_fork() {
    let driver = Driver::builder().backend(Backend::Epoll).background().unwrap();
    for is_split in [false, true] {
        let (face, _handle) = pair(&driver, 4096);
        // That thread does not come so far in the child.
        std::mem::forget(lock(&face.tx));
        in_child(move || {
            let channel = face.channel().clone();
            let before = Arc::strong_count(&channel);
            if is_split {
                let (sender, receiver) = face.into_split();
                assert!(sender.is_closed());
                drop((sender, receiver));
            } else {
                drop(face);
            }
            // All but the half's own, which nobody drops.
            assert_eq!(Arc::strong_count(&channel), before - 2);
        });
    }
}

#[test]
fn a_hundred_thousand_round_trips_lose_no_wake() {
    for driver in drivers() {
        let (face, handle) = pair(&driver, 4096);
        let echo = std::thread::spawn(move || {
            pollster::block_on(async {
                while let Some(packet) = face.recv().await {
                    face.send(packet).await.unwrap();
                }
            });
        });
        pollster::block_on(async {
            for round in 0..20_000u64 {
                handle.send(Bytes::copy_from_slice(&round.to_le_bytes())).await.unwrap();
                assert_eq!(handle.recv().await.unwrap(), &round.to_le_bytes()[..]);
            }
        });
        drop(handle);
        echo.join().unwrap();
    }
}

#[test]
fn a_taker_that_goes_away_wakes_the_blocked_sender() {
    for driver in drivers() {
        let (face, handle) = pair(&driver, 4096);
        let mut next = 0u64;
        let packet = |n: u64| Bytes::copy_from_slice(&n.to_le_bytes());
        while face.try_send(packet(next)).is_ok() {
            next += 1;
        }
        let face = Arc::new(face);
        for taken in 0..5_000u64 {
            let sender = face.clone();
            let last = packet(next);
            next += 1;
            let sent = std::thread::spawn(move || pollster::block_on(sender.send(last)));
            assert_eq!(pollster::block_on(handle.recv()).unwrap(), packet(taken));
            sent.join().unwrap().unwrap();
        }
    }
}
