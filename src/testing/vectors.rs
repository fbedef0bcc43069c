//! The specification's test vectors: compares what it says with what the code does, byte for byte.
//!
//! Each block of `spec.md` that begins with `vector:` is compared with a dump that is made here.
//! After a change of the protocol, run the test with `WAKERING_VECTORS=write`: it rewrites them.

use std::fmt::Write;
use std::os::fd::OwnedFd;

use crate::api::endpoint::Endpoint;
use crate::channel::Options;
use crate::driver::{Backend, Driver};
use crate::error::{CloseReason, Violation};
use crate::rendezvous::{AnswerStatus, a_hello, an_answer};
use crate::ring::{Consumer, Producer};
use crate::shm::layout::{Geometry, RECV, SEND, Side};
use crate::shm::region::Region;
use crate::sync::{Arc, Ordering};
use crate::wake::bell::Bell;

const SPEC: &str = include_str!("../spec.md");
/// Where the geometry ends.
const GEOMETRY_BYTES: usize = 0x080;

/// A region and its two sides: the face's producer and the handle's consumer.
struct Channel {
    region: Arc<Region>,
    file: OwnedFd,
    producer: Producer,
    consumer: Consumer,
}

impl Channel {
    fn new() -> Self {
        let geometry = Geometry::new(Some(4096), None).unwrap();
        let (region, file) = Region::create(geometry, false, None).unwrap();
        let region = Arc::new(region);
        let producer = Producer::new(&region, Side::Face);
        let consumer = Consumer::new(&region, Side::Handle);
        Self { region, file, producer, consumer }
    }

    fn stage(&mut self, packet: &[u8]) {
        assert!(self.producer.stage(packet).unwrap());
    }

    fn send(&mut self, packet: &[u8]) {
        self.stage(packet);
        assert!(self.producer.publish());
        self.bell(Side::Handle).wake_if_waiting(RECV);
    }

    fn take(&mut self) -> usize {
        self.consumer.take().unwrap().unwrap().len()
    }

    /// Parks the face with a packet of `len` bytes for which there is no room.
    fn park(&mut self, len: usize) {
        assert!(self.producer.claim(len).unwrap().is_none());
        self.producer.announce(len);
        assert!(self.bell(Side::Face).arm(SEND));
    }

    /// Takes a packet and wakes the parked face, which wants that packet's room.
    fn take_and_wake(&mut self) {
        self.take();
        self.consumer.release();
        assert!(self.consumer.has_what_it_wants());
        assert!(self.bell(Side::Face).wake_if_waiting(SEND));
    }

    fn bell(&self, side: Side) -> Bell {
        Bell::new(&self.region, side)
    }
}

/// Returns the rows of 16 bytes that are not all zero.
fn dump(bytes: &[u8], from: usize) -> String {
    let mut rows = String::new();
    for (row, bytes) in bytes.chunks(16).enumerate().skip(from / 16) {
        if bytes.iter().any(|byte| *byte != 0) {
            write!(rows, "{:04x}:", row * 16).unwrap();
            bytes.iter().for_each(|byte| write!(rows, " {byte:02x}").unwrap());
            rows.push('\n');
        }
    }
    rows
}

fn region(channel: &Channel, from: usize) -> String {
    let mut bytes = vec![0; channel.region.geometry().region_bytes()];
    assert_eq!(rustix::io::pread(&channel.file, &mut bytes, 0).unwrap(), bytes.len());
    dump(&bytes, from)
}

/// Returns all vectors with their names, in the order of the page.
fn vectors() -> Vec<(&'static str, String)> {
    let mut all = vec![("geometry", region(&Channel::new(), 0))];
    all.extend(records());
    all.extend(sleeps());
    all.extend(jumps());
    all.extend(full());
    all.extend(ends());
    all.push(("hello", dump(&a_hello(), 0)));
    let answers = [
        ("welcome", AnswerStatus::Ok),
        ("busy", AnswerStatus::Busy),
        ("denied", AnswerStatus::PermissionDenied),
        ("other version", AnswerStatus::VersionMismatch),
    ];
    all.extend(answers.map(|(name, status)| (name, dump(&an_answer(status), 0))));
    all
}

fn records() -> Vec<(&'static str, String)> {
    let mut one = Channel::new();
    one.send(b"hello");
    let mut empty = Channel::new();
    empty.send(b"");
    let mut batch = Channel::new();
    [&b"a"[..], b"bb", b""].into_iter().for_each(|packet| batch.stage(packet));
    let staged = region(&batch, GEOMETRY_BYTES);
    assert!(batch.producer.publish());
    let second = Channel::new();
    let mut producer = Producer::new(&second.region, Side::Handle);
    assert!(producer.stage(b"hello").unwrap() && producer.publish());
    vec![
        ("packet", region(&one, GEOMETRY_BYTES)),
        ("empty", region(&empty, GEOMETRY_BYTES)),
        ("staged", staged),
        ("batch", region(&batch, GEOMETRY_BYTES)),
        ("second ring", region(&second, GEOMETRY_BYTES)),
    ]
}

