//! What is tested under each runtime. Both processes use the same one; this one is the engine.

use std::fs;
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt;
use futures::future::join;
use wakering::{CloseReason, Driver, Endpoint, SpscFace, SpscHandle};

use crate::common::PATIENCE;
use crate::common::child::{self, Child, test_path};
use crate::directory::Directory;
use crate::{RUNTIMES, Run};

/// What a runtime is to do, with the driver that its glue has made.
pub type Work = Box<dyn FnOnce(&Driver) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The smallest ring, so that it is full often.
const RING: usize = 4096;

/// How many packets go there and back.
const PACKETS: u64 = 3000;

/// How long an end waits for a packet that does not come.
const IDLE: Duration = Duration::from_millis(700);

/// The most CPU time that a process may use in that time: far less than anything that polls uses.
const MOST_CPU: Duration = Duration::from_millis(20);

/// Runs `work` with the engine's end of a channel, and a child with the other end, which does
/// `duty` under the same runtime.
fn beside<F>(
    name: &'static str,
    run: Run,
    duty: &str,
    work: impl FnOnce(Endpoint, Child) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let duty = duty.to_owned();
    watched(move || {
        run(Box::new(move |driver| {
            let directory = Directory::new();
            let path = directory.name();
            let face = SpscFace::builder().ring_bytes(RING).send_timeout(None).driver(driver);
            let face = face.create(&path).unwrap();
            let child = Child::start(test_path!(child), &[name, &duty, &path]);
            Box::pin(async move {
                face.connected().await.unwrap();
                work(face.into(), child).await;
                drop(directory);
            })
        }));
    });
}

/// Fails if `test` hangs.
fn watched(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if finished.recv_timeout(2 * PATIENCE) == Err(RecvTimeoutError::Timeout) {
        panic!("hangs");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child() {
    let Some(arguments) = child::arguments() else { return };
    let [name, duty, path] = &arguments[..] else { panic!("{arguments:?}") };
    let (_, run) = RUNTIMES.iter().find(|(other, _)| other == name).expect("a runtime");
    let (duty, path) = (duty.clone(), path.clone());
    run(Box::new(move |driver| {
        let handle = SpscHandle::builder().send_timeout(None).driver(driver);
        let end: Endpoint = handle.connect(&path).unwrap().into();
        Box::pin(async move {
            match duty.as_str() {
                "echo" => echo(&end).await,
                "cancel" => {
                    // The first packet says that the other side waits.
                    end.recv().await.unwrap();
                    end.cancel();
                }
                other => panic!("no duty {other}"),
            }
        })
    }));
}

/// Sends back what comes until it ends, and tells how it did.
async fn echo(end: &Endpoint) {
    while let Some(packet) = end.recv().await {
        if end.send(packet).await.is_err() {
            break;
        }
    }
    child::say(format_args!("{:?}", end.finished().unwrap()));
}

/// Makes the packet with this number: of any length, with the number in all of it.
fn packet(number: u64) -> Bytes {
    let length = usize::try_from(number * 37 % 1000).unwrap();
    number.to_le_bytes().into_iter().cycle().take(8 + length).collect()
}

pub fn packets(name: &'static str, run: Run) {
    beside(name, run, "echo", |end, mut child| async move {
        let (mut tx, mut rx) = end.into_split();
        let send = async {
            for number in 0..PACKETS {
                tx.send(packet(number)).await.unwrap();
            }
            // A half-close: what is still in the rings comes back.
            tx.close().await.unwrap();
        };
        let receive = async {
            for number in 0..PACKETS {
                assert_eq!(rx.recv().await.expect("an answer"), packet(number));
            }
            assert_eq!(rx.recv().await, None);
            assert_eq!(rx.finished(), Some(Ok(())));
        };
        join(send, receive).await;
        child.expect("Ok(())");
        assert!(child.wait().success());
    });
}

pub fn kill(name: &'static str, run: Run) {
    beside(name, run, "echo", |end, mut child| async move {
        for number in 0..3 {
            end.send(packet(number)).await.unwrap();
        }
        // All three are in the ring or on their way when the first one is here.
        let first = end.recv().await.unwrap();
        assert_eq!(first, packet(0));
        let killing = async {
            // The other two come, or the end: in no case does the call below hang.
            child.kill();
        };
        let receiving = async {
            let mut number = 1;
            while let Some(came) = end.recv().await {
                assert_eq!(came, packet(number));
                number += 1;
            }
        };
        join(receiving, killing).await;
        assert_eq!(end.finished(), Some(Err(CloseReason::PeerDied)));
        assert_eq!(end.closed().await, CloseReason::PeerDied);
        assert!(end.send(packet(0)).await.is_err());
    });
}

pub fn cancel(name: &'static str, run: Run) {
    // The peer cancels while this side waits.
    beside(name, run, "cancel", |end, child| async move {
        let (received, sent) = join(end.recv(), end.send(packet(0))).await;
        sent.unwrap();
        assert_eq!(received, None);
        assert_eq!(end.closed().await, CloseReason::Cancelled);
        assert!(child.wait().success());
    });
    // This side cancels while the peer waits, and while a task of its own does.
    beside(name, run, "echo", |end, mut child| async move {
        end.send(packet(0)).await.unwrap();
        assert_eq!(end.recv().await.unwrap(), packet(0));
        let (received, ()) = join(end.recv(), async { end.cancel() }).await;
        assert_eq!(received, None);
        child.expect("Err(Cancelled)");
        assert!(child.wait().success());
    });
}

pub fn idle(name: &'static str, run: Run) {
    beside(name, run, "echo", |end, mut child| async move {
        // Wakes through the driver leave nothing behind that keeps the task from going to sleep.
        for number in 0..3 {
            wait_until_asleep(child.pid());
            end.send(packet(number)).await.unwrap();
            assert_eq!(end.recv().await.unwrap(), packet(number));
        }
        wait_until_asleep(child.pid());
        let before = cpu(child.pid());
        let begin = Instant::now();
        while begin.elapsed() < IDLE {
            std::thread::sleep(IDLE / 7);
        }
        let used = cpu(child.pid()) - before;
        assert!(used < MOST_CPU, "{used:?} of CPU time in {:?} without work", begin.elapsed());
        // It was asleep, not dead.
        end.send(packet(1)).await.unwrap();
        assert_eq!(end.recv().await.unwrap(), packet(1));
        end.close();
        child.expect("Ok(())");
        assert!(child.wait().success());
    });
}

/// Waits until all threads of a process sleep.
fn wait_until_asleep(pid: u32) {
    let begin = Instant::now();
    // The state is the first letter after the name, which is in parentheses.
    let sleeps =
        |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'));
    while !of_threads(pid, "stat").all(sleeps) {
        assert!(begin.elapsed() < PATIENCE, "a task that waits does not sleep");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the CPU time of all threads of a process.
fn cpu(pid: u32) -> Duration {
    let times = of_threads(pid, "schedstat");
    let nanoseconds = times.map(|times| times.split(' ').next().unwrap().parse::<u64>().unwrap());
    Duration::from_nanos(nanoseconds.sum())
}

/// Returns what the kernel says of each thread of a process.
fn of_threads(pid: u32, file: &str) -> impl Iterator<Item = String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread that has ended has nothing.
    threads.filter_map(move |thread| fs::read_to_string(thread.ok()?.path().join(file)).ok())
}
