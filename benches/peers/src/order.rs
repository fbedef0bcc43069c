//! What a process of a run is told on its command line.

use std::time::Duration;

use crate::row::{Row, Side};
use crate::{Error, Result};

#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The system's name.
    pub(crate) system: String,
    pub(crate) row: Row,
    pub(crate) side: Side,
    pub(crate) time: Duration,
    /// Count system calls; the times then mean nothing.
    pub(crate) counts_calls: bool,
    /// The core of each side; none in particular without it.
    pub(crate) cores: [Option<usize>; 2],
    /// Both sides are threads of one process.
    pub(crate) is_in_one_process: bool,
    /// A place for files, and the beginning of unique names.
    pub(crate) scratch: String,
}

impl Order {
    pub(crate) fn to_words(&self) -> Vec<String> {
        let Self { system, row: Row { pin, measure, bytes }, side, time, .. } = self;
        let core = |core: Option<usize>| core.map_or("-".to_owned(), |core| core.to_string());
        vec![
            system.clone(),
            pin.to_string(),
            measure.to_string(),
            bytes.to_string(),
            side.to_string(),
            time.as_secs_f64().to_string(),
            self.counts_calls.to_string(),
            core(self.cores[0]),
            core(self.cores[1]),
            self.is_in_one_process.to_string(),
            self.scratch.clone(),
        ]
    }

    pub(crate) fn from_words(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut word = || words.next().ok_or_else(|| Error::from("an order without an end"));
        Ok(Self {
            system: word()?,
            row: Row { pin: word()?.parse()?, measure: word()?.parse()?, bytes: word()?.parse()? },
            side: word()?.parse()?,
            time: Duration::try_from_secs_f64(word()?.parse()?)?,
            counts_calls: word()?.parse()?,
            cores: [word()?.parse().ok(), word()?.parse().ok()],
            is_in_one_process: word()?.parse()?,
            scratch: word()?,
        })
    }
}
