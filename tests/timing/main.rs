//! Tests that measure how long something takes. They have their own binary so that few tests run
//! beside them.

#[path = "../common/mod.rs"]
mod common;

mod budget;
mod spin;
mod starvation;
