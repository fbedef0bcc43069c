//! Where a record can go: which bytes of a ring are free, and which of them to write next.
//!
//! Records lie one after the other in *runs*. A run ends where the ring does, or with a marker that
//! says where the next one begins. The producer knows the runs that its consumer has not left. What
//! lies in none of them is free, wherever that is.
//!
//! A stream that goes round a ring longer than a core's own cache finds each line evicted when it
//! comes back to it. So the producer returns to the ring's start at the first *turning point* where
//! its consumer has left enough room there. As long as the consumer keeps up, they go round in a
//! short ring, and what is past its end is not even touched. When the consumer falls behind, the
//! producer continues past the turning point. If it has turned already and comes to bytes that are
//! still to be read, it jumps to the longest free piece of the ring. So a burst has all of the
//! ring, in a few pieces.
//!
//! Packets in place, a batch a publication, two cores with 2 MiB of their own each, a ring of 4
//! MiB, in GB/s with and without turning: 31 and 18 for 64 KiB a packet, 25 and 18 for 8 KiB; no
//! difference for shorter ones.

use std::collections::VecDeque;

use super::{Position, Shape};
use crate::shm::layout::{RECORD_ALIGN, RECORD_HEADER};

/// How many runs may be unread at once, besides the one that is being written: with that many
/// unread runs before it, a run does not end in a jump. (To reach this takes packets that were
/// meant to be long and became short, at each end of a piece.)
const MAX_RUNS: usize = 64;

/// Records that follow one another, as far as the consumer may still have to read them.
#[derive(Debug, Clone, Copy)]
struct Run {
    begin: Position,
    /// Where its marker is, or the ring's end.
    end: Position,
    /// Where the next run begins.
    next: Position,
}

impl Run {
    /// Returns where the run stops, after its marker if it has one.
    fn stop(&self) -> Position {
        if self.next == self.end { self.end } else { self.end.plus(RECORD_HEADER) }
    }
}

/// A place where a record can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) begin: Position,
    /// Everything before this is free.
    pub(super) edge: Position,
}

/// The runs of a ring.
#[derive(Debug)]
pub(super) struct Space {
    shape: Shape,
    /// The oldest first. The consumer is in the first, or was when last seen.
    runs: VecDeque<Run>,
    /// Where the run that is being written begins.
    begin: Position,
    /// The furthest that the consumer is known to have come.
    freed: Position,
}

impl Space {
    pub(super) fn new(shape: Shape, start: Position) -> Self {
        Self { shape, runs: VecDeque::new(), begin: start, freed: start }
    }

    /// Sets the distance between turning points to `bytes`, a power of two.
    #[cfg(any(test, fuzzing))]
    pub(super) fn turn_every(&mut self, bytes: usize) {
        self.shape = self.shape.with_window(bytes);
    }

    /// Notes that the consumer has come to `head`, or further.
    pub(super) fn free_to(&mut self, head: Position) {
        if head.has_reached(self.freed) {
            self.freed = head;
            while self.runs.front().is_some_and(|run| head.has_reached(run.next)) {
                self.runs.pop_front();
            }
        }
    }

    /// Notes that the run that ends at `tail` is followed by one at `next`.
    pub(super) fn leave(&mut self, tail: Position, next: Position) {
        self.runs.push_back(Run { begin: self.begin, end: tail, next });
        self.begin = next;
    }

    /// Returns where `need` bytes are free for what comes after `tail`.
    pub(super) fn find(&mut self, tail: Position, need: u64) -> Option<Spot> {
        if self.shape.offset(tail) == 0 && self.begin != tail {
            // The run ends exactly at the ring's end, so that no marker is in between.
            self.leave(tail, tail);
        }
        self.find_after(self.freed, tail, need)
    }

    /// Returns how far the consumer has to come for that.
    pub(super) fn find_out_when(&mut self, tail: Position, need: u64) -> Position {
        if self.find(tail, need).is_some() {
            return self.freed;
        }
        // More is never worse; a consumer that has read everything leaves room for any record.
        let after = |words: usize| self.freed.plus(words.wrapping_mul(RECORD_ALIGN));
        let all = usize::try_from(tail.since(self.freed)).unwrap_or(usize::MAX);
        let (mut too_few, mut enough) = (0, all / RECORD_ALIGN);
        while enough.saturating_sub(too_few) > 1 {
            let some = usize::midpoint(too_few, enough);
            if self.find_after(after(some), tail, need).is_some() {
                enough = some;
            } else {
                too_few = some;
            }
        }
        after(enough)
    }

    /// Returns the bytes that are not free. Those at the ring's end that a record was too long for
    /// count as well, if they are few.
    pub(super) fn used(&self, tail: Position) -> u64 {
        let lost = self.unread_runs(self.freed).map(|run| {
            let skipped = run.next.since(run.end);
            let at_ring_end = self.shape.rest(self.shape.offset(run.end)) as u64;
            let is_lost = skipped == at_ring_end && skipped < self.few();
            if is_lost { skipped } else { run.stop().since(run.end) }
        });
        lost.fold(self.unread_bytes(tail, self.freed), u64::wrapping_add)
    }

    /// Returns the bytes of the records that the consumer has not come past, with their headers.
    pub(super) fn queued(&self, tail: Position) -> u64 {
        self.unread_bytes(tail, self.freed)
    }

    /// Returns the bytes of the records that are unread.
    fn unread_bytes(&self, tail: Position, freed: Position) -> u64 {
        self.runs.iter().chain([&self.last(tail)]).fold(0, |bytes: u64, run| {
            let unread = self.unread(run, freed).map_or(0, |begin| run.end.since(begin));
            bytes.wrapping_add(unread)
        })
    }

