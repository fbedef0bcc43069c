//! `ping` measures round trips, and says what is wrong with them.

use std::process::Stdio;

use bytes::Bytes;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use wakering::{CloseReason, Driver, SpscFace};

use crate::common::{Dir, eventually, join, on_both_backends, wait};
use crate::program::{Program, command, connected, run};

on_both_backends!(
    packets_come_back_from_an_echo,
    an_echo_serves_many_at_once_and_tells_who_was_cut_off,
    an_echo_that_fails_cuts_its_applications_off,
    an_echo_that_lacks_a_descriptor_goes_on,
);

fn packets_come_back_from_an_echo(driver: &Driver) {
    let dir = Dir::new();
    let backend = driver.backend();
    let echo = format!("ping --echo --sessions 3 --json --backend {backend} echo");
    let echo = Program::start(&dir, &echo);
    let ping =
        |options: &str| run(&dir, &format!("ping --wait --backend {backend} {options} echo"));

    let output = String::from_utf8(ping("--count 3 --interval 0.01").succeeded()).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 4, "{output}");
    assert!(lines[2].starts_with("64 bytes from echo: number 3 time "), "{output}");
    assert!(lines[3].starts_with("3 round trips of 64 B: min "), "{output}");

    for (count, bytes) in [(2000, 64), (20, 0)] {
        let ended = ping(&format!("--count {count} --interval 0 --bytes {bytes} --json"));
        let objects = ended.objects();
        ended.succeeded();
        let [times] = &objects[..] else { panic!("{objects:?}") };
        let number = |name: &str| times[name].as_u64().unwrap_or_else(|| panic!("{name}: {times}"));
        assert_eq!((number("sent"), number("received"), number("bytes")), (count, count, bytes));
        let in_order = ["min_ns", "median_ns", "p99_ns", "max_ns"].map(number);
        assert!(in_order[0] > 0 && in_order.is_sorted(), "{times}");
    }

    let ended = echo.wait();
    let served = ended.objects();
    ended.succeeded();
    let packets: Vec<_> = served.iter().map(|one| one["packets"].as_u64().unwrap()).collect();
    assert_eq!(packets, [3, 2000, 20]);
    assert!(served.iter().all(|one| one["error"].is_null() && one["pid"].as_i64() > Some(0)));
}

fn an_echo_serves_many_at_once_and_tells_who_was_cut_off(driver: &Driver) {
    let dir = Dir::new();
    let backend = driver.backend();
    let echo = format!("ping --echo --sessions 4 --json --backend {backend} echo");
    let echo = Program::start(&dir, &echo);
    let slow = format!("ping --wait --count 1000000 --interval 0.001 --backend {backend} echo");
    let mut slow: Vec<Program> = (0..3).map(|_| Program::start(&dir, &slow)).collect();
    // It is served although the others are not through.
    let quick = format!("ping --wait --count 100 --interval 0 --json --backend {backend} echo");
    run(&dir, &quick).succeeded();
    assert!(slow.iter_mut().all(Program::is_running));
    let pids: Vec<_> = slow.iter().map(|program| i64::from(program.pid())).collect();
    // Those that were not accepted yet would not be missed.
    eventually("all of them are connected", || slow.iter().all(Program::has_region));
    drop(slow);
    let ended = echo.wait();
    ended.failed(1, "3 of 4 applications had no orderly end");
    let served = ended.objects();
    let cut_off = served.iter().filter(|one| one["error"] != Value::Null);
    let mut killed: Vec<_> = cut_off.map(|one| one["pid"].as_i64().unwrap()).collect();
    killed.sort_unstable();
    let mut expected = pids;
    expected.sort_unstable();
    assert_eq!(killed, expected, "{served:?}");
}

fn an_echo_that_fails_cuts_its_applications_off(driver: &Driver) {
    let dir = Dir::new();
    let backend = driver.backend();
    let echo = format!("ping --echo --backend {backend} echo");
    let (mut echo, output) = Program::spawn_unread(command(&dir, &echo).stdin(Stdio::null()));
    let name = dir.name("echo.sock");
    let handle = connected(driver, &name);
    wait("send", handle.send("there".into())).unwrap();
    assert_eq!(wait("and back", handle.recv()).unwrap(), "there");
    drop(output);
    // A process that another test starts may have a copy of the pipe for a moment.
    eventually("the echo fails", || {
        run(&dir, &format!("ping --count 1 --backend {backend} echo"));
        !echo.is_running()
    });
    echo.wait().failed(1, "writing to standard output: Broken pipe");
    assert_eq!(wait("the end", handle.recv()), None);
    assert_eq!(handle.finished(), Some(Err(CloseReason::Cancelled)));
}

