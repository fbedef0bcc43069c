//! Clocks that jump, and clocks that differ.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use wakering::{CloseReason, Driver, RecvTimeoutError, SpscFace, SpscHandle};

use crate::common::child::{self, Child, test_path};
use crate::common::{self, Dir, SMALL, number, on_both_backends, packet, wait};

on_both_backends!(sides_with_different_clocks_work_together);

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    directories.iter().flat_map(|directory| sources(directory)).chain(files).collect()
}

/// Setting the clock does not matter to code that never reads it: all times are those of the
/// monotonic clock. (So are `Instant`, the relative timeout of a futex, and those of io_uring and
/// epoll.)
#[test]
fn no_line_of_the_library_asks_for_the_time_of_day() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    if !directory.exists() {
        return eprintln!("left out: {} is not here", directory.display());
    }
    let sources = sources(&directory);
    assert!(sources.len() > 50);
    for source in sources {
        let text = fs::read_to_string(&source).unwrap();
        for clock in ["SystemTime", "UNIX_EPOCH", "::Realtime", "CLOCK_REALTIME", "ABS"] {
            let found = text.lines().find(|line| line.contains(clock) && !line.contains("//"));
            assert_eq!(found, None, "{}", source.display());
        }
    }
}

/// An engine, and an application in whose time namespace the monotonic clock is a year ahead. The
/// sides exchange no times.
fn sides_with_different_clocks_work_together(driver: &Driver) {
    let ahead = ["unshare", "--time", "--monotonic", "31536000", "--kill-child"];
    if !Command::new(ahead[0]).args(&ahead[1..]).arg("true").status().is_ok_and(|it| it.success()) {
        return eprintln!("left out: no time namespace for us");
    }
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec.to_string();
    let arguments = [backend.as_str(), &name, &now];
    let test = test_path!(child_that_is_ahead);
    let child = Child::start_under(&ahead, test, &arguments).unwrap();
    wait("the echo", async {
        while let Some(packet) = face.recv().await {
            face.send(packet).await.unwrap();
        }
    });
    assert_eq!(face.close_reason(), Some(CloseReason::Peer));
    assert!(child.wait().success());
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_is_ahead() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name, engines] = &arguments[..] else { panic!("{arguments:?}") };
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    assert!(now > child::parsed::<i64>(engines) + 31_000_000, "the clock is ahead");
    let driver = common::driver(child::backend(backend)).unwrap();
    let handle = SpscHandle::builder().driver(&driver).connect(name).unwrap();
    wait("the echo", async {
        for n in 0..500 {
            handle.send(packet(n, 100)).await.unwrap();
            assert_eq!(number(&handle.recv().await.unwrap()), n);
        }
    });
    let begin = Instant::now();
    let soon = Duration::from_millis(50);
    assert_eq!(handle.recv_timeout(soon), Err(RecvTimeoutError::Timeout));
    assert!(begin.elapsed() >= soon && begin.elapsed() < common::PATIENCE);
    handle.close();
}
