//! Ends that were written from the specification alone, against the library.

mod python_peer;
mod rust_peer;
