//! `RLIMIT_AS`, `RLIMIT_MEMLOCK`, `RLIMIT_FSIZE`, and a memory cgroup.

use std::fs;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::Resource;
use wakering::{Backend, CloseReason, Driver, ShmError, SpscFace, SpscHandle, SpscListener};

use super::{Lowered, assert_lacks, serves, talk};

use crate::common::child::{self, Child, passes, test_path};
use crate::common::seccomp::{Refuse, refuse};
use crate::common::{self, Dir, PATIENCE, SMALL, on_both_backends, packet, wait};

on_both_backends!(address_space, no_locked_memory, a_limit_of_file_sizes, a_small_cgroup);

const MIB: u64 = 1 << 20;

/// Lets this process map only this many more bytes.
fn leave_address_space(bytes: u64) -> Lowered {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    Lowered::to(Resource::As, (size << 10) + bytes)
}

fn address_space(driver: &Driver) {
    passes(test_path!(child_without_address_space), &[&driver.backend().to_string()]);
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_without_address_space() {
    let Some(arguments) = child::arguments() else { return };
    let backend = child::backend(&arguments[0]);
    let driver = common::driver(backend).unwrap();
    let (dir, builder) = (Dir::new(), SpscFace::builder().driver(&driver));
    let name = dir.name("face");
    // A region takes eight MiB.
    let limit = leave_address_space(4 * MIB);
    assert_lacks(builder.clone().create(&name), Errno::NOMEM);
    assert_lacks(builder.clone().pair(), Errno::NOMEM);
    drop(limit);

    // Now the other end lacks room. A face serves one handle, even a handle that has no room for
    // the region.
    let listener = builder.clone().bind(&name).unwrap();
    let one = SpscHandle::builder().driver(&driver).connect(&name).unwrap();
    let limit = leave_address_space(12 * MIB);
    // Room for the region of one end, but not of both.
    assert_lacks(SpscHandle::builder().driver(&driver).connect(&name), Errno::NOMEM);
    drop(limit);
    let [served, died] = [(), ()].map(|()| wait("accept", listener.accept()).unwrap());
    assert_eq!(wait("the end", died.closed()), CloseReason::PeerDied);
    wait("packets go both ways", talk(&one, &served));
    let limit = leave_address_space(4 * MIB);
    let refused = SpscHandle::builder().driver(&driver).connect(&name);
    assert!(matches!(refused, Err(ShmError::Busy)), "{refused:?}");
    assert_lacks(wait("accept", listener.accept()), Errno::NOMEM);
    drop(limit);
    let other = SpscHandle::builder().driver(&driver).connect(&name).unwrap();
    // Everything that was made stays, because memory that is unmapped a bit later would add to the
    // rest.
    let its_face = wait("accept", listener.accept()).unwrap();
    wait("packets go both ways", talk(&other, &its_face));

    // Drivers: there is no room for a thread's stack, and then none for an io_uring.
    let limit = leave_address_space(MIB);
    assert_lacks(Driver::builder().backend(backend).background(), Errno::AGAIN);
    drop(limit);
    // A thread that has just ended may unmap what it had after our look, and so leave more room.
    let try_to_build = |_| {
        let _limit = leave_address_space(1 << 15);
        let built = Driver::builder().backend(backend).build();
        let auto = Driver::builder().backend(Backend::Auto).build();
        let backends = [&built, &auto].map(|driver| driver.as_ref().ok().map(Driver::backend));
        (!backends.contains(&Some(Backend::IoUring))).then_some((built, auto))
    };
    let (built, auto) = (0..100).find_map(try_to_build).expect("no room for an io_uring");
    match backend {
        Backend::IoUring => assert_lacks(built, Errno::NOMEM),
        _ => drop(built.unwrap()),
    }
    // Epoll needs no such memory.
    assert_eq!(auto.unwrap().backend(), Backend::Epoll);
    assert_eq!(Driver::builder().backend(backend).build().unwrap().backend(), backend);
    serves(&driver);
}

fn no_locked_memory(driver: &Driver) {
    if !rustix::process::geteuid().is_root() {
        return no_locked_memory_as(Child::start, driver);
    }
    // Root may lock any amount.
    let as_nobody = |name: &str, arguments: &[&str]| Child::start_as(64_321, name, arguments);
    match as_nobody(test_path!(child_without_locked_memory), &[&driver.backend().to_string()]) {
        Ok(child) => assert!(child.wait().success()),
        Err(error) => eprintln!("left out: another user cannot run this binary: {error}"),
    }
}

fn no_locked_memory_as(start: impl Fn(&str, &[&str]) -> Child, driver: &Driver) {
    let child = start(test_path!(child_without_locked_memory), &[&driver.backend().to_string()]);
    assert!(child.wait().success());
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_without_locked_memory() {
    let Some(arguments) = child::arguments() else { return };
    let backend = child::backend(&arguments[0]);
    let limit = Lowered::to(Resource::Memlock, 0);
    // Kernels before 5.12 count an io_uring as locked memory.
    match Driver::builder().backend(backend).background() {
        Ok(driver) => serves(&driver),
        Err(error) => {
            assert_eq!(backend, Backend::IoUring);
            assert_lacks::<()>(Err(error), Errno::NOMEM);
        }
    }
    let driver = Driver::new().unwrap();
    let (face, descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
    let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor).unwrap();
    driver.block_on(talk(&face, &handle));
    drop(limit);
}

fn a_limit_of_file_sizes(driver: &Driver) {
    passes(test_path!(child_that_may_make_no_file), &[&driver.backend().to_string()]);
}

/// A memfd is a file, and a process that exceeds the limit would be killed by SIGXFSZ.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_may_make_no_file() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let limit = Lowered::to(Resource::Fsize, MIB);
    assert_lacks(SpscFace::builder().driver(&driver).pair(), Errno::FBIG);
    // A small region fits.
    serves(&driver);
    drop(limit);
    SpscFace::builder().driver(&driver).pair().unwrap();
}

#[test]
fn a_region_without_memory_is_an_error_and_a_sandbox_is_none() {
    for error in ["no memory", "forbidden"] {
        passes(test_path!(child_that_cannot_allocate), &[error]);
    }
}

/// The filter answers as the kernel does where the commit limit is reached, or as a sandbox does.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_cannot_allocate() {
    let Some(arguments) = child::arguments() else { return };
    let is_lack = arguments[0] == "no memory";
    let errno = if is_lack { Errno::NOSPC } else { Errno::ACCESS };
    refuse(&[Refuse::fallocate(errno)]).unwrap();
    for prefault in [false, true] {
        let pair = SpscFace::builder().prefault(prefault).pair();
        if is_lack {
            assert_lacks(pair, errno);
        } else {
            pair.unwrap();
        }
    }
}

