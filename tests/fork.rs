//! A child that was forked without an exec leaves its parent's channels alone.
#![allow(unsafe_code, reason = "fork is unsafe, and no crate here declares it")]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::Timeout;
use rustix::net::{self, AddressFamily, RecvFlags, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use wakering::{
    Backend, Canceller, CloseReason, Driver, EmbeddedDriver, Endpoint, Grant, Packet, PolledDriver,
    RecvTimeoutError, ShmError, SpscFace, SpscHandle, SpscListener, TryRecvError, TrySendError,
};

#[allow(dead_code, unreachable_pub, reason = "other binaries need the rest")]
#[path = "common/own_ring.rs"]
mod own_ring;

use own_ring::Executor;

const DEADLINE: Duration = Duration::from_secs(20);

// SAFETY: this is the libc's declaration. A child here only calls this library, the allocator,
// which the libc makes safe after a fork, and `_exit`.
unsafe extern "C" {
    safe fn fork() -> i32;
    safe fn _exit(code: i32) -> !;
    safe fn unshare(flags: i32) -> i32;
}

/// Forks. The child runs `work`, and its exit status says whether `work` panicked.
fn in_child(work: impl FnOnce()) -> Pid {
    match fork() {
        0 => {
            let went_well = catch_unwind(AssertUnwindSafe(work)).is_ok();
            _exit(i32::from(!went_well));
        }
        pid => Pid::from_raw(pid).expect("fork failed"),
    }
}

/// Waits for a child, and fails the test if it does not end in time.
fn expect_success(child: Pid) {
    let begun = Instant::now();
    loop {
        if let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG).unwrap() {
            return assert_eq!(status.exit_status(), Some(0), "in the child");
        }
        if begun.elapsed() > DEADLINE {
            kill_process(child, Signal::KILL).unwrap();
            waitpid(Some(child), WaitOptions::empty()).unwrap();
            panic!("the child hangs");
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Forks again and again while other threads run `busy` in a loop. Each child runs `work`.
fn fork_beside<const N: usize>(busy: [&(dyn Fn() + Sync); N], work: &dyn Fn()) {
    const FORKS: usize = 1000;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for busy in busy {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    busy();
                }
            });
        }
        let forked = catch_unwind(AssertUnwindSafe(|| {
            (0..FORKS).for_each(|_| expect_success(in_child(work)));
        }));
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = forked {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A directory for sockets, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("wakering-fork-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        // Of a process with this ID that was killed in an earlier run.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        Self(directory)
    }

    fn name(&self, name: &str) -> String {
        Path::join(&self.0, name).into_os_string().into_string().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the child's own copy of what the parent goes on to use. Call it only in a child, and
/// once for each original.
fn copy<T>(original: &T) -> T {
    // SAFETY: a child ends by `_exit`, before the original would be dropped there. So this process
    // uses and drops only one of the two.
    unsafe { std::ptr::read(original) }
}

fn is_forked(result: Result<(), ShmError>) -> bool {
    matches!(result, Err(ShmError::Closed { reason: CloseReason::Forked, sent: 0 }))
}

/// Uses an end in the child in every way, and drops it.
fn misuse(end: Endpoint) {
    assert!(matches!(end.try_send("x".into()), Err(TrySendError::Closed(_, CloseReason::Forked))));
    assert_eq!(end.try_recv(), Err(TryRecvError::Closed(CloseReason::Forked)));
    assert!(is_forked(end.send_blocking("x".into())));
    assert!(is_forked(pollster::block_on(end.send("x".into()))));
    assert!(is_forked(pollster::block_on(end.send_batch(&["x".into(), "y".into()]))));
    assert_eq!(end.recv_blocking(), None);
    assert_eq!(end.recv_timeout(DEADLINE), Err(RecvTimeoutError::Closed(CloseReason::Forked)));
    assert_eq!(pollster::block_on(end.recv()), None);
    assert_eq!(pollster::block_on(end.closed()), CloseReason::Forked);
    assert_eq!(end.close_reason(), Some(CloseReason::Forked));
    assert_eq!(end.finished(), Some(Err(CloseReason::Forked)));
    assert!(!end.is_connected());
    assert_eq!((end.is_empty(), end.free_bytes(), end.queued_bytes()), (true, 0, 0));
    let canceller = end.canceller();
    canceller.cancel();
    end.cancel();
    end.close();
    let (sender, receiver) = end.into_split();
    assert!(sender.is_closed());
    drop((sender, receiver));
}

/// Sends packets both ways in the parent, after the child is gone.
fn ping_pong(face: &Endpoint, handle: &Endpoint, run: &dyn Fn()) {
    for round in 0..200_u32 {
        let packet = Bytes::copy_from_slice(&round.to_le_bytes());
        for (from, to) in [(face, handle), (handle, face)] {
            let mut received = std::pin::pin!(to.recv());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(received.as_mut().poll(&mut cx).is_pending());
            from.try_send(packet.clone()).unwrap();
            run();
            assert_eq!(pollster::block_on(received), Some(packet.clone()));
        }
    }
}

fn pair(driver: &Driver) -> (Endpoint, Endpoint) {
    let (face, descriptor) = SpscFace::builder().driver(driver).pair().unwrap();
    let handle = SpscHandle::builder().driver(driver).from_fd(descriptor).unwrap();
    (face.into(), handle.into())
}

/// Returns the backends that the machine has.
fn backends() -> Vec<Backend> {
    let io_uring = Driver::builder().backend(Backend::IoUring).build();
    let io_uring = io_uring.inspect_err(|error| eprintln!("without io_uring: {error}"));
    io_uring.ok().map(|driver| driver.backend()).into_iter().chain([Backend::Epoll]).collect()
}

#[test]
fn a_child_leaves_a_background_driver_alone() {
    for backend in backends() {
        let driver = Driver::builder().backend(backend).background().unwrap();
        let (face, handle) = pair(&driver);
        ping_pong(&face, &handle, &|| {});
        for _ in 0..20 {
            let child = in_child(|| {
                // Copies of what the parent goes on to use.
                let ends = (copy(&face), copy(&handle));
                misuse(ends.0);
                misuse(ends.1);
                let driver = copy(&driver);
                driver.unparker().unpark();
                assert!(SpscFace::builder().driver(&driver).pair().is_err());
                drop(driver);
            });
            expect_success(child);
            ping_pong(&face, &handle, &|| {});
        }
        assert_eq!((face.close_reason(), handle.close_reason()), (None, None));
    }
}

#[test]
fn a_child_leaves_a_parked_driver_alone() {
    for backend in backends() {
        let driver = Driver::builder().backend(backend).build().unwrap();
        let (face, handle) = pair(&driver);
        let park = || driver.park(Some(Duration::from_millis(1))).unwrap();
        ping_pong(&face, &handle, &park);
        for _ in 0..20 {
            let child = in_child(|| {
                let driver = copy(&driver);
                assert!(is_forked(driver.park(None)));
                let ends = (copy(&face), copy(&handle));
                misuse(ends.0);
                misuse(ends.1);
                drop(driver);
            });
            expect_success(child);
            ping_pong(&face, &handle, &park);
        }
        assert_eq!((face.close_reason(), handle.close_reason()), (None, None));
    }
}

/// The child continues inside its parent's `block_on`.
#[test]
fn a_future_that_forks_goes_on_in_the_child() {
    let run = |driver: Driver| {
        let (face, handle) = pair(&driver);
        let received = driver.block_on(async {
            match fork() {
                0 => {
                    // Nothing sends, and only `block_on` wakes this future.
                    let mut polls = 0;
                    std::future::poll_fn(|_| {
                        polls += 1;
                        if polls < 3 { Poll::Pending } else { Poll::Ready(()) }
                    })
                    .await;
                    _exit(i32::from(face.recv().await.is_some()))
                }
                pid => expect_success(Pid::from_raw(pid).expect("fork failed")),
            }
            handle.send("the parent's".into()).await.unwrap();
            face.recv().await
        });
        assert_eq!(received.unwrap(), "the parent's");
    };
    for backend in backends() {
        run(Driver::builder().backend(backend).build().unwrap());
        run(Driver::builder().backend(backend).background().unwrap());
    }
}

#[test]
fn a_child_leaves_a_polled_driver_alone() {
    for backend in backends() {
        let driver = Driver::builder().backend(backend).polled().unwrap();
        let (face, handle) = pair(&driver);
        let turn = || drop(driver.turn());
        ping_pong(&face, &handle, &turn);
        for _ in 0..20 {
            let child = in_child(|| {
                let driver: PolledDriver = copy(&driver);
                assert!(is_forked(driver.turn().map(drop)));
                let ends = (copy(&face), copy(&handle));
                misuse(ends.0);
                misuse(ends.1);
                drop(driver);
            });
            expect_success(child);
            ping_pong(&face, &handle, &turn);
        }
        assert_eq!((face.close_reason(), handle.close_reason()), (None, None));
    }
}

#[test]
fn a_child_leaves_an_embedded_driver_alone() {
    for backend in backends() {
        let driver = Driver::builder().backend(backend).embedded().unwrap();
        let (face, handle) = pair(&driver);
        let executor = RefCell::new(Executor::new(driver));
        let turn = || {
            let mut executor = executor.borrow_mut();
            executor.driver.turn().unwrap();
            executor.enter(Some(Duration::ZERO));
        };
        ping_pong(&face, &handle, &turn);
        for closes in [false, true].into_iter().cycle().take(20) {
            // There is a submission to make.
            let another = pair(&executor.borrow().driver);
            executor.borrow_mut().driver.turn().unwrap();
            let child = in_child(|| {
                let mut driver: EmbeddedDriver = copy(&executor.borrow().driver);
                assert_eq!(driver.next_submission(), None);
                assert!(is_forked(driver.turn().map(drop)));
                assert_eq!(driver.deadline(), None);
                let ends = (copy(&face), copy(&handle));
                misuse(ends.0);
                misuse(ends.1);
                if closes {
                    assert_eq!(driver.close().count(), 0);
                }
            });
            expect_success(child);
            drop(another);
            ping_pong(&face, &handle, &turn);
        }
        assert_eq!((face.close_reason(), handle.close_reason()), (None, None));
    }
}

#[test]
fn a_child_takes_no_name_away() {
    let directory = Directory::new("names");
    let name = |name: &str| directory.name(name);
    let face = SpscFace::create(&name("face")).unwrap();
    let listener = SpscListener::bind(&name("listener")).unwrap();
    let child = in_child(|| {
        let (face, listener) = (copy(&face), copy(&listener));
        let accepted = pollster::block_on(listener.accept());
        assert!(is_forked(accepted.map(drop)));
        drop(listener);
        misuse(face.into());
    });
    expect_success(child);
    let handle = SpscHandle::connect(&name("face")).unwrap();
    let other = SpscHandle::connect(&name("listener")).unwrap();
    ping_pong(&face, &handle, &|| {});
    let accepted = pollster::block_on(listener.accept()).unwrap();
    ping_pong(&accepted, &other, &|| {});
    drop((face, listener));
}

/// Makes this process's next child start a new PID namespace. Without the right to do so, this uses
/// a new user namespace. Returns `false` if the machine does not allow it.
fn enter_pid_namespace() -> bool {
    const NEWUSER: i32 = 0x1000_0000;
    const NEWPID: i32 = 0x2000_0000;
    let user = rustix::process::geteuid().as_raw();
    unshare(NEWPID) == 0
        || (unshare(NEWUSER | NEWPID) == 0
            && std::fs::write("/proc/thread-self/uid_map", format!("{user} {user} 1")).is_ok())
}

/// Parent and child are both process 1, each in its own namespace.
#[test]
fn a_child_with_its_parents_process_id_takes_no_name_away() {
    let directory = Directory::new("namespace");
    let name = directory.name("face");
    expect_success(in_child(|| {
        if !enter_pid_namespace() {
            return eprintln!("left out: this machine gives no PID namespace");
        }
        expect_success(in_child(|| {
            assert_eq!(std::process::id(), 1);
            let driver = Driver::new().unwrap();
            let face = SpscFace::builder().driver(&driver).create(&name).unwrap();
            assert!(enter_pid_namespace());
            expect_success(in_child(|| {
                assert_eq!(std::process::id(), 1);
                drop(copy(&face));
            }));
            assert!(Path::new(&name).exists(), "the child unlinked it");
        }));
    }));
}

/// Connects, and says nothing.
fn connect_in_silence(name: &str) -> OwnedFd {
    let socket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    net::connect(&socket, &SocketAddrUnix::new(name).unwrap()).unwrap();
    net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE)).unwrap();
    socket
}

#[test]
fn a_child_that_lives_on_keeps_no_name_of_a_dropped_engine() {
    for backend in backends() {
        let directory = Directory::new(&format!("kept-{backend}"));
        let name = directory.name("face");
        let driver = Driver::builder().backend(backend).build().unwrap();
        let face = SpscFace::builder().driver(&driver).create(&name).unwrap();
        let client = connect_in_silence(&name);
        for _ in 0..5 {
            driver.park(Some(Duration::ZERO)).unwrap();
        }
        let in_backlog = connect_in_silence(&name);
        let (mut told, mut tells) = UnixStream::pair().unwrap();
        told.set_read_timeout(Some(3 * DEADLINE)).unwrap();
        let child = in_child(|| told.read_exact(&mut [0]).unwrap());
        // With the lock held, the file stays, as if another engine took a name of the directory at
        // this moment.
        let lock = std::fs::File::open(directory.name(".lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        drop(face);
        drop(lock);
        assert!(Path::new(&name).exists());
        for (socket, which) in [(client, "client"), (in_backlog, "backlog")] {
            let received = retry_on_intr(|| net::recv(&socket, &mut [0; 8], RecvFlags::empty()));
            // The kernel resets the connection if it closes the listening socket.
            let is_over = matches!(received, Ok((0, _)) | Err(Errno::CONNRESET));
            assert!(is_over, "{which}: {received:?}");
        }
        let refused = SpscHandle::connect(&name).map(drop);
        assert!(matches!(refused, Err(ShmError::NotFound { .. })), "{refused:?}");
        drop(SpscFace::builder().driver(&driver).create(&name).unwrap());
        tells.write_all(&[1]).unwrap();
        expect_success(child);
    }
}

/// The engine has either answered before the fork, or answers when the child is gone.
#[test]
fn a_child_that_drops_a_handshake_under_way_leaves_it_alone() {
    for (backend, is_answered) in backends().into_iter().flat_map(|b| [(b, false), (b, true)]) {
        let directory = Directory::new(&format!("handshake-{backend}-{is_answered}"));
        let name = directory.name("face");
        let make = || Driver::builder().backend(backend).build().unwrap();
        let look = |driver: &Driver| driver.park(Some(Duration::ZERO)).unwrap();
        let (engine, application) = (make(), make());
        let face = SpscFace::builder().driver(&engine).create(&name).unwrap();
        let builder = SpscHandle::builder().driver(&application).connect_timeout(DEADLINE);
        let mut connected = Box::pin(builder.connect_async(&name));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(connected.as_mut().poll(&mut cx).is_pending());
        // From here on, the driver has the handshake in its table.
        look(&application);
        if is_answered {
            (0..5).for_each(|_| look(&engine));
            assert!(face.is_connected());
        }
        expect_success(in_child(|| {
            drop(copy(&connected));
            drop(copy(&application));
        }));
        let begun = Instant::now();
        let handle = loop {
            look(&engine);
            look(&application);
            if let Poll::Ready(connected) = connected.as_mut().poll(&mut cx) {
                break connected.unwrap();
            }
            assert!(begun.elapsed() < DEADLINE, "the engine does not answer");
        };
        let (face, handle) = (face.into(), handle.into());
        ping_pong(&face, &handle, &|| [&engine, &application].into_iter().for_each(look));
        assert_eq!((face.close_reason(), handle.close_reason()), (None, None));
    }
}

#[test]
fn a_child_and_its_child_have_drivers_of_their_own() {
    fn use_the_default() {
        let (face, descriptor) = SpscFace::pair().unwrap();
        let handle = SpscHandle::from_fd(descriptor).unwrap();
        ping_pong(&face, &handle, &|| {});
    }
    use_the_default();
    let child = in_child(|| {
        use_the_default();
        expect_success(in_child(use_the_default));
        use_the_default();
    });
    expect_success(child);
    use_the_default();
}

#[test]
fn a_send_that_waits_in_the_parent_is_not_disturbed() {
    let driver = Driver::new().unwrap();
    let builder = SpscFace::builder().driver(&driver).ring_bytes(4096);
    let (face, descriptor) = builder.send_timeout(None).pair().unwrap();
    let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor).unwrap();
    while face.try_send("fill".into()).is_ok() {}
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut sent = Box::pin(face.send("last".into()));
    let mut received = Box::pin(face.recv());
    assert!(sent.as_mut().poll(&mut cx).is_pending());
    assert!(received.as_mut().poll(&mut cx).is_pending());
    let child = in_child(|| {
        let mut futures = (copy(&sent), copy(&received));
        assert!(futures.1.as_mut().poll(&mut cx).is_ready());
        drop(futures);
    });
    expect_success(child);
    let mut taken = 0;
    driver.block_on(async {
        let (sent, ()) = futures::join!(sent, async {
            while handle.recv().await.unwrap() != "last" {
                taken += 1;
            }
        });
        sent.unwrap();
    });
    assert!(taken > 100);
}

/// A child has copies of what is read and written in place. Dropping or committing them there
/// changes nothing.
#[test]
fn packets_in_the_ring_stay_the_parents() {
    let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    let ((mut tx, _their_rx), (_their_tx, mut rx)) = (face.into_split(), handle.into_split());
    let all = tx.free_bytes();
    tx.try_send("one".into()).unwrap();
    tx.try_send("other".into()).unwrap();
    // SAFETY: the peer is a part of this test, and writes nowhere but where it may.
    let lent = unsafe { rx.try_recv_ref().unwrap().into_lent_bytes() };
    let packet = rx.try_recv_ref().unwrap();
    let mut grant = tx.try_reserve(100).unwrap();
    grant.put_slice(b"parent's");
    expect_success(in_child(|| {
        assert_eq!((&lent[..], packet.to_bytes()), (&b"one"[..], "other".into()));
        drop(copy(&lent));
        drop(copy(&packet));
        assert!(is_forked(copy(&grant).commit()));
    }));
    grant.commit().unwrap();
    assert_eq!(tx.free_bytes(), all - 3 * 16, "given back by the child");
    assert_eq!((&lent[..], packet.to_bytes()), (&b"one"[..], "other".into()));
    drop((packet, lent));
    assert_eq!(rx.try_recv().unwrap(), "parent's");
    assert_eq!(rx.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(tx.free_bytes(), all);
}

/// The parent has committed its grant and sent more before the child writes through its copy.
#[test]
fn a_child_writes_nothing_by_its_parents_grant() {
    type Write = fn(&mut Grant<'_>, &Packet<'_>);
    let ways: [(&str, Write); 5] = [
        ("put_slice", |grant, _| grant.put_slice(&[0xff; 60])),
        ("put", |grant, _| grant.put(&[0xff; 60][..])),
        ("put_bytes", |grant, _| grant.put_bytes(0xff, 60)),
        ("put_packet", |grant, packet| grant.put_packet(packet)),
        ("chunk_mut", |grant, _| {
            assert_eq!(grant.chunk_mut().len(), 94);
            let first = grant.chunk_mut().as_mut_ptr();
            assert_eq!(grant.chunk_mut().as_mut_ptr(), first, "one buffer serves all calls");
            grant.chunk_mut()[..60].copy_from_slice(&[0xff; 60]);
            // SAFETY: 60 bytes were written.
            unsafe { grant.advance_mut(60) };
        }),
    ];
    for (way, write) in ways {
        let (other_face, descriptor) = SpscFace::pair().unwrap();
        let other_handle = SpscHandle::from_fd(descriptor).unwrap();
        other_face.try_send(vec![0xff; 60].into()).unwrap();
        let (_other_tx, mut other_rx) = other_handle.into_split();
        let packet = other_rx.try_recv_ref().unwrap();
        let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair().unwrap();
        let handle = SpscHandle::from_fd(descriptor).unwrap();
        let ((mut tx, _their_rx), (_their_tx, mut rx)) = (face.into_split(), handle.into_split());
        let mut grant = tx.try_reserve(100).unwrap();
        grant.put_slice(b"parent");
        let (mut told, mut tells) = UnixStream::pair().unwrap();
        told.set_read_timeout(Some(3 * DEADLINE)).unwrap();
        let child = in_child(|| {
            told.read_exact(&mut [0]).unwrap();
            let mut grant = copy(&grant);
            write(&mut grant, &packet);
            assert_eq!((grant.len(), grant.remaining_mut()), (66, 34));
            let too_much = AssertUnwindSafe(|| grant.put_bytes(0xff, 35));
            assert!(catch_unwind(too_much).is_err());
            assert!(is_forked(grant.commit()));
        });
        grant.commit().unwrap();
        tx.try_send("second".into()).unwrap();
        tells.write_all(&[1]).unwrap();
        expect_success(child);
        assert_eq!(rx.try_recv().as_deref(), Ok(&b"parent"[..]), "{way}");
        assert_eq!(rx.try_recv().as_deref(), Ok(&b"second"[..]), "{way}");
        assert_eq!(rx.try_recv(), Err(TryRecvError::Empty), "{way}");
    }
}

/// A panic in the child, or a drop that would cancel, has no effect on the parent.
#[test]
fn a_child_that_panics_cancels_nothing() {
    for backend in backends() {
        let driver = Driver::builder().backend(backend).background().unwrap();
        let (face, handle) = pair(&driver);
        let (other, descriptor) = SpscFace::builder().driver(&driver).pair().unwrap();
        let (mut tx, mut rx) = other.into_split();
        let peer = SpscHandle::builder().driver(&driver).from_fd(descriptor).unwrap();
        face.cancel_on_drop(true);
        handle.cancel_on_drop(true);
        for whole in [false, true] {
            expect_success(in_child(|| {
                let panics = || {
                    let _ends = whole.then(|| (copy(&face), copy(&handle)));
                    let _sender = (!whole).then(|| copy(&tx));
                    std::panic::resume_unwind(Box::new("in the child"));
                };
                assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
                // There is no panic, but `cancel_on_drop` is set.
                drop((!whole).then(|| (copy(&face), copy(&handle))));
            }));
        }
        assert_eq!((face.close_reason(), handle.close_reason()), (None, None));
        ping_pong(&face, &handle, &|| {});
        tx.try_send("to the peer".into()).unwrap();
        assert_eq!(peer.recv_blocking().unwrap(), "to the peer");
        peer.try_send("and back".into()).unwrap();
        assert_eq!(rx.recv_blocking().unwrap(), "and back");
        assert_eq!(peer.close_reason(), None);
    }
}

/// A direction that ended before the fork keeps its reason in the child. The others are `Forked`.
#[test]
fn an_end_before_the_fork_keeps_its_reason_in_the_child() {
    let driver = Driver::builder().background().unwrap();
    let (face, handle) = pair(&driver);
    let (their_tx, their_rx) = handle.into_split();
    drop(their_tx);
    assert_eq!(face.recv_blocking(), None);
    expect_success(in_child(|| {
        let face = copy(&face);
        assert_eq!(face.try_recv(), Err(TryRecvError::Closed(CloseReason::Peer)));
        assert_eq!(face.finished(), Some(Ok(())));
        let sent = face.try_send("x".into());
        assert!(matches!(sent, Err(TrySendError::Closed(_, CloseReason::Forked))), "{sent:?}");
        assert_eq!(face.close_reason(), Some(CloseReason::Forked));
    }));
    assert_eq!((face.close_reason(), face.finished()), (None, Some(Ok(()))));
    drop(their_rx);
    assert_eq!(pollster::block_on(face.closed()), CloseReason::Peer);
}

/// What the parent and its peer have done meanwhile is no violation of the protocol.
#[test]
fn a_child_that_reserves_room_ends_nothing() {
    let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    let ((mut tx, _their_rx), (_their_tx, mut rx)) = (face.into_split(), handle.into_split());
    let (mut told, mut tells) = UnixStream::pair().unwrap();
    let child = in_child(|| {
        told.read_exact(&mut [0]).unwrap();
        assert_eq!(copy(&tx).free_bytes(), 0);
    });
    tx.try_send("sent by the parent".into()).unwrap();
    assert_eq!(rx.try_recv().unwrap(), "sent by the parent");
    tells.write_all(&[1]).unwrap();
    expect_success(child);
    tx.try_send("still open".into()).unwrap();
    assert_eq!(rx.try_recv().unwrap(), "still open");
}

/// The driver's thread accepts applications. Some of the time, it holds the locks of the face and
/// of the listener.
#[test]
fn a_child_can_drop_faces_and_listeners_while_applications_connect() {
    for backend in backends() {
        let directory = Directory::new(&backend.to_string());
        let driver = Driver::builder().backend(backend).background().unwrap();
        let builder = || SpscFace::builder().ring_bytes(4096).driver(&driver);
        let (face_name, listener_name) = (directory.name("face"), directory.name("listener"));
        let face = builder().create(&face_name).unwrap();
        let listener = builder().bind(&listener_name).unwrap();
        let _handle = SpscHandle::connect(&face_name).unwrap();
        let refused = || drop(SpscHandle::connect(&face_name).unwrap_err());
        let accepted = || {
            drop(SpscHandle::connect(&listener_name).unwrap());
            drop(pollster::block_on(listener.accept()).unwrap());
        };
        fork_beside([&refused, &accepted], &|| {
            let listener = copy(&listener);
            let _ = listener.stats();
            listener.close();
            drop(listener);
            misuse(copy(&face).into());
        });
    }
}

/// Another thread takes memory from the pool and gives it back.
#[test]
fn a_child_can_drop_packets_while_others_are_received() {
    let (face, descriptor) = SpscFace::pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    let packet = Bytes::from(vec![7; 3000]);
    let ((mut tx, _their_rx), (_their_tx, mut rx)) = (face.into_split(), handle.into_split());
    let mut receive = || {
        tx.try_send(packet.clone()).unwrap();
        rx.try_recv().unwrap()
    };
    let held = receive();
    let receive = std::sync::Mutex::new(receive);
    let busy = || {
        let mut receive = receive.lock().unwrap();
        (0..1000).for_each(|_| drop(receive()));
    };
    fork_beside([&busy], &|| {
        assert_eq!(held, packet);
        drop(copy(&held));
    });
}

/// The loans and the room belong to the parent. What a child would lend is copied there.
#[test]
fn a_child_lends_nothing() {
    let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    let ((mut tx, _their_rx), (_their_tx, mut rx)) = (face.into_split(), handle.into_split());
    tx.try_send("held".into()).unwrap();
    let packet = rx.try_recv_ref().unwrap();
    expect_success(in_child(|| {
        // SAFETY: the peer is a part of this test, and writes nowhere but where it may.
        let in_place = unsafe { packet.as_slice() }.as_ptr();
        // SAFETY: as above.
        let lent = unsafe { copy(&packet).into_lent_bytes() };
        assert_eq!(lent, "held");
        assert_ne!(lent.as_ptr(), in_place);
    }));
}

/// Other threads use the canceller at the time of the fork. The child can use its copy all the
/// same.
#[test]
fn a_child_can_cancel_while_others_do() {
    let canceller = Canceller::new();
    let busy = || canceller.cancel();
    fork_beside([&busy], &|| {
        canceller.cancel();
        let (face, _descriptor) = SpscFace::pair().unwrap();
        face.set_cancel(&canceller);
        assert_eq!(face.close_reason(), Some(CloseReason::Cancelled));
    });
}

#[test]
fn a_child_cancels_its_own_ends_by_its_parents_canceller() {
    let (face, _descriptor) = SpscFace::pair().unwrap();
    let canceller = face.canceller();
    expect_success(in_child(|| {
        let (own, _descriptor) = SpscFace::pair().unwrap();
        own.set_cancel(&canceller);
        assert_eq!(own.close_reason(), None);
        canceller.cancel();
        assert!(canceller.is_cancelled());
        assert_eq!(own.close_reason(), Some(CloseReason::Cancelled));
    }));
    assert!(!canceller.is_cancelled());
    assert_eq!(face.close_reason(), None);
    canceller.cancel();
    assert_eq!(face.close_reason(), Some(CloseReason::Cancelled));
}

/// Other threads start the default driver and ask for it.
#[test]
fn a_child_can_make_ends_while_others_do() {
    let busy = || drop(SpscFace::builder().ring_bytes(4096).pair().unwrap());
    fork_beside([&busy], &|| {
        let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair().unwrap();
        let handle = SpscHandle::from_fd(descriptor).unwrap();
        face.try_send("hello".into()).unwrap();
        assert_eq!(handle.recv_blocking().unwrap(), "hello");
    });
}

/// A thread of the parent calls these wakers, and a child does too.
#[test]
fn a_child_can_wake_tasks_while_others_do() {
    let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    let busy = || {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut receiving: Vec<_> = (0..4).map(|_| Box::pin(face.recv())).collect();
        for receiving in &mut receiving {
            assert!(receiving.as_mut().poll(&mut cx).is_pending());
        }
        handle.try_send("one".into()).unwrap();
        drop(receiving);
        assert_eq!(face.recv_blocking().unwrap(), "one");
    };
    fork_beside([&busy], &|| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::pin!(face.recv()).poll(&mut cx).is_ready());
        assert!(std::pin::pin!(face.closed()).poll(&mut cx).is_ready());
        misuse(copy(&face).into());
        misuse(copy(&handle).into());
    });
}
