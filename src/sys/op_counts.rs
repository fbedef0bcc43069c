//! Counts the steps that the packets of a batch share, for tests which check that they do.
//!
//! The library itself counts nothing.

/// A cost of sending or receiving one packet by itself, besides its copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A header that is stored last and publishes everything after it, with its fence.
    Publication,
    /// A fence by itself.
    Fence,
    /// A load of the peer's `waiting`, to see whether it sleeps.
    Look,
    /// A store of `taken`.
    Return,
}

/// Notes that this thread takes `step`.
#[inline(always)]
pub(crate) fn step(step: Step) {
    #[cfg(all(test, not(loom)))]
    counts::add(step);
    #[cfg(not(all(test, not(loom))))]
    let _ = step;
}

#[cfg(all(test, not(loom)))]
pub(crate) mod counts {
    use std::cell::Cell;

    use super::Step;

    thread_local! {
        static STEPS: Cell<[usize; 4]> = const { Cell::new([0; 4]) };
    }

    pub(super) fn add(step: Step) {
        let mut steps = STEPS.get();
        steps[step as usize] += 1;
        STEPS.set(steps);
    }

    /// Returns how often this thread took each step in `work`: publications, fences by themselves,
    /// looks and returns.
    pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (T, [usize; 4]) {
        STEPS.set([0; 4]);
        let done = work();
        (done, STEPS.get())
    }
}
