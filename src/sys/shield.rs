//! Calls of foreign code, such as wakers, whose panics must go no further.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs foreign code and catches its panic. What that leaves broken is its own.
pub(crate) fn shielded(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        discard(payload);
    }
}

/// Drops the payload of a panic; the drop may panic again.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Two are enough; the third payload is leaked.
        std::mem::forget(another);
    }
}
