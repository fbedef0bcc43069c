//! `RLIMIT_NOFILE`.

use std::fmt::Debug;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::Resource;
use rustix::time::{ClockId, clock_gettime};
use wakering::{
    Backend, CloseReason, Driver, Endpoint, ShmError, SpscFace, SpscHandle, SpscListener,
};

use super::{Lowered, assert_lacks, serves, talk};

use crate::common::child::{self, Child, passes, test_path};
use crate::common::raw_peer;
use crate::common::{
    self, Dir, PATIENCE, SMALL, eventually, join, number, on_both_backends, packet, wait, watched,
};

on_both_backends!(
    making_drivers_and_ends,
    connecting,
    parking_for_the_first_time,
    a_listener_pauses_and_resumes,
    a_face_pauses_and_resumes,
    blocking_calls_learn_of_a_death_without_a_driver,
    answers_that_nobody_reads,
);

/// No call needs more descriptors than this.
const ENOUGH: usize = 12;

/// Takes all descriptors except a few.
struct Scarcity {
    /// Dropped first, so that all descriptors become free at once.
    _lowered: Lowered,
    taken: Vec<OwnedFd>,
}

impl Scarcity {
    fn begin() -> Self {
        let _lowered = Lowered::to(Resource::Nofile, 100);
        let mut scarcity = Self { taken: Vec::new(), _lowered };
        scarcity.take_all();
        scarcity
    }

    /// Takes all descriptors that are free, and returns how many that were.
    fn take_all(&mut self) -> usize {
        let before = self.taken.len();
        while let Ok(one) = rustix::fs::open("/dev/null", OFlags::CLOEXEC, Mode::empty()) {
            self.taken.push(one);
        }
        self.taken.len() - before
    }

    /// Leaves `free` descriptors free.
    fn leave(&mut self, free: usize) {
        self.take_all();
        self.taken.truncate(self.taken.len() - free);
    }
}

/// Tries `make` with one more descriptor each time until it works. Each failure must name the
/// missing resource and leave nothing behind. `prepare` runs with enough descriptors.
fn with_more_each_time<I, T: Debug>(
    what: &str,
    prepare: impl Fn() -> I,
    make: impl Fn(I) -> Result<T, ShmError>,
) -> T {
    let mut prepared: Vec<I> = (0..=ENOUGH).map(|_| prepare()).collect();
    let mut scarcity = Scarcity::begin();
    let mut made = None;
    for free in 0..=ENOUGH {
        let input = prepared.pop().unwrap();
        scarcity.leave(free);
        let result = make(input);
        if let Ok(it) = result {
            eprintln!("{what}: {free} descriptors");
            made = Some(it);
            break;
        }
        assert_lacks(result, Errno::MFILE);
        // Descriptors that `make` was given and has closed are free in addition.
        eventually("all are closed", || {
            let found = scarcity.take_all();
            scarcity.taken.truncate(scarcity.taken.len() - found);
            found >= free
        });
    }
    drop(scarcity);
    assert!(made.is_some(), "{what} needs more than {ENOUGH} descriptors");
    // This is kept for good. The next count would take descriptors for free that are closed a bit
    // later.
    std::mem::forget(made);
    // There are enough descriptors again.
    make(prepare()).unwrap()
}

