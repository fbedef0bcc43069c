//! Which types are `Send`, `Sync`, `Unpin` and `Debug`, and what `Debug` prints.

use std::fmt::Debug;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures::io::{AsyncBufRead, AsyncRead, AsyncWrite};
use futures::sink::Sink;
use futures::stream::{FusedStream, Stream};
use wakering::{
    Backend, Batch, Canceller, CloseReason, Driver, DriverBuilder, Duplex, Endpoint, FaceBuilder,
    Grant, HandleBuilder, ListenerStats, Packet, PacketReader, PacketWriter, PeerCredentials,
    PolledDriver, Receiver, RecvTimeoutError, ReuniteError, Sender, ShmError, SpscFace, SpscHandle,
    SpscListener, Stats, TryRecvError, TryReserveError, TrySendError, Unparker, Violation,
};

fn thing<T: Send + Sync + Unpin + Debug + 'static>() {}
fn borrow<T: Send + Sync + Unpin + Debug>() {}
fn error<T: std::error::Error + Send + Sync + Unpin + 'static>() {}
fn value<T: Copy + Eq + Debug>() {}
fn future<F: Future + Send>(_: &F) {}

#[test]
fn every_type_can_be_sent_shared_moved_and_shown() {
    thing::<SpscFace>();
    thing::<SpscHandle>();
    thing::<SpscListener>();
    thing::<Endpoint>();
    thing::<Sender>();
    thing::<Receiver>();
    thing::<Duplex>();
    thing::<PacketReader>();
    thing::<PacketWriter>();
    borrow::<Batch<'_>>();
    borrow::<Grant<'_>>();
    borrow::<Packet<'_>>();
    thing::<Canceller>();
    thing::<Driver>();
    thing::<DriverBuilder>();
    thing::<PolledDriver>();
    thing::<Unparker>();
    thing::<FaceBuilder>();
    thing::<HandleBuilder>();
    thing::<ShmError>();
    thing::<TrySendError>();
    value::<Backend>();
    value::<CloseReason>();
    value::<Violation>();
    value::<PeerCredentials>();
    value::<Stats>();
    value::<ListenerStats>();
    value::<TryRecvError>();
    value::<TryReserveError>();
    value::<RecvTimeoutError>();
}

#[test]
fn all_errors_are_errors_and_small() {
    error::<ShmError>();
    error::<TrySendError>();
    error::<TryRecvError>();
    error::<TryReserveError>();
    error::<RecvTimeoutError>();
    error::<ReuniteError>();
    assert!(size_of::<ShmError>() <= 40);
    assert!(size_of::<CloseReason>() <= 24);
    let error = ShmError::TimedOut { sent: 3 };
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn the_halves_are_a_sink_and_a_stream() {
    fn sink<S: Sink<Bytes, Error = ShmError> + Unpin>() {}
    fn stream<S: Stream<Item = Result<Bytes, ShmError>> + FusedStream + Unpin>() {}
    sink::<Sender>();
    stream::<Receiver>();
    sink::<Duplex>();
    stream::<Duplex>();
    fn listener<S: Stream<Item = Result<SpscFace, ShmError>> + FusedStream + Unpin>() {}
    listener::<SpscListener>();
}

#[test]
fn the_byte_streams_are_those_of_futures() {
    fn reads<R: AsyncRead + AsyncBufRead + Unpin>() {}
    fn writes<W: AsyncWrite + Unpin>() {}
    reads::<PacketReader>();
    writes::<PacketWriter>();
}

#[test]
fn every_future_can_be_sent() {
    let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    let (packet, mut packets) = (Bytes::new(), Vec::new());
    let batch = [packet.clone()];
    future(&face.send(packet.clone()));
    future(&face.send_timeout(packet.clone(), Duration::ZERO));
    future(&face.send_batch(&batch));
    future(&face.recv());
    future(&face.recv_batch(&mut packets, 1));
    future(&face.closed());
    future(&face.connected());
    future(&face.canceller().cancel_on(face.closed()));
    future(&SpscHandle::connect_async("nobody"));
    let builder = SpscHandle::builder().connect_timeout(Duration::from_millis(1));
    future(&builder.connect_async("nobody"));
    let (mut tx, mut rx) = Endpoint::from(handle).into_split();
    future(&tx.send(packet.clone()));
    future(&tx.send_timeout(packet.clone(), Duration::ZERO));
    future(&tx.send_batch(&batch));
    future(&tx.closed());
    future(&tx.reserve(1));
    future(&tx.batch().reserve(1));
    future(&rx.recv());
    future(&rx.recv_ref());
    future(&rx.recv_batch(&mut packets, 1));
    future(&rx.closed());
    fn accept(listener: &SpscListener) {
        future(&listener.accept());
    }
    let _ = accept;
}

#[test]
fn nothing_prints_a_payload() {
    let (face, descriptor) = SpscFace::builder().ring_bytes(4096).pair().unwrap();
    let handle = SpscHandle::from_fd(descriptor).unwrap();
    let secret = Bytes::from_static(b"secret");
    face.try_send(secret.clone()).unwrap();
    let shown = format!("{face:?} {handle:?} {:?}", face.stats());
    let (mut tx, mut rx) = Endpoint::from(handle).into_split();
    let shown = format!("{shown} {:?}", rx.try_recv_ref().unwrap());
    let mut grant = tx.try_reserve(secret.len()).unwrap();
    grant.put_slice(&secret);
    let shown = format!("{shown} {grant:?}");
    let shown = format!("{shown} {tx:?} {rx:?} {:?}", face.canceller());
    let refused = rx_refusal(&face, secret);
    let shown = format!("{shown} {refused} {refused:?}");
    assert!(!shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
}

fn rx_refusal(end: &Endpoint, secret: Bytes) -> TrySendError {
    loop {
        if let Err(refusal) = end.try_send(secret.clone()) {
            return refusal;
        }
    }
}

#[test]
fn a_drive_can_go_from_thread_to_thread() {
    let driver = Driver::builder().polled().unwrap();
    let readable = || std::future::pending::<std::io::Result<()>>();
    future(&driver.drive(readable, std::future::pending::<()>()));
}
