//! The times at which registrations want to be called.

use std::collections::BTreeSet;

use super::table::Id;

/// At most one time for each registration, in nanoseconds of the driver's clock.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(u64, Id)>,
    /// What `queue` holds for the registration in this slot.
    by_slot: Vec<Option<(u64, Id)>>,
}

impl Timers {
    /// Adds a request. An earlier request of the same registration stays and covers it. A later one
    /// is replaced, because after every call a registration may ask again.
    pub(super) fn set(&mut self, id: Id, at: u64) {
        if self.by_slot.len() <= id.slot() {
            self.by_slot.resize(id.slot() + 1, None);
        }
        match self.by_slot[id.slot()] {
            Some((earlier, owner)) if owner == id && earlier <= at => return,
            Some(later) => self.queue.remove(&later),
            None => false,
        };
        self.by_slot[id.slot()] = Some((at, id));
        self.queue.insert((at, id));
    }

    /// Forgets the request of a registration that leaves.
    pub(super) fn remove(&mut self, id: Id) {
        if let Some(entry) = self.by_slot.get_mut(id.slot()).and_then(Option::take) {
            self.queue.remove(&entry);
        }
    }

    /// Returns the earliest time of all.
    pub(super) fn next(&self) -> Option<u64> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Removes and returns one registration whose time has come by `now`.
    pub(super) fn take_due(&mut self, now: u64) -> Option<Id> {
        let &(_, id) = self.queue.first().filter(|&&(at, _)| at <= now)?;
        self.remove(id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Ids;
    use super::*;

    #[test]
    fn the_earliest_request_of_a_registration_counts() {
        let id = Ids::default().take().unwrap();
        let mut timers = Timers::default();
        timers.set(id, 50);
        timers.set(id, 70);
        assert_eq!(timers.next(), Some(50));
        timers.set(id, 30);
        assert_eq!(timers.take_due(29), None);
        assert_eq!(timers.take_due(30), Some(id));
        assert_eq!((timers.take_due(100), timers.next()), (None, None));
    }

    #[test]
    fn timers_come_in_the_order_of_their_times() {
        let mut ids = Ids::default();
        let mut timers = Timers::default();
        let [a, b, c] = std::array::from_fn(|_| ids.take().unwrap());
        timers.set(a, 3);
        timers.set(b, 1);
        timers.set(c, 1);
        let order: Vec<_> = std::iter::from_fn(|| timers.take_due(5)).collect();
        assert_eq!(order, [b, c, a]);
    }

    #[test]
    fn leaving_forgets_the_request() {
        let mut ids = Ids::default();
        let mut timers = Timers::default();
        let [a, b] = std::array::from_fn(|_| ids.take().unwrap());
        timers.set(a, 1);
        timers.set(b, 2);
        timers.remove(a);
        timers.remove(a);
        assert_eq!(timers.next(), Some(2));
    }

    #[test]
    fn asking_again_and_again_leaves_one_entry() {
        let id = Ids::default().take().unwrap();
        let mut timers = Timers::default();
        for round in 0..1000 {
            timers.set(id, 1_000_000);
            timers.set(id, round);
            assert_eq!(timers.take_due(round), Some(id));
            timers.set(id, 1_000_000);
        }
        assert_eq!(timers.queue.len(), 1);
    }
}
