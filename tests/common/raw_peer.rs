//! The other side of the protocol, written from its specification (`wakering::spec`) and nothing
//! else: raw numbers, a mapping, a socket. It follows the rules. Every word is public, for tests
//! that break them.
#![allow(unsafe_code, reason = "words and bytes of memory that another process writes")]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use memmap2::MmapRaw;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::thread::futex;

/// Where the rings begin.
pub const HEADER_BYTES: usize = 4096;

/// Where each side's words are.
pub const FACE: usize = 0x080;
pub const HANDLE: usize = 0x380;

/// The words of a side.
pub const WAITING: usize = 0x000;
pub const BELL: usize = 0x004;
pub const ENDS: usize = 0x080;
pub const HEAD: usize = 0x100;
pub const TAKEN: usize = 0x180;
pub const WANTS: usize = 0x200;
pub const SNAPSHOT: usize = 0x280;

pub const RECV: u32 = 1;
pub const SEND: u32 = 2;

pub const TX_CLOSED: u32 = 1;
pub const RX_CLOSED: u32 = 2;
pub const CANCELLED: u32 = 4;
pub const RING_BY_BYTE: u32 = 8;

pub const PACKET: u64 = 1 << 32;
pub const JUMP: u64 = 2 << 32;

/// The length of either message of the handshake.
pub const MESSAGE: usize = 32;

/// Returns the bytes of the record of a packet of `len` bytes.
pub fn record(len: u64) -> u64 {
    (8 + len + 7) & !7
}

/// Whether position `a` has reached `b`.
pub fn has_reached(a: u64, b: u64) -> bool {
    a.wrapping_sub(b) < 1 << 63
}

/// A mapped region.
#[derive(Debug, Clone)]
pub struct Memory(Arc<MmapRaw>);

impl Memory {
    pub fn map(file: &impl AsFd) -> io::Result<Self> {
        let file = File::from(file.as_fd().try_clone_to_owned()?);
        Ok(Self(Arc::new(MmapRaw::map_raw(&file)?)))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at + len <= self.len(), "{at}");
        self.0.as_mut_ptr().wrapping_add(at)
    }

    pub fn word32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4));
        // SAFETY: in the mapping, which lives as long as `self`, and aligned; all access is atomic.
        unsafe { AtomicU32::from_ptr(self.at(at, 4).cast()) }
    }

    pub fn word64(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8));
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(self.at(at, 8).cast()) }
    }

    pub fn write(&self, at: usize, bytes: &[u8]) {
        let to = self.at(at, bytes.len());
        // SAFETY: in the mapping; nobody here holds a reference to these bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let (from, mut bytes) = (self.at(at, len), vec![0; len]);
        // SAFETY: in the mapping; the bytes are copied before anything reads them.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) }
        bytes
    }
}

/// Returns a new, sealed region, as an engine makes it.
pub fn region(ring_bytes: u64, max_packet: u64) -> OwnedFd {
    let file = unsealed_region(ring_bytes, max_packet);
    seal(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    file
}

pub fn unsealed_region(ring_bytes: u64, max_packet: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("raw", flags).unwrap();
    rustix::fs::ftruncate(&file, 4096 + 2 * ring_bytes).unwrap();
    write_geometry(&Memory::map(&file).unwrap(), ring_bytes, max_packet);
    file
}

pub fn write_geometry(memory: &Memory, ring_bytes: u64, max_packet: u64) {
    memory.write(0, b"wakering");
    memory.word32(0x08).store(1, Ordering::Relaxed);
    let words = [(0x10, 4096), (0x18, 0), (0x20, 4096 + 2 * ring_bytes), (0x28, ring_bytes)];
    for (at, value) in words.into_iter().chain([(0x30, max_packet)]) {
        memory.word64(at).store(value, Ordering::Relaxed);
    }
}

pub fn seal(file: &OwnedFd, seals: SealFlags) {
    rustix::fs::fcntl_add_seals(file, seals).unwrap();
}

fn message(kind: u32, status: u32) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[..8].copy_from_slice(b"wakering");
    message[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    message[12..16].copy_from_slice(&kind.to_ne_bytes());
    message[24..28].copy_from_slice(&status.to_ne_bytes());
    message
}

/// Returns the first message of an application.
pub fn hello() -> [u8; MESSAGE] {
    message(1, 0)
}

/// Returns the answer of an engine.
pub fn answer(status: u32) -> [u8; MESSAGE] {
    message(2, status)
}

fn socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// Connects to the listener at `path`, and sends nothing yet.
pub fn connect_to(path: &str) -> Result<OwnedFd, Errno> {
    let socket = socket();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Returns a socket at `path` that does not listen.
pub fn bind(path: &str) -> OwnedFd {
    let socket = socket();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// Returns a socket that listens at `path`.
pub fn listen(path: &str) -> OwnedFd {
    let socket = bind(path);
    rustix::net::listen(&socket, 64).unwrap();
    socket
}

/// Sends a message with descriptors.
pub fn send_with(line: &OwnedFd, bytes: &[u8], passed: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !passed.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(passed)));
    }
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(line, &[IoSlice::new(bytes)], &mut control, flags).map(drop)
}

