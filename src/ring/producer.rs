//! The end of a ring that writes.

use std::time::Duration;

use super::prefault::Prefault;
use super::space::Space;
use super::{Mark, Position, Shape};
use crate::error::Violation;
use crate::shm::layout::{RECORD_HEADER, Side, record_bytes};
use crate::shm::region::{Region, RingMemory, Words};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::sys::cpu::{CACHE_LINE, store_and_fence};
use crate::sys::op_counts::{Step, step};

/// How long after an announcement in `wants` or `waiting` the sender looks once more.
///
/// The consumer's load of the bit is not fenced, so it may miss a bit that was just set. Its store
/// to `taken`, which comes before that load, is visible long before this time is over.
pub(crate) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// How far past the tail the producer fetches the lines that it will write to.
///
/// These were last in the consumer's cache, and the fence of a publication waits for all stores
/// before it: without the fetch each packet of a stream waited for the other core at least once. A
/// line comes from there in 100 to 200 ns. (64 bytes, a packet a publication, two cores, millions
/// of packets a second: 6 without it, 12 to 17 with 256 and 512 bytes, 9 to 13 with 1 KiB and 2
/// KiB.)
const FETCH_AHEAD: usize = 512;

/// How much has to be free for that.
const FETCH_ROOM: u64 = 2 * FETCH_AHEAD as u64;

/// The longest record for which that is done; it ends before what is fetched.
///
/// A longer one's own copy fetches its lines. (Two cores of an AMD EPYC, packets a second without a
/// fetch over one of 2 KiB: 1 KiB in place 1.04, in a batch 1.06, `Bytes` 1.05, 8 KiB in place in a
/// batch 1.11; while a line takes 220 ns, 0.9 to 1.0.)
const LONGEST_FETCHED: u64 = FETCH_AHEAD as u64;

/// How often a sender that wants more than its need looks again: the last time 16 ms after the one
/// before.
const MAX_LOOKS: u32 = 4;

/// Writes records. There is one for each ring, used through `&mut self`.
#[derive(Debug)]
pub(crate) struct Producer {
    memory: RingMemory,
    own: Words,
    consumer: Words,
    shape: Shape,
    /// Where the next record begins.
    tail: Position,
    /// Where what is written and not yet published begins; the tail if there is nothing.
    published: Position,
    /// The header that belongs there, which publishes it.
    withheld: u64,
    /// A record that ends before this, with the header after it, needs no further check.
    edge: Position,
    space: Space,
    /// The last seen values of the two words that say how far the consumer has come. Neither may
    /// move back.
    seen_head: Position,
    seen_taken: Position,
    prefault: Prefault,
    announced: Announced,
}

/// What the last parked sender asked for.
#[derive(Debug, Clone, Copy)]
struct Announced {
    /// The tail at which it parked.
    parked: Option<Position>,
    wants: Position,
    /// `wants` is more than its bare need.
    is_more: bool,
    /// How often it has looked again since.
    looks: u32,
}

/// Room for a packet that is still to be written. A claim changes nothing by itself, and is stale
/// after the next record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// Where the record begins: at the tail, or where a marker at the tail will lead.
    begin: Position,
    /// The offset in the ring where the packet begins.
    at: usize,
    /// The most bytes that the packet may have.
    len: usize,
}

impl Claim {
    /// Returns the offset in the ring where the packet begins.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// Returns the length of the longest packet that there is room for.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Returns the bytes that must be free for a packet, including the header after its record, which
/// is cleared first. Without those 8 bytes the clear would destroy the oldest unread header of a
/// completely full ring.
#[inline]
fn need(len: usize) -> u64 {
    (record_bytes(len) as u64).wrapping_add(RECORD_HEADER as u64)
}

impl Producer {
    /// Returns the producer of the ring that `side` writes. The caller creates only one for a ring.
    pub(crate) fn new(region: &Arc<Region>, side: Side) -> Self {
        Self::starting_at(region, side, Position::START)
    }

