//! Tests that measure how long something takes: apart, so that they run beside few others.

#[path = "../common/mod.rs"]
mod common;

mod fairness;
mod spin;
