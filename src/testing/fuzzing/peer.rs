//! Makes any calls at both ends of a channel, while a third party writes anything into its memory
//! and its lifeline.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use futures::sink::Sink;
use futures::stream::Stream;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, socketpair};

use super::{Input, no_descriptor_leaks};
use crate::api::endpoint::Endpoint;
use crate::channel::Options;
use crate::driver::{Backend, Driver};
use crate::error::{CloseReason, TryRecvError, TrySendError};
use crate::rendezvous::credentials::PeerCredentials;
use crate::rendezvous::lifeline::Lifeline;
use crate::shm::layout::{Geometry, HEADER_BYTES, Side, TX_CLOSED, record_bytes};
use crate::shm::region::Region;
use crate::sync::Arc;
use crate::sys::futex;
use crate::sys::sockopt;

/// Runs a channel with both its ends in this process, on either backend, whole or split, and a
/// third party that writes anything into it. Both ends are victims, so both roles are tested.
///
/// # Panics
/// If a call panics; if a packet is too long, or one is invented, lost or reordered while nobody
/// interferes; if a reason changes; if the driver does not release the channel.
pub fn peer(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else { return };
    let mut world = World::new(settings);
    if settings & HALVES == 0 {
        let _ = world.whole(&mut input);
    } else {
        let _ = world.halves(&mut input);
    }
    world.hostile.finish();
    no_descriptor_leaks();
}

const RING: usize = 4096;
const REGION: u64 = (HEADER_BYTES + 2 * RING) as u64;
/// The most operations of one input.
const OPS: usize = 300;
/// The offsets of the words that the protocol acts on, for the face; the handle's are 0x300
/// further.
const WORDS: [u64; 6] = [0x080, 0x084, 0x100, 0x180, 0x200, 0x280];

/// Settings: epoll as the backend; split into halves; the face's lifeline is that of a pair; and
/// the handle wakes the face first, as it should.
const EPOLL: u8 = 1;
const HALVES: u8 = 2;
const PAIR: u8 = 4;
const INTRODUCED: u8 = 8;

fn driver(settings: u8) -> &'static Driver {
    static DRIVERS: [OnceLock<Driver>; 2] = [OnceLock::new(), OnceLock::new()];
    let backend = [Backend::Auto, Backend::Epoll][usize::from(settings & EPOLL)];
    DRIVERS[usize::from(settings & EPOLL)]
        .get_or_init(|| Driver::builder().backend(backend).background().expect("a driver"))
}

struct World {
    ends: Option<[Endpoint; 2]>,
    hostile: Hostile,
    books: [Books; 2],
    next: u32,
}

/// What one end has reported, so that a later contradiction is noticed.
#[derive(Default)]
struct Books {
    reason: Option<CloseReason>,
    /// Why receiving ended.
    finished: Option<Result<(), CloseReason>>,
    /// The reasons of its halves.
    halves: [Option<CloseReason>; 2],
    /// Whether it closed or cancelled itself.
    ended: bool,
    /// The number of the last packet that was received here.
    last: u32,
}

impl Books {
    fn reason(&mut self, now: Option<CloseReason>, is_lawful: bool) {
        stays(&mut self.reason, now, is_lawful);
    }

    fn half(&mut self, half: usize, now: Option<CloseReason>, is_lawful: bool) {
        stays(&mut self.halves[half], now, is_lawful);
    }

    fn finished(&mut self, now: Option<Result<(), CloseReason>>) {
        let was = self.finished;
        assert!(was.is_none() || was == now, "{was:?} became {now:?}");
        self.finished = now;
    }

    fn received(&mut self, packet: &Bytes, is_lawful: bool) {
        assert!(packet.len() <= RING / 4 - 8);
        if let (true, Some(number)) = (is_lawful, packet.first_chunk()) {
            let number = u32::from_le_bytes(*number);
            assert!(number > self.last, "{number} after {}", self.last);
            assert!(packet.iter().zip(number.to_le_bytes().iter().cycle()).all(|(a, b)| a == b));
            self.last = number;
        }
    }
}

/// Checks that a reason that was given does not change.
fn stays(reason: &mut Option<CloseReason>, now: Option<CloseReason>, is_lawful: bool) {
    assert!(reason.is_none() || *reason == now, "{reason:?} became {now:?}");
    let is_violation = matches!(now, Some(CloseReason::Violation(_)));
    assert!(!is_lawful || !is_violation, "{now:?} without a cause");
    *reason = now;
}

