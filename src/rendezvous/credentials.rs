//! Who is at the other end of a socket, and who is allowed to be.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
// Not the crate's own types: loom's `Arc` cannot hold a `dyn`, and no model uses this module.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::shield::shielded;
use crate::sys::sockopt::{self, Ucred};

/// Who the other process was when the connection was made, as the kernel reports it.
///
/// For the engine that is the process that called `connect`, for the application the process that
/// bound the socket. They may have passed the socket on since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// Process id, as seen from our own PID namespace; 0 if the process has none there. The process
    /// may be gone by now and its id may be another process's, so use it for logs only.
    pub pid: i32,
    /// Effective user id, as seen from our own user namespace.
    pub uid: u32,
    /// Effective group id, as seen from our own user namespace.
    pub gid: u32,
}

impl PeerCredentials {
    /// Asks the kernel (`SO_PEERCRED`).
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let Ucred { pid, uid, gid } = sockopt::peer_credentials(socket)?;
        Ok(Self { pid, uid, gid })
    }
}

/// Our own effective user, and whether that number identifies one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Us {
    uid: u32,
    overflow: u32,
}

impl Us {
    pub(crate) fn now() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), overflow: overflow_uid() }
    }

    /// Whether `uid` is certainly our own.
    ///
    /// The kernel shows every user that has no number in our namespace as the overflow uid. If that
    /// is our number too, equality proves nothing.
    pub(crate) fn is(self, uid: u32) -> bool {
        uid == self.uid && uid != self.overflow
    }

    /// Whether `uid` is our own or root, which could read our memory anyway. This is the rule for
    /// directories and peers unless the builder sets another one.
    pub(crate) fn is_or_root(self, uid: u32) -> bool {
        uid == 0 || self.is(uid)
    }
}

/// Returns the number that the kernel shows for users without one. It does not change while we run.
fn overflow_uid() -> u32 {
    /// The number, unless an administrator has changed it.
    const USUAL: u32 = 65534;
    /// Not read yet. This is not a `OnceLock`, because a forked child would wait for a thread of
    /// the parent's that was filling it.
    const UNKNOWN: u64 = u64::MAX;
    static OVERFLOW: AtomicU64 = AtomicU64::new(UNKNOWN);
    // ORDERING: Relaxed; the number publishes nothing, and all threads find the same one.
    if let Ok(overflow) = u32::try_from(OVERFLOW.load(Ordering::Relaxed)) {
        return overflow;
    }
    match std::fs::read_to_string("/proc/sys/kernel/overflowuid") {
        Ok(text) => {
            let overflow = text.trim().parse().unwrap_or(USUAL);
            OVERFLOW.store(overflow.into(), Ordering::Relaxed);
            overflow
        }
        // There may have been no free descriptor; the next call reads it again.
        Err(_) => USUAL,
    }
}

/// A caller's predicate over the peer's credentials, which replaces the uid rule.
#[derive(Clone)]
pub(crate) struct Allow(Arc<dyn Fn(&PeerCredentials) -> bool + Send + Sync>);

impl Allow {
    pub(crate) fn new(
        predicate: impl Fn(&PeerCredentials) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(predicate))
    }

    /// Returns what the predicate says; a panic in it refuses.
    fn accepts(&self, peer: &PeerCredentials) -> bool {
        let mut is_accepted = false;
        shielded(|| is_accepted = (self.0)(peer));
        is_accepted
    }
}

impl fmt::Debug for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Allow(..)")
    }
}

/// Whether `peer` is allowed: by `allow` if there is one, otherwise by the uid rule.
pub(crate) fn accepts(allow: Option<&Allow>, peer: &PeerCredentials) -> bool {
    match allow {
        Some(allow) => allow.accepts(peer),
        None => Us::now().is_or_root(peer.uid),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn peer(uid: u32) -> PeerCredentials {
        PeerCredentials { pid: 1, uid, gid: 7 }
    }

    #[test]
    fn the_kernel_knows_who_made_a_pair() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = PeerCredentials::of(one.as_fd()).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert!(accepts(None, &peer));
    }

    #[test]
    fn equal_overflow_uids_prove_nothing() {
        let nobody = Us { uid: 65534, overflow: 65534 };
        assert!(!nobody.is(65534) && !nobody.is_or_root(65534));
        assert!(nobody.is_or_root(0));
        let somebody = Us { uid: 1000, overflow: 65534 };
        assert!(somebody.is(1000) && !somebody.is(0) && somebody.is_or_root(0));
        assert!(!somebody.is_or_root(65534));
    }

    #[test]
    fn a_predicate_replaces_the_rule_and_a_panic_refuses() {
        let allow =
            Allow::new(|peer| if peer.uid == 13 { panic!("unlucky") } else { peer.uid > 9 });
        assert!(accepts(Some(&allow), &peer(10)));
        assert!(!accepts(Some(&allow), &peer(0)));
        assert!(!accepts(Some(&allow), &peer(13)));
        assert_eq!(format!("{allow:?}"), "Allow(..)");
    }
}
