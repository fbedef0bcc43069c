//! Sockets of monoio.

use std::io;
use std::os::unix::net::UnixStream;

use monoio::io::{AsyncReadRentExt, AsyncWriteRentExt};
use monoio::{FusionDriver, RuntimeBuilder};

use super::at_end;
use crate::task::{BYTES, Carrier, Task, perform};

struct Monoio {
    socket: monoio::net::UnixStream,
    /// It takes no array.
    buffer: Vec<u8>,
}

impl Carrier for Monoio {
    async fn send(&mut self, packet: [u8; BYTES]) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(&packet);
        let (sent, buffer) = self.socket.write_all(buffer).await;
        self.buffer = buffer;
        sent.map(drop)
    }

    async fn receive(&mut self) -> io::Result<Option<[u8; BYTES]>> {
        let (received, buffer) = self.socket.read_exact(std::mem::take(&mut self.buffer)).await;
        self.buffer = buffer;
        at_end(received)?.map(|_| self.buffer[..].try_into().map_err(io::Error::other)).transpose()
    }
}

pub fn run(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    let mut runtime = RuntimeBuilder::<FusionDriver>::new().enable_all().build()?;
    runtime.block_on(async {
        let socket = monoio::net::UnixStream::from_std(socket)?;
        perform(task, Monoio { socket, buffer: vec![0; BYTES] }).await
    })
}
