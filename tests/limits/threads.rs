//! No thread can be started.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Resource;
use wakering::{CloseReason, Driver, RecvTimeoutError, SpscFace, SpscHandle};

use super::{Lowered, assert_lacks, serves, talk};

use crate::common::child::{self, Child, passes, test_path};
use crate::common::seccomp::{Refuse, refuse};

/// A user without any other process.
const NOBODY: u32 = 64_321;

#[test]
fn a_parked_in_driver_needs_no_thread() {
    passes(test_path!(child_without_threads), &[]);
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_without_threads() {
    if child::arguments().is_none() {
        return;
    }
    refuse(&Refuse::threads()).unwrap();
    std::thread::Builder::new().spawn(|| {}).unwrap_err();
    assert_lacks(Driver::builder().background(), Errno::AGAIN);
    assert_lacks(SpscFace::pair(), Errno::AGAIN);
    assert_lacks(SpscFace::pair(), Errno::AGAIN);
    let driver = Driver::new().unwrap();
    let (face, descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
    let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor).unwrap();
    driver.block_on(talk(&face, &handle));
    // No driver can report to the blocking calls, so they check by themselves.
    let soon = Duration::from_millis(70);
    assert_eq!(face.recv_timeout(soon), Err(RecvTimeoutError::Timeout));
    drop(handle);
    assert_eq!(face.recv_blocking(), None);
    assert_eq!(face.close_reason(), Some(CloseReason::Peer));
    let (face, descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
    drop(descriptor);
    assert_eq!(face.recv_blocking(), None);
    assert_eq!(face.close_reason(), Some(CloseReason::PeerDied));
}

#[test]
fn threads_are_started_when_there_may_be_more() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("left out: only root can become a user without other processes");
    }
    match Child::start_as(NOBODY, test_path!(child_with_few_threads), &[]) {
        Ok(child) => assert!(child.wait().success()),
        Err(error) => eprintln!("left out: another user cannot run this binary: {error}"),
    }
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_with_few_threads() {
    if child::arguments().is_none() {
        return;
    }
    let few = Lowered::to(Resource::Nproc, 0);
    assert_lacks(SpscFace::pair(), Errno::AGAIN);
    assert_lacks(Driver::builder().background(), Errno::AGAIN);
    drop(few);
    let (face, descriptor) = SpscFace::pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    pollster::block_on(talk(&face, &handle));
    serves(&Driver::builder().background().unwrap());
}
