//! Events for the crate `tracing`. Without the feature of that name every function here is empty.
//!
//! A subscriber is foreign code. If it panics, the panic is caught: an end that is under way must
//! still reach the peer. No event is made in a forked child for its parent's channels, because the
//! subscriber may wait there for a lock that no thread will release.

#![cfg_attr(
    not(feature = "tracing"),
    allow(unused_variables, dead_code, reason = "for events alone")
)]

use std::fmt::Display;
use std::path::Path;

use crate::error::ShmError;

/// Makes an event of this level.
#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $($event:tt)+) => {{
        let event = || tracing::event!(target: "wakering", tracing::Level::$level, $($event)+);
        crate::sys::shield::shielded(event);
    }};
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($($event:tt)+) => {
        ()
    };
}

/// Reports that a driver was made.
pub(crate) fn driver(run: &'static str, backend: impl Display) {
    event!(DEBUG, run, %backend, "made a driver");
}

/// Reports that a driver that could have had io_uring gets epoll instead.
pub(crate) fn fallback(reason: &str) {
    event!(INFO, backend = "epoll", reason, "fell back to epoll");
}

/// Reports that an engine has refused an application.
pub(crate) fn refused(path: &Path, pid: Option<i32>, uid: Option<u32>, cause: &str) {
    let path = path.display();
    event!(WARN, side = "engine", %path, peer_pid = pid, peer_uid = uid, cause, "refused");
}

/// Reports that an application has left an engine, or was disconnected, before it was connected.
pub(crate) fn half_done(path: &Path) {
    let path = path.display();
    event!(DEBUG, side = "engine", %path, "a client hung up early, or took too long");
}

/// Reports that an application could not connect to the engine at `path`.
pub(crate) fn not_connected(path: &Path, error: &ShmError) {
    let path = path.display();
    match error {
        ShmError::PermissionDenied { .. } | ShmError::Busy | ShmError::VersionMismatch { .. } => {
            event!(WARN, side = "application", %path, cause = %error, "refused");
        }
        _ => event!(DEBUG, side = "application", %path, cause = %error, "did not connect"),
    }
}

/// The path of the socket through which a channel was made, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Place {
    #[cfg(feature = "tracing")]
    path: Option<Box<Path>>,
}

impl Place {
    pub(crate) fn of(path: &Path) -> Self {
        Self {
            #[cfg(feature = "tracing")]
            path: Some(path.into()),
        }
    }
}

pub(crate) use told::Told;

#[cfg(not(feature = "tracing"))]
mod told {
    use super::Place;
    use crate::error::{CloseReason, Violation};

    /// Tells nothing.
    #[derive(Debug, Default)]
    pub(crate) struct Told {}

    impl Told {
        #[inline]
        pub(crate) fn connected(&self, side: &'static str, place: &Place, pid: i32, uid: u32) {}

        #[inline]
        pub(crate) fn ends(&self, tx: Option<CloseReason>, rx: Option<CloseReason>) {}

        #[inline]
        pub(crate) fn violated(&self, rule: &Violation) {}
    }
}

#[cfg(feature = "tracing")]
mod told {
    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, Ordering, fence};

    use super::Place;
    use crate::error::{CloseReason, Violation};

    const TX: u8 = 1;
    const RX: u8 = 2;
    const RULE: u8 = 4;

    /// What was reported of a channel.
    #[derive(Debug, Default)]
    pub(crate) struct Told {
        peer: OnceLock<Peer>,
        /// The directions whose end was reported, and whether the broken rule was.
        reported: AtomicU8,
    }

    #[derive(Debug)]
    struct Peer {
        side: &'static str,
        path: Option<Box<Path>>,
        pid: i32,
        uid: u32,
    }

    /// Makes an event that names the channel's peer, which may be unknown.
    macro_rules! event_of {
        ($peer:expr, $level:ident, $($event:tt)+) => {{
            let peer: Option<&Peer> = $peer;
            let path = peer.and_then(|peer| peer.path.as_deref()).map(Path::display);
            event!(
                $level,
                side = peer.map(|peer| peer.side),
                path = path.as_ref().map(tracing::field::display),
                peer_pid = peer.map(|peer| peer.pid),
                peer_uid = peer.map(|peer| peer.uid),
                $($event)+
            );
        }};
    }

    impl Told {
        /// Reports that the peer is there, once. The caller then reports what came before.
        pub(crate) fn connected(&self, side: &'static str, place: &Place, pid: i32, uid: u32) {
            let peer = Peer { side, path: place.path.clone(), pid, uid };
            if self.peer.set(peer).is_ok() {
                event_of!(self.peer.get(), DEBUG, "connected");
            }
            // ORDERING: pairs with the fence in `ends` and `violated`: either that call finds the
            // peer, or the caller finds the end or the violation.
            fence(Ordering::SeqCst);
        }

        /// Reports why sending and receiving have ended, if they have, each once. Does nothing
        /// before the peer was there: nobody could be cut off.
        pub(crate) fn ends(&self, tx: Option<CloseReason>, rx: Option<CloseReason>) {
            // ORDERING: see `connected`.
            fence(Ordering::SeqCst);
            let Some(peer) = self.peer.get() else { return };
            for (bit, direction, reason) in [(TX, "sending", tx), (RX, "receiving", rx)] {
                let Some(reason) = reason.filter(|reason| *reason != CloseReason::Forked) else {
                    continue;
                };
                if self.is_first(bit) {
                    ended(peer, direction, reason);
                }
            }
        }

        /// Reports which rule the peer broke, once. Does nothing before the peer was there, like
        /// `ends`: a call may find the violation while the driver's thread makes the connection.
        pub(crate) fn violated(&self, rule: &Violation) {
            // ORDERING: see `connected`.
            fence(Ordering::SeqCst);
            let Some(peer) = self.peer.get() else { return };
            if self.is_first(RULE) {
                event_of!(Some(peer), WARN, %rule, "the peer broke the protocol");
            }
        }

        fn is_first(&self, bit: u8) -> bool {
            // ORDERING: Relaxed; it elects the thread that reports.
            self.reported.fetch_or(bit, Ordering::Relaxed) & bit == 0
        }
    }

    fn ended(peer: &Peer, direction: &'static str, reason: CloseReason) {
        match reason {
            CloseReason::Local | CloseReason::Peer | CloseReason::Cancelled => {
                event_of!(Some(peer), DEBUG, direction, %reason, "ended");
            }
            _ => event_of!(Some(peer), WARN, direction, %reason, "ended"),
        }
    }
}