    fn find_after(&self, freed: Position, tail: Position, need: u64) -> Option<Spot> {
        let here = self.shape.offset(tail);
        let straight = self.room(here, tail, freed);
        if need > self.turn_after(here as u64) && self.unread_runs(freed).next().is_none() {
            // Half of what a stream goes round in, otherwise it would turn only to be stopped at
            // once. Not while the consumer is still in another run, so that few runs cut the ring
            // in pieces.
            let room = self.room(0, tail, freed);
            if room >= need.max(self.shape.window as u64 / 2) {
                return Some(self.spot_at(0, tail, room, need));
            }
        }
        if need <= straight {
            return Some(self.spot(tail, straight, need));
        }
        self.jump(tail, need, freed)
    }

    /// Returns the longest free piece, if that is enough. A piece begins at the ring's start, or
    /// after unread records; the latter does not help in a ring without turning points.
    fn jump(&self, tail: Position, need: u64, freed: Position) -> Option<Spot> {
        let runs = self.unread_runs(freed).count();
        // Short runs one after the other, made while much is unread, would cut the ring in pieces.
        // The pieces would stay when only those runs are unread.
        let is_short = tail.since(self.begin) < self.few();
        let cuts = runs > 0 && is_short && self.unread_bytes(tail, freed) > self.few();
        if runs >= MAX_RUNS || (self.turns() && cuts) {
            return None;
        }
        let unread = self.unread_runs(freed).filter(|_| self.turns());
        let pieces = unread.map(|run| self.shape.offset(run.stop())).chain([0]);
        let (room, at) = pieces.map(|at| (self.room(at, tail, freed), at)).max()?;
        (need <= room).then(|| self.spot_at(at, tail, room, need))
    }

    /// Returns the runs before the last one that are unread.
    fn unread_runs(&self, freed: Position) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| self.unread(run, freed).is_some())
    }

    /// Returns the run that is being written. The header at the tail is a part of it.
    fn last(&self, tail: Position) -> Run {
        Run { begin: self.begin, end: tail, next: tail.plus(RECORD_HEADER) }
    }

    /// Returns the spot that begins at `offset`.
    fn spot_at(&self, offset: usize, tail: Position, room: u64, need: u64) -> Spot {
        self.spot(self.shape.ahead(tail, offset), room, need)
    }

    /// Returns the spot at `begin`, where `room` bytes are free. It ends at the first turning point
    /// at or past the end of `need`.
    fn spot(&self, begin: Position, room: u64, need: u64) -> Spot {
        // The last byte that is needed is before the turning point that counts.
        let before = need.saturating_sub(1);
        let last = (self.shape.offset(begin) as u64).saturating_add(before);
        let until_turn = self.turn_after(last).saturating_add(before);
        Spot { begin, edge: Position(begin.0.wrapping_add(room.min(until_turn))) }
    }

    /// Returns the bytes that are free from `from` on, up to the ring's end. That includes the
    /// header at the ring's start if it is free.
    fn room(&self, from: usize, tail: Position, freed: Position) -> u64 {
        let end = self.shape.rest(from) as u64;
        let mut room = end.wrapping_add(RECORD_HEADER as u64);
        for run in self.runs.iter().chain([&self.last(tail)]) {
            let Some(begin) = self.unread(run, freed) else { continue };
            let at = self.shape.offset(begin);
            if at == 0 {
                room = room.min(end);
            }
            // Everything was read, and the next record goes here.
            let is_here = begin == tail && at == from;
            if at >= from && !is_here {
                room = room.min(at.saturating_sub(from) as u64);
            }
        }
        room
    }

    /// Returns where the unread part of a run begins, if there is one. Its marker is a part of it.
    ///
    /// PEER: the consumer may claim to be between two runs. Then it has not gone where the marker
    /// leads, and the marker is unread.
    fn unread(&self, run: &Run, freed: Position) -> Option<Position> {
        if freed.has_reached(run.next) {
            None
        } else if freed.has_reached(run.end) {
            Some(run.end)
        } else if freed.has_reached(run.begin) {
            Some(freed)
        } else {
            Some(run.begin)
        }
    }

    /// Whether there are turning points before the ring's end.
    fn turns(&self) -> bool {
        self.shape.window < self.shape.bytes
    }

    /// Returns the bytes to the turning point after `offset`. The ring's end is not one.
    fn turn_after(&self, offset: u64) -> u64 {
        let window = self.shape.window as u64;
        let turn = (offset | window.wrapping_sub(1)).wrapping_add(1);
        if turn < self.shape.bytes as u64 { turn.wrapping_sub(offset) } else { u64::MAX }
    }

    /// Returns how many bytes are few, in a ring with turning points.
    fn few(&self) -> u64 {
        if self.turns() { self.shape.window as u64 / 4 } else { u64::MAX }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn runs_that_were_read_are_forgotten() {
        for window in [1024, 4096] {
            let shape = Shape { bytes: 4096, mask: 4095, max_packet: 1016, window, share: 0 };
            let (mut space, mut tail) = (Space::new(shape, Position::START), Position::START);
            for _ in 0..1_000 {
                let spot = space.find(tail, 1008).expect("all has been read");
                if spot.begin != tail {
                    space.leave(tail, spot.begin);
                }
                tail = spot.begin.plus(1000);
                space.free_to(tail);
                assert!(space.runs.len() <= 1, "{space:?}");
            }
        }
    }
}
