//! Reusable memory that large packets are received into.
//!
//! The simple way is one allocation a packet, and small packets get it. For large packets it is
//! slow. A batch of them that is freed is more than the allocator keeps (128 KiB for glibc), so it
//! returns the pages to the kernel and takes them again, zeroed and one fault at a time, for the
//! next batch: at 64 KiB a packet that took most of the time. So their buffers come back here when
//! the last clone of the packet is dropped, on any thread.
//!
//! Each packet that is received alone has a buffer of its own, at most twice its size: a packet
//! that is kept for long keeps nothing else alive. The small packets of a batch lie side by side,
//! in [`GATHERED`] bytes at most, and keep each other alive. What the pool itself keeps is bounded.
//!
//! The alternatives, as nanoseconds of processor time to make, fill and drop a packet: one at a
//! time, and 64 that all exist before the first is dropped (`cargo bench --bench parts -- bytes`,
//! one run of each in a process of its own, glibc, a shared and busy machine of two cores, so take
//! the ratios):
//!
//! | | 64 B | 1 KiB | 8 KiB | 64 KiB |
//! |---|---|---|---|---|
//! | an exact allocation | 24 / 43 | 36 / 77 | 166 / 2,030 | 1,840 / 27,400 |
//! | eight copied into one, and split | 29 / 31 | 39 / 58 | 115 / 2,180 | 1,800 / 27,200 |
//! | an arena of 4 KiB, `BytesMut::split` | 24 / 25 | 31 / 65 | 81 / 373 | 1,730 / 3,020 |
//! | an arena of 16 KiB | 31 / 23 | 32 / 45 | 79 / 281 | 1,810 / 3,010 |
//! | pooled, `Bytes::from_owner` | 89 / 106 | 99 / 127 | 161 / 291 | 1,810 / 2,440 |
//!
//! So a pool is worth it for large packets that come in batches. For small packets it costs more
//! than it saves. An arena gains up to 20 ns a small packet where many are kept for a while, and
//! next to nothing where they are dropped as they come. A packet received alone never lies in an
//! arena, because 64 bytes that somebody keeps would then keep the whole arena. The small packets
//! of a batch do, in small arenas: they came together and mostly go together, and with an
//! allocation each, 256 packets of 1 KiB are again more than the allocator keeps.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::sys::fork::ProcessLock;

/// Packets shorter than this have allocations of their own.
pub(super) const SHORTEST: usize = 2048;

/// How many bytes of small packets of a batch lie side by side at most. If they are at most
/// `COPIED_AGAIN`, they are copied once more, so that a short batch does not keep more than it
/// needs.
const GATHERED: usize = 16 << 10;
const COPIED_AGAIN: usize = 4 << 10;

/// How many of them lie side by side at most: short packets, or empty ones, would otherwise never
/// fill a buffer.
const MOST_GATHERED: usize = 1024;

/// How many buffers are checked for one that fits.
const LOOK_AT: usize = 32;

/// The buffers of one channel's receiving end.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Arc<ProcessLock<FreeBuffers>>,
    /// Packets of a batch that are still to be handed over, one after the other.
    gathered: Vec<u8>,
    /// The length of each of them.
    lens: Vec<usize>,
}

#[derive(Debug)]
struct FreeBuffers {
    /// Empty, of any capacity. The last one that came back is reused first, as it is still in the
    /// cache.
    buffers: VecDeque<Vec<u8>>,
    /// The sum of their capacities.
    bytes: usize,
    /// The largest allowed value of `bytes`.
    limit: usize,
}

impl Pool {
    /// Returns a pool that keeps at most `limit` unused bytes.
    pub(crate) fn new(limit: usize) -> Self {
        let free = FreeBuffers { buffers: VecDeque::new(), bytes: 0, limit };
        Self { free: Arc::new(ProcessLock::new(free)), gathered: Vec::new(), lens: Vec::new() }
    }

