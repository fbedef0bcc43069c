//! `cat` carries standard input to a peer and what comes to standard output, and says whether all
//! has come.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::net::accept;
use wakering::{CloseReason, Driver, SpscFace, TryRecvError, TrySendError};

use crate::common::{Dir, PATIENCE, SMALL, eventually, on_both_backends, raw_peer, wait};
use crate::program::{Program, command, connected, objects, run};

on_both_backends!(
    lines_go_both_ways_at_once,
    frames_of_any_length_go_both_ways_at_once,
    the_end_of_standard_input_is_a_half_close,
    without_input_the_own_direction_ends_when_all_is_written,
    a_peer_that_is_killed_is_a_failure,
    what_standard_output_does_not_take_is_not_received,
    a_nonblocking_standard_output_is_waited_for,
    what_the_peer_does_not_receive_is_not_read,
    a_standard_output_that_is_closed_cancels,
    one_application_after_another_is_served,
    an_application_that_is_never_served_is_told,
);

/// Two runs of the command, of which the first is the engine.
fn both(driver: &Driver, options: &str, inputs: [Vec<u8>; 2]) -> [Vec<u8>; 2] {
    let dir = Dir::new();
    let [engine, application] = inputs;
    let options = format!("{options} --backend {}", driver.backend());
    let engine =
        Program::start_with(&dir, &format!("cat --engine --ring-bytes 64k {options} x"), engine);
    let application = Program::start_with(&dir, &format!("cat --wait {options} x"), application);
    [engine, application].map(|program| program.wait().succeeded())
}

fn lines_go_both_ways_at_once(driver: &Driver) {
    let lines = |from: u64| {
        let lines = (from..from + 100_000).map(|n| format!("{}\n", n.pow(3)));
        lines.collect::<String>().into_bytes()
    };
    let inputs = [lines(0), lines(1_000_000)];
    let [engine, application] = both(driver, "--frames lines", inputs.clone());
    assert!(engine == inputs[1], "what the engine received");
    assert!(application == inputs[0], "what the application received");
}

fn frames_of_any_length_go_both_ways_at_once(driver: &Driver) {
    let inputs = [frames(1), frames(2)];
    let [engine, application] = both(driver, "--frames length", inputs.clone());
    assert!(engine == inputs[1], "what the engine received");
    assert!(application == inputs[0], "what the application received");

    // The same, as a stream that has no frames.
    let [engine, application] = both(driver, "--frames bytes", inputs.clone());
    assert!(engine == inputs[1], "what the engine received");
    assert!(application == inputs[0], "what the application received");
}

/// Frames of random lengths and contents; some are empty, and some as long as a packet may be.
fn frames(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut random = || {
        // Constants of Knuth's MMIX.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 33).unwrap()
    };
    let mut frames = Vec::new();
    for _ in 0..3000 {
        let len = match random() % 8 {
            0 => 0,
            1 => 16 * 1024 - 8,
            _ => random() % 4000,
        };
        frames.extend(len.to_le_bytes());
        frames.extend((0..len).map(|_| u8::try_from(random() & 255).unwrap()));
    }
    frames
}

/// A face, and an application that has connected to it.
fn against(driver: &Driver, options: &str) -> (SpscFace, Program, Dir) {
    let dir = Dir::new();
    let builder = SpscFace::builder().ring_bytes(SMALL).send_timeout(None).driver(driver);
    let face = builder.create(&dir.name("face")).unwrap();
    let arguments = format!("cat --backend {} {options} {}", driver.backend(), dir.name("face"));
    let application = Program::spawn(command(&dir, &arguments).stdin(Stdio::piped()));
    wait("it connects", face.connected()).unwrap();
    (face, application, dir)
}

fn the_end_of_standard_input_is_a_half_close(driver: &Driver) {
    let (face, mut application, _dir) = against(driver, "");
    let mut stdin = application.stdin();
    stdin.write_all(b"one\ntw").unwrap();
    assert_eq!(wait("a line", face.recv()).unwrap(), "one");
    stdin.write_all(b"o\nlast").unwrap();
    drop(stdin);
    assert_eq!(wait("a line", face.recv()).unwrap(), "two");
    assert_eq!(wait("a line without a newline", face.recv()).unwrap(), "last");
    assert_eq!(wait("the end", face.recv()), None);
    assert_eq!(face.finished(), Some(Ok(())));
    // The other direction goes on.
    for line in ["and", "", "on"] {
        wait("send", face.send(line.into())).unwrap();
    }
    face.close();
    assert_eq!(application.wait().succeeded(), b"and\n\non\n");
}