fn making_drivers_and_ends(driver: &Driver) {
    passes(test_path!(child_that_makes), &[&driver.backend().to_string()]);
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_makes() {
    let Some(arguments) = child::arguments() else { return };
    let backend = child::backend(&arguments[0]);
    // The default driver, before anything else.
    let mut scarcity = Scarcity::begin();
    scarcity.leave(1);
    assert_lacks(SpscFace::pair(), Errno::MFILE);
    assert_lacks(SpscFace::pair(), Errno::MFILE);
    drop(scarcity);
    let (face, descriptor) = SpscFace::pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    wait("packets go both ways", talk(&face, &handle));
    drop((face, handle));

    let nothing = || {};

    let best = Driver::new().unwrap().backend();
    for (requested, expected) in [(backend, backend), (Backend::Auto, best)] {
        let builder = || Driver::builder().backend(requested);
        let driver = with_more_each_time("build", nothing, |()| builder().build());
        // A lack of descriptors must never lead to another backend.
        assert_eq!(driver.backend(), expected);
        let driver = with_more_each_time("polled", nothing, |()| builder().polled());
        assert_eq!(driver.backend(), expected);
        let driver = with_more_each_time("embedded", nothing, |()| builder().embedded());
        assert_eq!(driver.backend(), expected);
        let driver = with_more_each_time("background", nothing, |()| builder().background());
        assert_eq!(driver.backend(), expected);
        serves(&driver);
    }

    let driver = Driver::builder().backend(backend).background().unwrap();
    let (dir, builder) = (Dir::new(), SpscFace::builder().ring_bytes(SMALL).driver(&driver));
    let next = AtomicUsize::new(0);
    let name = || dir.name(&next.fetch_add(1, Ordering::Relaxed).to_string());
    let _face = with_more_each_time("create", name, |name| builder.clone().create(&name));
    let _listener = with_more_each_time("bind", name, |name| builder.clone().bind(&name));
    let pair = || builder.clone().pair().unwrap();
    let _pair = with_more_each_time("pair", nothing, |()| builder.clone().pair());
    let handle = || SpscHandle::builder().driver(&driver);
    let ends = with_more_each_time("from_fd", pair, |(face, descriptor)| {
        handle().from_fd(descriptor).map(|handle| (face, handle))
    });
    wait("packets go both ways", talk(&ends.0, &ends.1));
    serves(&driver);
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 1 + 2 * 2, "the lock file, and what was made");
}

fn connecting(driver: &Driver) {
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("listener");
    let listener = SpscListener::builder().ring_bytes(SMALL).driver(driver).bind(&name).unwrap();
    let mut child = Child::start(test_path!(child_that_connects), &[&backend, &name]);
    // A face whose client never answered is over. All others still work.
    let mut died = 0;
    while child_still_talks(&mut child, &listener, &mut died) {}
    assert!(child.wait().success());
    assert_eq!(died, 0, "no face was used up by a client without descriptors");
}

/// Serves one client. Returns `false` if there will be no more.
fn child_still_talks(child: &mut Child, listener: &SpscListener, died: &mut usize) -> bool {
    match child.hear().as_str() {
        "connected" => {
            let face = wait("accept", listener.accept()).unwrap();
            wait("the echo", async {
                while let Some(packet) = face.recv().await {
                    face.send(packet).await.unwrap();
                }
            });
            *died += usize::from(face.close_reason() == Some(CloseReason::PeerDied));
            true
        }
        _ => false,
    }
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_connects() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let builder = SpscHandle::builder().driver(&driver).connect_timeout(PATIENCE);
    let talks = |handle: SpscHandle| {
        child::say("connected");
        handle.send_blocking(packet(1, 8)).unwrap();
        assert_eq!(handle.recv_blocking(), Some(packet(1, 8)));
    };
    let nothing = || {};
    with_more_each_time("connect", nothing, |()| builder.clone().connect(name).map(talks));
    with_more_each_time("connect_async", nothing, |()| {
        pollster::block_on(builder.clone().connect_async(name)).map(talks)
    });
    child::say("done");
}

