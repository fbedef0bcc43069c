//! Loom models, the fuzzers' harness and the specification's test vectors.
//!
//! Nothing of the library imports this.

#[cfg(any(fuzzing, all(test, not(loom))))]
pub mod fuzzing;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod vectors;
