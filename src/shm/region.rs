//! The shared memory: a sealed memfd, its mapping, and checked copies in and out of the rings.
//!
//! Only this module and `copy` touch the mapping through raw pointers. Three things make that sound
//! whatever the peer does:
//!
//! - The memory stays. The file is sealed against shrinking before anybody else sees it, and the
//!   joining side refuses a file that is not.
//! - Control words and record headers are only accessed as atomics.
//! - Packets are only copied. No `&[u8]` to the mapping exists, because the peer may write there at
//!   any moment. The exception is a caller of the library that has promised, in an `unsafe` block
//!   of its own, that this peer does not. Memory for writing in place is handed out as a `&mut
//!   UninitSlice`, through which nothing can be read: see [`RingMemory::spare`].

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use bytes::buf::UninitSlice;
use memmap2::{Advice as MapAdvice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::Advice;
use rustix::process::{Resource, getrlimit};

use crate::error::ShmError;
use crate::shm::copy;
use crate::shm::layout::{
    Geometry, HEADER_BYTES, Header, MAGIC, RECORD_ALIGN, Side, SideWords, VERSION,
};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::sys::cpu;
use crate::sys::signals;

/// `TMPFS_MAGIC` of `linux/magic.h`. A memfd of ordinary pages lives on tmpfs. A memfd of huge
/// pages does not, and may raise SIGBUS for lack of pages.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The longest name of a memfd, in bytes (`MFD_NAME_MAX_LEN` of the kernel: `NAME_MAX` less the
/// length of `memfd:`).
const MAX_NAME: usize = 249;

/// The seals that every region carries: its size is fixed for good.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A mapped region.
#[derive(Debug)]
pub(crate) struct Region {
    map: MmapRaw,
    geometry: Geometry,
    /// The file itself, on the side that joined. Nothing here needs it, because the mapping keeps
    /// the memory. But a monitoring tool finds its user's channels among the descriptors of
    /// processes, and may not open a mapping. The creator has passed its descriptor on, so that an
    /// engine with many channels has one descriptor less for each.
    _file: Option<File>,
}

impl Region {
    /// Checks whether this process may currently make a region of this size (`RLIMIT_FSIZE`).
    pub(crate) fn check_limit(geometry: Geometry) -> Result<(), ShmError> {
        check_file_limit(geometry.region_bytes() as u64)
    }

    /// Makes a region, writes its geometry and seals it. The file is for the other side. `label` is
    /// what tools show of it.
    pub(crate) fn create(
        geometry: Geometry,
        prefault: bool,
        label: Option<&str>,
    ) -> Result<(Self, OwnedFd), ShmError> {
        check_file_limit(geometry.region_bytes() as u64)?;
        let file = memfd(label)?;
        file.set_len(geometry.region_bytes() as u64).map_err(ShmError::io("sizing the memfd"))?;
        take_memory(&file, if prefault { geometry.region_bytes() } else { HEADER_BYTES })?;
        let map = map(&file, geometry, prefault)?;
        let region = Self { map, geometry, _file: None };
        let words = &region.header().geometry.0;
        // ORDERING: Relaxed; the file is handed over by a system call, which orders these.
        words.magic.store(u64::from_ne_bytes(MAGIC), Ordering::Relaxed);
        words.version.store(VERSION, Ordering::Relaxed);
        words.header_bytes.store(HEADER_BYTES as u64, Ordering::Relaxed);
        words.features.store(0, Ordering::Relaxed);
        words.region_bytes.store(geometry.region_bytes() as u64, Ordering::Relaxed);
        words.ring_bytes.store(geometry.ring_bytes() as u64, Ordering::Relaxed);
        words.max_packet.store(geometry.max_packet() as u64, Ordering::Relaxed);
        rustix::fs::fcntl_add_seals(&file, SEALS).map_err(ShmError::io("sealing the memfd"))?;
        Ok((region, file.into()))
    }

    /// Checks whether a file that the peer made may be mapped, whatever its content.
    pub(crate) fn check_file(file: BorrowedFd<'_>) -> Result<(), ShmError> {
        let seals = rustix::fs::fcntl_get_seals(file)
            .map_err(ShmError::io("reading the region's seals"))?;
        if !seals.contains(SEALS) {
            return Err(refused("the region is not sealed against resizing"));
        }
        let statfs = rustix::fs::fstatfs(file).map_err(ShmError::io("looking at the region"))?;
        if statfs.f_type as u64 != TMPFS_MAGIC {
            return Err(refused("the region is not made of ordinary pages"));
        }
        Ok(())
    }

    /// Maps a region that the peer made, after checking everything about it.
    pub(crate) fn join(file: OwnedFd) -> Result<Self, ShmError> {
        Self::check_file(file.as_fd())?;
        let file = File::from(file);
        // The size cannot change any more: the seals were there before we read it.
        let size = file.metadata().map_err(ShmError::io("looking at the region"))?.len();
        let smallest = Geometry::new(Some(crate::shm::layout::MIN_RING_BYTES), None)?;
        if size < smallest.region_bytes() as u64 {
            return Err(refused("the region is too small"));
        }
        let probe = MmapOptions::new()
            .len(HEADER_BYTES)
            .map_raw(&file)
            .map_err(ShmError::io("mapping the region"))?;
        let geometry = read_geometry(&probe, size)?;
        let map = map(&file, geometry, false)?;
        Ok(Self { map, geometry, _file: Some(file) })
    }

    #[inline]
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns the control words of one side.
    #[inline]
    pub(crate) fn side(&self, side: Side) -> &SideWords {
        &self.header().sides[side as usize]
    }

    /// Like [`side`](Self::side), but returns an owner that keeps the mapping.
    pub(crate) fn words(self: &Arc<Self>, side: Side) -> Words {
        Words { words: NonNull::from(self.side(side)), _region: self.clone() }
    }

    /// Returns the ring that `producer` writes into.
    pub(crate) fn ring(self: &Arc<Self>, producer: Side) -> RingMemory {
        let offset = self.geometry.ring_offset(producer);
        // SAFETY: `ring_offset + ring_bytes <= region_bytes`, which is the length of the mapping,
        // by the definition of both in `Geometry`.
        let base = unsafe { self.map.as_mut_ptr().add(offset) };
        let base = NonNull::new(base).expect("a mapping is never at address zero");
        let len = self.geometry.ring_bytes();
        let word_mask = (len as u64 - 1) & !(RECORD_ALIGN as u64 - 1);
        RingMemory { base, len, word_mask, region: self.clone() }
    }

    #[inline]
    fn header(&self) -> &Header {
        header_of(&self.map)
    }
}

/// Returns the header at the start of a mapping of at least [`HEADER_BYTES`].
#[inline]
fn header_of(map: &MmapRaw) -> &Header {
    assert!(map.len() >= size_of::<Header>(), "every mapping here is longer");
    // SAFETY: the mapping starts at a page, is long enough (asserted above) and lives as long as
    // the borrow of `map`. `Header` consists of atomics only, for which every bit pattern is valid
    // and which may change under a shared reference.
    unsafe { &*map.as_ptr().cast::<Header>() }
}

/// Checks the limit on file sizes (`ulimit -f`). A process that makes a longer file gets a signal
/// that kills it, and this applies to a memfd as to any other file.
fn check_file_limit(bytes: u64) -> Result<(), ShmError> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if bytes > limit => Err(ShmError::io("sizing the memfd")(Errno::FBIG)),
        _ => Ok(()),
    }
}

