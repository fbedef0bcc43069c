//! What the tests share: both backends, both ends, deadlines, second processes.
#![allow(dead_code, unused_imports, reason = "no binary needs all of it")]
#![allow(unreachable_pub, reason = "each binary is a crate of its own")]

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wakering::{
    Backend, Driver, Endpoint, FaceBuilder, HandleBuilder, ShmError, SpscFace, SpscHandle,
};

pub mod child;
pub mod held;
pub mod own_ring;
pub mod raw_peer;
pub mod roles;
pub mod running;
pub mod seccomp;
pub mod woken;

/// How many times slower than usual the machine may be. A build with `WAKERING_SLOW` is for an
/// emulated machine.
const SLOWNESS: u64 = if option_env!("WAKERING_SLOW").is_some() { 10 } else { 1 };

/// How long anything may take before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(30 * SLOWNESS);

/// How long a whole test may take before it counts as hung.
const TEST_PATIENCE: Duration = Duration::from_secs(120 * SLOWNESS);

/// The smallest ring, with packets of up to 1016 bytes.
pub const SMALL: usize = 4096;

/// Makes a test of each function for each backend. [`run`] runs it, or another function that is
/// named before, `by run_so:`.
#[allow(unused_macros, reason = "not for a file of one test")]
macro_rules! on_both_backends {
    (by $run:path: $($(#[$meta:meta])* $name:ident),+ $(,)?) => {
        mod io_uring {
            $($(#[$meta])* #[test] fn $name() {
                $run(wakering::Backend::IoUring, super::$name);
            })+
        }
        mod epoll {
            $($(#[$meta])* #[test] fn $name() {
                $run(wakering::Backend::Epoll, super::$name);
            })+
        }
    };
    ($($tests:tt)+) => { $crate::common::on_both_backends!(by $crate::common::run: $($tests)+); };
}
pub(crate) use on_both_backends;

/// Returns a driver with this backend, if the machine has it.
pub fn driver(backend: Backend) -> Option<Driver> {
    match Driver::builder().backend(backend).background() {
        Ok(driver) => {
            assert_eq!(driver.backend(), backend);
            Some(driver)
        }
        Err(error) if backend == Backend::IoUring => {
            eprintln!("no io_uring here ({error}): left out");
            None
        }
        Err(error) => panic!("no {backend} driver: {error}"),
    }
}

/// Runs a test with a driver of its own, and fails it if it hangs.
pub fn run(backend: Backend, test: fn(&Driver)) {
    if let Some(driver) = driver(backend) {
        watched(move || test(&driver));
    }
}

/// Runs a test, and fails it if it hangs.
pub fn watched(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    // A run with thousands of kills takes longer.
    let times = if std::env::var_os("WAKERING_KILLS").is_some() { 1000 } else { 1 };
    if finished.recv_timeout(TEST_PATIENCE * times) == Err(RecvTimeoutError::Timeout) {
        panic!("hangs");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whether the kernel has at least this version, which is the first that can do `what`. If not,
/// prints what is left out.
pub fn kernel_can(version: (u32, u32), what: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let can = (numbers.next().unwrap(), numbers.next().unwrap()) >= version;
    if !can {
        eprintln!("left out: Linux {} does not {what}", release.trim());
    }
    can
}

/// A directory for the sockets of one test; removed on drop.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("wakering-test-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                // A process with this ID was killed in an earlier run.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                result => {
                    result.unwrap();
                    let dir = Self(path);
                    dir.set_mode(0o700);
                    return dir;
                }
            }
        }
    }

    pub fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns an absolute name in this directory.
    pub fn name(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns two connected ends with rings of `ring_bytes`, bound to `driver`.
pub fn pair(driver: &Driver, ring_bytes: usize) -> (SpscFace, SpscHandle) {
    pair_of(driver, SpscFace::builder().ring_bytes(ring_bytes), SpscHandle::builder())
}

/// Returns two connected ends whose sends give up after `timeout`.
pub fn pair_with_timeout(
    driver: &Driver,
    ring_bytes: usize,
    timeout: Option<Duration>,
) -> (SpscFace, SpscHandle) {
    let face = SpscFace::builder().ring_bytes(ring_bytes).send_timeout(timeout);
    pair_of(driver, face, SpscHandle::builder().send_timeout(timeout))
}

/// Returns two connected ends with these settings, bound to `driver`.
pub fn pair_of(
    driver: &Driver,
    face: FaceBuilder,
    handle: HandleBuilder,
) -> (SpscFace, SpscHandle) {
    let dir = Dir::new();
    let name = dir.name("face");
    let face = face.driver(driver).create(&name).unwrap();
    let handle = handle.driver(driver).connect(&name).unwrap();
    // The engine sends its answer a moment before it notes its peer.
    pollster::block_on(face.connected()).unwrap();
    (face, handle)
}

/// Returns two connected ends with these settings and no name.
pub fn unnamed_pair(face: FaceBuilder, handle: HandleBuilder) -> (SpscFace, SpscHandle) {
    let (face, descriptor) = face.pair().unwrap();
    (face, handle.from_fd(descriptor).unwrap())
}

/// Connects in both ways, one after the other.
pub fn connects(driver: &Driver, name: &str) -> [Result<SpscHandle, ShmError>; 2] {
    connects_within(driver, name, Duration::from_secs(20))
}

pub fn connects_within(
    driver: &Driver,
    name: &str,
    timeout: Duration,
) -> [Result<SpscHandle, ShmError>; 2] {
    let builder = SpscHandle::builder().driver(driver).connect_timeout(timeout);
    let blocking = builder.clone().connect(name);
    [blocking, wait("connect_async", builder.connect_async(name))]
}

/// Runs `test` twice: with the face as its first end, and with the handle as its first end.
pub fn both_roles(
    driver: &Driver,
    ring_bytes: usize,
    timeout: Option<Duration>,
    test: impl Fn(Endpoint, Endpoint),
) {
    let face = SpscFace::builder().ring_bytes(ring_bytes).send_timeout(timeout);
    both_roles_of(driver, face, SpscHandle::builder().send_timeout(timeout), test);
}

/// Like [`both_roles`], with these settings.
pub fn both_roles_of(
    driver: &Driver,
    face: FaceBuilder,
    handle: HandleBuilder,
    test: impl Fn(Endpoint, Endpoint),
) {
    let (face_end, handle_end) = pair_of(driver, face.clone(), handle.clone());
    test(face_end.into(), handle_end.into());
    let (face_end, handle_end) = pair_of(driver, face, handle);
    test(handle_end.into(), face_end.into());
}

/// Returns a packet of at least 8 bytes that contains its number, and whose every byte can be
/// checked.
pub fn packet(number: u64, len: usize) -> Bytes {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((8..len.max(8)).map(|at| filler(number, at)));
    Bytes::from(bytes)
}

#[allow(clippy::cast_possible_truncation, reason = "any byte will do")]
fn filler(number: u64, at: usize) -> u8 {
    (number as u8).wrapping_mul(31).wrapping_add((at as u8).wrapping_mul(7))
}

/// Returns the length of packet `n`. Over all `n`, these are all lengths from 8 bytes to the most
/// that fits into the smallest ring.
pub fn length(n: u64) -> usize {
    8 + usize::try_from(n * 389 % 1009).unwrap()
}

/// Returns the bytes of a record in the ring: a header of 8 bytes and the packet, rounded up to a
/// multiple of 8.
pub fn record_bytes(len: usize) -> usize {
    8 + len.next_multiple_of(8)
}

/// Returns the number of a packet, and checks all of its bytes.
pub fn number(packet: &[u8]) -> u64 {
    let number = u64::from_le_bytes(packet[..8].try_into().unwrap());
    for (at, byte) in packet.iter().enumerate().skip(8) {
        assert_eq!(*byte, filler(number, at), "byte {at} of packet {number}");
    }
    number
}

/// Sends small numbered packets until no more fit, and returns how many it sent.
pub fn fill(end: &Endpoint) -> u64 {
    fill_with(end, 8)
}

/// Sends numbered packets of `len` bytes until no more fit, and returns how many it sent.
pub fn fill_with(end: &Endpoint, len: usize) -> u64 {
    (0..).find(|&next| end.try_send(packet(next, len)).is_err()).unwrap()
}

/// Polls once, with this waker.
pub fn poll_with<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

/// Polls once, with a waker that does nothing.
pub fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    poll_with(future, Waker::noop())
}

