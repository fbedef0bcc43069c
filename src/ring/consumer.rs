//! The end of a ring that reads.

use bytes::Bytes;

use super::loans::{Heads, Loan, Loans};
use super::{KIND_PACKET, Mark, Position, Shape};
use crate::error::Violation;
use crate::ring::pool::{Pool, SHORTEST};
use crate::shm::layout::{RECORD_ALIGN, RECORD_HEADER, Side, record_bytes};
use crate::shm::region::{Region, RingMemory, Words};
use crate::sync::{Arc, Ordering, fence};
use crate::sys::cpu::CACHE_LINE;
use crate::sys::op_counts::{Step, step};

/// Reads records. There is one for each ring, used through `&mut self`.
#[derive(Debug)]
pub(crate) struct Consumer {
    memory: RingMemory,
    own: Words,
    producer: Words,
    shape: Shape,
    pool: Pool,
    /// Where the next record's header is.
    position: Position,
    /// `position` when room was last given back. What is held lies past it.
    returned: Position,
    /// Everything before this was given back. What is held or lent lies past it.
    given: Position,
    /// The last value stored to `head`.
    released: Position,
    /// As long as less than this was taken since `released`, giving back is a store of `taken`: a
    /// share of the ring, or 0 while `lends`.
    plain_below: u64,
    /// Packets are lent: `loans` owns `taken` and `head`, and the current `given` and `released`.
    lends: bool,
    /// Created with the first loan.
    loans: Option<Arc<Loans>>,
    /// Bytes of records and markers that may still come. `NO_BOUND` as long as the producer may
    /// publish.
    left: u64,
    /// The headers of packets shorter than this are the usual ones: see `usual`.
    usual_below: u64,
}

/// The producer may publish: any number of bytes may come.
const NO_BOUND: u64 = u64::MAX;

/// A packet that is still in the ring. Its place and length were judged once; the header is not
/// read again. It is one word, so that values made of it are passed in registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    offset: u32,
    len: u32,
}

impl Held {
    /// Returns the offset in the ring where the packet begins.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.offset as usize
    }

    /// Returns the packet's length in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }
}

impl Consumer {
    /// Returns the consumer of the ring that `side` reads. The caller creates only one for a ring.
    pub(crate) fn new(region: &Arc<Region>, side: Side) -> Self {
        Self::starting_at(region, side, Position::START)
    }

    /// Like [`new`](Self::new), for a ring that `start` bytes went through before.
    pub(crate) fn starting_at(region: &Arc<Region>, side: Side, start: Position) -> Self {
        let memory = region.ring(side.peer());
        let shape = Shape::of(region);
        let pool = Pool::new(shape.bytes / 4);
        Self {
            memory,
            own: region.words(side),
            producer: region.words(side.peer()),
            shape,
            pool,
            position: start,
            returned: start,
            given: start,
            released: start,
            plain_below: shape.share,
            lends: false,
            loans: None,
            left: NO_BOUND,
            usual_below: (shape.max_packet as u64).wrapping_add(1),
        }
    }

