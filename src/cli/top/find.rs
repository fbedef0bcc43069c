//! Finds the channels that this user may look at among the descriptors of processes.
//!
//! The application's end keeps its region's descriptor open for this. The mappings show which other
//! process, the engine, has the region.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::region::Region;

/// The kernel's name for the memfd, between which the channel's name may stand, after a colon.
const NAME: [&str; 2] = ["/memfd:wakering", " (deleted)"];

/// The inode of a region identifies it.
pub(crate) type Inode = u64;

/// A channel that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The name under which the application has found the engine, if it has one.
    pub(crate) channel: Option<String>,
    pub(crate) region: Region,
    /// The processes of the face and of the handle, if they are visible.
    pub(crate) processes: [Option<Process>; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

/// Looks again and again. Between two looks it holds nothing, so no descriptor of it keeps a region
/// alive that its processes no longer use.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    /// Who owns which region. The mappings are read only when the channels have changed, because
    /// that is work for the kernel and delays those processes.
    known: BTreeMap<Inode, Owners>,
    /// Whether the last two reads of the mappings were equal. A child that is just being started
    /// has everything that its parent has, for a moment.
    is_settled: bool,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Owners {
    /// The processes that have a descriptor.
    holders: Vec<u32>,
    /// The processes that map it, and how often.
    mappers: BTreeMap<u32, usize>,
}

impl Finder {
    /// Returns all channels that are visible now.
    pub(crate) fn look(&mut self) -> BTreeMap<Inode, Found> {
        let pids = pids();
        let mut regions = BTreeMap::new();
        let mut holders: BTreeMap<Inode, Vec<u32>> = BTreeMap::new();
        for pid in &pids {
            for (inode, channel, region) in regions_of(*pid) {
                regions.insert(inode, (channel, region));
                let holders = holders.entry(inode).or_default();
                if !holders.contains(pid) {
                    holders.push(*pid);
                }
            }
        }
        self.learn(holders, &pids);
        let found = |(inode, (channel, region))| {
            let owners = self.known.get(&inode).cloned().unwrap_or_default();
            let processes = owners.roles(&region).map(|pid| pid.map(Process::named));
            (inode, Found { channel, region, processes })
        };
        regions.into_iter().map(found).collect()
    }

    fn learn(&mut self, holders: BTreeMap<Inode, Vec<u32>>, pids: &[u32]) {
        let same = |(inode, holders): (&Inode, &Vec<u32>)| {
            self.known.get(inode).is_some_and(|known| known.holders == *holders)
        };
        let is_same = holders.len() == self.known.len() && holders.iter().all(same);
        if self.is_settled && is_same {
            return;
        }
        let owners = |holders| Owners { holders, mappers: BTreeMap::new() };
        let mut known: BTreeMap<Inode, Owners> =
            holders.into_iter().map(|(inode, pids)| (inode, owners(pids))).collect();
        for pid in pids {
            for inode in mappings_of(*pid) {
                if let Some(owners) = known.get_mut(&inode) {
                    *owners.mappers.entry(*pid).or_default() += 1;
                }
            }
        }
        self.is_settled = known == self.known;
        self.known = known;
    }
}

impl Owners {
    /// Returns which process has the face, and which the handle. An engine closes its descriptor
    /// after an application has joined; an engine without a peer still has it.
    fn roles(&self, region: &Region) -> [Option<u32>; 2] {
        let mut holders = self.holders.iter().copied();
        let (first, second) = (holders.next(), holders.next());
        let engine = self.mappers.keys().copied().find(|pid| !self.holders.contains(pid));
        match (engine, first, second) {
            (Some(engine), application, _) => [Some(engine), application],
            // An engine may keep its descriptor. It is most likely the older process.
            (None, engine, Some(application)) => [engine, Some(application)],
            (None, Some(one), None) => {
                let is_both = self.mappers.get(&one).is_some_and(|times| *times > 1);
                let is_handle = !region.sides[1].is_untouched();
                [(is_both || !is_handle).then_some(one), (is_both || is_handle).then_some(one)]
            }
            (None, None, None) => [None, None],
        }
    }
}

impl Process {
    fn named(pid: u32) -> Self {
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self { pid, name: plain(name.trim_ascii_end()) }
    }
}

/// Processes choose their own names and those of their channels, so nothing in a name may reach a
/// terminal as a command.
fn plain(name: &[u8]) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    String::from_utf8_lossy(name).chars().map(plain).collect()
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// Returns the regions among the descriptors of a process. Returns none for processes of other
/// users.
fn regions_of(pid: u32) -> impl Iterator<Item = (Inode, Option<String>, Region)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let path = entry.path();
        let target = fs::read_link(&path).ok()?;
        let channel = channel_of(target.as_os_str().as_bytes())?;
        let (inode, region) = open(&path)?;
        Some((inode, channel, region))
    })
}

/// Returns the channel's name, if it has one, from the kernel's name of its memfd.
fn channel_of(memfd: &[u8]) -> Option<Option<String>> {
    let label = memfd.strip_prefix(NAME[0].as_bytes())?.strip_suffix(NAME[1].as_bytes())?;
    match label {
        [] => Some(None),
        [b':', name @ ..] => Some(Some(plain(name))),
        _ => None,
    }
}

fn open(path: &Path) -> Option<(Inode, Region)> {
    // By now, the number may stand for something else, even for a pipe without a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let inode = rustix::fs::fstat(&file).ok()?.st_ino;
    Some((inode, Region::read(file.as_fd())?))
}

/// Returns the inodes of all regions that a process maps.
fn mappings_of(pid: u32) -> Vec<Inode> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    // Addresses, permissions, offset, device, inode, name.
    let inode = |line: &str| {
        let at = line.find(NAME[0])?;
        channel_of(&line.as_bytes()[at..])?;
        line[..at].split_whitespace().nth(4)?.parse().ok()
    };
    maps.lines().filter_map(inode).collect()
}
