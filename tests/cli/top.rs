//! `top` finds the channels of this user and shows their real state.

#[path = "../../src/cli/top/find.rs"]
mod find;
#[path = "../../src/cli/top/region.rs"]
mod region;
#[path = "../../src/cli/top/view.rs"]
mod view;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::pin::pin;

use bytes::Bytes;
use find::{Finder, Found, Inode};
use region::{Passed, Region};
use rustix::fs::MemfdFlags;
use view::View;
use wakering::{Backend, Driver, SpscFace, SpscHandle};

use crate::common::child::{self, Child, test_path};
use crate::common::{
    self, Dir, SMALL, eventually, fill, on_both_backends, poll_once, raw_peer, wait,
};
use crate::program::{self, Program};

on_both_backends!(
    a_channel_of_two_processes_is_found_with_its_counts,
    a_full_ring_and_its_sleeping_sender_are_shown,
    a_face_alone_and_two_ends_in_one_process_are_told_apart,
    names_of_all_kinds_are_shown_as_text,
);

/// The application: sends as many packets of 20 bytes as the parent says, and then receives until
/// the end.
#[test]
#[ignore = "a second process, for a test to start"]
fn child_that_talks() {
    let Some(arguments) = child::arguments() else { return };
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let handle = SpscHandle::builder().driver(&driver).connect(&arguments[1]).unwrap();
    for _ in 0..child::parsed(&arguments[2]) {
        handle.try_send(Bytes::from_static(&[7; 20])).unwrap();
    }
    child::say("sent");
    pollster::block_on(async { while handle.recv().await.is_some() {} });
    child::say("end");
}

/// Returns the only channel between these two processes.
fn between(looks: &BTreeMap<Inode, Found>, face: u32, handle: u32) -> Option<(Inode, Found)> {
    let is_it = |found: &Found| {
        let pids = found.processes.each_ref().map(|process| process.as_ref().map(|p| p.pid));
        pids == [Some(face), Some(handle)]
    };
    looks.iter().find(|(_, found)| is_it(found)).map(|(inode, found)| (*inode, found.clone()))
}

fn a_channel_of_two_processes_is_found_with_its_counts(driver: &Driver) {
    let dir = Dir::new();
    let name = dir.name("face");
    let face = SpscFace::builder().ring_bytes(SMALL).driver(driver).create(&name).unwrap();
    let backend = driver.backend().to_string();
    let mut child = Child::start(test_path!(child_that_talks), &[&backend, &name, "10"]);
    child.expect("sent");
    for _ in 0..5 {
        face.try_send(Bytes::from_static(&[9; 30])).unwrap();
    }
    for _ in 0..10 {
        assert_eq!(wait("recv", face.recv()).unwrap().len(), 20);
    }
    let mut more = pin!(face.recv());
    assert!(poll_once(more.as_mut()).is_pending());

    let mut finder = Finder::default();
    let (us, it) = (std::process::id(), child.pid());
    let mut found = None;
    eventually("both sleep, with all said", || {
        found = between(&finder.look(), us, it).filter(|(_, found)| {
            let [face, handle] = &found.region.sides;
            let sleeping = face.waits_to_receive() && handle.waits_to_receive();
            sleeping && found.region.sent(0).packets == 5
        });
        found.is_some()
    });
    let (inode, found) = found.unwrap();
    let region = &found.region;
    assert_eq!((region.ring_bytes, region.max_packet), (4096, 1016));
    assert_eq!(region.sent(0), Passed { packets: 5, bytes: 150 });
    assert_eq!(region.sent(1), Passed { packets: 10, bytes: 200 });
    assert_eq!((region.fill(0), region.fill(1)), (0, 0));
    let stats = face.stats();
    assert_eq!((region.sides[0].parks, region.sides[0].full_stalls), (stats.parks, 0));
    assert!(!region.sides[0].waits_to_send() && region.sides[0].state() == "open");

    let now = BTreeMap::from([(inode, found.clone())]);
    let view = View { now: &now, before: &BTreeMap::new(), seconds: 1.0 };
    let json = view.json();
    assert_eq!(json.lines().count(), 1);
    for part in [
        format!(
            "{{\"inode\":{inode},\"channel\":\"face\",\"ring_bytes\":4096,\"max_packet\":1016,"
        ),
        format!("\"face\":{{\"pid\":{us},\"name\":\""),
        format!("\"handle\":{{\"pid\":{it},\"name\":\""),
        "\"packets_sent\":5,\"bytes_sent\":150,".to_owned(),
        "\"packets_sent\":10,\"bytes_sent\":200,".to_owned(),
        "\"parked_recv\":true,\"parked_send\":false".to_owned(),
    ] {
        assert!(json.contains(&part), "no {part} in {json}");
    }
    let table = view.table(usize::MAX);
    assert_eq!((table.len(), table[3].as_str()), (6, "face"));

    // As if two seconds had passed.
    for _ in 0..3 {
        face.try_send(Bytes::from_static(&[9; 30])).unwrap();
    }
    let mut later = BTreeMap::new();
    eventually("it has taken them", || {
        later = finder.look();
        later[&inode].region.sent(0).packets == 8
    });
    later.retain(|other, _| *other == inode);
    let json = View { now: &later, before: &now, seconds: 2.0 }.json();
    assert!(json.contains("\"packets_per_s\":1.5,\"bytes_per_s\":45.0,"), "{json}");
    assert!(json.contains("\"packets_per_s\":0.0,\"bytes_per_s\":0.0,"), "{json}");

    face.close();
    child.expect("end");
    assert!(child.wait().success());
    assert!(between(&finder.look(), us, it).is_none(), "it is gone");
}