/// Polls until the future no longer wakes itself: then it sleeps.
pub fn poll_to_sleep<F: Future + ?Sized>(mut future: Pin<&mut F>) {
    wakes_before_sleep(|waker| poll_with(future.as_mut(), waker).is_pending());
}

/// Calls `poll` until it no longer wakes its own task, and returns how often it did. `poll` returns
/// whether it was pending, which it has to be.
pub fn wakes_before_sleep(mut poll: impl FnMut(&Waker) -> bool) -> usize {
    let (calls, waker) = woken::Woken::counting_here();
    for polls in 0..100 {
        assert!(poll(&waker));
        let wakes = calls.load(Ordering::SeqCst);
        if wakes == polls {
            return wakes;
        }
        assert_eq!(wakes, polls + 1, "one poll wakes its task once");
    }
    panic!("it wakes itself for ever")
}

/// Waits until `holds` returns true; fails if it never does.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Returns the output of the future; fails if it hangs.
pub fn wait<F: Future>(what: &str, future: F) -> F::Output {
    use futures::future::{Either, select};
    // The timer is polled first. Otherwise a future that is ready only when it is polled again
    // would pass, although nothing has woken it.
    let timer = async_io::Timer::after(PATIENCE);
    match pollster::block_on(select(timer, std::pin::pin!(future))) {
        Either::Left(_) => panic!("hangs: {what}"),
        Either::Right((output, _)) => output,
    }
}

/// Keeps everything that the caller has until the process is killed. This loops because a thread's
/// first `park` may return at once: a channel of std that the thread has used before may have left
/// it a token.
#[allow(dead_code, reason = "not for a file whose processes end by themselves")]
pub fn stay() -> ! {
    loop {
        std::thread::park();
    }
}

/// Returns the output of the thread; fails if it hangs.
pub fn join<T>(what: &str, thread: std::thread::JoinHandle<T>) -> T {
    eventually(what, || thread.is_finished());
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
