//! A futex word each way in memory that both sides map: what the limits that sleep are made of.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

use crate::Result;
use crate::row::Side;
use crate::shared::{self, Shared};
use crate::stage::Stage;

const PAGE: usize = 4096;

pub(super) fn memory(stage: &mut Stage) -> Result<Shared> {
    Shared::map(stage.share(|| shared::create(PAGE))?, PAGE)
}

/// The word that this side writes, and the one that it waits for.
pub(super) fn words<'a>(stage: &Stage, memory: &'a Shared) -> (&'a AtomicU32, &'a AtomicU32) {
    let (one, other) = (memory.half_word(0), memory.half_word(256));
    if stage.side() == Side::A { (one, other) } else { (other, one) }
}

/// Added to a number, so that none is 0, which is in a word from the start.
const OFFSET: u64 = 2;

/// Writes the lower half of a number, and wakes who waits for it.
pub(super) fn put(to: &AtomicU32, number: u64) -> Result<()> {
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is what is sent")]
    let word = number.wrapping_add(OFFSET) as u32;
    to.store(word, Ordering::Release);
    futex::wake(to, futex::Flags::empty(), 1)?;
    Ok(())
}

/// The number that [`put`] wrote to a word.
pub(super) fn seen(word: u32) -> u64 {
    u64::from(word).wrapping_sub(OFFSET)
}
