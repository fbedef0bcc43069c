//! A second process that interferes with the sleepers on a bell. Their queue is in the kernel: a
//! process that maps the memory can join the queue, and move others out of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wakering::{CloseReason, Driver, Endpoint, ShmError};

use super::attacker::{Attacker, Honest, Ours, against_each};
use crate::common::raw_peer::{RECV, WAITING};
use crate::common::{self, eventually, fill, join, number, on_both_backends, packet, wait};

on_both_backends!(
    a_thread_that_was_moved_to_another_word_learns_of_a_cancel,
    a_thread_that_was_moved_to_another_word_learns_of_the_peers_death,
    a_thread_that_sleeps_on_a_locked_bell_learns_of_a_cancel,
    a_channel_whose_waits_were_moved_away_can_be_dropped,
    a_crowd_on_the_peers_bell_costs_little_to_wake,
    two_thousand_blocked_threads_learn_of_the_end,
    what_is_sent_to_two_thousand_blocked_threads_arrives,
);

type Blocked = (std::thread::JoinHandle<Option<CloseReason>>, &'static str);

/// Starts a thread that receives and a thread that sends, which both sleep on the bell.
fn blocked(end: &Arc<Endpoint>) -> [Blocked; 2] {
    fill(end);
    let parks = end.stats().parks;
    let (receiver, sender) = (end.clone(), end.clone());
    let recv = std::thread::spawn(move || {
        assert_eq!(receiver.recv_blocking(), None);
        receiver.close_reason()
    });
    let send = std::thread::spawn(move || match sender.send_blocking(packet(0, 8)) {
        Err(ShmError::Closed { reason, .. }) => Some(reason),
        other => panic!("{other:?}"),
    });
    eventually("both sleep", || end.stats().parks >= parks + 2);
    // Longer than until the sender's last look for itself.
    std::thread::sleep(Duration::from_millis(60));
    [(recv, "recv_blocking"), (send, "send_blocking")]
}

/// Ends the channel with `end_it` while the threads sleep where the attacker has put them.
fn meddled(driver: &Driver, meddle: &str, end_it: fn(&mut Attacker, &Endpoint) -> CloseReason) {
    against_each(driver, meddle, |attacker, end, _| {
        let end = Arc::new(end);
        let threads = blocked(&end);
        attacker.say(meddle);
        let reason = end_it(attacker, &end);
        let begin = Instant::now();
        for (thread, what) in threads {
            assert_eq!(join(what, thread), Some(reason), "{what}");
        }
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    });
}

fn a_thread_that_was_moved_to_another_word_learns_of_a_cancel(driver: &Driver) {
    meddled(driver, "steal 60", |_, end| {
        end.cancel();
        CloseReason::Cancelled
    });
}

fn a_thread_that_was_moved_to_another_word_learns_of_the_peers_death(driver: &Driver) {
    meddled(driver, "steal 60", |attacker, _| {
        attacker.kill();
        CloseReason::PeerDied
    });
}

fn a_thread_that_sleeps_on_a_locked_bell_learns_of_a_cancel(driver: &Driver) {
    against_each(driver, "a bell that is a lock", |attacker, end, _| {
        let end = Arc::new(end);
        // A wake of this word first meets the thread that waits for the lock. The kernel then fails
        // the wake, because it is not the way to wake that thread.
        attacker.say("lock");
        let threads = blocked(&end);
        end.cancel();
        for (thread, what) in threads {
            assert_eq!(join(what, thread), Some(CloseReason::Cancelled), "{what}");
        }
    });
}

fn a_channel_whose_waits_were_moved_away_can_be_dropped(driver: &Driver) {
    against_each(driver, "waits that were moved away", |attacker, end, ours| {
        attacker.say("send 1");
        assert_eq!(number(&wait("recv", end.recv()).unwrap()), 0);
        attacker.say("steal 30");
        drop(end);
        // The attacker still has its word and its threads.
        attacker.say("steal 30");
        let end = attacker.meet(driver, ours);
        attacker.say("send 1");
        assert_eq!(number(&wait("recv", end.recv()).unwrap()), 0);
    });
}

fn a_crowd_on_the_peers_bell_costs_little_to_wake(driver: &Driver) {
    const CROWD: u32 = 200_000;
    // The crowd needs an io_uring, whatever our driver waits by.
    if let Err(error) = Driver::builder().backend(wakering::Backend::IoUring).build() {
        return eprintln!("left out: {error}");
    }
    let honest = Honest::start(driver);
    let mut attacker = Attacker::start();
    let end = attacker.meet(driver, Ours::Face);
    attacker.say(&format!("crowd {CROWD:x}"));
    let mut times = Vec::new();
    for n in 1..=20 {
        // The attacker says that it sleeps, so each packet is a wake.
        let begin = Instant::now();
        end.try_send(packet(n, 8)).unwrap();
        times.push(begin.elapsed());
        assert_eq!(end.stats().wakes_sent, n);
        let waiting = Ours::Face.words().1 + WAITING;
        attacker.say(&format!("woken {:x}; or32 {waiting:x} {RECV:x}", 1024 * n));
    }
    times.sort_unstable();
    // To wake all of them would take 40 ms or more, with their queue locked.
    eprintln!("wakes of a bell with {CROWD} waiters took {:?} to {:?}", times[0], times[19]);
    drop(end);
    attacker.kill();
    honest.finish("a crowd on the peer's bell");
}

const THREADS: usize = 2000;

fn many_blocked(end: &Arc<Endpoint>) -> Vec<std::thread::JoinHandle<Option<u64>>> {
    let start = || {
        let end = end.clone();
        let blocks = move || end.recv_blocking().map(|packet| number(&packet));
        std::thread::Builder::new().stack_size(128 << 10).spawn(blocks).unwrap()
    };
    let threads: Vec<_> = (0..THREADS).map(|_| start()).collect();
    // Long enough for most of them to sleep.
    std::thread::sleep(Duration::from_millis(300));
    threads
}

fn two_thousand_blocked_threads_learn_of_the_end(driver: &Driver) {
    let (face, handle) = common::pair(driver, common::SMALL);
    let handle = Arc::new(handle.into());
    let threads = many_blocked(&handle);
    let begin = Instant::now();
    drop(face);
    for thread in threads {
        assert_eq!(join("recv_blocking", thread), None);
    }
    eprintln!("{THREADS} threads learned of the end in {:?}", begin.elapsed());
    assert_eq!(handle.close_reason(), Some(CloseReason::Peer));
}

fn what_is_sent_to_two_thousand_blocked_threads_arrives(driver: &Driver) {
    let (face, handle) = common::pair(driver, common::SMALL);
    let handle = Arc::new(handle.into());
    let threads = many_blocked(&handle);
    for n in 0..THREADS as u64 {
        wait("send", face.send(packet(n, 8))).unwrap();
    }
    let mut got: Vec<_> =
        threads.into_iter().map(|thread| join("recv_blocking", thread).unwrap()).collect();
    got.sort_unstable();
    assert!(got.into_iter().eq(0..THREADS as u64));
    assert_eq!(handle.close_reason(), None);
}
