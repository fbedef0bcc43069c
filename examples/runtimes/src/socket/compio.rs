//! Sockets of compio.

use std::io;
use std::os::unix::net::UnixStream;

use compio::io::{AsyncReadExt, AsyncWriteExt};
use compio::runtime::Runtime;

use super::at_end;
use crate::task::{BYTES, Carrier, Task, perform};

struct Compio(compio::net::UnixStream);

impl Carrier for Compio {
    async fn send(&mut self, packet: [u8; BYTES]) -> io::Result<()> {
        self.0.write_all(packet).await.0
    }

    async fn receive(&mut self) -> io::Result<Option<[u8; BYTES]>> {
        let (received, packet) = self.0.read_exact([0; BYTES]).await.into();
        at_end(received.map(|()| packet))
    }
}

pub fn run(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    Runtime::new()?
        .block_on(async { perform(task, Compio(compio::net::UnixStream::from_std(socket)?)).await })
}