type Pending<'a> = (usize, Pin<Box<dyn Future<Output = Vec<Bytes>> + Send + 'a>>);

impl World {
    fn new(settings: u8) -> Self {
        let driver = driver(settings);
        let geometry = Geometry::new(Some(RING), None).expect("lawful");
        let (region, file) = Region::create(geometry, false, None).expect("a small region");
        let region = Arc::new(region);
        let dup = || file.try_clone().expect("a descriptor");
        let joined = Arc::new(Region::join(dup()).expect("made by ourselves"));
        let third = Arc::new(Region::join(dup()).expect("made by ourselves"));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets");
        let lines = [&one, &other].map(|line| line.try_clone().expect("a descriptor"));
        let hostile = Hostile {
            file: dup(),
            third,
            lines,
            mapped: [Arc::downgrade(&region), Arc::downgrade(&joined)],
            is_lawful: true,
            storm: None,
        };
        let peer = PeerCredentials::of(one.as_fd()).expect("ourselves");
        let options =
            Options { send_timeout: Some(Duration::from_millis(1)), ..Options::default() };
        let face = Endpoint::open(region, Side::Face, options, driver.binding())
            .expect("a driver that runs");
        let handle = Endpoint::open(joined, Side::Handle, options, driver.binding())
            .expect("a driver that runs");
        // The lifeline of a pair asks the kernel who is the first to send something on it.
        let line = match settings & PAIR {
            0 => Lifeline::new(one, peer, None),
            _ => {
                let asks = sockopt::ask_for_process(one.as_fd(), true);
                Lifeline::of_pair(one, peer, asks)
            }
        };
        face.channel().attach(line).expect("a driver that runs");
        handle.channel().attach(Lifeline::new(other, peer, None)).expect("a driver that runs");
        if settings & (PAIR | INTRODUCED) == PAIR | INTRODUCED {
            handle.channel().introduce();
        }
        Self { ends: Some([face, handle]), hostile, books: Default::default(), next: 0 }
    }

    fn packet(&mut self, len: usize) -> Bytes {
        self.next += 1;
        let len = len % (RING / 4 - 7);
        self.next.to_le_bytes().into_iter().cycle().take(len).collect()
    }

