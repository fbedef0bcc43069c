//! The peer takes one packet from a full ring and then does nothing more: the blocked send
//! completes.
//!
//! The receiver reads the sender's bit without a fence, and a sender that parks again asks for more
//! than it needs. The protocol has to close both gaps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wakering::{Driver, Endpoint, SpscFace, SpscHandle};

use crate::common::child::{self, Child, test_path};
use crate::common::{
    self, Dir, SMALL, eventually, fill_with, join, number, on_both_backends, packet,
    pair_with_timeout, wait,
};

on_both_backends!(
    the_blocked_send_completes_in_one_process,
    the_blocked_batch_completes_in_one_process,
    the_blocked_sink_completes_in_one_process,
    the_blocked_send_completes_across_processes,
);

/// Lengths of packets that divide the ring evenly, so that one taken packet makes room for one.
const LENGTHS: [usize; 3] = [8, 248, 504];

/// How many rounds. A lost wake shows as a send that never returns.
const ROUNDS: u64 = 1500;

fn filled(driver: &Driver, len: usize) -> (Endpoint, Endpoint, u64) {
    let (face, handle) = pair_with_timeout(driver, SMALL, None);
    let filled = fill_with(&face, len);
    (face.into(), handle.into(), filled)
}

fn the_blocked_send_completes_in_one_process(driver: &Driver) {
    for len in LENGTHS {
        for (send_blocks, take_blocks) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            let (here, there, filled) = filled(driver, len);
            let (go, gone) = std::sync::mpsc::channel();
            let (done, finished) = std::sync::mpsc::channel();
            let sender = std::thread::spawn(move || {
                for n in gone {
                    if send_blocks {
                        here.send_blocking(packet(n, len)).unwrap();
                    } else {
                        wait("the blocked send", here.send(packet(n, len))).unwrap();
                    }
                    done.send(()).unwrap();
                }
            });
            for n in 0..ROUNDS / 2 {
                go.send(filled + n).unwrap();
                // Take the packet at various moments: before the sender parks, while it parks, and
                // after that.
                let pause = Instant::now();
                while pause.elapsed() < Duration::from_nanos(n % 50 * 1000) {
                    std::hint::spin_loop();
                }
                let taken = if take_blocks {
                    there.recv_blocking()
                } else {
                    pollster::block_on(there.recv())
                };
                assert_eq!(number(&taken.unwrap()), n);
                finished.recv_timeout(common::PATIENCE).expect("the blocked send hangs");
            }
            drop(go);
            join("sender", sender);
        }
    }
}

fn the_blocked_batch_completes_in_one_process(driver: &Driver) {
    for blocking in [false, true] {
        let (here, there, filled) = filled(driver, 8);
        let here = Arc::new(here);
        for n in 0..ROUNDS / 2 {
            let (sender, batch) = (here.clone(), [packet(filled + n, 8)]);
            let stalls = here.stats().full_stalls;
            let thread = std::thread::spawn(move || {
                if blocking {
                    sender.send_batch_blocking(&batch).unwrap();
                } else {
                    pollster::block_on(sender.send_batch(&batch)).unwrap();
                }
            });
            if n % 2 == 0 {
                eventually("the sender parks", || here.stats().full_stalls > stalls);
            }
            assert_eq!(number(&there.try_recv().unwrap()), n);
            join("the blocked batch", thread);
        }
    }
}

fn the_blocked_sink_completes_in_one_process(driver: &Driver) {
    use futures::SinkExt;
    let (here, there, filled) = filled(driver, 8);
    let (mut tx, _rx) = here.into_split();
    let (done, finished) = std::sync::mpsc::channel();
    let sender = std::thread::spawn(move || {
        for n in 0..ROUNDS {
            wait("feed", tx.feed(packet(filled + n, 8))).unwrap();
            wait("flush", tx.flush()).unwrap();
            done.send(()).unwrap();
        }
    });
    for n in 0..ROUNDS {
        assert_eq!(number(&there.try_recv().unwrap()), n);
        finished.recv_timeout(common::PATIENCE).expect("the blocked sink hangs");
    }
    join("sender", sender);
}

/// Fills the ring and goes on sending, and reports each packet, until the parent kills it.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_sends() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let (len, blocking) = (child::parsed(&arguments[2]), child::parsed::<bool>(&arguments[3]));
    let handle =
        SpscHandle::builder().driver(&driver).send_timeout(None).connect(&arguments[1]).unwrap();
    let mut next = fill_with(&handle, len);
    child::say(next);
    loop {
        if blocking {
            handle.send_blocking(packet(next, len)).unwrap();
        } else {
            pollster::block_on(handle.send(packet(next, len))).unwrap();
        }
        child::say(next);
        next += 1;
    }
}

fn the_blocked_send_completes_across_processes(driver: &Driver) {
    for len in [8, 504] {
        for blocking in ["false", "true"] {
            let dir = Dir::new();
            let name = dir.name("face");
            let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
            let backend = driver.backend().to_string();
            let arguments = [&backend, &name, &len.to_string(), blocking];
            let mut child = Child::start(test_path!(child_that_sends), &arguments);
            let filled: u64 = child::parsed(&child.hear());
            for n in 0..ROUNDS {
                if n % 4 == 0 {
                    // Sometimes long enough for the sender to fall asleep.
                    std::thread::sleep(Duration::from_micros(n % 1500));
                }
                assert_eq!(number(&face.try_recv().unwrap()), n);
                // Nothing here touches the channel until the child has sent.
                assert_eq!(child::parsed::<u64>(&child.hear()), filled + n);
            }
        }
    }
}
