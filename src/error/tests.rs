//! Tests of what the errors say, and of what becomes of them.

use bytes::Bytes;

use super::*;

#[test]
fn errors_are_small() {
    assert!(size_of::<ShmError>() <= 40, "{} bytes", size_of::<ShmError>());
    assert!(size_of::<TrySendError>() <= 64);
}

#[test]
fn try_errors_become_shm_errors_and_io_errors() {
    fn kinds<E: Into<ShmError> + Into<io::Error>>(
        error: impl Fn() -> E,
    ) -> (ShmError, io::ErrorKind) {
        let (shm, io): (ShmError, io::Error) = (error().into(), error().into());
        (shm, io.kind())
    }
    use io::ErrorKind as Kind;
    let packet = || Bytes::from_static(b"packet");
    let died = CloseReason::PeerDied;
    for (shm, io) in [
        kinds(|| TrySendError::Full(packet())),
        kinds(|| TryReserveError::Full),
        kinds(|| TryRecvError::Empty),
    ] {
        assert!(matches!(shm, ShmError::WouldBlock), "{shm:?}");
        assert_eq!(io, Kind::WouldBlock);
    }
    for (shm, io) in [
        kinds(|| TrySendError::Closed(packet(), died)),
        kinds(|| TryReserveError::Closed(died)),
        kinds(|| TryRecvError::Closed(died)),
        kinds(|| RecvTimeoutError::Closed(died)),
    ] {
        let ShmError::Closed { reason, sent: 0 } = shm else { panic!("{shm:?}") };
        assert_eq!((reason, io), (died, Kind::ConnectionReset));
    }
    for (shm, io) in
        [kinds(|| TrySendError::TooLarge(packet(), 3)), kinds(|| TryReserveError::TooLarge(6, 3))]
    {
        assert!(matches!(shm, ShmError::PacketTooLarge { len: 6, max: 3 }), "{shm:?}");
        assert_eq!(io, Kind::InvalidInput);
    }
    let (shm, io) = kinds(|| RecvTimeoutError::Timeout);
    assert!(matches!(shm, ShmError::TimedOut { sent: 0 }), "{shm:?}");
    assert_eq!(io, Kind::TimedOut);
}

#[test]
fn no_error_prints_a_payload() {
    let secret = || Bytes::from_static(b"secret");
    for error in [
        TrySendError::Full(secret()),
        TrySendError::Closed(secret(), CloseReason::Peer),
        TrySendError::TooLarge(secret(), 3),
    ] {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(error.into_inner(), "secret");
    }
}

#[test]
fn io_errors_keep_the_kind_and_the_source() {
    let error = ShmError::io("open")(io::Error::from(io::ErrorKind::NotADirectory));
    assert_eq!(error.to_string(), "open failed");
    let error = io::Error::from(error);
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    let closed = ShmError::Closed { reason: CloseReason::PeerDied, sent: 3 };
    assert_eq!(closed.to_string(), "closed (the peer died) after 3 packets were sent");
    assert_eq!(io::Error::from(closed).kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn an_error_tells_what_applies_and_no_more() {
    let timed_out = |sent| ShmError::TimedOut { sent }.to_string();
    // From a connect, or from a single send.
    assert_eq!(timed_out(0), "timed out");
    assert_eq!(timed_out(1), "timed out after 1 packet was sent");
    assert_eq!(timed_out(7), "timed out after 7 packets were sent");
    let closed = |reason, sent| ShmError::Closed { reason, sent }.to_string();
    assert_eq!(closed(CloseReason::Peer, 0), "closed by the peer");
    assert_eq!(closed(CloseReason::Local, 0), "closed by this side");
    assert_eq!(closed(CloseReason::Peer, 2), "closed by the peer after 2 packets were sent");
    assert_eq!(closed(CloseReason::Cancelled, 0), "closed (cancelled)");
}

#[test]
fn an_io_error_of_a_file_names_it_once() {
    let path = Path::new("/run/wakering");
    let kernels = io::Error::from(rustix::io::Errno::ROFS);
    let text = format!("/run/wakering: {kernels}");
    let error = ShmError::io_at("making the socket directory", path, kernels);
    assert_eq!(error.to_string(), "making the socket directory failed");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), text);
    assert!(source.source().is_none(), "a chain of sources would tell it twice");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_denial_tells_its_cause_and_where() {
    for (cause, text) in [
        (DenialCause::FileSystem, "the file system does not permit it"),
        (
            DenialCause::DirectoryOwner { uid: 7 },
            "the directory belongs to uid 7, which is not trusted",
        ),
        (
            DenialCause::DirectoryWritable { mode: 0o777 },
            "the directory has mode 0777, so that others may write to it",
        ),
        (DenialCause::EngineUser { uid: 7 }, "the engine runs as uid 7, which is not trusted"),
        (DenialCause::Engine, "the engine does not let this user in"),
    ] {
        let error = ShmError::PermissionDenied { cause, path: Path::new("/x/a.sock").into() };
        assert_eq!(error.to_string(), format!("permission denied at /x/a.sock: {text}"));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
    }
}