fn a_full_ring_and_its_sleeping_sender_are_shown(driver: &Driver) {
    // A `max_packet` that no other channel here has.
    let builder = SpscFace::builder().ring_bytes(SMALL).max_packet(900 + backend_number(driver));
    let (face, handle) = common::pair_of(driver, builder, SpscHandle::builder());
    let sent = fill(&face);
    let mut send = pin!(face.send(Bytes::from_static(&[1; 8])));
    assert!(poll_once(send.as_mut()).is_pending());
    let mut finder = Finder::default();
    let is_it =
        |found: &Found| is_ours(found) && found.region.max_packet == face.max_packet() as u64;
    let mut it = None;
    eventually("it is found", || {
        it = finder.look().into_iter().find(|(_, found)| is_it(found));
        it.is_some()
    });
    let (inode, before) = it.unwrap();
    assert!(before.region.sides[0].waits_to_send() && !before.region.sides[1].waits_to_send());
    assert_eq!(before.region.sent(0).packets, sent);
    assert_eq!(before.region.sides[0].full_stalls, 1);
    let full = before.region.fill(0);
    assert!(full > 4096 - 32 && full <= 4096, "{full}");
    assert_eq!(before.region.fill(1), 0);
    // A packet that is taken shows at once.
    handle.try_recv().unwrap();
    assert_eq!(finder.look()[&inode].region.fill(0), full - 16);
}

/// Whether both ends are in this process.
fn is_ours(found: &Found) -> bool {
    let us = std::process::id();
    found.processes.iter().all(|process| process.as_ref().is_some_and(|p| p.pid == us))
}

fn a_face_alone_and_two_ends_in_one_process_are_told_apart(driver: &Driver) {
    // A ring size that no other channel here has.
    const RING: usize = 1 << 16;
    let dir = Dir::new();
    let name = dir.name("face");
    let builder = SpscFace::builder().ring_bytes(RING).max_packet(4321 + backend_number(driver));
    let face = builder.driver(driver).create(&name).unwrap();
    let mut finder = Finder::default();
    let mut look = || {
        let is_it = |found: &Found| found.region.max_packet == face.max_packet() as u64;
        let us = std::process::id();
        let of_us = |found: Found| found.processes.map(|p| p.is_some_and(|p| p.pid == us));
        finder.look().into_values().find(is_it).map(of_us)
    };
    // A child that another test starts has what we have, until it execs.
    eventually("the face is seen", || look() == Some([true, false]));
    let handle = SpscHandle::builder().driver(driver).connect(&name).unwrap();
    wait("it connects", face.connected()).unwrap();
    eventually("both are seen", || look() == Some([true, true]));
    drop(handle);
}

/// Whatever bytes a name has, none of them reaches a terminal as a command.
fn names_of_all_kinds_are_shown_as_text(driver: &Driver) {
    let dir = Dir::new();
    let number = 1000 + backend_number(driver);
    let builder = || SpscFace::builder().ring_bytes(SMALL).max_packet(number).driver(driver);
    let is_shown_as = |channel: Option<&str>| {
        let mut finder = Finder::default();
        eventually("it is found", || {
            let is_it = |found: &Found| found.region.max_packet == number as u64;
            let found = finder.look().into_values().find(is_it);
            found.is_some_and(|found| {
                let face = found.processes[0].as_ref().map(|process| process.pid);
                found.channel.as_deref() == channel && face == Some(std::process::id())
            })
        });
    };
    let long = "n".repeat(255);
    for (file, channel) in [
        ("plain.sock", "plain"),
        ("\u{1b}[2J\n and more (deleted)", "?[2J? and more (deleted)"),
        (&long, &long[..240]),
    ] {
        let _face = builder().create(&dir.name(file)).unwrap();
        is_shown_as(Some(channel));
    }
    let _pair = common::unnamed_pair(builder(), SpscHandle::builder().driver(driver));
    is_shown_as(None);
}

fn backend_number(driver: &Driver) -> usize {
    usize::from(driver.backend() == Backend::Epoll)
}

