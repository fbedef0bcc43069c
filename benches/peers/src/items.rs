//! Items of one length, many of them in a packet: the like of a slice of items.
//!
//! The sender collects items in a chunk that stays in its first cache, and copies the whole chunk
//! to where the packet will lie. That is twice as fast as to copy small items one by one.

use crate::packet::Source;

/// Bytes of a chunk; a multiple of the items' length.
const CHUNK: usize = 4096;

/// Bytes of a packet that holds items of `N` bytes: 64 small ones, or 32 of 1 KiB.
pub(crate) const fn packet_bytes<const N: usize>() -> usize {
    if N < 1024 { CHUNK } else { 8 * CHUNK }
}

/// Items in memory of this side, aligned as items may have to be.
#[repr(align(64))]
pub(crate) struct Chunk([u8; CHUNK]);

impl Chunk {
    pub(crate) const BYTES: usize = CHUNK;

    pub(crate) fn new() -> Self {
        Self([0; CHUNK])
    }

    /// Collects the next items. There are fewer than fit only if these are the last.
    #[inline(always)]
    pub(crate) fn collect<const N: usize>(&mut self, source: &mut Source<N>) -> &[u8] {
        let mut len = 0;
        for item in self.0.as_chunks_mut().0 {
            let fill = |filling| {
                *item = filling;
                item
            };
            if !source.write(fill) {
                break;
            }
            len += N;
        }
        &self.0[..len]
    }

    /// The first `len` bytes, or as many as there are.
    #[inline(always)]
    pub(crate) fn up_to(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[..len.min(CHUNK)]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::packet::Sink;

    #[test]
    fn chunks_hold_all_items_in_order() {
        let (mut source, mut sink) =
            (Source::<64>::new(Duration::from_millis(1)), Sink::<64>::new());
        let mut chunk = Chunk::new();
        loop {
            let items = chunk.collect(&mut source);
            let is_last = items.len() < CHUNK;
            let goes_on = items.chunks_exact(64).fold(true, |_, item| sink.take(item));
            assert_eq!(goes_on, !is_last);
            if is_last {
                break;
            }
        }
        assert!(sink.taken() > 0);
        assert_eq!((sink.taken(), sink.lost(), sink.corrupt()), (source.made(), 0, 0));
    }
}
