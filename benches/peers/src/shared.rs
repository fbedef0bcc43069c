//! Memory that both processes map, for the limits.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::Result;

#[derive(Debug)]
pub(crate) struct Shared(MmapRaw);

/// A memfd of so many bytes.
pub(crate) fn create(bytes: usize) -> Result<[OwnedFd; 1]> {
    let descriptor = memfd_create("peers", MemfdFlags::CLOEXEC)?;
    ftruncate(&descriptor, bytes as u64)?;
    Ok([descriptor])
}

impl Shared {
    pub(crate) fn map([descriptor]: [OwnedFd; 1], bytes: usize) -> Result<Self> {
        Ok(Self(MmapOptions::new().len(bytes).populate().map_raw(&descriptor)?))
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.0.len());
        // SAFETY: it lies within the mapping, by the check above.
        let word = unsafe { self.start().add(at) };
        // SAFETY: aligned, because a mapping begins at a page; it lives as long as the mapping that
        // `self` owns; and both sides use the word through atomics alone.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    pub(crate) fn half_word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.0.len());
        // SAFETY: it lies within the mapping, by the check above.
        let word = unsafe { self.start().add(at) };
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}
