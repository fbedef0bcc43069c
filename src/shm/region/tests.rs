//! What is made, and what is refused, with real files.

use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::*;

fn copied(ring: &RingMemory, offset: usize, len: usize) -> Vec<u8> {
    let mut copy = Vec::new();
    ring.copy_out(offset, len, &mut copy);
    copy
}
use crate::shm::layout::{RECORD_HEADER, RECV};

const RING: usize = 4096;
const SIZE: u64 = 3 * 4096;

fn create() -> (Region, OwnedFd) {
    Region::create(Geometry::new(Some(RING), None).unwrap(), false, None).unwrap()
}

/// Both sides' mappings of one region.
fn both() -> (Arc<Region>, Arc<Region>) {
    let (region, file) = create();
    (Arc::new(region), Arc::new(Region::join(file).unwrap()))
}

/// A region made by hand from the specification's offsets, with everything lawful.
fn handmade() -> File {
    let file = memfd(None).unwrap();
    file.set_len(SIZE).unwrap();
    for (offset, value) in
        [(0x10, 4096), (0x18, 0), (0x20, SIZE), (0x28, RING as u64), (0x30, 1016)]
    {
        put(&file, offset, value);
    }
    file.write_all_at(b"wakering", 0).unwrap();
    file.write_all_at(&1_u32.to_ne_bytes(), 8).unwrap();
    file
}

fn put(file: &File, offset: u64, value: u64) {
    file.write_all_at(&value.to_ne_bytes(), offset).unwrap();
}

fn seal(file: &File, seals: SealFlags) {
    rustix::fs::fcntl_add_seals(file, seals).unwrap();
}

/// Seals `file` and says why it is not joined.
fn refusal(file: File) -> ShmError {
    seal(&file, SEALS);
    Region::join(file.into()).expect_err("it was joined")
}

