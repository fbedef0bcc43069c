//! Everything that is measured: a file a system, and the list of them all.

use std::time::{Duration, Instant};

use crate::Result;
use crate::cell::{Measure, Pin};
use crate::outcome::Outcome;
use crate::stage::Stage;

mod bare_ring;
mod in_place;
mod in_process;
mod ipc_channel;
mod iceoryx2;
mod limits;
mod limits_asleep;
mod ringfire;
mod shmem_ipc;
mod unix;
mod unix_smol;
mod wakering;

/// What a system is to the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// What the machine gives without any channel around it.
    Limit,
    Wakering,
    /// Carries packets between two processes.
    Rival,
    /// Does not leave its process: threads instead.
    Yardstick,
}

/// How a side waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Looks again until it is there; of no use where the other needs the same core.
    Spinning,
    /// Sleeps in the kernel, perhaps after looking for a while.
    Sleeping,
}

#[derive(Debug)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    pub(crate) waits: Waits,
    /// In a few words: which calls are made, and what comes out.
    pub(crate) about: &'static str,
    pub(crate) measures: &'static [Measure],
    /// Packets of these sizes; empty is all of them.
    pub(crate) sizes: &'static [usize],
    pub(crate) perform: fn(&mut Stage) -> Result<Outcome>,
}

impl System {
    pub(crate) fn is_in_one_process(&self) -> bool {
        self.family == Family::Yardstick || self.name == "memcpy"
    }

    pub(crate) fn is_measured(&self, measure: Measure, bytes: usize) -> bool {
        self.measures.contains(&measure) && (self.sizes.is_empty() || self.sizes.contains(&bytes))
    }

    /// Two that spin on one core wait for the scheduler: milliseconds a round trip, of no meaning.
    pub(crate) fn can_be_pinned(&self, pin: Pin) -> bool {
        pin != Pin::One || self.waits == Waits::Sleeping || self.name == "memcpy"
    }
}

const BOTH: &[Measure] = &[Measure::RoundTrip, Measure::Stream];
const ROUND_TRIP: &[Measure] = &[Measure::RoundTrip];
const STREAM: &[Measure] = &[Measure::Stream];

/// All of them, in the order of the tables.
pub(crate) fn all() -> impl Iterator<Item = &'static System> {
    [
        limits::SYSTEMS,
        limits_asleep::SYSTEMS,
        bare_ring::SYSTEMS,
        wakering::SYSTEMS,
        in_place::SYSTEMS,
        ringfire::SYSTEMS,
        iceoryx2::SYSTEMS,
        shmem_ipc::SYSTEMS,
        ipc_channel::SYSTEMS,
        unix::SYSTEMS,
        unix_smol::SYSTEMS,
        in_process::SYSTEMS,
    ]
    .into_iter()
    .flatten()
}

pub(crate) fn find(name: &str) -> Option<&'static System> {
    all().find(|system| system.name == name)
}

/// Looks until there is something; an error if that takes so long that nothing will ever come.
#[inline]
fn spin<T>(look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    spin_pausing(1, look)
}

/// The same with so many pauses between two looks.
#[inline]
fn spin_pausing<T>(pauses: u32, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    match look()? {
        Some(found) => Ok(found),
        None => keep_spinning(pauses, look),
    }
}

#[inline]
fn keep_spinning<T>(pauses: u32, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    const LOOKS: u32 = 1 << 16;
    const PATIENCE: Duration = Duration::from_secs(10);

    let mut since = None;
    loop {
        for _ in 0..LOOKS {
            for _ in 0..pauses {
                std::hint::spin_loop();
            }
            if let Some(found) = look()? {
                return Ok(found);
            }
        }
        if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err("nothing came any more".into());
        }
    }
}

/// Calls a function that has the packet's size as a constant parameter.
macro_rules! with_size {
    ($bytes:expr, $function:ident, $stage:expr) => {
        match $bytes {
            64 => $function::<64>($stage),
            1024 => $function::<1024>($stage),
            8192 => $function::<8192>($stage),
            65536 => $function::<65536>($stage),
            other => Err(format!("packets of {other} bytes are not prepared").into()),
        }
    };
}
use with_size;