fn parking_for_the_first_time(driver: &Driver) {
    passes(test_path!(child_that_parks), &[&driver.backend().to_string()]);
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_parks() {
    let Some(arguments) = child::arguments() else { return };
    let backend = child::backend(&arguments[0]);
    let driver = Driver::builder().backend(backend).build().unwrap();
    let (face, descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
    let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor).unwrap();
    let scarcity = Scarcity::begin();
    let now = Some(Duration::ZERO);
    if backend == Backend::IoUring {
        for _ in 0..100 {
            assert_lacks(driver.park(now), Errno::MFILE);
        }
    } else {
        driver.park(now).unwrap();
    }
    // What a future waits for reaches it although its thread cannot sleep in the driver.
    let polls = AtomicUsize::new(0);
    thread::scope(|scope| {
        let mut recv = pin!(face.recv());
        let counted = poll_fn(|cx| {
            let received = recv.as_mut().poll(cx);
            polls.fetch_add(1, Ordering::Relaxed);
            received
        });
        scope.spawn(|| {
            eventually("the receiver waits", || polls.load(Ordering::Relaxed) > 0);
            handle.send_blocking(packet(1, 100)).unwrap();
        });
        assert_eq!(number(&driver.block_on(counted).unwrap()), 1);
    });
    // A future that waits when descriptors become free goes on.
    let relief = thread::spawn(move || {
        // Any time will do.
        thread::sleep(Duration::from_millis(30));
        drop(scarcity);
    });
    driver.block_on(talk(&face, &handle));
    relief.join().unwrap();
    driver.park(now).unwrap();
}

/// Returns how much processor time the process has used.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}

/// Asserts that this process does next to nothing for a while.
fn assert_idle() {
    const WHILE: Duration = Duration::from_millis(1000);
    let before = processor_time();
    thread::sleep(WHILE);
    let used = processor_time() - before;
    eprintln!("at its limit it used {used:?} of {WHILE:?}");
    assert!(used < WHILE / 20, "{used:?}: it spins");
}

fn a_listener_pauses_and_resumes(driver: &Driver) {
    const CLIENTS: usize = 6;
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("listener");
    let mut engine = Child::start(test_path!(child_that_listens), &[&backend, &name]);
    let builder = SpscHandle::builder().driver(driver).connect_timeout(PATIENCE);
    let connects = || {
        let (builder, name) = (builder.clone(), name.clone());
        let connects = move || {
            let handle = builder.connect(&name)?;
            handle.send_blocking(packet(1, 8))?;
            assert_eq!(handle.recv_blocking(), Some(packet(1, 8)));
            Ok::<_, ShmError>(handle)
        };
        thread::spawn(connects)
    };
    engine.expect("full");
    let clients: Vec<_> = (0..CLIENTS).map(|_| connects()).collect();
    engine.tell("they come");
    engine.expect("over");
    // The clients stay connected, because descriptors that their faces close would be free.
    let served = clients.into_iter().map(|client| join("a client that waited", client).unwrap());
    let _served: Vec<_> = served.collect();
    engine.tell("they came");
    // There is a descriptor for the connection, and none for its region.
    engine.expect("nearly full");
    let refused = join("a client", connects());
    assert!(matches!(refused, Err(ShmError::Busy)), "{refused:?}");
    engine.tell("refused");
    engine.expect("over");
    join("a client", connects()).unwrap();
    engine.tell("end");
    assert!(engine.wait().success());
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_listens() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let listener = SpscListener::builder().ring_bytes(SMALL).driver(&driver).bind(name).unwrap();
    let (errors, errors_seen) = std::sync::mpsc::channel();
    thread::spawn(move || {
        loop {
            match pollster::block_on(listener.accept()) {
                Ok(face) => drop(thread::spawn(move || {
                    while let Some(packet) = face.recv_blocking() {
                        face.send_blocking(packet).unwrap();
                    }
                })),
                Err(error) => errors.send(error).unwrap(),
            }
        }
    });
    let mut scarcity = Scarcity::begin();
    child::say("full");
    assert_eq!(child::listen().as_deref(), Some("they come"));
    assert_idle();
    assert!(errors_seen.try_recv().is_err(), "no client came in");
    drop(scarcity);
    child::say("over");
    assert_eq!(child::listen().as_deref(), Some("they came"));
    scarcity = Scarcity::begin();
    scarcity.leave(1);
    child::say("nearly full");
    assert_eq!(child::listen().as_deref(), Some("refused"));
    // The listener returns an error, and goes on.
    assert_lacks::<()>(Err(errors_seen.recv_timeout(PATIENCE).unwrap()), Errno::MFILE);
    drop(scarcity);
    child::say("over");
    assert_eq!(child::listen().as_deref(), Some("end"));
}

fn a_face_pauses_and_resumes(driver: &Driver) {
    let (dir, backend) = (Dir::new(), driver.backend().to_string());
    let name = dir.name("face");
    let mut engine = Child::start(test_path!(child_that_faces), &[&backend, &name]);
    engine.expect("full");
    let builder = SpscHandle::builder().driver(driver).connect_timeout(PATIENCE);
    let client = thread::spawn(move || builder.connect(&name));
    engine.tell("it comes");
    engine.expect("over");
    let handle = join("the client", client).unwrap();
    assert_eq!(wait("recv", handle.recv()), Some(packet(1, 8)));
    drop(handle);
    assert!(engine.wait().success());
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_faces() {
    let Some(arguments) = child::arguments() else { return };
    let [backend, name] = &arguments[..] else { panic!("{arguments:?}") };
    let driver = common::driver(child::backend(backend)).unwrap();
    let face = SpscFace::builder().ring_bytes(SMALL).driver(&driver).create(name).unwrap();
    face.try_send(packet(1, 8)).unwrap();
    let scarcity = Scarcity::begin();
    child::say("full");
    assert_eq!(child::listen().as_deref(), Some("it comes"));
    assert_idle();
    assert!(!face.is_connected());
    drop(scarcity);
    child::say("over");
    assert_eq!(wait("the end", face.closed()), CloseReason::Peer);
}

/// No thread runs their driver, and no other driver can be started to watch in its place.
fn blocking_calls_learn_of_a_death_without_a_driver(driver: &Driver) {
    passes(test_path!(child_that_blocks), &[&driver.backend().to_string()]);
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_blocks() {
    let Some(arguments) = child::arguments() else { return };
    let driver = Driver::builder().backend(child::backend(&arguments[0])).build().unwrap();
    watched(move || {
        let (face, descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
        let (other, stay) = SpscFace::builder().driver(&driver).pair().unwrap();
        let (face, other): (Endpoint, Endpoint) = (face.into(), other.into());
        let scarcity = Scarcity::begin();
        let blocked = thread::spawn(move || {
            assert_eq!(face.recv_blocking(), None);
            assert_eq!(face.close_reason(), Some(CloseReason::PeerDied));
        });
        // This looks as if the process at the other end had died.
        drop(descriptor);
        join("the blocked thread", blocked);
        drop(scarcity);
        // With enough descriptors, the default driver watches.
        let blocked = thread::spawn(move || assert_eq!(other.recv_blocking(), None));
        drop(stay);
        join("the blocked thread", blocked);
    });
}

/// How many descriptors an engine of another user may have, and have on their way.
const FEW: u16 = 256;

fn answers_that_nobody_reads(driver: &Driver) {
    // The kernel does not count those of root.
    if !rustix::process::geteuid().is_root() {
        return eprintln!("left out: only root can start an engine of another user");
    }
    // The kernel counts by user, and the tests of both backends run at once.
    let user = if driver.backend() == Backend::Epoll { 64_322 } else { 64_323 };
    let dir = Dir::new();
    std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).unwrap();
    let name = dir.name("engine");
    let arguments = [&name, &driver.backend().to_string()[..]];
    let started = Child::start_as(user, test_path!(child_that_serves_one_at_a_time), &arguments);
    let mut engine = match started {
        Ok(engine) => engine,
        Err(error) => return eprintln!("left out: another user cannot run this binary: {error}"),
    };
    engine.expect("serving");
    let connect = || SpscHandle::builder().driver(driver).allow(|_| true).connect(&name);
    drop(connect().unwrap());
    let mut silent = Vec::new();
    thread::scope(|scope| {
        let told = scope.spawn(|| engine.expect("too many on their way"));
        while !told.is_finished() {
            let line = raw_peer::connect_to(&name).unwrap();
            rustix::net::send(&line, &raw_peer::hello(), rustix::net::SendFlags::NOSIGNAL).unwrap();
            // One after the other: the engine has answered, whatever it says.
            let mut answered = [PollFd::from_borrowed_fd(line.as_fd(), PollFlags::IN)];
            assert_eq!(poll(&mut answered, Some(&PATIENCE.try_into().unwrap())).unwrap(), 1);
            // While the engine still has the face of the last one, it says that it is busy.
            let mut answer = [0; raw_peer::MESSAGE];
            rustix::net::recv(&line, &mut answer, RecvFlags::PEEK).unwrap();
            if answer == raw_peer::answer(0) {
                silent.push(line);
            }
        }
    });
    let refused = connect().map(drop).unwrap_err();
    assert!(matches!(refused, ShmError::Busy), "{refused:?}");
    drop(silent);
    // The kernel takes them back a moment later.
    eventually("others may connect again", || connect().is_ok());
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_serves_one_at_a_time() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[1])).unwrap();
    let _limit = Lowered::to(Resource::Nofile, FEW.into());
    let listener = SpscFace::builder().driver(&driver).ring_bytes(SMALL).allow(|_| true);
    let listener = listener.bind(&arguments[0]).unwrap();
    child::say("serving");
    let mut has_said = false;
    thread::spawn(move || {
        loop {
            match wait("a face", listener.accept()) {
                Ok(face) => drop(face),
                Err(ShmError::Io { source, .. }) => {
                    let are_too_many = Errno::from_io_error(&source) == Some(Errno::TOOMANYREFS);
                    if are_too_many && !std::mem::replace(&mut has_said, true) {
                        child::say("too many on their way");
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    while child::listen().is_some() {}
}
