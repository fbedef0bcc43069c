//! The shared memory of a channel: its words and bytes, and the mapping.

#[cfg(not(all(test, loom)))]
#[allow(unsafe_code, reason = "bytes of the mapping are copied through raw pointers alone")]
mod copy;
pub(crate) mod layout;
#[cfg(not(all(test, loom)))]
#[allow(unsafe_code, reason = "raw pointers into the mapping are made here and nowhere else")]
pub(crate) mod region;
#[cfg(all(test, loom))]
#[allow(unsafe_code, reason = "what it cannot do is as unsafe to call as with the other")]
pub(crate) mod region_model;

#[cfg(all(test, loom))]
pub(crate) use region_model as region;
