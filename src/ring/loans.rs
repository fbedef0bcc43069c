//! Records that were lent: they are read in place for any length of time, on any thread.
//!
//! They come back in any order, but a ring has room again only from its oldest record on. So
//! [`Loans`] records which loans have come back, and how far the consumer has given room back.
//! `taken` and `head` follow the oldest loan that is still out. As long as any loan is out, the two
//! words are moved under its lock, by the consumer and by returned loans. When no loan is out, the
//! two words belong to the consumer alone.

use std::collections::VecDeque;

use super::{Position, Shape};
use crate::shm::region::Words;
use crate::sync::{Arc, Mutex, Ordering, fence, lock};
use crate::sys::fork::LeakyLock;

/// The loans of one consumer.
#[derive(Debug)]
pub(crate) struct Loans {
    own: Words,
    producer: Words,
    shape: Shape,
    state: LeakyLock<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// The loans, oldest first. The oldest is still out.
    lent: VecDeque<Entry>,
    /// The number of the oldest loan.
    first: u64,
    /// How far the consumer has come: everything before is given back, except what was lent.
    reached: Position,
    heads: Heads,
}

#[derive(Debug)]
struct Entry {
    begin: Position,
    is_back: bool,
}

/// The two heads: how far the room of a ring was given back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    /// The value of `taken`.
    pub(super) given: Position,
    /// The value of `head`.
    pub(super) released: Position,
}

impl Loans {
    /// Returns the loans of the consumer that owns the words `own`, and whose producer owns
    /// `producer`.
    pub(super) fn new(own: Words, producer: Words, shape: Shape) -> Self {
        let heads = Heads { given: Position::START, released: Position::START };
        let state = State { lent: VecDeque::new(), first: 0, reached: Position::START, heads };
        Self { own, producer, shape, state: LeakyLock::new(Mutex::new(state)) }
    }

    /// Lends the record from `begin` to `end`, which is the consumer's position. With `heads`, the
    /// consumer hands the two words over, because no loan was out.
    pub(super) fn lend(
        self: &Arc<Self>,
        begin: Position,
        end: Position,
        heads: Option<Heads>,
    ) -> Loan {
        let mut state = lock(&self.state);
        if let Some(heads) = heads {
            state.heads = heads;
        }
        let number = state.first.wrapping_add(state.lent.len() as u64);
        state.lent.push_back(Entry { begin, is_back: false });
        self.settle(&mut state, end);
        Loan { loans: self.clone(), number }
    }

    /// Notes that the consumer needs nothing before `reached` any more. Returns how far that gives
    /// room back, and whether a loan is still out.
    pub(super) fn reach(&self, reached: Position) -> (Heads, bool) {
        let mut state = lock(&self.state);
        self.settle(&mut state, reached);
        (state.heads, !state.lent.is_empty())
    }

    /// Stores `head`, so that the producer sees everything that was given back.
    pub(super) fn release(&self) -> (Heads, bool) {
        let mut state = lock(&self.state);
        self.release_in(&mut state);
        (state.heads, !state.lent.is_empty())
    }

    /// Moves `taken` to the first record that is still needed.
    fn settle(&self, state: &mut State, reached: Position) {
        state.reached = reached;
        while state.lent.front().is_some_and(|oldest| oldest.is_back) {
            state.lent.pop_front();
            state.first = state.first.wrapping_add(1);
        }
        let given = state.lent.front().map_or(reached, |oldest| oldest.begin);
        if given == state.heads.given {
            return;
        }
        state.heads.given = given;
        // ORDERING: Release orders the reads of the packets before it (those of other threads
        // through the lock); pairs with the Acquire in `Producer::look_at_taken`.
        self.own.taken.0.store(given.get(), Ordering::Release);
        if given.since(state.heads.released) >= self.shape.share {
            self.release_in(state);
        }
    }

    fn release_in(&self, state: &mut State) {
        if state.heads.released != state.heads.given {
            state.heads.released = state.heads.given;
            // ORDERING: Release as in `settle`; pairs with the Acquire in `Producer::look_at_head`.
            self.own.head.0.store(state.heads.given.get(), Ordering::Release);
        }
    }
}

/// One record that is out. Its owner brings it back once, and then wakes a sender that waits.
#[derive(Debug)]
pub(crate) struct Loan {
    loans: Arc<Loans>,
    number: u64,
}

impl Loan {
    /// Notes that nobody reads the record any more.
    pub(crate) fn bring_back(&self) {
        let mut state = lock(&self.loans.state);
        let place = usize::try_from(self.number.wrapping_sub(state.first)).unwrap_or(usize::MAX);
        if let Some(entry) = state.lent.get_mut(place) {
            entry.is_back = true;
        }
        let reached = state.reached;
        self.loans.settle(&mut state, reached);
    }

    /// Stores `head`, and returns whether that is enough for the producer's parked sender. Call
    /// this only after its bit was seen.
    ///
    /// PEER: `wants` is theirs, as in `Consumer::has_what_it_wants`.
    pub(crate) fn gives_what_it_wants(&self) -> bool {
        let (heads, _) = self.loans.release();
        // ORDERING: as in `Consumer::has_what_it_wants`.
        fence(Ordering::Acquire);
        heads.given.has_reached(Position(self.loans.producer.wants.0.load(Ordering::Relaxed)))
    }
}