    /// Like [`new`](Self::new), for a ring that `start` bytes went through before.
    pub(crate) fn starting_at(region: &Arc<Region>, side: Side, start: Position) -> Self {
        let memory = region.ring(side);
        let shape = Shape::of(region);
        Self {
            memory,
            own: region.words(side),
            consumer: region.words(side.peer()),
            shape,
            tail: start,
            published: start,
            withheld: 0,
            edge: start,
            space: Space::new(shape, start),
            seen_head: start,
            seen_taken: start,
            prefault: Prefault::new(start),
            announced: Announced { parked: None, wants: start, is_more: false, looks: 0 },
        }
    }

    /// Sets the distance between turning points to `bytes`, a power of two.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn turning_every(mut self, bytes: usize) -> Self {
        self.shape = self.shape.with_window(bytes);
        self.space.turn_every(bytes);
        self
    }

    /// Returns the length of the longest packet in bytes.
    #[inline]
    pub(crate) fn max_packet(&self) -> usize {
        self.shape.max_packet
    }

    /// Returns where the next record begins.
    #[inline]
    pub(crate) fn tail(&self) -> Position {
        self.tail
    }

    /// Whether the tail has entered another share of the ring since it was at `before`.
    #[inline]
    pub(crate) fn passed_a_share_since(&self, before: Position) -> bool {
        (before.get() ^ self.tail.get()) >= self.shape.share
    }

    /// Writes a record that [`publish`](Self::publish) will publish together with all others staged
    /// before it. Returns `false` if there is no room; then nothing was written.
    ///
    /// # Panics
    /// If the packet is longer than [`max_packet`](Self::max_packet): the caller checks.
    #[inline(always)]
    pub(crate) fn stage(&mut self, packet: &[u8]) -> Result<bool, Violation> {
        let Some(claim) = self.claim(packet.len())? else { return Ok(false) };
        self.memory.copy_in(claim.at, packet);
        self.stage_written(claim, packet.len());
        Ok(true)
    }

    /// Returns room for a packet of `len` bytes, which the caller writes to
    /// [`memory`](Self::memory), or `None` if there is none.
    ///
    /// # Panics
    /// If `len` is more than [`max_packet`](Self::max_packet): the caller checks.
    #[inline(always)]
    pub(crate) fn claim(&mut self, len: usize) -> Result<Option<Claim>, Violation> {
        assert!(len <= self.shape.max_packet, "the caller checks the length");
        match self.claim_known(len) {
            None => Ok(self.seek(need(len))?.map(|begin| self.claim_at(begin, len))),
            known => Ok(known),
        }
    }

    /// Like [`claim`](Self::claim), if the room is known to be there.
    #[inline(always)]
    pub(crate) fn claim_known(&self, len: usize) -> Option<Claim> {
        let has_room = len <= self.shape.max_packet && self.has_room(need(len));
        has_room.then(|| self.claim_at(self.tail, len))
    }

    #[inline(always)]
    fn claim_at(&self, begin: Position, len: usize) -> Claim {
        Claim { begin, at: self.shape.offset(begin).wrapping_add(RECORD_HEADER), len }
    }

    /// Returns where a record that needs `need` bytes can go, if it does not fit before the edge.
    #[cold]
    fn seek(&mut self, need: u64) -> Result<Option<Position>, Violation> {
        self.look_at_head()?;
        let Some(spot) = self.space.find(self.tail, need) else { return Ok(None) };
        let room = spot.edge.since(spot.begin);
        let made = self.prefault.make(&self.memory, self.shape.offset(spot.begin), need);
        if spot.begin == self.tail {
            self.edge = Position(self.tail.0.wrapping_add(room.min(made)));
        }
        Ok(Some(spot.begin))
    }

    /// Returns the bytes of the ring, to write a claimed packet to.
    #[inline]
    pub(crate) fn memory(&self) -> &RingMemory {
        &self.memory
    }

    /// Whether anything is written that is not published.
    #[inline]
    pub(crate) fn has_staged(&self) -> bool {
        self.published != self.tail
    }

    /// Whether enough is staged that it should be published before more is written.
    #[inline]
    pub(crate) fn staged_enough(&self) -> bool {
        self.tail.since(self.published) >= self.shape.share
    }

    /// Publishes everything staged to the consumer at once, and fences, so that the caller can
    /// check the bell with
    /// [`wake_if_waiting_fenced`](crate::wake::bell::Bell::wake_if_waiting_fenced). Returns `false`
    /// if there was nothing.
    #[inline(always)]
    pub(crate) fn publish(&mut self) -> bool {
        if !self.has_staged() {
            return false;
        }
        let begin = std::mem::replace(&mut self.published, self.tail);
        self.store_publication(begin, self.withheld);
        true
    }