fn an_echo_that_lacks_a_descriptor_goes_on(driver: &Driver) {
    let dir = Dir::new();
    let backend = driver.backend();
    let mut echo = Program::start(&dir, &format!("ping --echo --backend {backend} echo"));
    let ping =
        |options: &str| run(&dir, &format!("ping --count 1 --backend {backend} {options} echo"));
    ping("--wait=10").succeeded();
    let pid = Pid::from_raw(i32::try_from(echo.pid()).unwrap());
    let is_free = |fd: &u64| !std::fs::exists(format!("/proc/{}/fd/{fd}", echo.pid())).unwrap();
    let former = getrlimit(Resource::Nofile);
    // It may notice only now that the application has gone, and then has more descriptors.
    eventually("an application is not served", || {
        // One more descriptor, for the connection, and none for the memory of its channel.
        let lacking = Rlimit { current: (0..).find(is_free).map(|fd| fd + 1), ..former };
        prlimit(pid, Resource::Nofile, lacking).unwrap();
        let ended = ping("");
        prlimit(pid, Resource::Nofile, former).unwrap();
        let is_served = ended.status == Some(0);
        if !is_served {
            ended.failed(1, "busy: ");
        }
        !is_served
    });
    ping("").succeeded();
    echo.kill();
    let errors = echo.wait().errors;
    assert!(errors.starts_with("an application was not served: "), "{errors}");
}

/// A face that `ping` with these options meets, and what becomes of it.
fn against(options: &str, engine: impl FnOnce(SpscFace) + Send + 'static) -> crate::program::Ended {
    let dir = Dir::new();
    let face = SpscFace::builder().ring_bytes(4096).create(&dir.name("engine")).unwrap();
    let engine = std::thread::spawn(move || engine(face));
    let name = dir.name("engine");
    let ended = run(&dir, &format!("ping {options} {name}"));
    join("the engine ends", engine);
    ended
}

/// Sends back this many packets, unless `ping` leaves before.
fn echo(face: &SpscFace, count: usize) {
    for _ in 0..count {
        let Some(packet) = face.recv_blocking() else { return };
        let _ = face.send_blocking(packet);
    }
}

#[test]
fn a_deadline_exits_with_124_and_tells_what_came_so_far() {
    // On a busy machine, it may pass before that many have come back.
    eventually("two come back in time", || {
        let ended = against("--count 5 --interval 0 --deadline 0.3 --json", |face| {
            echo(&face, 2);
            while face.recv_blocking().is_some() {}
        });
        let times = &ended.objects()[0];
        let [sent, received] = ["sent", "received"].map(|name| times[name].as_u64().unwrap());
        ended.failed(124, &format!("after 0.3 s, {received} of 5 packets have come back"));
        assert!(received <= 2 && (received..=received + 1).contains(&sent), "{times}");
        (sent, received) == (3, 2)
    });

    // It passes in the time between two packets.
    eventually("one comes back in time", || {
        let ended = against("--interval 1000 --deadline 0.2", |face| {
            echo(&face, 1);
            assert!(face.recv_blocking().is_none());
        });
        let received = u8::from(ended.errors.contains(", 1 of 10 packets"));
        ended.failed(124, &format!("after 0.2 s, {received} of 10 packets have come back"));
        received == 1
    });
}

#[test]
fn an_echo_that_is_changed_or_missing_is_a_failure() {
    let ended = against("--json", |face| {
        let mut packet = face.recv_blocking().unwrap().to_vec();
        packet[60] ^= 1;
        face.send_blocking(Bytes::from(packet)).unwrap();
        assert!(face.recv_blocking().is_none());
    });
    ended.failed(1, "packet 1 came back changed: 64 bytes were sent, 64 came");
    let ended = against("--json", |face| {
        wait("a packet comes", face.recv()).unwrap();
        face.close();
    });
    ended.failed(1, "the engine sends no more: 0 of 10 packets have come back");
    assert_eq!(ended.objects()[0]["received"], 0);
    let ended = against("", |face| {
        wait("a packet comes", face.recv()).unwrap();
        face.cancel();
    });
    ended.failed(1, "cancelled: 0 of 10 packets have come back");
    let ended = against("--bytes 1017", |face| assert!(face.recv_blocking().is_none()));
    ended.failed(2, "--bytes 1017: the channel allows at most 1016");
}

#[test]
fn an_engine_that_is_not_there_is_a_failure_or_is_waited_for() {
    let dir = Dir::new();
    run(&dir, "ping nobody").failed(1, "no engine at ");
    run(&dir, "ping --wait=0.2 nobody").failed(124, "waited 0.2 s: no engine at ");
}
