//! Descriptors, memory, threads, the disk with the sockets: when one of them runs out, an error
//! says so, nothing is left behind, and the process goes on when there is enough again.
//!
//! Limits belong to a process, so most tests run in second processes.

#[path = "../common/mod.rs"]
mod common;
mod descriptors;
mod disk;
mod memory;
mod threads;

use common::{number, packet, wait};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wakering::{Driver, Endpoint, ShmError};

/// A limit of this process that is lowered until this is dropped.
struct Lowered(Resource, Rlimit);

impl Lowered {
    fn to(resource: Resource, limit: u64) -> Self {
        let before = getrlimit(resource);
        setrlimit(resource, Rlimit { current: Some(limit), maximum: before.maximum }).unwrap();
        Self(resource, before)
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        setrlimit(self.0, self.1).unwrap();
    }
}

/// Asserts that the error says what was missing.
#[track_caller]
fn assert_lacks<T: std::fmt::Debug>(result: Result<T, ShmError>, expected: Errno) {
    match result {
        Err(ShmError::Io { step, source }) => {
            // An error that names a file has the errno only in its text.
            let expected = std::io::Error::from(expected);
            assert_eq!(source.kind(), expected.kind(), "{step}: {source}");
            assert!(source.to_string().ends_with(&expected.to_string()), "{step}: {source}");
            assert!(!step.is_empty());
        }
        other => panic!("{other:?} where {expected} was expected"),
    }
}

/// Sends packets both ways, between tasks that sleep.
async fn talk(one: &Endpoint, other: &Endpoint) {
    for n in 0..50 {
        for (from, to) in [(one, other), (other, one)] {
            let (received, sent) = futures::join!(to.recv(), from.send(packet(n, 100)));
            sent.unwrap();
            assert_eq!(number(&received.unwrap()), n);
        }
    }
}

/// Checks that a background driver serves a pair of ends.
fn serves(driver: &Driver) {
    let (face, handle) = common::pair(driver, common::SMALL);
    wait("packets go both ways", talk(&face, &handle));
}
