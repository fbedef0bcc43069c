//! The table that is printed.

use std::fmt;

use crate::task::median;

/// The head of the table: the columns, and the line below.
pub const HEAD: &str = "\
| runtime                  | driver and glue               | channel, us | socket, us | ratio |
|--------------------------|-------------------------------|------------:|-----------:|------:|";

/// The figures of one runtime, in microseconds.
#[derive(Debug)]
pub struct Row {
    name: &'static str,
    glue: &'static str,
    channels: Vec<f64>,
    sockets: Vec<f64>,
}

impl Row {
    pub fn new(name: &'static str, glue: &'static str) -> Self {
        Self { name, glue, channels: Vec::new(), sockets: Vec::new() }
    }

    /// Adds two figures that were measured one after the other.
    pub fn add(&mut self, channel: f64, socket: f64) {
        self.channels.push(channel);
        self.sockets.push(socket);
    }

    /// The median of the ratios of neighbours: what disturbs the machine for longer disturbs both.
    fn ratio(&self) -> f64 {
        let pairs = self.channels.iter().zip(&self.sockets);
        median(&mut pairs.map(|(channel, socket)| channel / socket).collect::<Vec<_>>())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [channel, socket] =
            [&self.channels, &self.sockets].map(|figures| median(&mut figures.clone()));
        let Self { name, glue, .. } = self;
        let ratio = self.ratio();
        write!(f, "| {name:<24} | {glue:<29} | {channel:>11.1} | {socket:>10.1} | {ratio:>5.2} |")
    }
}
