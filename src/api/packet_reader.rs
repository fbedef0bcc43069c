//! A receiver as a stream of bytes to read.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::io::{AsyncBufRead, AsyncRead};
use futures::stream::Stream;

use crate::api::receiver::Receiver;
use crate::error::ShmError;

/// An `AsyncRead` and `AsyncBufRead` over a [`Receiver`], which reads the bytes of the packets one
/// after another; made by [`Receiver::into_async_read`](crate::Receiver::into_async_read).
///
/// Where packets begin is not visible. Packets without bytes are skipped.
///
/// # How it ends
///
/// A read returns 0 bytes, the end of the stream, only if the peer ended its direction in order and
/// everything has come. Otherwise (a cancel, the peer's death, a violation) the bytes that came are
/// followed by an [`io::Error`] that contains a [`ShmError::Closed`], again with each further read,
/// so a stream that was cut off never looks complete.
///
/// Dropping the reader tells the peer that nobody receives any more.
///
/// # Cancel safety
///
/// A read that is `Pending` has taken nothing. What a packet has more than the caller's buffer
/// stays in the reader: see [`buffer`](Self::buffer).
///
/// # Examples
/// ```
/// # use wakering::{SpscFace, SpscHandle};
/// use futures::{AsyncBufReadExt, TryStreamExt};
///
/// let (face, descriptor) = SpscFace::pair()?;
/// let handle = SpscHandle::from_fd(descriptor)?;
/// for packet in ["one\nt", "w", "o\nthree"] {
///     face.try_send(packet.into())?;
/// }
/// drop(face);
/// let lines = handle.into_split().1.into_async_read().lines();
/// let lines: Vec<String> = pollster::block_on(lines.try_collect())?;
/// assert_eq!(lines, ["one", "two", "three"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PacketReader {
    rx: Receiver,
    /// What is left of the last packet.
    rest: Bytes,
}

impl PacketReader {
    pub(crate) fn new(rx: Receiver) -> Self {
        Self { rx, rest: Bytes::new() }
    }

    /// Returns the bytes of the last packet that were not read yet.
    pub fn buffer(&self) -> &[u8] {
        &self.rest
    }

    /// Returns the receiver. The bytes in [`buffer`](Self::buffer) are lost.
    pub fn into_inner(self) -> Receiver {
        self.rx
    }
}

impl AsyncRead for PacketReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let rest = ready!(self.as_mut().poll_fill_buf(cx))?;
        let len = rest.len().min(bytes.len());
        bytes[..len].copy_from_slice(&rest[..len]);
        self.consume(len);
        Poll::Ready(Ok(len))
    }
}

impl AsyncBufRead for PacketReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let Self { rx, rest } = self.get_mut();
        while rest.is_empty() {
            match ready!(Pin::new(&mut *rx).poll_next(cx)) {
                Some(packet) => *rest = packet?,
                None => return Poll::Ready(end(rx).map(|()| &[][..])),
            }
        }
        Poll::Ready(Ok(rest))
    }

    /// # Panics
    /// If `len` is more than the bytes that `poll_fill_buf` returned.
    fn consume(mut self: Pin<&mut Self>, len: usize) {
        self.rest.advance(len);
    }
}

impl fmt::Debug for PacketReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rx.channel().describe("PacketReader", f)
    }
}

/// Returns what the end of the packets means to a reader: an error unless everything has come.
fn end(rx: &Receiver) -> io::Result<()> {
    match rx.finished() {
        Some(Err(reason)) => Err(ShmError::Closed { reason, sent: 0 }.into()),
        Some(Ok(())) | None => Ok(()),
    }
}
