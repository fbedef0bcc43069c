//! wakering, by each of its ways. All with the settings that a user gets who sets none.

pub(crate) mod bytes;
pub(crate) mod embedded;
pub(crate) mod idle;
pub(crate) mod in_place;
pub(crate) mod items;
mod open;