    /// Gathers a packet of `len` bytes, as one of a batch. `fill` appends them to the buffer that
    /// it is given. The next [`hand_over`](Self::hand_over) appends the packet to `packets`, or an
    /// earlier call does.
    #[inline(always)]
    pub(crate) fn gather(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>),
        packets: &mut Vec<Bytes>,
    ) {
        if len >= SHORTEST {
            self.hand_over(packets);
            return packets.push(self.packet(len, fill));
        }
        let is_full = self.gathered.len() + len > self.gathered.capacity().min(GATHERED);
        if is_full || self.lens.len() == MOST_GATHERED {
            self.make_way(packets);
        }
        fill(&mut self.gathered);
        self.lens.push(len);
    }

    /// Begins a new buffer for packets that are gathered.
    #[cold]
    fn make_way(&mut self, packets: &mut Vec<Bytes>) {
        self.hand_over(packets);
        if self.gathered.capacity() < GATHERED {
            self.gathered = self.take(GATHERED);
        }
    }

    /// Appends the gathered packets to `packets`.
    pub(crate) fn hand_over(&mut self, packets: &mut Vec<Bytes>) {
        if self.lens.is_empty() {
            return;
        }
        let all = if self.gathered.len() <= COPIED_AGAIN {
            let copy = Bytes::copy_from_slice(&self.gathered);
            self.gathered.clear();
            copy
        } else {
            let gathered = std::mem::take(&mut self.gathered);
            self.lend(gathered)
        };
        let mut begin = 0;
        packets.extend(self.lens.drain(..).map(|len| {
            let packet = all.slice(begin..begin + len);
            begin += len;
            packet
        }));
    }

    /// Returns a packet of `len` bytes, not less than [`SHORTEST`], which `fill` appends to the
    /// empty buffer that it is given.
    #[inline(always)]
    pub(crate) fn packet(&self, len: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut buffer = self.take(len);
        fill(&mut buffer);
        self.lend(buffer)
    }

    #[cold]
    fn take(&self, len: usize) -> Vec<u8> {
        match self.free.lock() {
            Some(mut free) => free.take(len),
            // A forked child: the buffers are the parent's.
            None => Vec::with_capacity(len),
        }
    }

    #[cold]
    fn lend(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(PooledBuffer { buffer, pool: Arc::downgrade(&self.free) })
    }
}

impl FreeBuffers {
    fn take(&mut self, len: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| buffer.capacity() >= len && buffer.capacity() / 2 <= len;
        let first = self.buffers.len().saturating_sub(LOOK_AT);
        let place = self.buffers.range(first..).rposition(fits).map(|place| first + place);
        match place.and_then(|place| self.buffers.swap_remove_back(place)) {
            Some(buffer) => {
                self.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(len),
        }
    }

    /// Takes a buffer back. Returns those that exceed the limit: the oldest.
    fn put(&mut self, mut buffer: Vec<u8>) -> Vec<Vec<u8>> {
        if buffer.capacity() > self.limit {
            return vec![buffer];
        }
        buffer.clear();
        self.bytes += buffer.capacity();
        self.buffers.push_back(buffer);
        if self.bytes <= self.limit { Vec::new() } else { self.surplus() }
    }

    /// Removes the oldest buffers, until the others are within the limit.
    #[cold]
    fn surplus(&mut self) -> Vec<Vec<u8>> {
        let mut surplus = 0;
        while self.bytes > self.limit {
            self.bytes -= self.buffers[surplus].capacity();
            surplus += 1;
        }
        self.buffers.drain(..surplus).collect()
    }
}

/// A buffer that a packet uses.
struct PooledBuffer {
    buffer: Vec<u8>,
    /// Gone once the channel's end is.
    pool: Weak<ProcessLock<FreeBuffers>>,
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let Some(free) = self.pool.upgrade() else { return };
        let Some(mut free) = free.lock() else { return };
        let surplus = free.put(std::mem::take(&mut self.buffer));
        drop(free);
        // Freed outside the lock.
        drop(surplus);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn packet(pool: &Pool, len: usize, byte: u8) -> Bytes {
        pool.packet(len, |buffer| {
            assert!(buffer.is_empty() && buffer.capacity() >= len);
            buffer.resize(len, byte);
        })
    }