fn without_input_the_own_direction_ends_when_all_is_written(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(driver);
    let face = builder.create(&name).unwrap();
    let arguments = format!("cat --no-input --backend {} {name}", driver.backend());
    let mut command = command(&dir, &arguments);
    let (application, mut output) = Program::spawn_unread(command.stdin(Stdio::null()));
    let (mut tx, mut rx) = face.into_split();
    // More than the pipe takes, so that not all of it is written before somebody reads. A pipe of
    // one page takes all that fits.
    let takes = rustix::pipe::fcntl_setpipe_size(&output, 4096).unwrap();
    let line = Bytes::from(vec![b'x'; 999]);
    let mut sent = 0;
    eventually("it receives more than its standard output takes", || {
        sent += usize::from(tx.try_send(line.clone()).is_ok());
        1000 * sent > takes
    });
    drop(tx);
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    let mut written = Vec::new();
    output.read_to_end(&mut written).unwrap();
    assert_eq!(written.len(), 1000 * sent);
    assert_eq!(wait("the end", rx.recv()), None);
    assert_eq!(rx.finished(), Some(Ok(())));
    application.wait().succeeded();
}

fn a_peer_that_is_killed_is_a_failure(driver: &Driver) {
    let backend = driver.backend();
    for killed in ["--engine", "--wait"] {
        let dir = Dir::new();
        let stays = if killed == "--wait" { "--engine" } else { "--wait" };
        let spawn = |role: &str| {
            let arguments = format!("cat {role} --backend {backend} x");
            let mut program = Program::spawn(command(&dir, &arguments).stdin(Stdio::piped()));
            let stdin = program.stdin();
            (program, stdin)
        };
        let (mut killed, mut input) = spawn(killed);
        let (stays, _open) = spawn(stays);
        // The kill comes in the middle of a stream.
        let written = std::thread::spawn(move || while input.write_all(&[b'\n'; 100]).is_ok() {});
        eventually("both are connected", || maps_a_region(&killed) && maps_a_region(&stays));
        killed.kill();
        stays.wait().failed(1, "the channel was cut off: the peer died");
        drop(killed);
        written.join().unwrap();
    }
}

fn maps_a_region(program: &Program) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", program.pid())).unwrap();
    maps.contains("memfd:wakering")
}

fn what_standard_output_does_not_take_is_not_received(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let builder = SpscFace::builder().ring_bytes(SMALL).driver(driver);
    let face = builder.create(&name).unwrap();
    let arguments = format!("cat --backend {} {name}", driver.backend());
    let mut command = command(&dir, &arguments);
    let (mut application, mut output) = Program::spawn_unread(command.stdin(Stdio::piped()));
    let mut stdin = application.stdin();
    wait("it connects", face.connected()).unwrap();
    let line = Bytes::from(vec![b'x'; 999]);
    let mut sent = 0;
    settles("the ring is full", || match face.try_send(line.clone()) {
        Ok(()) => {
            sent += 1;
            // A pipe, a ring, and what is between the two.
            assert!(sent < 1000, "it receives what nobody reads");
            false
        }
        Err(error) => matches!(error, TrySendError::Full(_)),
    });
    // The other direction does not wait for that.
    stdin.write_all(b"still here\n").unwrap();
    assert_eq!(wait("a line", face.recv()).unwrap(), "still here");
    face.close();
    drop(stdin);
    let mut written = Vec::new();
    output.read_to_end(&mut written).unwrap();
    assert_eq!(written.len(), 1000 * sent);
    // We have left before its standard input had ended, or after it: it cannot be told here.
    application.wait();
}

fn a_nonblocking_standard_output_is_waited_for(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(128 << 10).driver(driver).create(&name).unwrap();
    let (mut output, theirs) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&theirs, OFlags::NONBLOCK).unwrap();
    let takes = rustix::pipe::fcntl_setpipe_size(&theirs, 4096).unwrap();
    let application = Program::spawn_into(
        command(&dir, &format!("cat --no-input {name}")).stdin(Stdio::null()).stdout(theirs),
    );
    // One packet that is longer than what the pipe takes.
    let line = Bytes::from(vec![b'x'; 5 * takes]);
    face.send_blocking(line.clone()).unwrap();
    eventually("its standard output is full", || {
        rustix::io::ioctl_fionread(&output).unwrap() == takes as u64
    });
    face.close();
    let mut written = Vec::new();
    output.read_to_end(&mut written).unwrap();
    assert_eq!(written.len(), line.len() + 1);
    application.wait().succeeded();
}

