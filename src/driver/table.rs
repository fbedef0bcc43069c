//! Identities of registrations, and the table of their values.
//!
//! A slot is reused with another generation, so that a late completion or event of its former
//! tenant finds nothing. The two parts are separate: any thread takes an [`Id`] from [`Ids`], under
//! a lock; the [`Table`] belongs to the thread that runs the driver, and needs no lock.

const INDEX_BITS: u32 = 24;
const GENERATION_BITS: u32 = 18;
const TOKEN_BITS: u32 = 16;

const INDEX_MAX: u32 = (1 << INDEX_BITS) - 1;
const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;

/// Identifies one registration in the life of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    index: u32,
    generation: u32,
}

impl Id {
    /// The driver itself, in the same number space; never given to a registration.
    pub(super) const OWN: Self = Self { index: INDEX_MAX, generation: GENERATION_MAX };

    /// Returns the form that the kernel carries in an event or a completion, with a token.
    pub(super) fn pack(self, token: u16) -> u64 {
        u64::from(self.index) << (GENERATION_BITS + TOKEN_BITS)
            | u64::from(self.generation) << TOKEN_BITS
            | u64::from(token)
    }

    /// The reverse of [`pack`](Self::pack).
    #[allow(clippy::cast_possible_truncation, reason = "the masks keep 24, 18 and 16 bits")]
    pub(super) fn unpack(packed: u64) -> (Self, u16) {
        let index = (packed >> (GENERATION_BITS + TOKEN_BITS)) as u32 & INDEX_MAX;
        let generation = (packed >> TOKEN_BITS) as u32 & GENERATION_MAX;
        (Self { index, generation }, packed as u16)
    }

    /// Returns the slot's number: dense, small, reused.
    pub(super) fn slot(self) -> usize {
        self.index as usize
    }
}

/// Hands out identities.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// The generation of each slot's present or next tenant.
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Ids {
    /// Returns a free identity, or `None` when sixteen million are taken.
    pub(super) fn take(&mut self) -> Option<Id> {
        if let Some(index) = self.free.pop() {
            return Some(Id { index, generation: self.generations[index as usize] });
        }
        let index =
            u32::try_from(self.generations.len()).ok().filter(|&index| index < INDEX_MAX)?;
        self.generations.push(0);
        Some(Id { index, generation: 0 })
    }

    /// Returns how many are taken.
    pub(super) fn taken(&self) -> usize {
        self.generations.len() - self.free.len()
    }

    /// Takes one back, once nothing in the kernel carries it any more.
    pub(super) fn give_back(&mut self, id: Id) {
        let generation = &mut self.generations[id.slot()];
        debug_assert_eq!(*generation, id.generation, "given back twice");
        *generation = generation.wrapping_add(1) & GENERATION_MAX;
        self.free.push(id.index);
    }
}

/// Values by identity.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Option<(u32, T)>>,
    len: usize,
}

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores a value under an identity that has none.
    pub(super) fn insert(&mut self, id: Id, value: T) {
        if self.slots.len() <= id.slot() {
            self.slots.resize_with(id.slot() + 1, || None);
        }
        let previous = self.slots[id.slot()].replace((id.generation, value));
        debug_assert!(previous.is_none(), "two tenants in one slot");
        self.len += 1;
    }

    /// Returns the value of exactly this identity, not of another one in the same slot.
    pub(super) fn get(&self, id: Id) -> Option<&T> {
        match self.slots.get(id.slot()) {
            Some(Some((generation, value))) if *generation == id.generation => Some(value),
            _ => None,
        }
    }

    /// As [`get`](Self::get).
    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        match self.slots.get_mut(id.slot()) {
            Some(Some((generation, value))) if *generation == id.generation => Some(value),
            _ => None,
        }
    }

    /// Removes and returns the value of exactly this identity.
    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        self.get_mut(id)?;
        self.len -= 1;
        self.slots[id.slot()].take().map(|(_, value)| value)
    }

    /// Returns all values.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten().map(|(_, value)| value)
    }

    /// Removes and returns all values.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.len = 0;
        self.slots.drain(..).flatten().map(|(_, value)| value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_every_bit_apart() {
        for index in [0, 1, 0x12_3456, INDEX_MAX] {
            for generation in [0, 1, 0x2_cdef, GENERATION_MAX] {
                for token in [0, 1, u16::MAX] {
                    let id = Id { index, generation };
                    assert_eq!(Id::unpack(id.pack(token)), (id, token));
                }
            }
        }
    }

    #[test]
    fn a_used_slot_comes_back_with_another_generation() {
        let mut ids = Ids::default();
        let mut table = Table::new();
        let first = ids.take().unwrap();
        table.insert(first, "first");
        assert_eq!(table.remove(first), Some("first"));
        assert_eq!(table.remove(first), None);
        ids.give_back(first);

        let second = ids.take().unwrap();
        assert_eq!(second.slot(), first.slot());
        table.insert(second, "second");
        assert_eq!(table.get_mut(first), None);
        assert_eq!(table.get_mut(second), Some(&mut "second"));
        assert_eq!(table.drain(), ["second"]);
        assert!(table.is_empty());
    }

    #[test]
    fn generations_wrap_within_their_bits() {
        let mut ids = Ids { generations: vec![GENERATION_MAX], free: vec![0] };
        let last = ids.take().unwrap();
        ids.give_back(last);
        assert_eq!(ids.take().unwrap(), Id { index: 0, generation: 0 });
    }

    #[test]
    fn identities_never_collide_with_the_driver() {
        let mut ids = Ids { generations: vec![0; INDEX_MAX as usize - 1], free: Vec::new() };
        assert_ne!(ids.take().unwrap().slot(), Id::OWN.slot());
        assert_eq!(ids.take(), None);
    }
}