    fn kept(pool: &Pool) -> usize {
        let free = pool.free.lock().unwrap();
        assert_eq!(free.bytes, free.buffers.iter().map(Vec::capacity).sum::<usize>());
        free.bytes
    }

    #[test]
    fn a_buffer_comes_back_with_the_last_clone() {
        let pool = Pool::new(1 << 20);
        let first = packet(&pool, 10_000, 1);
        let (address, part) = (first.as_ptr(), first.slice(5..9));
        drop(first);
        assert_eq!((kept(&pool), &part[..]), (0, &[1; 4][..]));
        std::thread::spawn(move || drop(part)).join().unwrap();
        assert_eq!(kept(&pool), 10_000);
        let second = packet(&pool, 6_000, 2);
        assert_eq!((second.as_ptr(), kept(&pool)), (address, 0));
        assert_eq!(second, vec![2; 6_000]);
    }

    #[test]
    fn a_small_packet_never_holds_a_large_buffer() {
        let pool = Pool::new(1 << 20);
        drop(packet(&pool, 100_000, 1));
        let small = packet(&pool, 3_000, 2);
        assert_eq!((small.len(), kept(&pool)), (3_000, 100_000));
    }

    #[test]
    fn a_batch_lies_side_by_side_in_order() {
        let mut pool = Pool::new(1 << 20);
        let mut packets = vec![Bytes::from_static(b"before")];
        // Small, empty, one large in between, and more small ones than fit into one buffer.
        let lens: Vec<usize> =
            [100, 0, 5_000, 1, 2_047].into_iter().chain((0..200).map(|_| 1_000)).collect();
        for (n, len) in lens.iter().enumerate() {
            let byte = u8::try_from(n % 251).unwrap();
            pool.gather(*len, |buffer| buffer.resize(buffer.len() + len, byte), &mut packets);
        }
        pool.hand_over(&mut packets);
        pool.hand_over(&mut packets);
        assert_eq!(packets.len(), 1 + lens.len());
        for (n, len) in lens.iter().enumerate() {
            assert_eq!(packets[n + 1], vec![u8::try_from(n % 251).unwrap(); *len]);
        }
        drop(packets);
        // One for each 16 packets of 1,000 bytes, and the large one's own.
        assert!((13 * GATHERED..16 * GATHERED).contains(&kept(&pool)), "{}", kept(&pool));
    }

    #[test]
    fn empty_packets_take_no_more_memory_than_others() {
        let mut pool = Pool::new(1 << 20);
        let mut packets = Vec::new();
        for _ in 0..10 * MOST_GATHERED {
            pool.gather(0, |_| {}, &mut packets);
            assert!(pool.lens.len() <= MOST_GATHERED);
        }
        pool.hand_over(&mut packets);
        assert_eq!(packets.len(), 10 * MOST_GATHERED);
        assert!(packets.iter().all(Bytes::is_empty));
        assert!(pool.lens.capacity() <= 2 * MOST_GATHERED && kept(&pool) == 0);
    }

    #[test]
    fn a_packet_of_a_batch_holds_no_more_than_the_batch() {
        let mut pool = Pool::new(1 << 20);
        let mut packets = Vec::new();
        (0..10).for_each(|_| {
            pool.gather(64, |buffer| buffer.resize(buffer.len() + 64, 1), &mut packets)
        });
        pool.hand_over(&mut packets);
        let held = packets.swap_remove(3);
        drop(packets);
        // It keeps the copy of 640 bytes: the buffer is here.
        assert_eq!((held.len(), kept(&pool), pool.gathered.capacity()), (64, 0, GATHERED));
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let pool = Pool::new(50_000);
        let packets: Vec<_> = (0..20).map(|n| packet(&pool, 4_000 + n, 0)).collect();
        drop(packets);
        assert!((40_000..=50_000).contains(&kept(&pool)), "{}", kept(&pool));
        drop(packet(&pool, 60_000, 0));
        assert!(kept(&pool) <= 50_000);
    }

    #[test]
    fn packets_outlive_the_pool() {
        let pool = Pool::new(1 << 20);
        let packet = packet(&pool, 5_000, 7);
        drop(pool);
        assert_eq!(packet, vec![7; 5_000]);
    }
}
