//! Progress on standard error, the result on standard output.

use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smol::Timer;
use wakering::Backend;

use crate::application::Outcome;
use crate::{Result, Step};

/// How often the progress of a step is shown on a terminal.
const REFRESH: Duration = Duration::from_millis(100);

/// The result of a step.
pub(crate) struct Measured {
    /// From the application that sent, or asked.
    pub(crate) sent: Outcome,
    /// From the application that received, or answered.
    pub(crate) received: Outcome,
    /// How often all four ends of the two channels woke their peers.
    pub(crate) wakes: u64,
}

impl Measured {
    /// Packets that were skipped, and packets after the last one that arrived.
    fn lost(&self) -> u64 {
        let unheard = self.sent.next.saturating_sub(self.received.next);
        self.sent.lost + self.received.lost + unheard
    }

    fn corrupt(&self) -> u64 {
        self.sent.corrupt + self.received.corrupt
    }

    /// Returns packets a second and gigabytes (of 10^9 bytes) a second, at the receiver.
    fn rates(&self, bytes: usize) -> (f64, f64) {
        let seconds = self.received.elapsed_ns.max(1) as f64 / 1e9;
        let rate = self.received.packets as f64 / seconds;
        (rate, rate * bytes as f64 / 1e9)
    }

    fn wakes_per_packet(&self) -> f64 {
        self.wakes as f64 / self.received.packets.max(1) as f64
    }
}

pub(crate) struct Report {
    json: bool,
    is_terminal: bool,
    started: Instant,
    done: Vec<(Step, Measured)>,
    backend: Backend,
}

impl Report {
    pub(crate) fn new(json: bool, backend: Backend) -> Self {
        let is_terminal = stderr().is_terminal();
        Self { json, is_terminal, started: Instant::now(), done: Vec::new(), backend }
    }

    pub(crate) fn begins(&mut self, step: Step) {
        if self.is_terminal {
            eprint!("\r\x1b[K{}", step.title());
        } else {
            eprintln!("{} ...", step.title());
        }
    }

    /// Shows again and again how many packets have been routed. Never ends.
    pub(crate) async fn watch<T>(&self, step: Step, routed: &AtomicU64) -> Result<T> {
        loop {
            Timer::after(REFRESH).await;
            if self.is_terminal {
                let routed = grouped(routed.load(Ordering::Relaxed));
                eprint!("\r\x1b[K{}: {routed} packets routed", step.title());
            }
        }
    }

    pub(crate) fn ends(&mut self, step: Step, measured: Measured) {
        if self.json {
            self.clear_progress();
            println!("{}", json(step, &measured));
        }
        self.done.push((step, measured));
    }

    /// Prints the table. Returns `true` if nothing was lost or corrupted.
    pub(crate) fn finish(self) -> bool {
        self.clear_progress();
        if !self.json {
            self.print_table();
        }
        self.done.iter().all(|(_, measured)| measured.lost() == 0 && measured.corrupt() == 0)
    }

    fn clear_progress(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn print_table(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        println!("one engine, two applications, {}, {seconds:.1} s", self.backend);
        println!();
        print_row("there and back", ["packets", "p50", "p99", "p99.9", WAKES, "lost", "corrupt"]);
        for (step, measured) in &self.done {
            if let Step::RoundTrip { .. } = step {
                let sent = &measured.sent;
                let [p50, p99, p999] = [sent.p50_ns, sent.p99_ns, sent.p999_ns]
                    .map(|time| format!("{:.1} us", time as f64 / 1e3));
                print_measured(*step, measured, sent.packets, [p50, p99, p999]);
            }
        }
        println!();
        print_row("one way", ["packets", "", "packets/s", "GB/s", WAKES, "lost", "corrupt"]);
        for (step, measured) in &self.done {
            if let Step::Stream { bytes } = *step {
                let (rate, gigabytes) = measured.rates(bytes);
                let rates = [String::new(), grouped(rate.round()), format!("{gigabytes:.2}")];
                print_measured(*step, measured, measured.received.packets, rates);
            }
        }
    }
}

const WAKES: &str = "wakes/packet";

fn print_measured(step: Step, measured: &Measured, packets: u64, figures: [String; 3]) {
    let packets = grouped(packets);
    let wakes = format!("{:.5}", measured.wakes_per_packet());
    let [lost, corrupt] = [measured.lost(), measured.corrupt()].map(grouped);
    let [a, b, c] = figures.each_ref().map(String::as_str);
    print_row(&step.title(), [&packets, a, b, c, &wakes, &lost, &corrupt]);
}

fn print_row(title: &str, [packets, a, b, c, wakes, lost, corrupt]: [&str; 7]) {
    println!("{title:<18} {packets:>11} {a:>9} {b:>11} {c:>10} {wakes:>13} {lost:>5} {corrupt:>8}");
}

fn json(step: Step, measured: &Measured) -> String {
    let checks = format!("\"lost\":{},\"corrupt\":{}", measured.lost(), measured.corrupt());
    match step {
        Step::RoundTrip { bytes } => {
            let Outcome { packets, p50_ns, p99_ns, p999_ns, .. } = measured.sent;
            format!(
                "{{\"step\":\"round_trip\",\"bytes\":{bytes},\"count\":{packets},\
                 \"p50_ns\":{p50_ns},\"p99_ns\":{p99_ns},\"p999_ns\":{p999_ns},{checks}}}"
            )
        }
        Step::Stream { bytes } => {
            let (rate, gigabytes) = measured.rates(bytes);
            format!(
                "{{\"step\":\"stream\",\"bytes\":{bytes},\"packets\":{},\
                 \"packets_per_s\":{rate:.0},\"gb_per_s\":{gigabytes:.3},\
                 \"wakes_per_packet\":{:.6},{checks}}}",
                measured.received.packets,
                measured.wakes_per_packet()
            )
        }
    }
}

impl Step {
    fn title(self) -> String {
        let size = |bytes: usize| match bytes {
            0..1024 => format!("{bytes} B"),
            _ => format!("{} KiB", bytes >> 10),
        };
        match self {
            Self::RoundTrip { bytes } => format!("round trip of {}", size(bytes)),
            Self::Stream { bytes } => format!("stream of {}", size(bytes)),
        }
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: impl Display) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
