//! Limits of this process, as far as channels meet them.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit};

use super::channel;
use super::section::Section;
use crate::text;

/// Fewer channels than this are worth a note.
const FEW_CHANNELS: u64 = 100;

pub(super) fn look() -> Section {
    let (files, locked, size) =
        (getrlimit(Resource::Nofile), getrlimit(Resource::Memlock), getrlimit(Resource::Fsize));
    let used = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let channels =
        files.current.map(|files| files.saturating_sub(used) / channel::ENGINE_DESCRIPTORS);
    let section = Section::new("limits")
        .fact("nofile_soft", files.current)
        .fact("nofile_hard", files.maximum)
        .fact("memlock_soft", locked.current)
        .fact("memlock_hard", locked.maximum)
        .fact("fsize_soft", size.current)
        .fact("engine_channels", channels);
    let text = match channels {
        None => "any number of descriptors".to_owned(),
        Some(channels) => format!(
            "{} descriptors, at most {}: for an engine of {}",
            shown(files.current),
            shown(files.maximum),
            text::count(channels, "channel")
        ),
    };
    let is_few = channels.is_some_and(|channels| channels < FEW_CHANNELS);
    let section = if is_few { section.note(text) } else { section.ok(text) };
    let Rlimit { current, .. } = locked;
    let section = section.ok(format!(
        "{} of locked memory; only kernels before 5.12 count an io_uring here",
        current.map_or_else(|| "any amount".to_owned(), bytes)
    ));
    match size.current {
        Some(limit) if limit < channel::REGION_BYTES => section.problem(format!(
            "files have at most {}, and the memory of a channel with the default sizes is {}",
            bytes(limit),
            bytes(channel::REGION_BYTES)
        )),
        _ => section,
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "any number".to_owned(), text::grouped)
}

fn bytes(limit: u64) -> String {
    usize::try_from(limit).map_or_else(|_| format!("{limit} B"), text::size)
}