#[track_caller]
fn assert_invalid(error: &ShmError, text: &str) {
    match error {
        ShmError::Io { step: "checking the region", source } => {
            assert!(source.to_string().contains(text), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_sides_see_the_same_memory() {
    let (face, handle) = both();
    assert_eq!(face.geometry(), handle.geometry());
    assert_eq!(handle.geometry().max_packet(), 1016);
    for (writer, reader) in [(&face, &handle), (&handle, &face)] {
        for side in [Side::Face, Side::Handle] {
            let ring = writer.ring(side);
            ring.header(RING as u64 - 8).store(side as u64 + 7, Ordering::Relaxed);
            ring.copy_in(RECORD_HEADER, &[side as u8 + 1; 100]);
            writer.side(side).head.0.store(side as u64 + 3, Ordering::Relaxed);
            let ring = reader.ring(side);
            assert_eq!(ring.header(RING as u64 - 8).load(Ordering::Relaxed), side as u64 + 7);
            assert_eq!(copied(&ring, RECORD_HEADER, 100), [side as u8 + 1; 100][..]);
            assert_eq!(reader.side(side).head.0.load(Ordering::Relaxed), side as u64 + 3);
        }
    }
}

#[test]
fn a_region_made_by_the_written_offsets_is_joined() {
    let file = handmade();
    seal(&file, SEALS);
    let other = file.try_clone().unwrap();
    let region = Arc::new(Region::join(file.into()).unwrap());
    region.side(Side::Face).bell.0.waiting.store(RECV, Ordering::Relaxed);
    region.side(Side::Handle).bell.0.bell.store(9, Ordering::Relaxed);
    region.ring(Side::Handle).header(8).store(11, Ordering::Relaxed);
    for (offset, word) in [(0x80, 1), (0x80 + 0x300 + 4, 9), (4096 + 4096 + 8, 11_u32)] {
        let mut bytes = [0; 4];
        other.read_exact_at(&mut bytes, offset).unwrap();
        assert_eq!(u32::from_ne_bytes(bytes), word, "at {offset:#x}");
    }
}

#[test]
fn a_file_that_can_be_resized_is_refused() {
    for seals in [
        SealFlags::empty(),
        SEALS.difference(SealFlags::SHRINK),
        SEALS.difference(SealFlags::GROW),
        SEALS.difference(SealFlags::SEAL),
    ] {
        let file = handmade();
        seal(&file, seals);
        assert_invalid(&Region::join(file.into()).unwrap_err(), "not sealed");
    }
}

#[test]
fn a_region_cannot_be_resized_or_unsealed() {
    let (_region, file) = create();
    let file = File::from(file);
    for size in [0, SIZE - 4096, SIZE + 4096] {
        let error = file.set_len(size).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
    let more = rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE);
    assert_eq!(more, Err(Errno::PERM));
    let flags = rustix::io::fcntl_getfd(&file).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    let file = handmade();
    seal(&file, SEALS | SealFlags::WRITE);
    let error = Region::join(file.into()).unwrap_err();
    assert!(matches!(error, ShmError::Io { step: "mapping the region", .. }), "{error:?}");
}

#[test]
fn what_is_no_memfd_is_refused() {
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let (pipe, _writer) = io::pipe().unwrap();
    let plain = File::open("/proc/self/exe").unwrap();
    let directory = File::open("/").unwrap();
    for file in [socket.into(), OwnedFd::from(pipe), plain.into(), directory.into()] {
        assert!(matches!(Region::join(file), Err(ShmError::Io { .. })));
    }
    // A file on tmpfs is the nearest thing to a memfd.
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    if let Ok(file) = rustix::fs::open("/dev/shm", flags, Mode::RUSR | Mode::WUSR) {
        let file = File::from(file);
        file.set_len(SIZE).unwrap();
        assert_invalid(&Region::join(file.into()).unwrap_err(), "not sealed");
    }
}

/// Their pages can run out under a mapping. Where the kernel knows none, there is nothing to test.
#[test]
fn huge_pages_are_refused() {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let Ok(file) = rustix::fs::memfd_create("huge", flags) else { return };
    let file = File::from(file);
    if file.set_len(1 << 30).is_ok() {
        assert_invalid(&refusal(file), "ordinary pages");
    }
}

#[test]
fn a_file_that_is_too_small_is_refused() {
    for size in [0, 1, 4096, SIZE - 1] {
        let file = handmade();
        file.set_len(size).unwrap();
        assert_invalid(&refusal(file), "too small");
    }
}

#[test]
fn a_size_that_does_not_fit_the_numbers_is_refused() {
    let file = handmade();
    file.set_len(SIZE + 4096).unwrap();
    assert_invalid(&refusal(file), "another size");
    for (offset, value) in [(0x20, 0), (0x20, SIZE + 1), (0x20, u64::MAX)] {
        let file = handmade();
        put(&file, offset, value);
        assert_invalid(&refusal(file), "another size");
    }
    for (offset, value) in [
        (0x28, 0),
        (0x28, 8192),
        (0x28, 4097),
        (0x28, u64::MAX),
        (0x30, 0),
        (0x30, 1017),
        (0x30, u64::MAX),
    ] {
        let file = handmade();
        put(&file, offset, value);
        let error = refusal(file);
        assert!(matches!(error, ShmError::InvalidConfig { .. }), "{offset:#x} {value} {error:?}");
    }
}

#[test]
fn another_version_is_refused() {
    for (offset, byte, theirs) in [(0, b'W', 0), (7, 0, 0), (8, 2, 2), (11, 1, 1 + (1 << 24))] {
        let file = handmade();
        file.write_all_at(&[byte], offset).unwrap();
        match refusal(file) {
            ShmError::VersionMismatch { ours: 1, theirs: answer } => assert_eq!(answer, theirs),
            other => panic!("{other:?}"),
        }
    }
}

/// That is no other version, and must not read like one: `ours: 1, theirs: 1`.
#[test]
fn a_strange_header_length_is_invalid_data() {
    for length in [0, 8192, u64::MAX] {
        let file = handmade();
        put(&file, 0x10, length);
        assert_invalid(&refusal(file), "header");
    }
}

#[test]
fn unknown_features_are_refused() {
    for feature in [1, 1 << 63] {
        let file = handmade();
        put(&file, 0x18, feature);
        assert!(matches!(refusal(file), ShmError::Unsupported { .. }));
    }
}

/// Seals do not prevent it. It is a write like any other: both sides go on with zeros.
#[test]
fn a_punched_hole_is_only_a_write() {
    let (face, handle) = both();
    let ring = face.ring(Side::Face);
    ring.copy_in(0, &[7; RING]);
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(handle._file.as_ref().unwrap(), hole, 0, SIZE).unwrap();
    for region in [&face, &handle] {
        assert_eq!(copied(&region.ring(Side::Face), 0, RING), [0; RING][..]);
        assert_eq!(region.side(Side::Face).bell.0.bell.load(Ordering::Relaxed), 0);
        assert_eq!(region.geometry().ring_bytes(), RING, "read once and never again");
    }
    ring.copy_in(8, b"goes on");
    assert_eq!(copied(&handle.ring(Side::Face), 8, 7), b"goes on");
}

#[test]
fn prefault_takes_all_pages_at_once() {
    let pages = |prefault| {
        let geometry = Geometry::new(None, None).unwrap();
        let (_region, file) = Region::create(geometry, prefault, None).unwrap();
        let taken = File::from(file).metadata().unwrap().blocks() * 512;
        (taken, geometry.region_bytes() as u64)
    };
    let (taken, all) = pages(true);
    assert_eq!(taken, all);
    let (taken, all) = pages(false);
    assert!(taken < all / 10, "{taken} of {all} bytes");
}

#[test]
fn a_ring_outlives_its_region() {
    let ring = Arc::new(create().0).ring(Side::Handle);
    ring.copy_in(0, b"kept");
    assert_eq!(copied(&ring, 0, 4), b"kept");
    assert_eq!(copied(&ring, RING, 0), b"", "nothing, at the very end");
}

#[test]
fn bytes_are_moved_in_every_way_there_is() {
    let region = Arc::new(create().0);
    let (one, other) = (region.ring(Side::Face), region.ring(Side::Handle));
    one.copy_in(16, b"from ring to ring");
    other.copy_across(RING - 20, &one, 21, 12);
    let mut copy = [0; 12];
    other.copy_to(RING - 20, &mut copy);
    assert_eq!(&copy, b"ring to ring");
    // They may overlap, where one process has both ends.
    one.copy_across(18, &one, 16, 17);
    assert_eq!(copied(&one, 18, 17), b"from ring to ring");
    one.fill(20, b'-', 3);
    assert_eq!(copied(&one, 18, 8), b"fr---rin"[..]);
    // Long ones, too.
    let long: Vec<u8> = (0..=250).cycle().take(2048).collect();
    one.copy_in(0, &long);
    other.copy_across(1024, &one, 0, 2048);
    assert_eq!(copied(&other, 1024, 2048), long);
    one.copy_across(1024, &one, 0, 2048);
    assert_eq!(copied(&one, 1024, 2048), long);
    // SAFETY: nobody else knows of this region.
    let spare = unsafe { one.spare(RING - 3, 3) };
    spare.copy_from_slice(b"end");
    // SAFETY: nobody else knows of this region, and `spare` is gone.
    assert_eq!(unsafe { one.slice(RING - 3, 3) }, b"end");
}

#[test]
#[should_panic(expected = "bytes outside of the ring")]
fn room_past_the_end_panics() {
    let ring = Arc::new(create().0).ring(Side::Face);
    // SAFETY: nobody else knows of this region.
    unsafe { ring.spare(RING - 4, 5) };
}

#[test]
#[should_panic(expected = "bytes outside of the ring")]
fn reading_in_place_past_the_end_panics() {
    let ring = Arc::new(create().0).ring(Side::Face);
    // SAFETY: nobody else knows of this region.
    unsafe { ring.slice(RING, 1) };
}

#[test]
#[should_panic(expected = "bytes outside of the ring")]
fn copying_past_the_end_panics() {
    Arc::new(create().0).ring(Side::Handle).copy_in(RING - 4, b"12345");
}

#[test]
fn a_header_is_found_by_any_position() {
    let ring = Arc::new(create().0).ring(Side::Face);
    ring.header(16).store(5, Ordering::Relaxed);
    for turn in [1, 2, u64::MAX / RING as u64] {
        assert_eq!(ring.header(turn * RING as u64 + 16).load(Ordering::Relaxed), 5);
    }
    assert_eq!(ring.header(0_u64.wrapping_sub(RING as u64) + 16).load(Ordering::Relaxed), 5);
}

/// A dump of an idle region would allocate all of it.
#[test]
fn a_core_dump_leaves_out_the_regions() {
    let smaps = |at: *const u8| {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let begins = format!("{:08x}-", at.addr());
        let map = maps.lines().skip_while(|line| !line.starts_with(&begins));
        map.into_iter().find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
    };
    let (creator, joiner) = both();
    for region in [creator, joiner] {
        let flags = smaps(region.map.as_ptr());
        assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
    }
}
