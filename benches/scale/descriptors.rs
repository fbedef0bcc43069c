//! How many channels the descriptors of a process allow.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a process needs in addition to those of its channels.
const OTHER_DESCRIPTORS: u64 = 64;
/// In an application: the lifeline, the region, and the engine's process.
const DESCRIPTORS_OF_A_HANDLE: u64 = 3;
/// In the engine: the lifeline and the application's process.
const DESCRIPTORS_OF_A_FACE: u64 = 2;

/// Raises the limit of descriptors as far as possible.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a soft limit may be raised to the hard one");
    let text = |limit: Option<u64>| limit.map_or("none".into(), |limit| limit.to_string());
    println!("descriptors: soft limit {}, raised to {}", text(limit.current), text(limit.maximum));
}

/// Returns how many of the wanted channels the engine may have in addition to `others`.
pub(crate) fn allowed(wanted: usize, others: usize) -> usize {
    let allowed = room(DESCRIPTORS_OF_A_FACE).saturating_sub(others);
    if allowed < wanted {
        println!("{wanted} channels DO NOT FIT, {allowed} do");
    }
    wanted.min(allowed)
}

/// Returns how many channels one application may have.
pub(crate) fn of_an_application() -> usize {
    room(DESCRIPTORS_OF_A_HANDLE)
}

fn room(descriptors_each: u64) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    let channels = limit.saturating_sub(OTHER_DESCRIPTORS) / descriptors_each;
    usize::try_from(channels).expect("fits")
}