    /// Stores the header at `begin` that publishes everything staged.
    #[inline(always)]
    fn store_publication(&self, begin: Position, word: u64) {
        // ORDERING: Release publishes the packets staged so far, their other headers and the
        // cleared header after the last; pairs with the Acquire in `Consumer::load`. The fence is
        // the publisher's, before the caller looks at the bell; partner of the one in `Bell::arm`.
        store_and_fence(self.header(begin), word);
        step(Step::Publication);
    }

    /// Reads the consumer's exact position, which `stage` alone does not.
    ///
    /// Only used before returning `Full` or going to sleep: each look costs both sides a cache
    /// line.
    pub(crate) fn look_at_taken(&mut self) -> Result<(), Violation> {
        // ORDERING: Acquire pairs with the Release in `Consumer::give_back` and `Loans::settle`:
        // the bytes before it will not be read again.
        let taken = Position(self.consumer.taken.0.load(Ordering::Acquire));
        self.judge(taken, self.seen_taken)?;
        self.seen_taken = taken;
        self.space.free_to(taken);
        Ok(())
    }

    /// Returns the bytes that are free, less the header of a record and the one after it.
    pub(crate) fn free_bytes(&self) -> usize {
        let free = (self.shape.bytes as u64).saturating_sub(self.space.used(self.tail));
        usize::try_from(free).unwrap_or(usize::MAX).saturating_sub(2 * RECORD_HEADER)
    }

    /// Returns the bytes of the records that the consumer has not given back, with their headers.
    pub(crate) fn queued_bytes(&self) -> usize {
        usize::try_from(self.space.queued(self.tail)).unwrap_or(usize::MAX)
    }

    /// Announces at which head a sender with a packet of `len` bytes is to be woken. The caller
    /// then sets the bell's bit. Returns when the sender should look again by itself, if at all.
    ///
    /// The first time it asks for exactly its need. If it parks again before the ring has gone
    /// round once, it asks for half of the ring more. So a producer that outruns its consumer is
    /// woken for half a ring and not for each record, while the consumer has the other half to
    /// continue with. (An eighth and a quarter were tried: at 4 MiB and 64 KiB a packet, 0.075 and
    /// 0.031 wakes a packet, against 0.016.) As long as it wants more than its need it looks again,
    /// at growing intervals, in case the consumer gave it that and went away; in the end it asks
    /// for its bare need. (Bytes that were jumped over count for a round and for a half, so a
    /// sender that has just jumped may be woken for less.)
    pub(crate) fn announce(&mut self, len: usize) -> Option<Duration> {
        let exact = self.space.find_out_when(self.tail, need(len));
        let Announced { wants: wanted, is_more, looks, .. } = self.announced;
        let (is_more, looks) = match self.announced.parked.map(|parked| self.tail.since(parked)) {
            Some(0) => (is_more && looks < MAX_LOOKS, looks.saturating_add(1)),
            Some(distance) => (distance < self.shape.bytes as u64, 0),
            None => (false, 0),
        };
        // Never more than everything.
        let more = (self.shape.bytes as u64 / 2).min(self.tail.since(exact));
        let wants = if is_more { Position(exact.0.wrapping_add(more)) } else { exact };
        self.announced = Announced { parked: Some(self.tail), wants, is_more, looks };
        // ORDERING: Relaxed; the bell's bit, set after it, carries it to the consumer.
        self.own.wants.0.store(wants.0, Ordering::Relaxed);
        if looks == 0 || wants != wanted {
            Some(LOOK_AGAIN_AFTER)
        } else if is_more {
            Some(LOOK_AGAIN_AFTER.saturating_mul(1 << looks))
        } else {
            None
        }
    }

    /// Whether `need` bytes from the tail on lie before the edge.
    #[inline]
    fn has_room(&self, need: u64) -> bool {
        need <= self.edge.since(self.tail)
    }

