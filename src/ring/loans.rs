//! Records that were lent: they are read in place for any length of time, on any thread.
//!
//! They come back in any order, but a ring has room again only from its oldest record on. So `Book`
//! records which loans have come back, and how far the consumer has given room back. `taken` and
//! `head` follow the oldest loan that is still out. As long as any loan is out, the two words are
//! moved under the book's lock, by the consumer and by returned loans. When no loan is out, the two
//! words belong to the consumer alone.

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
    book: LeakyLock<Mutex<Book>>,
}

#[derive(Debug)]
struct Book {
    /// The loans, oldest first. The oldest is still out.
    lent: VecDeque<Entry>,
    /// The number of the oldest loan.
    first: u64,
    /// How far the consumer has come: everything before is given back, except what was lent.
    reached: Position,
    marks: Marks,
}

#[derive(Debug)]
struct Entry {
    begin: Position,
    is_back: bool,
}

/// How far the room of a ring was given back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// The value of `taken`.
    pub(super) given: Position,
    /// The value of `head`.
    pub(super) released: Position,
}

impl Loans {
    /// Returns the loans of the consumer that owns the words `own`, and whose producer owns
    /// `producer`.
    pub(super) fn new(own: Words, producer: Words, shape: Shape) -> Self {
        let marks = Marks { given: Position::START, released: Position::START };
        let book = Book { lent: VecDeque::new(), first: 0, reached: Position::START, marks };
        Self { own, producer, shape, book: LeakyLock::new(Mutex::new(book)) }
    }

    /// Lends the record from `begin` to `end`, which is the consumer's position. With `marks`, the
    /// consumer hands the two words over, because no loan was out.
    pub(super) fn lend(
        self: &Arc<Self>,
        begin: Position,
        end: Position,
        marks: Option<Marks>,
    ) -> Loan {
        let mut book = lock(&self.book);
        if let Some(marks) = marks {
            book.marks = marks;
        }
        let number = book.first.wrapping_add(book.lent.len() as u64);
        book.lent.push_back(Entry { begin, is_back: false });
        self.settle(&mut book, end);
        Loan { loans: self.clone(), number }
    }

    /// Notes that the consumer needs nothing before `reached` any more. Returns how far that gives
    /// room back, and whether a loan is still out.
    pub(super) fn reach(&self, reached: Position) -> (Marks, bool) {
        let mut book = lock(&self.book);
        self.settle(&mut book, reached);
        (book.marks, !book.lent.is_empty())
    }

    /// Stores `head`, so that the producer sees everything that was given back.
    pub(super) fn release(&self) -> (Marks, bool) {
        let mut book = lock(&self.book);
        self.release_in(&mut book);
        (book.marks, !book.lent.is_empty())
    }

    /// Moves `taken` to the first record that is still needed.
    fn settle(&self, book: &mut Book, reached: Position) {
        book.reached = reached;
        while book.lent.front().is_some_and(|oldest| oldest.is_back) {
            book.lent.pop_front();
            book.first = book.first.wrapping_add(1);
        }
        let given = book.lent.front().map_or(reached, |oldest| oldest.begin);
        if given == book.marks.given {
            return;
        }
        book.marks.given = given;
        // ORDERING: Release orders the reads of the packets before it (those of other threads
        // through the book's lock); pairs with the Acquire in `Producer::look_at_taken`.
        self.own.taken.0.store(given.get(), Ordering::Release);
        if given.since(book.marks.released) >= self.shape.share() {
            self.release_in(book);
        }
    }

    fn release_in(&self, book: &mut Book) {
        if book.marks.released != book.marks.given {
            book.marks.released = book.marks.given;
            // ORDERING: Release as in `settle`; pairs with the Acquire in `Producer::look_at_head`.
            self.own.head.0.store(book.marks.given.get(), Ordering::Release);
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
        let mut book = lock(&self.loans.book);
        let place = usize::try_from(self.number.wrapping_sub(book.first)).unwrap_or(usize::MAX);
        if let Some(entry) = book.lent.get_mut(place) {
            entry.is_back = true;
        }
        let reached = book.reached;
        self.loans.settle(&mut book, reached);
    }

    /// Stores `head`, and returns whether that is enough for the producer's parked sender. Call
    /// this only after its bit was seen.
    ///
    /// PEER: `wants` is theirs, as in `Consumer::has_what_it_wants`.
    pub(crate) fn gives_what_it_wants(&self) -> bool {
        let (marks, _) = self.loans.release();
        // ORDERING: as in `Consumer::has_what_it_wants`.
        fence(Ordering::Acquire);
        marks.given.has_reached(Position(self.loans.producer.wants.0.load(Ordering::Relaxed)))
    }
}
