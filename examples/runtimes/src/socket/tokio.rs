//! Sockets of tokio.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use super::at_end;
use crate::task::{BYTES, Carrier, Task, perform};

struct Tokio(tokio::net::UnixStream);

impl Carrier for Tokio {
    async fn send(&mut self, packet: [u8; BYTES]) -> io::Result<()> {
        self.0.write_all(&packet).await
    }

    async fn receive(&mut self) -> io::Result<Option<[u8; BYTES]>> {
        let mut packet = [0; BYTES];
        at_end(self.0.read_exact(&mut packet).await.map(|_| packet))
    }
}

pub fn one_thread(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async { perform(task, Tokio(tokio::net::UnixStream::from_std(socket)?)).await })
}

pub fn all_threads(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    Runtime::new()?.block_on(async {
        let socket = Tokio(tokio::net::UnixStream::from_std(socket)?);
        tokio::spawn(perform(task, socket)).await?
    })
}
