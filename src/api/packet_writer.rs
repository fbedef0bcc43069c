//! A sender as a stream of bytes to write.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use futures::io::AsyncWrite;
use futures::sink::Sink;

use crate::api::sender::Sender;
use crate::error::{ShmError, TryReserveError};

/// An `AsyncWrite` over a [`Sender`]; made by
/// [`Sender::into_async_write`](crate::Sender::into_async_write).
///
/// Each write becomes one packet, of at most [`max_packet`](Sender::max_packet) bytes: of a longer
/// buffer, a write takes that many, and `write_all` continues with the rest. The peer gets the
/// bytes in order, but must not rely on where packets begin. For many small writes, put a
/// `futures::io::BufWriter` around it.
///
/// A write that finds no room is accepted and held back, one at a time. Then the next write, a
/// flush and a close wait until it is sent, without a deadline. A packet that is not held back
/// needs no flush.
///
/// # How it ends
///
/// `close` is a half-close: the peer reads everything, then the end of the stream. Dropping the
/// writer ends the direction as dropping its [`Sender`] does, which is an orderly end too: call
/// [`cancel_on_drop(true)`](Sender::cancel_on_drop) on the sender before, so that the peer takes no
/// partial stream for a complete one.
///
/// # Errors
///
/// Once the channel has ended or the peer no longer receives, each write fails with an
/// [`io::Error`] that contains a [`ShmError::Closed`]. A flush or a close does if a packet is held
/// back.
///
/// # Examples
/// ```
/// # use wakering::{SpscFace, SpscHandle};
/// use futures::{AsyncReadExt, AsyncWriteExt};
///
/// let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair()?;
/// let handle = SpscHandle::from_fd(descriptor)?;
/// let mut writer = face.into_split().0.into_async_write();
/// let mut reader = handle.into_split().1.into_async_read();
/// let text = "longer than a packet".repeat(1000);
/// let mut read = String::new();
/// let writing = async {
///     writer.write_all(text.as_bytes()).await?;
///     writer.close().await
/// };
/// pollster::block_on(async { futures::try_join!(writing, reader.read_to_string(&mut read)) })?;
/// assert_eq!(read, text);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PacketWriter {
    tx: Sender,
}

impl PacketWriter {
    pub(crate) fn new(tx: Sender) -> Self {
        Self { tx }
    }

    /// Returns the sender. A packet that is held back stays with it.
    pub fn into_inner(self) -> Sender {
        self.tx
    }

    /// Makes a packet of the bytes. The sender holds no other back.
    fn send(&mut self, bytes: &[u8]) -> Result<(), ShmError> {
        match self.tx.try_reserve(bytes.len()) {
            Ok(mut grant) => {
                grant.put_slice(bytes);
                grant.commit()
            }
            // To be held back.
            Err(TryReserveError::Full) => {
                Pin::new(&mut self.tx).start_send(Bytes::copy_from_slice(bytes))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl AsyncWrite for PacketWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(Pin::new(&mut self.tx).poll_ready(cx))?;
        let packet = &bytes[..bytes.len().min(self.tx.max_packet())];
        self.send(packet)?;
        Poll::Ready(Ok(packet.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(ready!(Pin::new(&mut self.tx).poll_flush(cx))?))
    }

    /// Ends the direction, after what is held back is sent.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(ready!(Pin::new(&mut self.tx).poll_close(cx))?))
    }
}

impl fmt::Debug for PacketWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tx.channel().describe("PacketWriter", f)
    }
}