#[test]
fn files_that_are_no_region_are_skipped() {
    let junk = |bytes: &[u8], len: u64| {
        let file = rustix::fs::memfd_create("wakering", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len).unwrap();
        rustix::io::pwrite(&file, bytes, 0).unwrap();
        file
    };
    let good = raw_peer::region(4096, 1016);
    let mut page = [0; 4096];
    assert_eq!(rustix::io::pread(&good, &mut page, 0).unwrap(), 4096);
    assert!(Region::read(good.as_fd()).is_some());
    let size = 4096 * 3;
    for (what, file) in [
        ("nothing", junk(&[], 0)),
        ("zeros", junk(&[], size)),
        ("less than a page", junk(&page[..64], 64)),
        ("another size than it says", junk(&page, size + 4096)),
        ("far larger", junk(&page, 1 << 40)),
    ] {
        assert!(Region::read(file.as_fd()).is_none(), "{what}");
        assert!(Finder::default().look().values().all(|found| found.region.ring_bytes > 0));
    }
    for (at, value) in [
        (0x00, 1),
        (0x08, 2),
        (0x10, 8192),
        (0x18, 1),
        (0x20, 0),
        (0x28, 0),
        (0x28, 3000),
        (0x28, u64::MAX),
        (0x30, 0),
        (0x30, 1017),
    ] {
        let mut page = page;
        page[at..at + 8].copy_from_slice(&u64::to_ne_bytes(value));
        let file = junk(&page, size);
        assert!(Region::read(file.as_fd()).is_none(), "{value} at {at:#x}");
    }
    let (read, _write) = rustix::pipe::pipe().unwrap();
    assert!(Region::read(read.as_fd()).is_none(), "a pipe");
}

/// Reads a region twice whose sides write any numbers.
#[test]
fn false_numbers_are_shown_and_do_no_harm() {
    let file = raw_peer::region(4096, 1016);
    let mut looks = Vec::new();
    for filler in [0xff, 0x00, 0x80, 0x7f, 0xff] {
        rustix::io::pwrite(&file, &[filler; 0x600], 0x80).unwrap();
        let region = Region::read(file.as_fd()).unwrap();
        assert!(region.fill(0) <= 4096 && region.fill(1) <= 4096);
        looks.push(BTreeMap::from([(1, Found { channel: None, region, processes: [None, None] })]));
    }
    for pair in looks.windows(2) {
        for seconds in [0.0, 1.0] {
            let view = View { before: &pair[0], now: &pair[1], seconds };
            let rows = view.table(10);
            assert!(
                rows.iter().all(|row| row.chars().count() <= 110 && row.is_ascii()),
                "{rows:?}"
            );
            assert!(view.json().starts_with("{\"inode\":1,") && view.json().ends_with("}}\n"));
        }
    }
    assert_eq!(View { before: &looks[0], now: &looks[1], seconds: 1.0 }.table(3).len(), 4);
}

#[test]
fn the_command_lists_the_channels_of_this_user_and_exits() {
    let dir = Dir::new();
    let driver = common::driver(Backend::Epoll).unwrap();
    let builder = SpscFace::builder().ring_bytes(SMALL).max_packet(777);
    let (face, handle) = common::pair_of(&driver, builder, SpscHandle::builder());
    face.try_send(Bytes::from_static(&[7; 20])).unwrap();
    handle.try_recv().unwrap();
    let us = std::process::id();
    let mut channel = None;
    // A channel may be seen in part, in the moment in which another test starts a process.
    eventually("it is listed", || {
        let ended = program::run(&dir, "top --once --json --interval 0.01");
        channel = ended.objects().into_iter().find(|object| object["max_packet"] == 777);
        ended.succeeded();
        let is_of_us = |side| channel.as_ref().is_some_and(|channel| channel[side]["pid"] == us);
        is_of_us("face") && is_of_us("handle")
    });
    let channel = channel.unwrap();
    assert_eq!(channel["ring_bytes"], 4096);
    for name in ["packets_sent", "fill_bytes", "parks", "wakes_sent", "packets_per_s"] {
        assert!(channel["face"][name].is_number(), "{name} in {channel}");
    }
    eventually("it is in the table", || {
        let table = program::run(&dir, "top --once --interval 0.01").succeeded();
        let table = String::from_utf8(table).unwrap();
        table.contains(&format!(" {us} ")) && table.contains("\nEND ")
    });
}

#[test]
fn the_command_goes_on_until_its_reader_goes_away() {
    let dir = Dir::new();
    let mut command = program::command(&dir, "top --json --interval 0.01");
    let driver = common::driver(Backend::Epoll).unwrap();
    let _pair = common::pair(&driver, SMALL);
    let (mut top, output) = Program::spawn_unread(&mut command);
    let mut lines = BufReader::new(output).lines();
    for _ in 0..3 {
        program::objects(&lines.next().unwrap().unwrap());
    }
    assert!(top.is_running());
    drop(lines);
    top.wait().succeeded();
}
