//! Tests that measure how long something takes. They have their own binary so that few other tests
//! run at the same time.

#[path = "../common/mod.rs"]
mod common;

mod budget;
#[allow(unsafe_code, reason = "signals for a thread")]
mod signals;
mod spin;
mod starvation;