    /// Sets the distance between turning points to `bytes`.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn turning_every(mut self, bytes: usize) -> Self {
        self.shape = self.shape.with_window(bytes);
        self.plain_below = self.shape.share;
        self
    }

    /// Notes that the producer publishes no more. What it has published, and this consumer has not
    /// taken, fits into the ring once; more than that is a violation from now on.
    ///
    /// PEER: that nothing follows is its promise. Headers that were taken stay in the ring, so a
    /// marker that leads back to them would make the consumer take them forever.
    #[cold]
    pub(crate) fn expect_no_more(&mut self) {
        self.left = self.left.min(self.shape.bytes as u64);
        // From now on every header is looked at in full.
        self.usual_below = 0;
    }

    /// Returns the length of the ring in bytes.
    #[inline]
    pub(crate) fn ring_bytes(&self) -> usize {
        self.shape.bytes
    }

    /// Returns where the next record's header is.
    #[inline]
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Returns the length of the next packet, if one was published. Takes nothing.
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Result<Option<usize>, Violation> {
        let (at, word) = (self.position, self.load(self.position));
        match self.usual(at, word) {
            None => self.judge_word(word),
            usual => Ok(usual),
        }
    }

    /// Loads the word at `position`, where a header is or will be.
    #[inline(always)]
    fn load(&self, position: Position) -> u64 {
        // ORDERING: Acquire pairs with the Release in `Producer::store_publication`; the packet
        // after the header is then complete.
        // PEER: loaded once, judged by the caller.
        self.memory.header(position.get()).load(Ordering::Acquire)
    }

    /// Returns the length of the packet whose header is `word`, at `at`, in the usual case: it is
    /// the header of a packet, of an allowed length, which ends before the ring does, and any
    /// number of bytes may come.
    ///
    /// PEER: `word` is theirs; the result is not. Of all words, only those of packets exceed
    /// `KIND_PACKET` by less than the longest length.
    #[inline(always)]
    fn usual(&self, at: Position, word: u64) -> Option<usize> {
        let len = word.wrapping_sub(KIND_PACKET);
        if len >= self.usual_below {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "less than the longest packet")]
        let len = len as usize;
        let end = self.shape.offset(at).wrapping_add(record_bytes(len));
        (end <= self.shape.bytes).then_some(len)
    }

    /// Returns the length of the packet that `word` announces at the next header's place, in all
    /// cases.
    #[cold]
    fn judge_word(&mut self, word: u64) -> Result<Option<usize>, Violation> {
        match Mark::decode(word)? {
            None => {
                // A packet that comes now will reach into the next line. This fetches that line in
                // parallel with this one, not after it, which saves a fifth of a round trip on two
                // cores.
                self.memory.fetch_to_read(self.position.plus(CACHE_LINE).get());
                Ok(None)
            }
            Some(Mark::Packet(len)) => self.judge(self.position, len).map(Some),
            Some(Mark::Jump(to)) => self.jump(to).map(Some),
        }
    }

    /// Moves past the next packet, if one was published, and leaves it in the ring until
    /// [`give_back`](Self::give_back). A packet that is held already stays as long as this one.
    #[inline(always)]
    pub(crate) fn hold(&mut self) -> Result<Option<Held>, Violation> {
        let at = self.position;
        let word = self.load(at);
        match self.usual(at, word) {
            None => self.hold_unusual(word),
            Some(len) => Ok(Some(self.move_past(at, len))),
        }
    }

    #[cold]
    fn hold_unusual(&mut self, word: u64) -> Result<Option<Held>, Violation> {
        let Some(len) = self.judge_word(word)? else { return Ok(None) };
        if self.left != NO_BOUND {
            self.left = self.left.saturating_sub(record_bytes(len) as u64);
        }
        Ok(Some(self.move_past(self.position, len)))
    }

    /// Moves past the next packet, which is at `at`, and whose length was judged.
    #[inline(always)]
    fn move_past(&mut self, at: Position, len: usize) -> Held {
        let offset = self.shape.offset(at).wrapping_add(RECORD_HEADER);
        self.position = at.plus(record_bytes(len));
        #[allow(clippy::cast_possible_truncation, reason = "a ring is of at most 1 GiB")]
        let held = Held { offset: offset as u32, len: len as u32 };
        held
    }

    /// Whether a packet is held.
    #[inline]
    pub(crate) fn holds(&self) -> bool {
        self.position != self.returned
    }

    /// Copies out the packet that is held.
    #[inline]
    pub(crate) fn copy(&self, held: Held) -> Bytes {
        match self.copy_small(held) {
            Some(copy) => Bytes::from(copy),
            None => self.copy_large(held),
        }
    }

    /// Copies out the packet that is held, if it is one of those with an allocation of their own.
    #[inline(always)]
    pub(crate) fn copy_small(&self, held: Held) -> Option<Box<[u8]>> {
        let is_small = held.len() < SHORTEST;
        is_small.then(|| self.memory.boxed(held.offset(), held.len()))
    }

    /// Copies out the packet that is held into a buffer of the pool.
    pub(crate) fn copy_large(&self, held: Held) -> Bytes {
        self.pool.packet(held.len(), |copy| self.memory.copy_out(held.offset(), held.len(), copy))
    }

    /// Copies out the packet that is held, as one of a batch. The next
    /// [`hand_over`](Self::hand_over) appends it to `packets`, or an earlier call does.
    #[inline(always)]
    pub(crate) fn gather(&mut self, held: Held, packets: &mut Vec<Bytes>) {
        let (memory, offset, len) = (&self.memory, held.offset(), held.len());
        self.pool.gather(len, |copy| memory.copy_out(offset, len, copy), packets);
    }

    /// Appends the gathered packets to `packets`.
    pub(crate) fn hand_over(&mut self, packets: &mut Vec<Bytes>) {
        self.pool.hand_over(packets);
    }

    /// Returns the bytes of the ring, to read the packet that is held.
    #[inline]
    pub(crate) fn memory(&self) -> &RingMemory {
        &self.memory
    }

    /// Whether enough was taken that it should be given back before more is taken.
    #[inline]
    pub(crate) fn has_share_to_return(&self) -> bool {
        self.position.since(self.returned) >= self.shape.share
    }

    /// Gives back the room of everything that was taken. Returns `true` if that was the end of a
    /// share, so that `head` has moved.
    #[inline(always)]
    pub(crate) fn give_back(&mut self) -> bool {
        self.returned = self.position;
        if self.position.since(self.released) >= self.plain_below {
            return self.give_back_share();
        }
        self.give_all();
        false
    }

    #[inline(always)]
    fn give_all(&mut self) {
        self.given = self.position;
        // ORDERING: Release orders the reads of the packet before it; pairs with the Acquire in
        // `Producer::look_at_taken`.
        self.own.taken.0.store(self.given.get(), Ordering::Release);
        step(Step::Return);
    }

    #[cold]
    fn give_back_share(&mut self) -> bool {
        if self.lends {
            self.with_loans(|loans, position| loans.reach(position));
            return self.released == self.given;
        }
        self.give_all();
        self.release();
        true
    }

    /// Lends the packet that is held; the returned loan brings it back. Packets held before it are
    /// given back.
    pub(crate) fn lend(&mut self, held: Held) -> Loan {
        self.returned = self.position;
        let heads = Heads { given: self.given, released: self.released };
        let heads = (!self.lends).then_some(heads);
        let begin = self.position.minus(record_bytes(held.len()));
        self.set_lends(true);
        let (own, producer, shape) = (&self.own, &self.producer, self.shape);
        let new = || Arc::new(Loans::new(own.clone(), producer.clone(), shape));
        self.loans.get_or_insert_with(new).lend(begin, self.position, heads)
    }

    /// Whether there were loans that had not come back when last checked.
    #[inline]
    pub(crate) fn lends(&self) -> bool {
        self.lends
    }

    /// Does `work` on the loans. Takes the two words back if no loan is out any more.
    #[cold]
    fn with_loans(&mut self, work: impl FnOnce(&Loans, Position) -> (Heads, bool)) {
        if let Some(loans) = &self.loans {
            let (heads, lends) = work(loans, self.position);
            (self.given, self.released) = (heads.given, heads.released);
            self.set_lends(lends);
        }
    }

    fn set_lends(&mut self, lends: bool) {
        self.lends = lends;
        self.plain_below = if lends { 0 } else { self.shape.share };
    }

    /// Copies the next packet out and gives its room back, if one was published.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn take(&mut self) -> Result<Option<Bytes>, Violation> {
        let Some(held) = self.hold()? else { return Ok(None) };
        let packet = self.copy(held);
        self.give_back();
        Ok(Some(packet))
    }

    /// Stores `head`, so that the producer sees everything that was given back.
    #[cold]
    pub(crate) fn release(&mut self) {
        if self.lends {
            return self.with_loans(|loans, _| loans.release());
        }
        if self.released != self.given {
            self.released = self.given;
            // ORDERING: Release orders the reads of the packets before it; pairs with the Acquire
            // in `Producer::look_at_head`. Loom does not see this one: review by hand.
            self.own.head.0.store(self.given.get(), Ordering::Release);
        }
    }

    /// Whether enough was given back for the producer's parked sender. Call this only after its bit
    /// was seen.
    ///
    /// PEER: `wants` is theirs. At worst, a wrong value wakes them early or never.
    pub(crate) fn has_what_it_wants(&self) -> bool {
        // ORDERING: this fence after the load of the bit pairs with the Release in `Bell::arm`, so
        // the Relaxed load sees the `wants` that the bit stands for.
        fence(Ordering::Acquire);
        let wants = Position(self.producer.wants.0.load(Ordering::Relaxed));
        self.given.has_reached(wants)
    }

    /// PEER: `len` is theirs; the result is not.
    #[inline]
    fn judge(&self, position: Position, len: u32) -> Result<usize, Violation> {
        let bytes = len as usize;
        if bytes > self.shape.max_packet {
            return Err(Violation::RecordTooLong(len));
        }
        if record_bytes(bytes) > self.shape.rest(self.shape.offset(position)) {
            return Err(Violation::RecordOverEnd(len));
        }
        if record_bytes(bytes) as u64 > self.left {
            return Err(self.endless());
        }
        Ok(bytes)
    }

    #[cold]
    fn endless(&self) -> Violation {
        Violation::EndlessRing(self.shape.bytes as u64)
    }

    /// Follows a marker, and returns the length of the packet there.
    ///
    /// PEER: `to` is theirs. A conforming producer writes the record there before it stores the
    /// marker, so there are never two jumps for a packet.
    #[cold]
    fn jump(&mut self, to: u32) -> Result<usize, Violation> {
        let offset = to as usize;
        if !offset.is_multiple_of(RECORD_ALIGN) || offset >= self.shape.bytes {
            return Err(Violation::JumpAstray(to));
        }
        let position = self.shape.ahead(self.position, offset);
        let Some(Mark::Packet(len)) = Mark::decode(self.load(position))? else {
            return Err(Violation::JumpToNoPacket(to));
        };
        if self.left != NO_BOUND {
            let marker = RECORD_HEADER as u64;
            self.left = self.left.checked_sub(marker).ok_or_else(|| self.endless())?;
        }
        let len = self.judge(position, len)?;
        let holds = self.holds();
        self.position = position;
        if !holds {
            self.returned = position;
            if !self.lends {
                self.given = position;
            }
        }
        Ok(len)
    }
}
