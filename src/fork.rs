//! Tells a process from those that it forks.
//!
//! A child that was forked without an exec has copies of everything, and the descriptors, rings and
//! regions among it are still the parent's. Whatever the child did with them would disturb the
//! parent. So everything that reaches out of the process notes its [`Origin`] when it is made, and does
//! nothing in another process.
//!
//! The number lies in a page that the kernel clears in every child (`MADV_WIPEONFORK`, Linux 4.14).
//! To ask costs two loads and no branch that is taken. No lock is taken: at the time of a fork another
//! thread may have held it.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use memmap2::MmapMut;
use rustix::mm::Advice;

/// The word in the page, once there is one; never unmapped.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// In place of the page where the kernel has none such: forks are not noticed then.
static UNWIPED: AtomicU32 = AtomicU32::new(1);

/// The last number that was given out, here or in an ancestor.
static LAST: AtomicU32 = AtomicU32::new(0);

/// A number that is another one in every process that forks away from this one; never 0.
#[inline]
pub(crate) fn generation() -> u32 {
    // ORDERING: Relaxed; the number publishes nothing.
    let generation = word().map_or(0, |word| word.load(Ordering::Relaxed));
    if generation == 0 { renew() } else { generation }
}

/// The process in which something was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    word: &'static AtomicU32,
    generation: u32,
}

impl Origin {
    /// This process.
    pub(crate) fn here() -> Self {
        let generation = generation();
        Self { word: word().unwrap_or(&UNWIPED), generation }
    }

    /// Whether this is another process by now: a fork lies between. There the word is 0, or has a
    /// number of its own.
    #[inline(always)]
    pub(crate) fn has_left(&self) -> bool {
        // ORDERING: Relaxed; the number publishes nothing.
        self.word.load(Ordering::Relaxed) != self.generation
    }
}

/// The first call in this process.
#[cold]
fn renew() -> u32 {
    let word = word().unwrap_or_else(map);
    // ORDERING: Relaxed, all of these; the numbers publish nothing. Of several threads that come
    // here at once, one sets the word.
    let next = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
    match word.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => next,
        Err(set) => set,
    }
}

#[inline]
fn word() -> Option<&'static AtomicU32> {
    // ORDERING: Acquire pairs with the Release in `map`.
    let word = NonNull::new(WORD.load(Ordering::Acquire))?;
    // SAFETY: `map` stored the address of a word that is aligned, initialised, only ever accessed as
    // an atomic, and never unmapped.
    Some(unsafe { word.as_ref() })
}

fn map() -> &'static AtomicU32 {
    let made = wiped_page().unwrap_or_else(|| ptr::from_ref(&UNWIPED).cast_mut());
    // ORDERING: AcqRel; Release publishes the page. If another thread was faster, its page counts
    // and ours is lost.
    let _ = WORD.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
    word().unwrap_or(&UNWIPED)
}

/// A new word that is 0, and 0 again in every child.
fn wiped_page() -> Option<*mut AtomicU32> {
    let length = rustix::param::page_size();
    let mut page = MmapMut::map_anon(length).ok()?;
    let start = page.as_mut_ptr();
    // SAFETY: the whole of a private, anonymous mapping that nobody else knows of; the advice
    // changes nothing in this process.
    unsafe { rustix::mm::madvise(start.cast(), length, Advice::LinuxWipeOnFork) }.ok()?;
    std::mem::forget(page);
    Some(start.cast())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_number_stays_the_same() {
        let here = Origin::here();
        assert_ne!(here.generation, 0);
        assert_eq!(here.generation, generation());
        assert!(!here.has_left());
        assert!(Origin { generation: here.generation + 1, ..here }.has_left());
    }
}