    fn whole(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ends = self.ends.take()?;
        let mut pending: Vec<Pending<'_>> = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..OPS {
            let Some(op) = input.byte() else { break };
            let who = usize::from(op >> 7);
            let end = &ends[who];
            match op & 31 {
                0 | 1 => {
                    let packet = self.packet(usize::from(input.half()?));
                    let sent = end.try_send(packet);
                    self.check_sent(who, &sent);
                }
                2 | 3 => {
                    let taken = end.try_recv();
                    let is_lawful = self.hostile.is_lawful;
                    match taken {
                        Ok(packet) => self.books[who].received(&packet, is_lawful),
                        Err(TryRecvError::Empty) => assert!(!self.books[who].ended),
                        Err(TryRecvError::Closed(reason)) => {
                            assert!(
                                reason == CloseReason::Peer || end.finished() == Some(Err(reason))
                            );
                            self.books[who].finished(end.finished());
                        }
                    }
                }
                4 | 5 if pending.len() < 12 => {
                    let packet = self.packet(usize::from(input.half()?));
                    let sending = end.send(packet);
                    pending
                        .push((who, Box::pin(async { sending.await.map_or(vec![], |()| vec![]) })));
                }
                6 if pending.len() < 12 => {
                    let many = input.byte()? % 32;
                    let len = usize::from(input.half()?);
                    let packets: Vec<_> = (0..many).map(|_| self.packet(len)).collect();
                    pending.push((
                        who,
                        Box::pin(async move {
                            let _ = end.send_batch(&packets).await;
                            vec![]
                        }),
                    ));
                }
                7 if pending.len() < 12 => {
                    pending.push((who, Box::pin(async { end.recv().await.into_iter().collect() })));
                }
                8 if pending.len() < 12 => {
                    let max = usize::from(input.byte()?);
                    pending.push((
                        who,
                        Box::pin(async move {
                            let mut packets = Vec::new();
                            let taken = end.recv_batch(&mut packets, max).await;
                            assert_eq!(taken, packets.len());
                            packets
                        }),
                    ));
                }
                9 if pending.len() < 12 => pending.push((
                    who,
                    Box::pin(async {
                        end.closed().await;
                        vec![]
                    }),
                )),
                10 if !pending.is_empty() => {
                    drop(pending.swap_remove(usize::from(input.byte()?) % pending.len()));
                }
                11 if op & 0x60 == 0 => {
                    if let Ok(packet) = end.recv_timeout(Duration::from_micros(30)) {
                        self.books[who].received(&packet, self.hostile.is_lawful);
                    }
                }
                12 if op & 0x60 == 0 => {
                    let packet = self.packet(usize::from(input.half()?));
                    let _ = end.send_blocking(packet);
                }
                13 if op & 0x60 == 0 => {
                    end.close();
                    self.books[who].ended = true;
                }
                14 if op & 0x60 == 0 => {
                    end.cancel();
                    self.books[who].ended = true;
                }
                15 => {
                    let (stats, _) = (end.stats(), format!("{end:?}"));
                    assert!(stats.packets_sent <= u64::from(self.next));
                    // The driver's thread may end it between these calls.
                    let (was, reason, is) = (end.is_closed(), end.close_reason(), end.is_closed());
                    assert!(!was || reason.is_some());
                    assert!(is || reason.is_none());
                    let _ = (end.is_connected(), end.peer_credentials());
                }
                _ => self.hostile.act(op, input)?,
            }
            // Each new one is polled at once, so that they queue in the order of their packets'
            // numbers; and again at every step.
            let mut at = 0;
            while at < pending.len() {
                let (who, future) = &mut pending[at];
                match future.as_mut().poll(&mut cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(packets) => {
                        let who = *who;
                        drop(pending.remove(at));
                        let is_lawful = self.hostile.is_lawful;
                        packets.iter().for_each(|it| self.books[who].received(it, is_lawful));
                    }
                }
            }
            for (books, end) in self.books.iter_mut().zip(&ends) {
                books.reason(end.close_reason(), self.hostile.is_lawful);
                books.finished(end.finished());
            }
        }
        drop(pending);
        self.hostile.close_both();
        for end in &ends {
            assert_it_ends(|| end.try_recv());
        }
        Some(())
    }

    fn halves(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ends = self.ends.take()?.map(Endpoint::into_split);
        let mut halves = ends.map(|(tx, rx)| (Some(tx), Some(rx), false));
        let mut lent = VecDeque::new();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..OPS {
            let Some(op) = input.byte() else { break };
            let who = usize::from(op >> 7);
            let (tx, rx, ready) = &mut halves[who];
            match (op & 31, tx.as_mut(), rx.as_mut()) {
                (0..=3, Some(tx), _) => {
                    let tx = Pin::new(tx);
                    if *ready {
                        *ready = false;
                        let packet = self.packet(usize::from(input.half()?));
                        let _ = tx.start_send(packet);
                    } else {
                        *ready = matches!(tx.poll_ready(&mut cx), Poll::Ready(Ok(())));
                    }
                }
                (4, Some(tx), _) => drop(Pin::new(tx).poll_flush(&mut cx)),
                (5, Some(tx), _) if op & 0x40 != 0 => {
                    *ready = false;
                    let _ = Pin::new(tx).poll_close(&mut cx);
                }
                (5, Some(tx), _) if op & 0x20 != 0 => {
                    let (many, len) = (input.byte()?, usize::from(input.half()?));
                    let packets: Vec<_> = (0..many % 16).map(|_| self.packet(len)).collect();
                    let mut batch = tx.batch();
                    for packet in packets {
                        if let Ok(mut grant) = batch.try_reserve(packet.len()) {
                            grant.put(packet);
                            let _ = grant.commit();
                        }
                    }
                    if many & 0x80 != 0 {
                        std::mem::forget(batch);
                    }
                }
                (6, Some(tx), _) if op & 0x40 != 0 => {
                    let packet = self.packet(usize::from(input.half()?));
                    let unused = usize::from(input.byte()?);
                    if let Ok(mut grant) = tx.try_reserve(packet.len() + unused) {
                        grant.put(packet);
                        // If not committed, it is given up.
                        let _ = (op & 0x20 != 0).then(|| grant.commit());
                    }
                }
                (6, Some(tx), _) => {
                    let packet = self.packet(usize::from(input.half()?));
                    let _ = tx.try_send(packet);
                    let _ = tx.free_bytes();
                }
                (7, Some(tx), _) => {
                    *ready = false;
                    let packet = self.packet(usize::from(input.half()?));
                    let _ = pin!(tx.send(packet)).poll(&mut cx);
                }
                (8, Some(tx), _) if op & 0x60 == 0 => tx.cancel(),
                (9..=11, _, Some(rx)) => {
                    if let Poll::Ready(Some(Ok(packet))) = Pin::new(rx).poll_next(&mut cx) {
                        self.books[who].received(&packet, self.hostile.is_lawful);
                    }
                }
                (12, _, Some(rx)) if op & 0x40 != 0 => {
                    let next = rx.readable();
                    if let Ok(packet) = rx.try_recv_ref() {
                        let copy = packet.to_bytes();
                        assert!(!self.hostile.is_lawful || Some(copy.len()) == next);
                        assert_eq!(copy.len(), packet.len());
                        self.books[who].received(&copy, self.hostile.is_lawful);
                        if op & 0x20 != 0 {
                            std::mem::forget(packet);
                        }
                    }
                }
                (13, _, Some(rx)) if op & 0x40 != 0 => {
                    if let Ok(packet) = rx.try_recv_ref() {
                        let copy = packet.to_bytes();
                        self.books[who].received(&copy, self.hostile.is_lawful);
                        // SAFETY: nobody reads it.
                        lent.push_back(unsafe { packet.into_lent_bytes() });
                        if op & 0x20 != 0 {
                            lent.pop_front();
                        } else if lent.len() > 3 {
                            lent.swap_remove_back(usize::from(input.byte()?) % lent.len());
                        }
                    }
                }
                (12, _, Some(rx)) => {
                    if let Ok(packet) = rx.try_recv() {
                        self.books[who].received(&packet, self.hostile.is_lawful);
                    }
                    let _ = (rx.is_empty(), rx.is_closed());
                }
                (13, _, Some(rx)) => {
                    if let Poll::Ready(Some(packet)) = pin!(rx.recv()).poll(&mut cx) {
                        self.books[who].received(&packet, self.hostile.is_lawful);
                    }
                }
                (14, ..) if op & 0x60 == 0 => *tx = None,
                (15, ..) if op & 0x60 == 0 => *rx = None,
                _ => self.hostile.act(op, input)?,
            }
            for (books, (tx, rx, _)) in self.books.iter_mut().zip(&halves) {
                if let Some(tx) = tx {
                    books.half(0, tx.close_reason(), self.hostile.is_lawful);
                }
                if let Some(rx) = rx {
                    books.half(1, rx.close_reason(), self.hostile.is_lawful);
                    books.finished(rx.finished());
                }
            }
        }
        self.hostile.close_both();
        for rx in halves.iter_mut().filter_map(|(_, rx, _)| rx.as_mut()) {
            assert_it_ends(|| rx.try_recv());
        }
        Some(())
    }

    fn check_sent(&self, who: usize, sent: &Result<(), TrySendError>) {
        if self.books[who].ended {
            assert!(matches!(sent, Err(TrySendError::Closed(..))), "{sent:?} after an end");
        }
    }
}