fn what_the_peer_does_not_receive_is_not_read(driver: &Driver) {
    let (face, mut application, _dir) = against(driver, "--frames bytes");
    let mut stdin = application.stdin();
    rustix::fs::fcntl_setfl(&stdin, OFlags::NONBLOCK).unwrap();
    let mut given = 0;
    settles("standard input is full", || match stdin.write(&[7; 4096]) {
        Ok(written) => {
            given += written;
            assert!(given < 1 << 20, "it reads what nobody receives");
            false
        }
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    });
    drop(stdin);
    let mut received = 0;
    while let Some(packet) = wait("recv", face.recv()) {
        assert!(packet.iter().all(|byte| *byte == 7));
        received += packet.len();
    }
    assert_eq!((received, face.finished()), (given, Some(Ok(()))));
    face.close();
    application.wait().succeeded();
}

/// Waits until `holds` for a while.
fn settles(what: &str, mut holds: impl FnMut() -> bool) {
    let mut since = None;
    eventually(what, || {
        let now = std::time::Instant::now();
        since = holds().then(|| since.unwrap_or(now));
        since.is_some_and(|since| now - since > Duration::from_millis(300))
    });
}

fn a_standard_output_that_is_closed_cancels(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let builder = SpscFace::builder().ring_bytes(SMALL).send_timeout(None).driver(driver);
    let face = builder.create(&name).unwrap();
    let arguments = format!("cat --backend {} {name}", driver.backend());
    let mut command = command(&dir, &arguments);
    let (mut application, output) = Program::spawn_unread(command.stdin(Stdio::piped()));
    let _open = application.stdin();
    wait("it connects", face.connected()).unwrap();
    drop(output);
    // A process that another test starts may have a copy of the pipe for a moment.
    eventually("it finds its standard output closed", || {
        let _ = face.try_send("nobody reads this".into());
        face.is_closed()
    });
    assert_eq!(wait("the end", face.closed()), CloseReason::Cancelled);
    application.wait().failed(1, "writing to standard output: Broken pipe");
}

