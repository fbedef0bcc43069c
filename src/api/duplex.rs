//! Both halves of an end in one value: a sink and a stream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::sink::Sink;
use futures::stream::{FusedStream, Stream};

use super::end_calls::end_calls;
use crate::api::receiver::Receiver;
use crate::api::sender::Sender;
use crate::channel::Channel;
use crate::error::{CloseReason, ShmError};
use crate::sync::Arc;

/// Both directions of an [`Endpoint`](crate::Endpoint) in one value, which is a `Sink<Bytes>` and a
/// `Stream` of packets: the *transport* that frameworks for remote procedure calls take.
///
/// Made by [`Endpoint::into_duplex`](crate::Endpoint::into_duplex). A framework that wants messages
/// of its own type takes it through `SinkExt::with` and `StreamExt::map`. For all other calls
/// (batches, packets in place, blocking calls), take it apart by [`into_split`](Self::into_split).
///
/// Each direction works as that half alone does: see [`Sender`] for the sink, which has no
/// deadline, and [`Receiver`] for the stream, which yields one `Err` before an end that may have
/// lost packets.
///
/// # How it ends
///
/// [`SinkExt::close`](futures::SinkExt::close) is a half-close: the peer receives everything, then
/// the end, and can still send. Dropping the value ends both directions at once, in order. If it
/// holds back a packet for which there is no room, or its thread panics, the drop cancels the
/// channel. [`cancel_on_drop`](Self::cancel_on_drop) makes every drop without a close do so.
///
/// # Examples
/// ```
/// # use wakering::{SpscFace, SpscHandle};
/// use bytes::Bytes;
/// use futures::{Sink, SinkExt, Stream, StreamExt, TryStreamExt};
///
/// /// Knows nothing of this crate.
/// async fn serve<T, E>(mut transport: T) -> Result<(), E>
/// where
///     T: Stream<Item = Result<Bytes, E>> + Sink<Bytes, Error = E> + Unpin,
/// {
///     while let Some(request) = transport.try_next().await? {
///         transport.send(request.to_ascii_uppercase().into()).await?;
///     }
///     transport.close().await
/// }
///
/// let (face, descriptor) = SpscFace::pair()?;
/// let mut client = SpscHandle::from_fd(descriptor)?.into_duplex();
/// let client = async {
///     client.send("a request".into()).await?;
///     assert_eq!(client.next().await.unwrap()?, "A REQUEST");
///     client.close().await?;
///     assert!(client.next().await.is_none());
///     Ok(())
/// };
/// pollster::block_on(async { futures::try_join!(client, serve(face.into_duplex())) })?;
/// # Ok::<(), wakering::ShmError>(())
/// ```
pub struct Duplex {
    // In this order: the drop of the first ends both directions.
    tx: Sender,
    rx: Receiver,
}

impl Duplex {
    /// Puts the two halves of one end together.
    ///
    /// # Errors
    /// [`ReuniteError`], which contains both halves, if they are not of the same end.
    ///
    /// # Examples
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// use wakering::Duplex;
    ///
    /// let (face, descriptor) = SpscFace::pair()?;
    /// let handle = SpscHandle::from_fd(descriptor)?;
    /// let ((face_tx, face_rx), (handle_tx, handle_rx)) = (face.into_split(), handle.into_split());
    /// let (face_tx, handle_rx) = Duplex::reunite(face_tx, handle_rx).unwrap_err().into_inner();
    /// assert!(Duplex::reunite(face_tx, face_rx).is_ok());
    /// assert!(Duplex::reunite(handle_tx, handle_rx).is_ok());
    /// # Ok::<(), wakering::ShmError>(())
    /// ```
    pub fn reunite(tx: Sender, rx: Receiver) -> Result<Self, ReuniteError> {
        if Arc::ptr_eq(tx.channel(), rx.channel()) {
            Ok(Self::of_one_end(tx, rx))
        } else {
            Err(ReuniteError { halves: Box::new((tx, rx)) })
        }
    }

    pub(super) fn of_one_end(tx: Sender, rx: Receiver) -> Self {
        tx.channel().set_joined(true);
        Self { tx, rx }
    }

    /// Takes it apart. A packet that is held back stays with the [`Sender`]. From then on each half
    /// ends its own direction when it is dropped.
    pub fn into_split(self) -> (Sender, Receiver) {
        let Self { tx, rx } = self;
        tx.channel().set_joined(false);
        (tx, rx)
    }

    fn channel(&self) -> &Arc<Channel> {
        self.tx.channel()
    }

    /// Sets whether dropping this without [`SinkExt::close`](futures::SinkExt::close) cancels the
    /// channel: see [`Endpoint::cancel_on_drop`](crate::Endpoint::cancel_on_drop).
    pub fn cancel_on_drop(&self, cancel: bool) {
        self.channel().cancel_on_drop(cancel);
    }

    /// Whether the channel is over: see [`Endpoint::is_closed`](crate::Endpoint::is_closed).
    pub fn is_closed(&self) -> bool {
        self.channel().close_reason_so_far().is_some()
    }

    /// Returns why the channel is over: see
    /// [`Endpoint::close_reason`](crate::Endpoint::close_reason).
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.channel().close_reason()
    }

    /// Whether everything that the peer sent has been received: see
    /// [`Endpoint::finished`](crate::Endpoint::finished).
    pub fn finished(&self) -> Option<Result<(), CloseReason>> {
        self.channel().finished()
    }

    end_calls! {
        /// Cuts the channel off: see [`Endpoint::cancel`](crate::Endpoint::cancel).
        cancel
        /// Returns what this end has done so far.
        stats
    }
}

impl Sink<Bytes> for Duplex {
    type Error = ShmError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        Pin::new(&mut self.tx).poll_ready(cx)
    }

    /// # Panics
    /// If a packet is still held back, because `poll_ready` was not called.
    fn start_send(mut self: Pin<&mut Self>, packet: Bytes) -> Result<(), ShmError> {
        Pin::new(&mut self.tx).start_send(packet)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        Pin::new(&mut self.tx).poll_flush(cx)
    }

    /// Ends the direction to the peer. The stream continues.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ShmError>> {
        Pin::new(&mut self.tx).poll_close(cx)
    }
}

impl Stream for Duplex {
    type Item = Result<Bytes, ShmError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.rx).poll_next(cx)
    }
}

impl FusedStream for Duplex {
    fn is_terminated(&self) -> bool {
        self.rx.is_terminated()
    }
}

impl fmt::Debug for Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel().describe("Duplex", f)
    }
}

/// The halves given to [`Duplex::reunite`] are not of the same end; contains both.
#[derive(Debug, thiserror::Error)]
#[error("the sender and the receiver are not halves of the same end")]
pub struct ReuniteError {
    halves: Box<(Sender, Receiver)>,
}

impl ReuniteError {
    /// Returns the halves.
    pub fn into_inner(self) -> (Sender, Receiver) {
        *self.halves
    }
}