/// Makes a memfd called `wakering`, or `wakering:` and as much of the label as the kernel allows.
fn memfd(label: Option<&str>) -> Result<File, ShmError> {
    let name = label.map_or("wakering".to_owned(), |label| format!("wakering:{label}"));
    let name = &name.as_bytes()[..name.len().min(MAX_NAME)];
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_NOEXEC_SEAL came with Linux 6.3; before that it is an invalid argument.
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        made => made,
    };
    Ok(File::from(fd.map_err(ShmError::io("memfd_create"))?))
}

/// Allocates the first `len` bytes. A page that the kernel has no memory for is an error here, and
/// SIGBUS where it is touched: with `vm.overcommit_memory` 2, a memfd's pages are not set aside.
fn take_memory(file: &File, len: usize) -> Result<(), ShmError> {
    /// A signal makes the kernel give back what a call has taken so far. So signals wait until a
    /// call is over, and do not wait long.
    const PIECE: usize = 256 << 10;
    for offset in (0..len).step_by(PIECE) {
        let piece = PIECE.min(len - offset) as u64;
        let take = || fallocate(file, FallocateFlags::empty(), offset as u64, piece);
        match signals::blocked(|| retry_on_intr(take)) {
            Ok(()) => {}
            Err(errno @ (Errno::NOSPC | Errno::NOMEM)) => {
                return Err(ShmError::io("taking the region's memory")(errno));
            }
            // A sandbox forbids the call. The pages come when they are touched.
            Err(_) => break,
        }
    }
    Ok(())
}

