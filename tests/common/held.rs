//! What a process holds: it has to be the same before and after.
#![allow(unreachable_pub, dead_code, reason = "no file needs all of it")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// What this process holds.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub descriptors: usize,
    /// Mappings of regions.
    pub mappings: usize,
    /// Descriptors in the epoll sets of the drivers.
    pub watched: usize,
    pub threads: usize,
    /// Anonymous resident memory.
    pub bytes: usize,
}

impl Held {
    pub fn now() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        Self {
            // One descriptor is that of the directory itself, in both counts.
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            mappings: maps.lines().filter(|line| line.contains("memfd:wakering")).count(),
            watched: watched_descriptors(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            bytes: rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10,
        }
    }

    /// Waits until `holds` returns true and the process holds no more than `self`. With `spare`,
    /// memory counts too, with this many bytes of tolerance, because the allocator keeps some.
    /// Returns an error with what is held if that takes longer than `patience`.
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

/// Counts them. A descriptor that closes meanwhile is in no set.
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