/// Checks that receiving ends once the peer has said that it sends no more, whatever is in its
/// ring.
fn assert_it_ends(mut try_recv: impl FnMut() -> Result<Bytes, TryRecvError>) {
    let mut bytes = 0;
    loop {
        match try_recv() {
            Ok(packet) => bytes += record_bytes(packet.len()),
            Err(TryRecvError::Closed(_)) => return,
            Err(TryRecvError::Empty) => panic!("the end was announced"),
        }
        assert!(bytes <= RING, "a ring without an end");
    }
}

/// The third party.
struct Hostile {
    file: OwnedFd,
    third: Arc<Region>,
    lines: [OwnedFd; 2],
    mapped: [Weak<Region>; 2],
    is_lawful: bool,
    storm: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Hostile {
    fn act(&mut self, op: u8, input: &mut Input<'_>) -> Option<()> {
        if op & 31 == 31 {
            // Gives the driver time. The kernel's sleeps are not short, so this happens rarely.
            match op >> 5 & 3 {
                0 => std::thread::sleep(Duration::from_micros(50)),
                _ => std::thread::yield_now(),
            }
            return Some(());
        }
        if op & 31 < 16 {
            return Some(());
        }
        self.is_lawful = false;
        let side = usize::from(op >> 7);
        match op & 31 {
            16..=20 => {
                let (at, value) = (self.word(side, input)?, self.value(input)?);
                self.write(
                    at,
                    &value.to_le_bytes()[..if at & 0x7f == 0 && at >= 0x180 { 8 } else { 4 }],
                );
            }
            21..=23 => {
                let at = (HEADER_BYTES + side * RING) as u64 + u64::from(input.half()? & 0xff8);
                let len = u64::from(input.byte()?);
                let header = match op >> 5 & 3 {
                    0 => (1 << 32) | (len * 8),
                    1 => 2 << 32,
                    2 => 0,
                    _ => input.word()?,
                };
                self.write(at, &header.to_le_bytes());
            }
            24 => {
                let at = u64::from(input.half()?) % REGION;
                let len = usize::from(input.byte()? % 64).min(usize::try_from(REGION - at).ok()?);
                self.write(at, input.bytes(len));
            }
            25 => {
                let page = u64::from(input.byte()? % 3) * 4096;
                let flags =
                    rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                let _ = rustix::fs::fallocate(&self.file, flags, page, 4096);
            }
            26 => {
                for _ in 0..input.byte()? {
                    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                    let message = [0; 40];
                    let len = usize::from(op >> 5 & 3) * 13;
                    let _ = rustix::net::send(&self.lines[side], &message[..len], flags);
                }
            }
            27 if op & 0x60 == 0 => {
                let _ = rustix::net::shutdown(&self.lines[side], Shutdown::Both);
            }
            28 | 29 => {
                let word = &self.third.side([Side::Face, Side::Handle][side]).bell.0.bell;
                for _ in 0..input.byte()? {
                    if op & 1 == 0 {
                        word.fetch_add(1, Ordering::Release);
                    }
                    futex::wake(word);
                }
            }
            30 if self.storm.is_none() => self.start_storm(side, input)?,
            _ => {}
        }
        Some(())
    }

    /// Sets the flag in both sides' words that they send no more. Nobody overwrites it.
    fn close_both(&mut self) {
        self.stop_storm();
        for side in [Side::Face, Side::Handle] {
            self.third.side(side).ends.0.fetch_or(TX_CLOSED, Ordering::AcqRel);
        }
    }

    fn word(&self, side: usize, input: &mut Input<'_>) -> Option<u64> {
        Some(WORDS[usize::from(input.byte()?) % WORDS.len()] + 0x300 * side as u64)
    }

    /// Returns a number that is likely to matter; for positions, one near the current value.
    fn value(&self, input: &mut Input<'_>) -> Option<u64> {
        let kind = input.byte()?;
        let mut here = [0; 8];
        let at = self.word(usize::from(kind >> 7), input)?;
        let _ = rustix::io::pread(&self.file, &mut here, at);
        let delta = input.byte()?;
        let here = u64::from_le_bytes(here);
        Some(match kind & 7 {
            0 | 1 => u64::from(delta & 0x1f),
            2 => here.wrapping_add(u64::from(delta) * 8),
            3 => here.wrapping_sub(u64::from(delta) * 8),
            4 => here.wrapping_add(u64::from(delta)),
            5 => u64::MAX << (delta & 63),
            6 => 1 << (delta & 63),
            _ => input.word()?,
        })
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            let _ = rustix::io::pwrite(self.file.as_fd(), bytes, at);
        }
    }

