//! Shows two successive looks as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::find::{Found, Inode, Process};
use crate::json::{Object, Value};

/// All channels of one look, and what happened since the look before.
pub(crate) struct View<'a> {
    pub(crate) now: &'a BTreeMap<Inode, Found>,
    pub(crate) before: &'a BTreeMap<Inode, Found>,
    /// The time between the two looks.
    pub(crate) seconds: f64,
}

const ROLES: [&str; 2] = ["face", "handle"];

/// Columns of a channel's name.
const MOST_OF_NAME: usize = 110;

/// Cells of the bar that shows how full a ring is.
const BAR: u64 = 8;

/// One end of a channel.
struct End<'a> {
    view: &'a View<'a>,
    inode: Inode,
    found: &'a Found,
    side: usize,
}

impl View<'_> {
    fn ends(&self, inode: Inode) -> [End<'_>; 2] {
        let found = &self.now[&inode];
        [0, 1].map(|side| End { view: self, inode, found, side })
    }

    /// Returns one object for each channel, each on its own line.
    pub(crate) fn json(&self) -> String {
        let mut text = String::new();
        for (inode, found) in self.now {
            let [face, handle] = self.ends(*inode).map(|end| end.json());
            let object = Object::new()
                .with("inode", *inode)
                .with("channel", found.channel.as_deref())
                .with("ring_bytes", found.region.ring_bytes)
                .with("max_packet", found.region.max_packet)
                .with("seconds", Value::fixed(self.seconds, 3))
                .with("face", face)
                .with("handle", handle);
            text.push_str(&object.text());
            text.push('\n');
        }
        text
    }

    /// Returns lines of at most 110 columns: three for each channel, the busiest first, and at most
    /// `lines` in all.
    pub(crate) fn table(&self, lines: usize) -> Vec<String> {
        let count = self.now.len();
        let plural = if count == 1 { "" } else { "s" };
        let mut table = vec![
            format!("wakering: {count} channel{plural} of this user, packets and bytes as sent"),
            String::new(),
            format!(
                "{:<8}{:<23} {:>9} {:>9}  {:<14} {:<9} {:>7} {:>7}  {}",
                "END",
                "PROCESS",
                "PACKETS/s",
                "BYTES/s",
                "RING",
                "PARKED",
                "WAKES/s",
                "FULL/s",
                "STATE"
            ),
        ];
        let mut order: Vec<Inode> = self.now.keys().copied().collect();
        // Sorted by order of magnitude, so that rows rarely change places. Equal rows keep their
        // order.
        let traffic = |inode: &Inode| {
            let [face, handle] = self.ends(*inode).map(|end| end.bytes_per_second());
            (face + handle).max(1.0).log10().floor()
        };
        order.sort_by(|one, other| traffic(other).total_cmp(&traffic(one)));
        let room = lines.saturating_sub(table.len() + 1) / 3;
        for inode in order.iter().take(room) {
            let channel = self.now[inode].channel.as_deref().unwrap_or("(no name)");
            table.push(channel.chars().take(MOST_OF_NAME).collect());
            table.extend(self.ends(*inode).map(|end| end.row()));
        }
        if count > room {
            table.push(format!("and {} more", count - room));
        }
        table
    }
}

impl End<'_> {
    /// Returns by how much a number grows in a second. Returns 0 for a channel that is new, or
    /// whose count went down.
    fn rate(&self, of: impl Fn(&Found) -> u64) -> f64 {
        let before = self.view.before.get(&self.inode).map_or(of(self.found), &of);
        of(self.found).saturating_sub(before) as f64 / self.view.seconds.max(1e-9)
    }

    fn packets_per_second(&self) -> f64 {
        self.rate(|found| found.region.sent(self.side).packets)
    }

    fn bytes_per_second(&self) -> f64 {
        self.rate(|found| found.region.sent(self.side).bytes)
    }

    fn json(&self) -> Object {
        let (region, end) = (&self.found.region, &self.found.region.sides[self.side]);
        let sent = region.sent(self.side);
        let process = self.found.processes[self.side].as_ref();
        Object::new()
            .with("pid", process.map(|process| process.pid))
            .with("name", process.map(|process| process.name.as_str()))
            .with("state", end.state())
            .with("parked_recv", end.waits_to_receive())
            .with("parked_send", end.waits_to_send())
            .with("packets_sent", sent.packets)
            .with("bytes_sent", sent.bytes)
            .with("packets_per_s", Value::fixed(self.packets_per_second(), 1))
            .with("bytes_per_s", Value::fixed(self.bytes_per_second(), 1))
            .with("fill_bytes", region.fill(self.side))
            .with("wakes_sent", end.wakes_sent)
            .with("wakes_received", end.wakes_received)
            .with("parks", end.parks)
            .with("full_stalls", end.full_stalls)
            .with("spins_paid", end.spins_paid)
            .with("spins_unpaid", end.spins_unpaid)
    }

    fn row(&self) -> String {
        let (region, end) = (&self.found.region, &self.found.region.sides[self.side]);
        let process = match &self.found.processes[self.side] {
            Some(Process { pid, name }) => format!("{name} {pid}"),
            None => "-".to_owned(),
        };
        let parked = match (end.waits_to_receive(), end.waits_to_send()) {
            (true, true) => "recv,send",
            (true, false) => "recv",
            (false, true) => "send",
            (false, false) => "-",
        };
        let side = |found: &Found| found.region.sides[self.side].clone();
        format!(
            "{:<8}{process:<23} {:>9} {:>9}  {:<14} {parked:<9} {:>7} {:>7}  {}",
            ROLES[self.side],
            short(self.packets_per_second(), ""),
            short(self.bytes_per_second(), "B"),
            bar(region.fill(self.side), region.ring_bytes),
            short(self.rate(|found| side(found).wakes_sent), ""),
            short(self.rate(|found| side(found).full_stalls), ""),
            end.state(),
        )
    }
}

/// Returns how full a ring is, in cells and in percent.
fn bar(fill: u64, ring_bytes: u64) -> String {
    // A valid ring has at most 1 GiB, and is never more than full.
    let cells = (fill * BAR).div_ceil(ring_bytes);
    let mut bar: String = (0..BAR).map(|cell| if cell < cells { '#' } else { '.' }).collect();
    let _ = write!(bar, " {:>3}%", (fill * 100).div_ceil(ring_bytes));
    bar
}

/// Returns a number in at most eight characters: 7.65 M, 490 MB, 12.
fn short(number: f64, unit: &str) -> String {
    let mut scaled = number;
    let mut prefixes = ["", "k", "M", "G", "T", "P", "E"].into_iter();
    let mut prefix = prefixes.next().unwrap_or_default();
    while scaled >= 999.5
        && let Some(next) = prefixes.next()
    {
        scaled /= 1000.0;
        prefix = next;
    }
    if scaled >= 999.5 {
        // No channel is that fast.
        return format!("> 1 Z{unit}");
    }
    let decimals = match scaled {
        _ if prefix.is_empty() => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$} {prefix}{unit}").trim_end().to_owned()
}