    /// Stages the claimed record as a packet of the first `len` bytes, which were written.
    ///
    /// Bytes that were claimed and not written stay free: the header after the record is cleared
    /// here, where its place is known. The claimed length decided whether to jump. A shorter packet
    /// might have fitted without the jump, but the consumer accepts it.
    ///
    /// # Panics
    /// If `len` is more than was claimed: the caller checks.
    #[inline(always)]
    pub(crate) fn stage_written(&mut self, claim: Claim, len: usize) {
        let (begin, word) = self.append(claim, len);
        if begin == self.published {
            self.withheld = word;
        } else {
            self.header(begin).store(word, Ordering::Relaxed);
        }
    }

    /// Like [`stage_written`](Self::stage_written), and [publishes](Self::publish) the packet with
    /// everything staged before it.
    #[inline(always)]
    pub(crate) fn publish_written(&mut self, claim: Claim, len: usize) {
        if self.has_staged() {
            self.stage_written(claim, len);
            self.publish();
        } else {
            let (begin, word) = self.append(claim, len);
            self.published = self.tail;
            self.store_publication(begin, word);
        }
    }

    /// Appends the claimed record, of which the first `len` bytes were written, except for the
    /// header at the tail. Returns where that header belongs, and the header.
    #[inline(always)]
    fn append(&mut self, claim: Claim, len: usize) -> (Position, u64) {
        assert!(len <= claim.len, "the caller checks the length");
        let begin = self.tail;
        let at = claim.begin;
        let next = at.plus(record_bytes(len));
        // ORDERING: Relaxed, here and for the headers below; the publication that follows is the
        // Release that publishes them.
        self.header(next).store(0, Ordering::Relaxed);
        let mark = Mark::packet(len).encode();
        let word = if at == begin {
            mark
        } else {
            self.header(at).store(mark, Ordering::Relaxed);
            self.jump(at, next).encode()
        };
        self.tail = next;
        self.fetch_ahead(begin);
        (begin, word)
    }

    /// Returns the mark at the tail that leads to a record at `begin`, after which comes `next`.
    #[cold]
    fn jump(&mut self, begin: Position, next: Position) -> Mark {
        self.space.leave(self.tail, begin);
        // Only `seek` knows how much room there is past it.
        self.edge = next.plus(RECORD_HEADER);
        Mark::jump(self.shape.offset(begin))
    }

    /// Fetches as many lines some way past the tail as it has passed since it was at `before`, so
    /// that a stream fetches each line once. Does nothing after a long record, or if the consumer
    /// may still have to read there.
    #[inline(always)]
    fn fetch_ahead(&self, before: Position) {
        if (before.get() ^ self.tail.get()) >= CACHE_LINE as u64 && self.has_room(FETCH_ROOM) {
            self.fetch_lines(before);
        }
    }

    #[inline]
    fn fetch_lines(&self, before: Position) {
        let mut line = before.aligned(CACHE_LINE);
        let passed = self.tail.aligned(CACHE_LINE).since(line);
        if passed > LONGEST_FETCHED {
            return;
        }
        let end = line.0.wrapping_add(passed);
        while line.0 != end {
            self.memory.fetch_to_write(line.plus(FETCH_AHEAD).get());
            line = line.plus(CACHE_LINE);
        }
    }

    /// Reads how far the consumer has come, in shares of the ring.
    #[cold]
    fn look_at_head(&mut self) -> Result<(), Violation> {
        // ORDERING: Acquire pairs with the Release in `Consumer::release` and `Loans::release_in`.
        let head = Position(self.consumer.head.0.load(Ordering::Acquire));
        self.judge(head, self.seen_head)?;
        self.seen_head = head;
        self.space.free_to(head);
        Ok(())
    }

    /// PEER: a head is theirs; it must be a record boundary between what it was and what was
    /// published. (That it is one of our boundaries is not checked: a lie about that frees bytes
    /// the peer has not read, which harms the peer alone.)
    fn judge(&self, claim: Position, seen: Position) -> Result<(), Violation> {
        if !claim.0.is_multiple_of(8) {
            return Err(Violation::UnalignedHead(claim.0));
        }
        if !claim.has_reached(seen) {
            return Err(Violation::HeadMovedBack(claim.0));
        }
        if !self.published.has_reached(claim) {
            return Err(Violation::HeadOvertook(claim.0));
        }
        Ok(())
    }

    #[inline]
    fn header(&self, position: Position) -> &AtomicU64 {
        self.memory.header(position.get())
    }
}