/// A cgroup of a few MiB, removed on drop.
struct Cgroup(PathBuf);

/// How to find and limit the two kinds of cgroups: the line of the hierarchy in `/proc`, where it
/// is mounted, and the files of the limits, of which the last may be missing.
const KINDS: [(&str, &str, [&str; 2]); 2] = [
    (":memory:", "/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
    ("0::", "/sys/fs/cgroup", ["memory.max", "memory.swap.max"]),
];

impl Cgroup {
    /// Makes one below our own cgroup, if that is allowed.
    fn new(bytes: u64, name: &str) -> Result<Self, String> {
        let told = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let own = fs::read_to_string("/proc/self/cgroup").map_err(told("cgroups"))?;
        let found = KINDS.into_iter().find_map(|(hierarchy, root, limits)| {
            let path = own.lines().find_map(|line| Some(line.split_once(hierarchy)?.1))?;
            Some((PathBuf::from(root).join(path.trim_start_matches('/')), limits))
        });
        let (parent, [memory, swap]) = found.ok_or("no cgroups")?;
        let path = parent.join(format!("wakering-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).map_err(told("a new cgroup"))?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join(memory), bytes.to_string()).map_err(told("its memory's limit"))?;
        // There may be no swap to forbid. The older kind limits memory and swap together.
        let most = if swap == "memory.swap.max" { 0 } else { bytes };
        let _ = fs::write(cgroup.0.join(swap), most.to_string());
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The kernel kills the process that exceeds the limit, and no other process is harmed.
fn a_small_cgroup(driver: &Driver) {
    let cgroup = match Cgroup::new(32 * MIB, &driver.backend().to_string()) {
        Ok(cgroup) => cgroup,
        Err(reason) => return eprintln!("left out: {reason}"),
    };
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("listener");
    let builder = SpscListener::builder().driver(driver);
    let listener = builder.ring_bytes(64 << 20).bind(&name).unwrap();
    let mut child = Child::start(test_path!(child_in_a_small_cgroup), &[&backend, &name]);
    fs::write(cgroup.0.join("cgroup.procs"), child.pid().to_string()).unwrap();
    child.tell("you are in it");
    let face = wait("accept", listener.accept()).unwrap();
    assert_eq!(wait("the end", face.closed()), CloseReason::PeerDied);
    assert!(!child.wait().success());
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    wait("packets go both ways", talk(&handle, &wait("accept", listener.accept()).unwrap()));
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_in_a_small_cgroup() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name] = &arguments[..] else { panic!("{arguments:?}") };
    child::listen();
    let driver = common::driver(child::backend(backend)).unwrap();
    let builder = SpscHandle::builder().driver(&driver).connect_timeout(PATIENCE);
    let handle = builder.connect(name).unwrap();
    // Touches the ring's pages until it is killed.
    for n in 0.. {
        handle.send_blocking(packet(n, SMALL)).unwrap();
    }
}
