//! The side of a socket, under each runtime.

pub mod async_std;
pub mod compio;
pub mod glommio;
pub mod monoio;
pub mod smol;
pub mod tokio;
pub mod wakers;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Result;
use crate::task::{BYTES, Carrier, Task};
use crate::ways::Way;

/// Does `task` over the socket that is the standard input, and prints the median if there is one.
pub fn run(way: &Way, task: Task) -> Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // The standard input is the same socket, and this process reads from it no more. It would keep
    // the peer from seeing the end only as long as this process lives, which is not long.
    socket.set_nonblocking(true)?;
    if let Some(median) = (way.socket)(socket, task)? {
        println!("{median}");
    }
    Ok(())
}

/// A socket of a runtime that has the traits of the crate `futures`.
#[derive(Debug)]
pub struct Futures<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Carrier for Futures<S> {
    async fn send(&mut self, packet: [u8; BYTES]) -> io::Result<()> {
        self.0.write_all(&packet).await
    }

    async fn receive(&mut self) -> io::Result<Option<[u8; BYTES]>> {
        let mut packet = [0; BYTES];
        at_end(self.0.read_exact(&mut packet).await.map(|()| packet))
    }
}

/// Takes the end for no error.
fn at_end<T>(received: io::Result<T>) -> io::Result<Option<T>> {
    match received {
        Ok(packet) => Ok(Some(packet)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