/// Receives a message and the descriptors that came with it.
pub fn receive(line: &OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut bytes = [0; MESSAGE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let len =
        rustix::net::recvmsg(line, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?.bytes;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let passed = rights.flatten().collect();
    Ok((bytes[..len].to_vec(), passed))
}

/// Why no more packets are sent or received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Orderly,
    Cancelled,
    Died,
}

/// One end of a channel.
#[derive(Debug)]
pub struct Raw {
    pub memory: Memory,
    /// The file of `memory`.
    pub file: OwnedFd,
    pub line: Arc<OwnedFd>,
    /// Where our words are, and where the peer's are.
    pub own: usize,
    pub theirs: usize,
    /// Where the ring that we write begins, and the ring that we read.
    pub tx: usize,
    pub rx: usize,
    pub ring_bytes: u64,
    pub max_packet: u64,
    by_byte: bool,
    tail: u64,
    head_seen: u64,
    taken_seen: u64,
    position: u64,
    released: u64,
}

impl Raw {
    /// Connects to the engine at `path` as an application.
    pub fn connect(path: &str, by_byte: bool) -> Self {
        let line = connect_to(path).unwrap();
        rustix::net::send(&line, &hello(), SendFlags::NOSIGNAL).unwrap();
        Self::join(line, by_byte)
    }

    /// Completes an application's handshake after its hello.
    pub fn join(line: OwnedFd, by_byte: bool) -> Self {
        let (bytes, passed) = receive(&line).unwrap();
        assert_eq!(bytes, answer(0), "refused by the engine");
        let file = &passed[0];
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        assert!(rustix::fs::fcntl_get_seals(file).unwrap().contains(seals));
        assert_eq!(rustix::fs::fstatfs(file).unwrap().f_type, 0x0102_1994);
        let size = u64::try_from(rustix::fs::fstat(file).unwrap().st_size).unwrap();
        assert!(size >= 4096 + 2 * 4096);
        Self::new(file, line, HANDLE, by_byte)
    }

    /// Accepts the next application that connects to `listener`, and gives it the region in `file`.
    pub fn serve(listener: &OwnedFd, file: &OwnedFd, by_byte: bool) -> Self {
        let line = rustix::net::accept(listener).unwrap();
        assert_eq!(receive(&line).unwrap().0, hello());
        send_with(&line, &answer(0), &[file.as_fd()]).unwrap();
        Self::new(file, line, FACE, by_byte)
    }

    fn new(file: &OwnedFd, line: OwnedFd, own: usize, by_byte: bool) -> Self {
        let memory = Memory::map(file).unwrap();
        let word = |at| memory.word64(at).load(Ordering::Relaxed);
        assert_eq!(memory.read(0, 8), b"wakering");
        assert_eq!(memory.word32(8).load(Ordering::Relaxed), 1);
        assert_eq!((word(0x10), word(0x18)), (4096, 0));
        let (ring_bytes, max_packet) = (word(0x28), word(0x30));
        assert_eq!(word(0x20), memory.len() as u64);
        assert_eq!(word(0x20), 4096 + 2 * ring_bytes);
        let rings = (HEADER_BYTES, HEADER_BYTES + usize::try_from(ring_bytes).unwrap());
        let (tx, rx) = if own == FACE { rings } else { (rings.1, rings.0) };
        let theirs = FACE + HANDLE - own;
        let raw = Self {
            memory,
            file: file.try_clone().unwrap(),
            line: Arc::new(line),
            own,
            theirs,
            tx,
            rx,
            ring_bytes,
            max_packet,
            by_byte,
            tail: 0,
            head_seen: 0,
            taken_seen: 0,
            position: 0,
            released: 0,
        };
        if by_byte {
            raw.own32(ENDS).fetch_or(RING_BY_BYTE, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        if raw.their_ends() & RING_BY_BYTE != 0 {
            raw.send_byte();
        }
        raw
    }

    pub fn own32(&self, word: usize) -> &AtomicU32 {
        self.memory.word32(self.own + word)
    }

    pub fn own64(&self, word: usize) -> &AtomicU64 {
        self.memory.word64(self.own + word)
    }

    pub fn their32(&self, word: usize) -> &AtomicU32 {
        self.memory.word32(self.theirs + word)
    }

    pub fn their64(&self, word: usize) -> &AtomicU64 {
        self.memory.word64(self.theirs + word)
    }

    fn their_ends(&self) -> u32 {
        self.their32(ENDS).load(Ordering::Acquire)
    }

    fn offset(&self, position: u64) -> usize {
        usize::try_from(position & (self.ring_bytes - 1)).unwrap()
    }

    pub fn send_byte(&self) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = rustix::net::send(&*self.line, &[1], flags);
    }

    /// Wakes the other side, whatever its `waiting` bits say.
    pub fn ring(&self) {
        self.their32(BELL).fetch_add(1, Ordering::Release);
        self.wake();
        if self.their_ends() & RING_BY_BYTE != 0 {
            self.send_byte();
        }
    }

    /// Does the futex wake alone.
    pub fn wake(&self) {
        let all = i32::MAX.unsigned_abs();
        futex::wake(self.their32(BELL), futex::Flags::empty(), all).unwrap();
    }

    /// Wakes the other side if it sleeps for `bit`.
    pub fn wake_for(&self, bit: u32) {
        fence(Ordering::SeqCst);
        let waiting = self.their32(WAITING);
        if waiting.load(Ordering::Relaxed) & bit != 0
            && waiting.fetch_and(!bit, Ordering::AcqRel) & bit != 0
        {
            self.ring();
        }
    }

    fn freed(&self) -> u64 {
        let (head, taken) = (self.head_seen, self.taken_seen);
        if has_reached(head, taken) { head } else { taken }
    }

    fn has_room(&mut self, need: u64) -> bool {
        for word in [HEAD, TAKEN] {
            if need <= self.ring_bytes - (self.tail - self.freed()) {
                return true;
            }
            let claim = self.their64(word).load(Ordering::Acquire);
            let seen = if word == HEAD { &mut self.head_seen } else { &mut self.taken_seen };
            assert!(claim.is_multiple_of(8) && has_reached(claim, *seen));
            assert!(has_reached(self.tail, claim));
            *seen = claim;
        }
        need <= self.ring_bytes - (self.tail - self.freed())
    }

    /// Sends a packet. Returns `Err` if the peer no longer receives.
    pub fn send(&mut self, packet: &[u8]) -> Result<(), End> {
        let len = packet.len() as u64;
        assert!(len <= self.max_packet);
        let rest = self.ring_bytes - self.offset(self.tail) as u64;
        let pad = if record(len) > rest { rest } else { 0 };
        let need = pad + record(len) + 8;
        while {
            self.may_send()?;
            !self.has_room(need)
        } {
            let seen = self.own32(BELL).load(Ordering::Acquire);
            let wants = (self.tail + need).wrapping_sub(self.ring_bytes);
            self.own64(WANTS).store(wants, Ordering::Relaxed);
            self.own32(WAITING).fetch_or(SEND, Ordering::Release);
            fence(Ordering::SeqCst);
            self.wake_for(RECV);
            if !self.has_room(need) && self.may_send().is_ok() {
                self.sleep(seen, Duration::from_millis(1))?;
            }
        }
        let at = self.tail + pad;
        let next = self.tx + self.offset(at + record(len));
        self.memory.word64(next).store(0, Ordering::Relaxed);
        self.memory.write(self.tx + self.offset(at) + 8, packet);
        let header = self.memory.word64(self.tx + self.offset(at));
        if pad == 0 {
            header.store(PACKET | len, Ordering::Release);
        } else {
            header.store(PACKET | len, Ordering::Relaxed);
            let marker = self.memory.word64(self.tx + self.offset(self.tail));
            marker.store(JUMP, Ordering::Release);
        }
        self.tail = at + record(len);
        self.wake_for(RECV);
        Ok(())
    }

    fn may_send(&self) -> Result<(), End> {
        match self.their_ends() {
            ends if ends & CANCELLED != 0 => Err(End::Cancelled),
            ends if ends & RX_CLOSED != 0 => Err(End::Orderly),
            _ => Ok(()),
        }
    }

    /// Returns the next packet, if there is one now.
    pub fn try_recv(&mut self) -> Option<Vec<u8>> {
        let mut header = self.header();
        if header >> 32 == JUMP >> 32 {
            let to = header - JUMP;
            assert!(to.is_multiple_of(8) && to < self.ring_bytes, "{header:#x}");
            let here = self.offset(self.position) as u64;
            self.position += to.wrapping_sub(here) % self.ring_bytes;
            header = self.header();
            assert!(header >> 32 == PACKET >> 32, "a jump to {header:#x}");
        }
        if header == 0 {
            return None;
        }
        let len = header - PACKET;
        let rest = self.ring_bytes - self.offset(self.position) as u64;
        assert!(len <= self.max_packet && record(len) <= rest, "{header:#x}");
        let at = self.rx + self.offset(self.position) + 8;
        let packet = self.memory.read(at, usize::try_from(len).unwrap());
        self.position += record(len);
        self.own64(TAKEN).store(self.position, Ordering::Release);
        if self.position - self.released >= self.ring_bytes / 8 {
            self.release();
        }
        if self.their32(WAITING).load(Ordering::Relaxed) & SEND != 0 {
            self.release();
            fence(Ordering::Acquire);
            if has_reached(self.position, self.their64(WANTS).load(Ordering::Relaxed)) {
                self.wake_for(SEND);
            }
        }
        Some(packet)
    }

    fn header(&self) -> u64 {
        self.memory.word64(self.rx + self.offset(self.position)).load(Ordering::Acquire)
    }

    fn release(&mut self) {
        self.released = self.position;
        self.own64(HEAD).store(self.position, Ordering::Release);
    }

    /// Waits for the next packet, or returns how the channel ended.
    pub fn recv(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(settled) = self.look() {
                return settled;
            }
            let seen = self.own32(BELL).load(Ordering::Acquire);
            self.release();
            self.own32(WAITING).fetch_or(RECV, Ordering::Release);
            fence(Ordering::SeqCst);
            self.wake_for(SEND);
            if let Some(settled) = self.look() {
                return settled;
            }
            if let Err(end) = self.sleep(seen, Duration::from_secs(1)) {
                // What was published before the end comes first.
                return self.try_recv().ok_or(end);
            }
        }
    }

    /// Returns a packet or the end, if there is one.
    fn look(&mut self) -> Option<Result<Vec<u8>, End>> {
        if self.their_ends() & CANCELLED != 0 {
            return Some(Err(End::Cancelled));
        }
        if let Some(packet) = self.try_recv() {
            return Some(Ok(packet));
        }
        if self.their_ends() & TX_CLOSED != 0 {
            return Some(self.try_recv().ok_or(End::Orderly));
        }
        None
    }

    /// Sleeps until the bell wakes it. Returns `Err` if the lifeline hung up.
    fn sleep(&self, seen: u32, most: Duration) -> Result<(), End> {
        let most = Timespec::try_from(most).unwrap();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if !self.by_byte {
            let _ = futex::wait(self.own32(BELL), futex::Flags::empty(), seen, Some(&most));
        }
        let timeout = if self.by_byte { most } else { now };
        let mut poll = [PollFd::new(&*self.line, PollFlags::IN | PollFlags::RDHUP)];
        let _ = rustix::event::poll(&mut poll, Some(&timeout));
        let mut byte = [0; 1];
        loop {
            match rustix::net::recv(&*self.line, &mut byte, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return Ok(()),
                Ok((1.., _)) | Err(Errno::INTR) => {}
                Ok((0, _)) | Err(_) => return Err(self.death()),
            }
        }
    }

    /// Returns what a hang-up means.
    fn death(&self) -> End {
        match self.their_ends() {
            ends if ends & CANCELLED != 0 => End::Cancelled,
            ends if ends & TX_CLOSED != 0 => End::Orderly,
            _ => End::Died,
        }
    }

    /// Ends the channel in order.
    pub fn close(self) {
        self.own32(ENDS).fetch_or(TX_CLOSED | RX_CLOSED, Ordering::Release);
        self.ring();
        let _ = rustix::net::shutdown(&*self.line, Shutdown::Both);
    }
}