    /// Starts a thread that stores two values in turn in one word until the input is over, to
    /// detect that the word is read twice.
    fn start_storm(&mut self, side: usize, input: &mut Input<'_>) -> Option<()> {
        let ring = (HEADER_BYTES + side * RING) as u64;
        let at = match input.byte()? {
            header @ 0..128 => ring + u64::from(header) * 8,
            _ => self.word(side, input)? & !7,
        };
        let values = [self.value(input)?, (1 << 32) | self.value(input)? & 0xfff];
        let over = Arc::new(AtomicBool::new(false));
        let (file, ends) = (self.file.try_clone().ok()?, over.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                for value in values {
                    let _ = rustix::io::pwrite(&file, &value.to_le_bytes(), at);
                }
            }
        });
        self.storm = Some((over, thread));
        Some(())
    }

    fn stop_storm(&mut self) {
        if let Some((over, thread)) = self.storm.take() {
            over.store(true, Ordering::Relaxed);
            thread.join().expect("it only writes");
        }
    }

    /// Drops the ends. The driver must release them, whatever was written.
    fn finish(mut self) {
        self.stop_storm();
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.mapped.iter().any(|region| region.strong_count() > 0) {
            assert!(Instant::now() < deadline, "the driver keeps a channel that is gone");
            std::thread::yield_now();
        }
    }
}
