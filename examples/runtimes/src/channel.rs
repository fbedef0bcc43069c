//! The side of a channel.

use std::io;

use bytes::Bytes;
use wakering::{Driver, Endpoint, SpscFace, SpscHandle};

use crate::Result;
use crate::task::{BYTES, Carrier, Task, perform};
use crate::ways::Way;

/// Does `task` over the channel `name`, and prints the median if there is one.
pub fn run(way: &Way, name: &str, task: Task) -> Result<()> {
    if let Some(median) = (way.channel)(name.to_owned(), task)? {
        println!("{median}");
    }
    Ok(())
}

/// Opens one end, and does `task` with it. The one that measures is the engine.
pub async fn work(driver: Driver, name: String, task: Task) -> io::Result<Option<f64>> {
    let end: Endpoint = if task == Task::Echo {
        SpscHandle::builder().driver(&driver).connect(&name)?.into()
    } else {
        let face = SpscFace::builder().driver(&driver).create(&name)?;
        println!("open");
        face.connected().await?;
        face.into()
    };
    perform(task, end).await
}

impl Carrier for Endpoint {
    async fn send(&mut self, packet: [u8; BYTES]) -> io::Result<()> {
        Ok(Endpoint::send(self, Bytes::copy_from_slice(&packet)).await?)
    }

    async fn receive(&mut self) -> io::Result<Option<[u8; BYTES]>> {
        let Some(packet) = self.recv().await else { return Ok(None) };
        packet[..].try_into().map(Some).map_err(io::Error::other)
    }
}