fn map(file: &File, geometry: Geometry, prefault: bool) -> Result<MmapRaw, ShmError> {
    let mut options = MmapOptions::new();
    options.len(geometry.region_bytes());
    if prefault {
        options.populate();
    }
    let map = options.map_raw(file).map_err(ShmError::io("mapping the region"))?;
    // A core dump would touch, and so allocate, every page of every region, which keeps the dying
    // process for seconds. It would also contain packets. Without this a dump is only slower.
    let _ = map.advise(MapAdvice::DontDump);
    Ok(map)
}

/// Loads the creator's numbers, each once, and checks them.
fn read_geometry(map: &MmapRaw, size: u64) -> Result<Geometry, ShmError> {
    let words = &header_of(map).geometry.0;
    // PEER: all of these are claims; each is loaded once.
    // ORDERING: Relaxed; written before the file was handed over.
    let version = words.version.load(Ordering::Relaxed);
    if words.magic.load(Ordering::Relaxed) != u64::from_ne_bytes(MAGIC) {
        return Err(ShmError::VersionMismatch { ours: VERSION, theirs: 0 });
    }
    if version != VERSION {
        return Err(ShmError::VersionMismatch { ours: VERSION, theirs: version });
    }
    // The length is the same in all regions of this version.
    if words.header_bytes.load(Ordering::Relaxed) != HEADER_BYTES as u64 {
        return Err(refused("the region's header has another length than in this version"));
    }
    if words.features.load(Ordering::Relaxed) != 0 {
        return Err(ShmError::Unsupported {
            reason: "the region uses features that this version does not know",
        });
    }
    if words.region_bytes.load(Ordering::Relaxed) != size {
        return Err(refused("the region has another size than it says"));
    }
    Geometry::judge(
        words.ring_bytes.load(Ordering::Relaxed),
        words.max_packet.load(Ordering::Relaxed),
        size,
    )
}

fn refused(why: &'static str) -> ShmError {
    ShmError::Io {
        step: "checking the region",
        source: io::Error::new(io::ErrorKind::InvalidData, why),
    }
}

/// The control words of one side, one pointer away from their user.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    words: NonNull<SideWords>,
    /// Keeps the mapping.
    _region: Arc<Region>,
}

// SAFETY: `words` points into a mapping that the region keeps as long as this lives, on any thread;
// the words are atomics.
unsafe impl Send for Words {}

// SAFETY: as above.
unsafe impl Sync for Words {}

impl Deref for Words {
    type Target = SideWords;

    #[inline(always)]
    fn deref(&self) -> &SideWords {
        // SAFETY: made from a reference into the mapping, which lives as long as `self`.
        unsafe { self.words.as_ref() }
    }
}

/// The bytes of one ring. Every access is checked against the ring's length, or masked by it.
#[derive(Debug)]
pub(crate) struct RingMemory {
    base: NonNull<u8>,
    len: usize,
    /// The bits of a position that are the offset of its word in the ring.
    word_mask: u64,
    /// Keeps the mapping.
    region: Arc<Region>,
}

// SAFETY: `base` points into a mapping that `region` keeps as long as this lives, on any thread;
// all accesses through it are atomic or raw copies, which other threads may make as well.
unsafe impl Send for RingMemory {}