fn sleeps() -> Vec<(&'static str, String)> {
    let mut channel = Channel::new();
    channel.send(b"hello");
    assert_eq!(channel.take(), 5);
    let taken = region(&channel, GEOMETRY_BYTES);
    channel.consumer.release();
    assert!(channel.bell(Side::Handle).arm(RECV));
    let parked = region(&channel, GEOMETRY_BYTES);
    channel.send(b"again");
    vec![("taken", taken), ("parked", parked), ("woken", region(&channel, GEOMETRY_BYTES))]
}

/// Makes a channel whose next record of more than 24 bytes runs over the ring's end.
fn near_the_end() -> Channel {
    let mut channel = Channel::new();
    (0..4).for_each(|_| channel.send(&[0; 1008]));
    assert_eq!((channel.take(), channel.take()), (1008, 1008));
    // As a sender does that finds no room in what it knows.
    channel.producer.look_at_taken().unwrap();
    channel
}

fn jumps() -> Vec<(&'static str, String)> {
    const OVER_THE_END: &[u8] = b"over the end, to the start";
    let mut jump = near_the_end();
    jump.send(OVER_THE_END);

    let mut batch = near_the_end();
    batch.stage(OVER_THE_END);
    batch.stage(b"next");
    let staged = region(&batch, GEOMETRY_BYTES);
    assert!(batch.producer.publish());

    let mut elsewhere = Channel::new();
    elsewhere.producer = elsewhere.producer.turning_every(1024);
    (0..3).for_each(|_| elsewhere.send(&[0; 1008]));
    assert_eq!((elsewhere.take(), elsewhere.take()), (1008, 1008));
    elsewhere.producer.look_at_taken().unwrap();
    elsewhere.send(&[0; 1008]);
    let mut packet = [0; 1008];
    packet[..9].copy_from_slice(b"elsewhere");
    elsewhere.send(&packet);
    let before = region(&elsewhere, GEOMETRY_BYTES);
    (0..3).for_each(|_| assert_eq!(elsewhere.take(), 1008));
    vec![
        ("jump", region(&jump, GEOMETRY_BYTES)),
        ("staged jump", staged),
        ("batch with a jump", region(&batch, GEOMETRY_BYTES)),
        ("jump elsewhere", before),
        ("jump elsewhere, taken", region(&elsewhere, GEOMETRY_BYTES)),
    ]
}

fn full() -> Vec<(&'static str, String)> {
    let mut full = Channel::new();
    (0..3).for_each(|_| full.send(&[0; 1016]));
    full.park(1016);
    let parked = region(&full, GEOMETRY_BYTES);
    full.take_and_wake();
    let room = region(&full, GEOMETRY_BYTES);
    full.send(&[0; 1016]);
    full.park(1016);
    vec![("full", parked), ("room", room), ("half a ring more", region(&full, GEOMETRY_BYTES))]
}

fn ends() -> Vec<(&'static str, String)> {
    let driver = Driver::builder().backend(Backend::Epoll).background().unwrap();
    let open = |channel: &Channel| {
        let region = channel.region.clone();
        Endpoint::open(region, Side::Face, Options::default(), driver.binding()).unwrap()
    };
    let closed = Channel::new();
    let face = open(&closed);
    let by_byte = region(&closed, GEOMETRY_BYTES);
    face.close();
    let cancelled = Channel::new();
    let other = open(&cancelled);
    other.cancel();
    let broken = Channel::new();
    let violated = open(&broken);
    broken.region.ring(Side::Handle).header(0).store(3 << 32, Ordering::Release);
    let unknown = CloseReason::Violation(Violation::UnknownRecord(3 << 32));
    assert!(violated.try_recv().is_err());
    assert_eq!(violated.close_reason(), Some(unknown));
    vec![
        ("by byte", by_byte),
        ("closed", region(&closed, GEOMETRY_BYTES)),
        ("cancelled", region(&cancelled, GEOMETRY_BYTES)),
        ("violation", region(&broken, GEOMETRY_BYTES)),
    ]
}

/// Returns the page with the vectors that the code produces.
fn page() -> String {
    let mut page = SPEC.to_owned();
    for (name, rows) in vectors() {
        let head = format!("```text\nvector: {name}\n");
        let begin = page.find(&head).unwrap_or_else(|| panic!("no vector {name} in spec.md"));
        let begin = begin + head.len();
        let end = begin + page[begin..].find("```").unwrap();
        page.replace_range(begin..end, &rows);
    }
    page
}

#[test]
#[cfg(target_endian = "little")]
fn the_test_vectors_are_what_the_code_does() {
    let page = page();
    if std::env::var_os("WAKERING_VECTORS").is_some_and(|what| what == "write") {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/spec.md"), &page).unwrap();
        return;
    }
    let first = page.lines().zip(SPEC.lines()).enumerate().find(|(_, (is, was))| is != was);
    assert!(page == SPEC, "spec.md differs from the code: {first:?}");
}

#[test]
fn every_vector_of_the_page_is_checked() {
    assert_eq!(SPEC.matches("\nvector: ").count(), vectors().len());
}
