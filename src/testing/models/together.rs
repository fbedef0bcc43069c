//! Several mechanisms at once: receivers of three kinds on one end, and a packet that is lent while
//! a sender waits for its room.
#![allow(unsafe_code, reason = "lending is unsafe, if not in a model")]

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures::sink::Sink;
use loom::thread;

use super::{Ends, FULL, explore, fill, fill_elsewhere, kept, packet, unkept_with};
use crate::channel::Options;
use crate::driver::model::{Driver, Task};
use crate::sync::Arc;

/// Ends whose receivers look again after other tasks, from the first dry spell on.
fn channel(driver: fn() -> Driver) -> Ends {
    unkept_with(Options { first_backoff: 0, ..Options::default() }, 64, driver).map(kept)
}

/// Two tasks and a thread receive from one end. One of the tasks looks, looks again after others,
/// and is dropped when it is woken after that. So it has to pass its wake on.
fn receivers_of_three_kinds_leave_none_asleep([(face, _), (handle, driver)]: Ends) {
    let handle = Arc::new(handle);
    let sender = fill_elsewhere(face, FULL);
    let receiver = {
        let handle = handle.clone();
        thread::spawn(move || assert!(handle.recv_blocking().is_some()))
    };
    let mut dropped = Some(Box::pin(handle.recv()));
    let mut polls = 0;
    let impatient = poll_fn(|cx| {
        polls += 1;
        if let Some(recv) = dropped.as_mut()
            && polls <= 2
            && recv.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        dropped = None;
        Poll::Ready(())
    });
    let patient = async { assert!(handle.recv().await.is_some()) };
    driver.run([Box::pin(impatient) as Task<'_>, Box::pin(patient)]);
    receiver.join().unwrap();
    sender.join().unwrap();
}

/// As [`channel`], after the first dry spell.
fn after_a_dry_spell(driver: fn() -> Driver) -> Ends {
    let ends = channel(driver);
    fill(&ends[0].0, 1);
    ends[1].0.try_recv().unwrap();
    ends
}

/// As [`after_a_dry_spell`], and the driver may let the bell go.
fn after_threads_have_left(driver: fn() -> Driver) -> Ends {
    let ends = after_a_dry_spell(driver);
    let (handle, driver) = &ends[1];
    driver.as_shipped();
    handle.channel().leave_as_threads_do();
    ends
}

#[test]
fn receivers_of_three_kinds_whose_driver_spins() {
    explore(Some(2), || {
        receivers_of_three_kinds_leave_none_asleep(after_a_dry_spell(Driver::that_spins));
    });
}

#[test]
fn receivers_of_three_kinds_whose_driver_lets_the_bell_go() {
    explore(Some(2), || {
        receivers_of_three_kinds_leave_none_asleep(after_threads_have_left(Driver::that_spins));
    });
}

#[test]
fn receivers_of_three_kinds_in_anothers_ring() {
    explore(Some(2), || {
        receivers_of_three_kinds_leave_none_asleep(after_threads_have_left(Driver::embedded));
    });
}

/// A sender waits for room that is lent, and another thread gives it back.
fn a_loan_that_comes_back_wakes_the_sender(make: fn() -> Driver, by_sink: bool) {
    let [(face, driver), (handle, other)] = channel(make);
    let (mut tx, _their_rx) = face.into_split();
    let (_our_tx, mut rx) = handle.into_split();
    (0..FULL).for_each(|n| tx.try_send(packet(n)).unwrap());
    // SAFETY: in a model the bytes are a copy, and nobody writes to it.
    let lent = unsafe { rx.try_recv_ref().unwrap().into_lent_bytes() };
    let sender = thread::spawn(move || {
        driver.block_on(async {
            if by_sink {
                Pin::new(&mut tx).start_send(packet(FULL)).unwrap();
                poll_fn(|cx| Pin::new(&mut tx).poll_flush(cx)).await.unwrap();
            } else {
                tx.send(packet(FULL)).await.unwrap();
            }
        });
        tx
    });
    let borrower = thread::spawn(move || drop(lent));
    other.block_on(async {
        for n in 1..=FULL {
            assert_eq!(rx.recv().await, Some(packet(n)));
        }
    });
    borrower.join().unwrap();
    sender.join().unwrap();
}

#[test]
fn a_loan_that_comes_back_wakes_a_sender_whose_driver_spins() {
    explore(Some(2), || a_loan_that_comes_back_wakes_the_sender(Driver::that_spins, false));
}

#[test]
fn a_loan_that_comes_back_wakes_a_sink_in_anothers_ring() {
    explore(Some(2), || a_loan_that_comes_back_wakes_the_sender(Driver::embedded, true));
}

/// A sender waits for room, and the only thing that happens then is that a loan comes back.
fn a_loan_that_comes_back_alone_wakes_the_sender(make: fn() -> Driver) {
    let [(face, driver), (handle, _other)] = channel(make);
    let (mut tx, _their_rx) = face.into_split();
    let (_our_tx, mut rx) = handle.into_split();
    (0..FULL).for_each(|n| tx.try_send(packet(n)).unwrap());
    // SAFETY: in a model the bytes are a copy, and nobody writes to it.
    let lent = unsafe { rx.try_recv_ref().unwrap().into_lent_bytes() };
    let borrower = thread::spawn(move || drop(lent));
    driver.block_on(tx.send(packet(FULL))).unwrap();
    borrower.join().unwrap();
}

#[test]
fn a_loan_that_comes_back_alone_wakes_a_sender() {
    explore(Some(2), || a_loan_that_comes_back_alone_wakes_the_sender(Driver::new));
}
