//! Joins anything as a region.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

use super::Input;
use crate::ring::{Consumer, Producer};
use crate::shm::layout::{HEADER_BYTES, MAGIC, Side, VERSION};
use crate::shm::region::Region;
use crate::sync::Arc;

/// Joins a file of any kind, size, seals and content. If it is accepted, both roles must be able to
/// use it without undefined behaviour or a panic. Returns whether it was accepted.
///
/// # Panics
/// If a file was accepted that should not have been.
pub fn attach(data: &[u8]) -> bool {
    run(&mut Input(data)).is_some()
}

/// Returns `None` if nothing was accepted.
fn run(input: &mut Input<'_>) -> Option<()> {
    let kind = input.byte()?;
    let seals = input.byte()?;
    let file = file(kind)?;
    let size = size(input)?;
    // Fails if the file is not a memfd, or if the file system has a limit.
    let sized = rustix::fs::ftruncate(&file, size).is_ok();
    if kind & 0x80 != 0 && sized {
        write(&file, 0, &lawful_header(size));
    }
    // Patches of the header, then of the rings.
    let patches = input.byte()? % 8;
    for _ in 0..patches {
        let at = u64::from(input.half()?) % 0x60;
        let len = usize::from(input.byte()? % 16);
        write_within(&file, at, input.bytes(len), size);
    }
    let content = input.bytes(4096);
    write_within(&file, HEADER_BYTES as u64, content, size);
    let wanted = SealFlags::from_bits_retain(u32::from(seals) & 0x3f);
    let _ = rustix::fs::fcntl_add_seals(&file, wanted);

    let region = Region::join(file.try_clone().ok()?).ok()?;
    let geometry = region.geometry();
    let has = rustix::fs::fcntl_get_seals(&file).expect("only a memfd is let in");
    assert!(has.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    assert_eq!(geometry.region_bytes() as u64, size, "the size is what the header says");
    assert!(geometry.ring_bytes().is_power_of_two());
    assert!((1..=geometry.ring_bytes() / 4 - 8).contains(&geometry.max_packet()));
    use_both_ends(&Arc::new(region));
    Some(())
}

/// Takes what is there and adds to it, although none of the other side's words need be valid.
fn use_both_ends(region: &Arc<Region>) {
    for side in [Side::Face, Side::Handle] {
        let mut consumer = Consumer::new(region, side);
        for _ in 0..600 {
            match consumer.take() {
                Ok(Some(packet)) => assert!(packet.len() <= region.geometry().max_packet()),
                Ok(None) | Err(_) => break,
            }
        }
        let mut producer = Producer::new(region, side);
        for len in [0, 1, region.geometry().max_packet().min(1000)] {
            let _ = producer.look_at_taken();
            if !matches!(producer.stage(&vec![7; len]), Ok(true)) {
                break;
            }
            producer.publish();
        }
    }
}

fn file(kind: u8) -> Option<OwnedFd> {
    let sealable = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match kind % 8 {
        0..=3 => rustix::fs::memfd_create("any", sealable),
        4 => rustix::fs::memfd_create("any", MemfdFlags::CLOEXEC),
        5 => rustix::fs::memfd_create("any", sealable | MemfdFlags::HUGETLB),
        6 => return Some(std::fs::File::open("/dev/zero").ok()?.into()),
        _ => return Some(rustix::pipe::pipe().ok()?.0),
    };
    made.ok()
}

/// Returns a valid size, one next to it, or any other.
fn size(input: &mut Input<'_>) -> Option<u64> {
    let shift = u32::from(input.byte()?);
    let lawful = HEADER_BYTES as u64 + (2_u64 << (12 + shift % 20));
    Some(match shift / 32 {
        0..=4 => lawful,
        5 => lawful.wrapping_add(input.word()? % 8192).wrapping_sub(4096),
        6 => u64::from(input.half()?),
        _ => input.word()? >> 1,
    })
}

fn lawful_header(size: u64) -> [u8; 56] {
    let mut header = [0; 56];
    let ring = size.saturating_sub(HEADER_BYTES as u64) / 2;
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_ne_bytes());
    let words = [(16, HEADER_BYTES as u64), (32, size), (40, ring), (48, (ring / 4).max(9) - 8)];
    for (at, word) in words {
        header[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    }
    header
}

/// Writes without making the file longer, which would hide what the size should reveal.
fn write_within(file: &OwnedFd, at: u64, bytes: &[u8], size: u64) {
    let room = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
    write(file, at, &bytes[..bytes.len().min(room)]);
}

fn write(file: &OwnedFd, at: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        let _ = rustix::io::pwrite(file.as_fd(), bytes, at);
    }
}
