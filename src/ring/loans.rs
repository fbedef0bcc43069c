//! Records that were lent: read where they lie, for as long as anybody likes, on any thread.
//!
//! They come back in any order, but a ring has room again only behind its oldest record. So the
//! book notes who has come back, and what the consumer is through with, and `taken` and `head`
//! follow the oldest that is still out. Whoever moves them holds the book: the consumer, as long as
//! anything is out, and those who bring back. While nothing is out, the two words are the
//! consumer's alone.

use std::collections::VecDeque;

use super::{Position, Shape};
use crate::shm::region::Words;
use crate::sync::{Arc, Mutex, Ordering, fence, lock};

/// The book of one consumer's loans.
#[derive(Debug)]
pub(crate) struct Loans {
    own: Words,
    producer: Words,
    shape: Shape,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    /// What was lent, the oldest first; that one is still out.
    lent: VecDeque<Entry>,
    /// The number of the oldest.
    first: u64,
    /// Where the consumer is: all before is given back, but for what was lent.
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
    /// What `taken` says.
    pub(super) given: Position,
    /// What `head` says.
    pub(super) released: Position,
}

impl Loans {
    /// Of the consumer that has its own words here, and those of its producer.
    pub(super) fn new(own: Words, producer: Words, shape: Shape) -> Self {
        let marks = Marks { given: Position::START, released: Position::START };
        let book = Book { lent: VecDeque::new(), first: 0, reached: Position::START, marks };
        Self { own, producer, shape, book: Mutex::new(book) }
    }

    /// Lends the record from `begin` to `end`, where the consumer is. With `marks` the consumer
    /// hands the two words over: nothing was out.
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

    /// The consumer is through with all before `reached`. How far that gives room back, and whether
    /// anything is out still.
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

    /// Moves `taken` to where nothing is needed any more.
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
        // ORDERING: Release orders the reads of the packets before it, those of other threads by
        // the book's lock; pairs with the Acquire in `Producer::look_at_taken`.
        self.own.taken.0.store(given.get(), Ordering::Release);
        if given.since(book.marks.released) >= self.shape.share() {
            self.release_in(book);
        }
    }

    fn release_in(&self, book: &mut Book) {
        if book.marks.released != book.marks.given {
            book.marks.released = book.marks.given;
            // ORDERING: Release as in `settle`; pairs with the Acquire in
            // `Producer::look_at_head`.
            self.own.head.0.store(book.marks.given.get(), Ordering::Release);
        }
    }
}

/// One record that is out. Whoever has it brings it back once, and then wakes a sender that waits.
#[derive(Debug)]
pub(crate) struct Loan {
    loans: Arc<Loans>,
    number: u64,
}

impl Loan {
    /// Nobody reads the record any more.
    pub(crate) fn bring_back(&self) {
        let mut book = lock(&self.loans.book);
        let place = usize::try_from(self.number.wrapping_sub(book.first)).unwrap_or(usize::MAX);
        if let Some(entry) = book.lent.get_mut(place) {
            entry.is_back = true;
        }
        let reached = book.reached;
        self.loans.settle(&mut book, reached);
    }

    /// Stores `head`, and tells whether that is enough for the producer's parked sender. Ask only
    /// after its bit was seen.
    ///
    /// PEER: `wants` is theirs, as in `Consumer::has_what_it_wants`.
    pub(crate) fn gives_what_it_wants(&self) -> bool {
        let (marks, _) = self.loans.release();
        // ORDERING: as in `Consumer::has_what_it_wants`.
        fence(Ordering::Acquire);
        marks.given.has_reached(Position(self.loans.producer.wants.0.load(Ordering::Relaxed)))
    }
}
