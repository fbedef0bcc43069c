//! The directory for sockets is missing, read-only, or on a full disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use wakering::{Driver, ShmError, SpscFace, SpscHandle};

use super::{assert_lacks, talk};

use crate::common::child::{self, Child, test_path};
use crate::common::{self, Dir, SMALL, eventually, on_both_backends, wait};

on_both_backends!(a_missing_directory, a_read_only_directory, a_full_disk);

fn a_missing_directory(driver: &Driver) {
    let dir = Dir::new();
    let place = dir.path().join("not/yet");
    let name = place.join("face").to_str().unwrap().to_owned();
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(driver);
    assert_lacks(builder.clone().create(&name), Errno::NOENT);
    for result in common::connects(driver, &name) {
        assert!(matches!(result, Err(ShmError::NotFound { .. })), "{result:?}");
    }
    fs::create_dir_all(&place).unwrap();
    serves_under(&name, driver);
}

/// Checks that an engine and an application can meet under this name.
fn serves_under(name: &str, driver: &Driver) {
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(name).unwrap();
    let handle = SpscHandle::builder().driver(driver).connect(name).unwrap();
    wait("packets go both ways", talk(&face, &handle));
}

fn a_read_only_directory(driver: &Driver) {
    in_a_mount_namespace(test_path!(child_whose_directory_is_read_only), driver);
}

fn a_full_disk(driver: &Driver) {
    in_a_mount_namespace(test_path!(child_whose_disk_is_full), driver);
}

/// Runs `test` in a child whose mounts nothing else sees.
fn in_a_mount_namespace(test: &str, driver: &Driver) {
    let tool = ["unshare", "--mount", "--propagation", "private"];
    if !Command::new(tool[0]).args(&tool[1..]).arg("true").status().is_ok_and(|done| done.success())
    {
        return eprintln!("left out: no mount namespace for us");
    }
    let dir = Dir::new();
    let arguments = [&driver.backend().to_string(), dir.path().to_str().unwrap()];
    assert!(Child::start_under(&tool, test, &arguments).unwrap().wait().success());
}

fn mount(options: &str, place: &str) {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", options, "tmpfs", place]);
    assert!(mount.status().unwrap().success());
}

fn entries(place: &str) -> usize {
    fs::read_dir(place).unwrap().count()
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_whose_directory_is_read_only() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, place] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    mount("mode=0700", place);
    let name = format!("{place}/face");
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(&driver);
    let face = builder.clone().create(&name).unwrap();
    mount("remount,ro", place);
    assert_lacks(builder.clone().create(&format!("{place}/other")), Errno::ROFS);
    // Applications still find the engine.
    let handle = SpscHandle::builder().driver(&driver).connect(&name).unwrap();
    wait("packets go both ways", talk(&face, &handle));
    // The engine cannot unlink the socket. A later engine takes the name over.
    drop((face, handle));
    assert!(Path::new(&name).exists());
    for result in common::connects(&driver, &name) {
        assert!(matches!(result, Err(ShmError::NotFound { .. })), "{result:?}");
    }
    assert_lacks(builder.clone().create(&name), Errno::ROFS);
    mount("remount,rw", place);
    serves_under(&name, &driver);
    assert_eq!(entries(place), 1, "the lock file alone");
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_whose_disk_is_full() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, place] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    // Inodes for the root, the lock file, a socket and two files that are in the way.
    mount("mode=0700,nr_inodes=5,size=64k", place);
    let name = format!("{place}/face");
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(&driver);
    let blocks: Vec<_> = (0..4).map(|n| format!("{place}/{n}")).collect();
    blocks.iter().for_each(|block| fs::write(block, "").unwrap());
    // There is no room for the lock file.
    assert_lacks(builder.clone().create(&name), Errno::NOSPC);
    assert_eq!(entries(place), 4);
    fs::remove_file(&blocks[0]).unwrap();
    // There is no room for the socket.
    assert_lacks(builder.clone().create(&name), Errno::NOSPC);
    assert_lacks(builder.clone().bind(&name), Errno::NOSPC);
    assert_eq!(entries(place), 4);
    fs::remove_file(&blocks[1]).unwrap();
    serves_under(&name, &driver);
    // A socket needs no bytes on the disk.
    let too_much = || fs::write(&blocks[1], vec![1; 1 << 17]);
    eventually("the socket's place is free", || {
        assert_eq!(too_much().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        Path::new(&blocks[1]).exists()
    });
    fs::remove_file(&blocks[2]).unwrap();
    serves_under(&name, &driver);
    assert_eq!(entries(place), 3, "the lock file and two files in the way");
}
