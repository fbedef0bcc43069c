//! What a process holds, to be the same after as before.
#![allow(unreachable_pub, dead_code, reason = "no file needs all of it")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// What this process holds.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub descriptors: usize,
    /// Of regions.
    pub mappings: usize,
    /// What the drivers' sets watch.
    pub watched: usize,
    pub threads: usize,
    /// Of memory of its own.
    pub bytes: usize,
}

impl Held {
    pub fn now() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        Self {
            // One is the directory itself, in both counts.
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            mappings: maps.lines().filter(|line| line.contains("memfd:wakering")).count(),
            watched: watched_descriptors(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            bytes: rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10,
        }
    }

    /// Waits until `holds` and no more is held than this, but for `spare` bytes if they are to
    /// count: some of the memory is the allocator's. An error is what is held instead.
    pub fn wait_until_level(
        &self,
        patience: Duration,
        spare: Option<usize>,
        mut holds: impl FnMut() -> bool,
    ) -> Result<Self, Self> {
        let begin = Instant::now();
        loop {
            let there = holds();
            let now = Self::now();
            if there && self.is_level(&now, spare) {
                return Ok(now);
            }
            if begin.elapsed() > patience {
                return Err(now);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_level(&self, now: &Self, spare: Option<usize>) -> bool {
        now.descriptors <= self.descriptors
            && now.mappings <= self.mappings
            && now.watched <= self.watched
            && now.threads <= self.threads
            && spare.is_none_or(|spare| now.bytes <= self.bytes + spare)
    }
}

/// A descriptor that closes while we look is in no set.
fn watched_descriptors() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let sets = descriptors.filter_map(|entry| {
        let path = entry.ok()?.path();
        fs::read_link(&path).ok().filter(|to| to.to_string_lossy().contains("eventpoll"))?;
        let info = fs::read_to_string(path.to_str()?.replace("/fd/", "/fdinfo/")).ok()?;
        Some(info.lines().filter(|line| line.starts_with("tfd:")).count())
    });
    sets.sum()
}