// SAFETY: as above. The methods that hand out references to bytes make it the caller's duty that
// nobody else writes or reads there meanwhile.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// The length in bytes, a power of two.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the record header at `position`. Its offset in the ring is `position` modulo the
    /// ring's length.
    #[inline]
    pub(crate) fn header(&self, position: u64) -> &AtomicU64 {
        debug_assert!(position.is_multiple_of(RECORD_ALIGN as u64), "between two headers");
        let word = self.word_at(position);
        // SAFETY: `word_at` lies in the ring, at a multiple of 8. The ring begins at a page and its
        // length is a power of two of at least a page, so the whole word lies in the ring. The
        // mapping lives as long as `self`, and an atomic may change under a shared reference.
        unsafe { word.cast::<AtomicU64>().as_ref() }
    }

    /// Returns the address of the word that `position` is in.
    #[inline(always)]
    fn word_at(&self, position: u64) -> NonNull<u8> {
        #[allow(clippy::cast_possible_truncation, reason = "masked to less than the ring's length")]
        let offset = (position & self.word_mask) as usize;
        // SAFETY: the mask is less than the ring's length, and so is the offset.
        unsafe { self.base.add(offset) }
    }

    /// Makes this core fetch the cache line at `position`, to write to it soon.
    #[inline(always)]
    pub(crate) fn fetch_to_write(&self, position: u64) {
        cpu::fetch_to_write(self.word_at(position).as_ptr());
    }

    /// Makes this core fetch the cache line at `position`, to read it soon.
    #[inline(always)]
    pub(crate) fn fetch_to_read(&self, position: u64) {
        cpu::fetch_to_read(self.word_at(position).as_ptr());
    }

    /// Has the kernel allocate the pages of the `len` bytes at `offset`, and map them here for
    /// writing (`MADV_POPULATE_WRITE`, Linux 5.14). If it cannot, they are allocated as they are
    /// touched.
    ///
    /// # Panics
    /// If the bytes do not lie between `offset` and the ring's end.
    pub(crate) fn make_pages(&self, offset: usize, len: usize) {
        let at = self.span(offset, len).as_ptr().cast();
        // SAFETY: `span` checked that the bytes lie in the ring, and so in our own mapping. This
        // changes no byte and no access right of it.
        let _ = unsafe { rustix::mm::madvise(at, len, Advice::LinuxPopulateWrite) };
    }

    /// Copies `packet` to `offset`.
    ///
    /// # Panics
    /// If it does not fit between `offset` and the ring's end.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, packet: &[u8]) {
        let to = self.span(offset, packet.len());
        // SAFETY: `span` checked that the bytes lie in the ring. `packet` is private memory, or
        // memory that is read in place and so is not in the room that we write to: the two do not
        // overlap. The peer may write here meanwhile: only bytes are moved.
        unsafe { copy::in_pieces(NonNull::from(packet).cast(), to, packet.len()) };
    }

    /// Appends the `len` bytes at `offset` to `copy`.
    ///
    /// # Panics
    /// If they do not lie between `offset` and the ring's end.
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, len: usize, copy: &mut Vec<u8>) {
        let from = self.span(offset, len);
        copy.reserve(len);
        let spare: &mut [MaybeUninit<u8>] = copy.spare_capacity_mut();
        // SAFETY: `span` checked that the bytes lie in the ring, `spare` has room for at least
        // `len`, and private memory does not overlap the mapping. The peer may write here
        // meanwhile: we copy bytes out and never form a `&[u8]` to them.
        unsafe { copy::in_pieces(from, NonNull::from(spare).cast(), len) };
        // The caller must use the very bytes that it checked. Without this, the optimizer may read
        // the ring again instead of the copy.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        // SAFETY: the first `len` bytes of the spare capacity were just written.
        unsafe { copy.set_len(copy.len() + len) };
    }

    /// Returns a copy of the `len` bytes at `offset`, in an allocation of that size.
    ///
    /// # Panics
    /// If they do not lie between `offset` and the ring's end.
    #[inline]
    pub(crate) fn boxed(&self, offset: usize, len: usize) -> Box<[u8]> {
        let from = self.span(offset, len);
        let mut copy = Box::<[u8]>::new_uninit_slice(len);
        // SAFETY: `span` checked that the bytes lie in the ring, `copy` holds `len` bytes, and
        // private memory does not overlap the mapping. The peer may write here meanwhile: we copy
        // bytes out and never form a `&[u8]` to them.
        unsafe { copy::in_pieces(from, NonNull::from(&mut *copy).cast(), len) };
        // As in `copy_out`.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        // SAFETY: all of its bytes were just written.
        unsafe { copy.assume_init() }
    }

    /// Copies the bytes at `offset` to `copy`, as many as `copy` holds.
    ///
    /// # Panics
    /// If they do not lie between `offset` and the ring's end.
    #[inline]
    pub(crate) fn copy_to(&self, offset: usize, copy: &mut [u8]) {
        let from = self.span(offset, copy.len());
        // SAFETY: as in `copy_out`; `copy` is private memory, because nobody has a `&mut [u8]` to
        // the mapping.
        unsafe { copy::in_pieces(from, NonNull::from(&mut *copy).cast(), copy.len()) };
        // As in `copy_out`.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    /// Copies `len` bytes at `from_offset` of the ring `from` to `offset`.
    ///
    /// # Panics
    /// If they do not lie in both rings.
    #[inline]
    pub(crate) fn copy_across(&self, offset: usize, from: &Self, from_offset: usize, len: usize) {
        let to = self.span(offset, len);
        let from = from.span(from_offset, len);
        // Ranges of one mapping may overlap. Another mapping of the same pages, if one process has
        // both ends, counts as a peer that writes meanwhile: only bytes are moved.
        if to.addr().get().abs_diff(from.addr().get()) < len {
            // SAFETY: `span` checked both, and `copy_from` allows that they overlap.
            return unsafe { to.copy_from(from, len) };
        }
        // SAFETY: as above; their addresses do not overlap.
        unsafe { copy::in_pieces(from, to, len) };
    }

    /// Sets `len` bytes at `offset` to `byte`.
    ///
    /// # Panics
    /// If they do not lie between `offset` and the ring's end.
    #[inline]
    pub(crate) fn fill(&self, offset: usize, byte: u8, len: usize) {
        let to = self.span(offset, len);
        // SAFETY: `span` checked that the bytes lie in the ring. The peer may write here meanwhile:
        // nothing is read.
        unsafe { to.write_bytes(byte, len) };
    }

    /// Returns the `len` bytes at `offset`, to be written in place.
    ///
    /// The peer may write there meanwhile, as with [`copy_in`](Self::copy_in), and that does no
    /// more harm than there. A `UninitSlice` has no safe way to read, and the contract of its only
    /// unsafe one forbids reading too, so no decision of this process can depend on these bytes. No
    /// private byte can get out through the slice either: bytes that are never written keep what
    /// the ring held before, which is initialised, and which the peer knows.
    ///
    /// # Panics
    /// If they do not lie between `offset` and the ring's end.
    ///
    /// # Safety
    /// - The bytes are free: they belong to no record that was published and not given back.
    /// - No other reference to them exists in this process as long as this one does.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the memory is the peer's as much as ours")]
    pub(crate) unsafe fn spare(&self, offset: usize, len: usize) -> &mut UninitSlice {
        let to = self.span(offset, len);
        // SAFETY: `span` checked that the bytes lie in the ring, whose mapping lives as long as
        // `self`. Every byte is initialised, because the kernel hands out zeroed pages. The caller
        // guarantees that no other reference exists.
        unsafe { UninitSlice::from_raw_parts_mut(to.as_ptr(), len) }
    }

    /// Returns the `len` bytes at `offset`, to be read in place.
    ///
    /// # Panics
    /// If they do not lie between `offset` and the ring's end.
    ///
    /// # Safety
    /// - Nobody writes there, in this process or in the peer's, as long as the slice is used.
    #[inline]
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        let from = self.span(offset, len);
        // SAFETY: `span` checked that the bytes lie in the ring, whose mapping lives as long as
        // `self`. Every byte is initialised. The caller guarantees that none changes.
        unsafe { std::slice::from_raw_parts(from.as_ptr(), len) }
    }

    /// Returns the `len` bytes at `offset`, to be read in place later. Keeps the mapping.
    ///
    /// # Panics
    /// If they do not lie between `offset` and the ring's end.
    pub(crate) fn keep(&self, offset: usize, len: usize) -> Kept {
        Kept { base: self.span(offset, len), len, _region: self.region.clone() }
    }

    /// Returns the address of `offset`, after checking that `len` bytes from there lie in the ring.
    #[inline]
    fn span(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.len && len <= self.len - offset, "bytes outside of the ring");
        // SAFETY: `offset <= len` was checked, so the address lies in the ring or at its end.
        unsafe { self.base.add(offset) }
    }
}

/// Some bytes of a ring, mapped as long as this lives.
#[derive(Debug)]
pub(crate) struct Kept {
    base: NonNull<u8>,
    len: usize,
    /// Keeps the mapping.
    _region: Arc<Region>,
}

// SAFETY: as for `RingMemory`: `base` points into a mapping that `_region` keeps, on any thread.
unsafe impl Send for Kept {}

// SAFETY: as above; the only method that reads makes it the caller's duty that nobody writes.
unsafe impl Sync for Kept {}

impl Kept {
    /// Returns the bytes.
    ///
    /// # Safety
    /// - Nobody writes there, in this process or in the peer's, as long as the slice is used.
    #[inline]
    pub(crate) unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: `RingMemory::keep` checked that the bytes lie in the ring, and the mapping lives
        // as long as `self`. Every byte is initialised. The caller guarantees that none changes.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests;
