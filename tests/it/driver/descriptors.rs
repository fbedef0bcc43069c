//! Waits for the user's own descriptors: sockets, pipes and the like, in one park with channels.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use wakering::{CloseReason, Driver, ShmError};

use super::{ends, is_readable, kind, park_until, parked, polled};
use crate::common::running::{WAYS, running};
use crate::common::woken::Woken;
use crate::common::{PATIENCE, eventually, join, on_both_backends, packet, poll_with, wait};

on_both_backends!(
    bytes_pass_both_ways_however_the_driver_is_run,
    a_reader_and_a_writer_wait_on_one_descriptor,
    any_number_of_tasks_wait_on_one_descriptor,
    one_park_waits_for_sockets_and_channels,
    a_hang_up_makes_a_descriptor_readable_and_writable,
    a_dropped_wait_leaves_nothing_in_the_driver,
    a_wait_that_is_over_keeps_no_waker,
    a_close_after_a_dropped_wait_takes_effect_at_once,
    what_nobody_reads_keeps_no_driver_busy,
    a_future_that_is_polled_by_another_task_wakes_that_one,
    a_file_is_an_error,
    a_driver_that_is_dropped_ends_its_waits,
);

fn sockets() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

async fn read_exact(driver: &Driver, mut socket: &UnixStream, mut buffer: &mut [u8]) {
    while !buffer.is_empty() {
        match socket.read(buffer) {
            Ok(0) => panic!("the other side hung up"),
            Ok(read) => buffer = &mut buffer[read..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                driver.readable(socket).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn write_all(driver: &Driver, mut socket: &UnixStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                driver.writable(socket).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes until nothing more fits; returns how much did.
fn fill(mut socket: &UnixStream) -> usize {
    let mut bytes = 0;
    loop {
        match socket.write(&[7; 4096]) {
            Ok(written) => bytes += written,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return bytes;
            }
        }
    }
}

/// How many endpoints, listeners, handshakes and waits a driver has.
fn bound(driver: &Driver) -> usize {
    let form = format!("{driver:?}");
    let (_, rest) = form.split_once("bound: ").unwrap();
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn bytes_pass_both_ways_however_the_driver_is_run(like: &Driver) {
    // More than a socket holds.
    const BYTES: usize = 1 << 20;
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    for way in WAYS {
        running(way, like.backend(), |driver| {
            let (ours, theirs) = sockets();
            let answer = std::thread::scope(|scope| {
                scope.spawn(|| {
                    wait("an echo", async {
                        let mut buffer = vec![0; BYTES];
                        read_exact(driver, &theirs, &mut buffer).await;
                        write_all(driver, &theirs, &buffer).await;
                    });
                });
                wait("its answer", async {
                    let mut buffer = vec![0; BYTES];
                    write_all(driver, &ours, &sent).await;
                    read_exact(driver, &ours, &mut buffer).await;
                    buffer
                })
            });
            assert!(answer == sent, "{way:?}");
        });
    }
}

fn a_reader_and_a_writer_wait_on_one_descriptor(like: &Driver) {
    let driver = parked(like);
    let (ours, mut theirs) = sockets();
    let filled = fill(&ours);
    let (read, reader) = Woken::counting();
    let (written, writer) = Woken::counting();
    let (mut readable, mut writable) = (pin!(driver.readable(&ours)), pin!(driver.writable(&ours)));
    assert!(poll_with(readable.as_mut(), &reader).is_pending());
    assert!(poll_with(writable.as_mut(), &writer).is_pending());
    driver.park(Some(Duration::ZERO)).unwrap();
    assert_eq!((read.calls(), written.calls()), (0, 0));

    theirs.write_all(b"something to read").unwrap();
    park_until(&driver, "a wake of the reader", || read.calls() > 0);
    assert!(poll_with(readable.as_mut(), &reader).is_ready());
    assert_eq!(written.calls(), 0, "there is no room");
    assert!(poll_with(writable.as_mut(), &writer).is_pending());

    theirs.read_exact(&mut vec![0; filled]).unwrap();
    park_until(&driver, "a wake of the writer", || written.calls() > 0);
    assert!(poll_with(writable.as_mut(), &writer).is_ready());
}

fn any_number_of_tasks_wait_on_one_descriptor(like: &Driver) {
    const TASKS: usize = 50;
    let (ours, mut theirs) = sockets();
    let threads: Vec<_> = (0..TASKS)
        .map(|_| {
            let (driver, ours) = (like.clone(), ours.try_clone().unwrap());
            std::thread::spawn(move || wait("the byte", driver.readable(&ours)).unwrap())
        })
        .collect();
    // And all on one number.
    let waits = futures::future::join_all((0..TASKS).map(|_| like.readable(&ours)));
    let mut waits = pin!(waits);
    let (_, waker) = Woken::counting();
    assert!(poll_with(waits.as_mut(), &waker).is_pending());
    theirs.write_all(&[1]).unwrap();
    threads.into_iter().for_each(|thread| join("a task", thread));
    wait("all of them", waits).into_iter().for_each(Result::unwrap);
    eventually("an empty driver", || bound(like) == 0);
}

fn one_park_waits_for_sockets_and_channels(like: &Driver) {
    let driver = parked(like);
    let (face, handle) = ends(&driver, like);
    let (ours, mut theirs) = sockets();
    for round in 0..100 {
        let (_, receiver) = Woken::counting();
        let (bytes, reader) = Woken::counting();
        let mut received = pin!(face.recv());
        let mut readable = pin!(driver.readable(&ours));
        assert!(poll_with(received.as_mut(), &receiver).is_pending());
        assert!(poll_with(readable.as_mut(), &reader).is_pending());
        let sender = std::thread::scope(|scope| {
            let sender = scope.spawn(|| match round % 2 {
                0 => theirs.write_all(&[1]).unwrap(),
                _ => handle.try_send(packet(round, 8)).unwrap(),
            });
            park_until(&driver, "what was sent", || match round % 2 {
                0 => poll_with(readable.as_mut(), &reader).is_ready(),
                _ => poll_with(received.as_mut(), &receiver).is_ready(),
            });
            sender.join()
        });
        sender.unwrap();
        if round % 2 == 0 {
            assert!(bytes.calls() > 0);
            (&ours).read_exact(&mut [0]).unwrap();
        } else {
            assert_eq!(bytes.calls(), 0, "there was nothing to read");
        }
    }
}

fn a_hang_up_makes_a_descriptor_readable_and_writable(like: &Driver) {
    let (ours, theirs) = sockets();
    fill(&ours);
    let (_, waker) = Woken::counting();
    let (mut readable, mut writable) = (pin!(like.readable(&ours)), pin!(like.writable(&ours)));
    assert!(poll_with(readable.as_mut(), &waker).is_pending());
    assert!(poll_with(writable.as_mut(), &waker).is_pending());
    drop(theirs);
    wait("the end", readable).unwrap();
    wait("the error", writable).unwrap();
}

fn a_dropped_wait_leaves_nothing_in_the_driver(like: &Driver) {
    let driver = parked(like);
    let (ours, _theirs) = sockets();
    let (_, waker) = Woken::counting();
    for _ in 0..1000 {
        let mut first = pin!(driver.readable(&ours));
        let mut second = pin!(driver.readable(&ours));
        assert!(poll_with(first.as_mut(), &waker).is_pending());
        assert!(poll_with(second.as_mut(), &waker).is_pending());
    }
    driver.park(Some(Duration::ZERO)).unwrap();
    assert_eq!(bound(&driver), 0);
    let mut never_polled = driver.readable(&ours);
    assert_eq!(bound(&driver), 0);
    assert!(poll_with(pin!(&mut never_polled), &waker).is_pending());
    assert_eq!(bound(&driver), 1);
}

/// The waker may own the executor, and the executor the driver, which nobody runs any more then.
fn a_wait_that_is_over_keeps_no_waker(like: &Driver) {
    let driver = parked(like);
    let (ours, mut theirs) = sockets();
    let (woken, waker) = Woken::counting();
    let mut dropped = Box::pin(driver.readable(&ours));
    assert!(poll_with(dropped.as_mut(), &waker).is_pending());
    driver.park(Some(Duration::ZERO)).unwrap();
    drop(dropped);
    let mut done = Box::pin(driver.readable(&ours));
    assert!(poll_with(done.as_mut(), &waker).is_pending());
    theirs.write_all(&[1]).unwrap();
    park_until(&driver, "a wake", || woken.calls() > 0);
    assert!(poll_with(done.as_mut(), &waker).is_ready());
    drop((done, waker));
    assert_eq!(Arc::strong_count(&woken), 1, "the driver has not been run since");
}

fn a_close_after_a_dropped_wait_takes_effect_at_once(like: &Driver) {
    for driver in [parked(like), like.clone()] {
        // A process that another test starts may have a copy of the socket for a moment.
        eventually("the end, at once", || {
            let (ours, mut theirs) = sockets();
            let (_, waker) = Woken::counting();
            {
                let mut first = pin!(driver.readable(&ours));
                let mut second = pin!(driver.readable(&ours));
                assert!(poll_with(first.as_mut(), &waker).is_pending());
                assert!(poll_with(second.as_mut(), &waker).is_pending());
            }
            drop(ours);
            // Nobody runs the first driver meanwhile.
            matches!(theirs.read(&mut [0]), Ok(0))
        });
    }
}

fn what_nobody_reads_keeps_no_driver_busy(like: &Driver) {
    let driver = polled(like);
    let (ours, mut theirs) = sockets();
    let (woken, waker) = Woken::counting();
    let mut readable = pin!(driver.readable(&ours));
    assert!(poll_with(readable.as_mut(), &waker).is_pending());
    theirs.write_all(&[1]).unwrap();
    while woken.calls() == 0 {
        assert!(is_readable(&driver, PATIENCE));
        driver.turn().unwrap();
    }
    // What else is due is over soon.
    eventually("rest", || {
        driver.turn().unwrap();
        !is_readable(&driver, Duration::ZERO)
    });
    assert!(poll_with(readable.as_mut(), &waker).is_ready(), "it still knows");
    assert_eq!(woken.calls(), 1);
}

fn a_future_that_is_polled_by_another_task_wakes_that_one(like: &Driver) {
    let (ours, mut theirs) = sockets();
    let (first, waker) = Woken::counting();
    let (second, another) = Woken::counting();
    let mut readable = pin!(like.readable(&ours));
    assert!(poll_with(readable.as_mut(), &waker).is_pending());
    assert!(poll_with(readable.as_mut(), &another).is_pending());
    theirs.write_all(&[1]).unwrap();
    eventually("a wake", || second.calls() == 1);
    assert_eq!(first.calls(), 0);
    assert_eq!(poll_with(readable.as_mut(), &another).map(Result::unwrap), Poll::Ready(()));
}

fn a_file_is_an_error(like: &Driver) {
    let file = File::open("Cargo.toml").unwrap();
    let error = wait("an answer", like.readable(&file)).unwrap_err();
    assert_eq!(kind(error), ErrorKind::PermissionDenied);
    eventually("an empty driver", || bound(like) == 0);
}

fn a_driver_that_is_dropped_ends_its_waits(like: &Driver) {
    let driver = parked(like);
    let (ours, _theirs) = sockets();
    let (woken, waker) = Woken::counting();
    let mut readable = pin!(driver.readable(&ours));
    let late = driver.readable(&ours);
    assert!(poll_with(readable.as_mut(), &waker).is_pending());
    driver.park(Some(Duration::ZERO)).unwrap();
    drop(driver);
    assert!(woken.calls() > 0);
    for gone in [poll_with(readable, &waker), poll_with(pin!(late), &waker)] {
        assert!(
            matches!(
                gone,
                Poll::Ready(Err(ShmError::Closed { reason: CloseReason::DriverGone, sent: 0 }))
            ),
            "{gone:?}"
        );
    }
}