fn one_application_after_another_is_served(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let arguments = format!(
        "cat --listen --sessions 3 --json --ring-bytes 4k --backend {} {name}",
        driver.backend()
    );
    let mut engine = Program::spawn(command(&dir, &arguments).stdin(Stdio::piped()));
    let mut stdin = engine.stdin();
    let connect = || connected(driver, &name);
    // The first leaves without having received anything.
    let first = connect();
    wait("send", first.send("from the first".into())).unwrap();
    first.close();
    // The second is cut off in the middle.
    let second = connect();
    stdin.write_all(b"to the second\n").unwrap();
    assert_eq!(wait("a line", second.recv()).unwrap(), "to the second");
    second.cancel();
    // The third stays to the end.
    let third = connect();
    stdin.write_all(b"to the third\n").unwrap();
    drop(stdin);
    assert_eq!(wait("a line", third.recv()).unwrap(), "to the third");
    assert_eq!(wait("the end", third.recv()), None);
    assert_eq!(third.finished(), Some(Ok(())));
    wait("send", third.send("from the third".into())).unwrap();
    third.close();

    let ended = engine.wait();
    assert_eq!(ended.status, Some(1));
    assert_eq!(ended.output, b"from the first\nfrom the third\n");
    let (reports, lines): (Vec<&str>, Vec<&str>) =
        ended.errors.lines().partition(|line| line.starts_with('{'));
    assert_eq!(
        lines,
        [
            "application 2: the channel was cut off: cancelled",
            "wakering cat: 1 of 3 applications had no orderly end"
        ]
    );
    let reports = objects(&reports.join("\n"));
    let numbers = |name: &str| -> Vec<u64> {
        reports.iter().map(|report| report[name].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers("session"), [1, 2, 3]);
    assert_eq!(numbers("packets_received"), [1, 0, 1]);
    assert_eq!(numbers("packets_sent"), [0, 1, 1]);
    assert_eq!(numbers("bytes_sent"), [0, 13, 12]);
    assert!(reports[0]["error"].is_null() && reports[2]["error"].is_null(), "{reports:?}");
    assert_eq!(reports[1]["error"], "the channel was cut off: cancelled");
}

fn an_application_that_is_never_served_is_told(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let backend = driver.backend();
    let engine = format!("cat --listen --sessions 1 --no-input --backend {backend} {name}");
    let engine = Program::start(&dir, &engine);
    let first = connected(driver, &name);
    wait("send", first.send("from the first".into())).unwrap();
    let second = format!("cat --backend {backend} {name}");
    let second = Program::start_with(&dir, &second, b"from the second\n".to_vec());
    eventually("it has connected", || second.has_region());
    first.close();
    let ended = engine.wait();
    assert_eq!((ended.status, ended.output), (Some(0), b"from the first\n".to_vec()));
    second.wait().failed(1, "the channel was cut off: cancelled");
}

#[test]
fn an_engine_that_ends_in_the_handshake_is_waited_for() {
    let dir = Dir::new();
    let name = dir.name("face");
    let ends = raw_peer::listen(&name);
    rustix::io::ioctl_fionbio(&ends, true).unwrap();
    let application = Program::start(&dir, &format!("cat --wait=10 {name}"));
    eventually("it connects", || accept(&ends).map(drop).is_ok());
    drop(ends);
    let mut face = None;
    // A process that another test starts may have a copy of the socket for a moment.
    eventually("the name is free", || {
        face = SpscFace::create(&name).ok();
        face.is_some()
    });
    let face = face.unwrap();
    wait("it connects", face.connected()).unwrap();
    face.close();
    application.wait().succeeded();
}

/// What becomes of `cat` with this input, whose peer does `engine`.
fn meets(
    options: &str,
    input: &[u8],
    engine: impl FnOnce(&SpscFace),
) -> (crate::program::Ended, SpscFace) {
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(SMALL).create(&name).unwrap();
    // A file ends where it ends. A pipe ends when all copies of its other end are closed, and a
    // process that another test starts may have one for a moment.
    let file = dir.name("input");
    std::fs::write(&file, input).unwrap();
    let mut command = command(&dir, &format!("cat {options} {name}"));
    let application = Program::spawn(command.stdin(std::fs::File::open(&file).unwrap()));
    wait("it connects", face.connected()).unwrap();
    engine(&face);
    (application.wait(), face)
}

#[test]
fn an_answer_and_a_close_at_once_are_an_orderly_end() {
    for _ in 0..20 {
        let (ended, _face) = meets("", b"question\n", |face| {
            assert_eq!(face.recv_blocking().unwrap(), "question");
            face.send_blocking("answer".into()).unwrap();
            face.close();
        });
        assert_eq!(ended.succeeded(), b"answer\n");
    }
}

#[test]
fn a_peer_that_leaves_before_all_is_sent_is_a_failure() {
    let input = b"a line of the many\n".repeat(10_000);
    let (ended, _face) = meets("--json", &input, |face| {
        assert_eq!(face.recv_blocking().unwrap(), "a line of the many");
        face.close();
    });
    assert_eq!(ended.status, Some(1));
    let why = "the peer stopped receiving before the end of standard input, after ";
    assert_eq!(ended.errors.matches(why).count(), 2, "{}", ended.errors);
    let report = &objects(ended.errors.lines().next().unwrap())[0];
    assert!(report["packets_sent"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_peer_that_leaves_while_nothing_is_to_be_sent_is_an_orderly_end() {
    let driver = Driver::builder().background().unwrap();
    let (face, mut application, _dir) = against(&driver, "");
    let _open = application.stdin();
    wait("send", face.send("all there is".into())).unwrap();
    face.close();
    assert_eq!(application.wait().succeeded(), b"all there is\n");
}

#[test]
fn part_of_a_packet_is_not_nothing() {
    let driver = Driver::builder().background().unwrap();
    for (options, part) in [("", &b"no newl"[..]), ("--frames length", b"\x05\0\0\0abc")] {
        let (face, mut application, _dir) = against(&driver, options);
        let mut open = application.stdin();
        open.write_all(part).unwrap();
        face.close();
        let why = "the peer stopped receiving before the end of standard input, after 0 packets";
        application.wait().failed(1, why);
    }
}

#[test]
fn a_cancel_is_a_failure() {
    let (ended, _face) = meets("", b"", |face| face.cancel());
    ended.failed(1, "the channel was cut off: cancelled");
}

#[test]
fn input_that_is_no_packet_is_a_failure_and_cancels() {
    let long = [b"short\n".as_slice(), &[b'x'; 1017], b"\n"].concat();
    let cases = [
        ("--frames lines", long.as_slice(), "line 2 of standard input is too long for a packet"),
        ("--frames length", b"\xff\x03\0\0", "frame 1 of standard input is too long for a packet"),
        ("--frames length", b"\x01\0\0\0a\x05\0\0\0abc", "standard input ends inside of frame 2"),
    ];
    for (options, input, part) in cases {
        let (ended, face) = meets(options, input, |_| {});
        ended.failed(1, part);
        assert_eq!(wait("the end", face.closed()), CloseReason::Cancelled, "{options}");
    }
}

#[test]
fn an_engine_that_is_not_there_is_a_failure_or_is_waited_for() {
    let dir = Dir::new();
    run(&dir, "cat nobody").failed(1, "no engine at ");
    let begin = std::time::Instant::now();
    run(&dir, "cat --wait=0.2 nobody").failed(124, "waited 0.2 s: no engine at ");
    assert!(begin.elapsed() >= Duration::from_millis(200) && begin.elapsed() < PATIENCE);
    let _engine = SpscFace::create(&dir.name("taken.sock")).unwrap();
    run(&dir, "cat --engine taken").failed(1, "name in use");
    run(&dir, "cat --listen taken").failed(1, "name in use");
}
