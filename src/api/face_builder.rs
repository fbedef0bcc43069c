//! Settings and constructors of faces and listeners.

use std::os::fd::{AsFd, OwnedFd};

use super::face::SpscFace;
use super::face_config::FaceConfig;
use super::listener::SpscListener;
use super::options::{CommonOptions, common_options};
use crate::error::ShmError;
use crate::rendezvous::credentials::{Allow, PeerCredentials};
use crate::rendezvous::{self, Acceptor, ListenerSocket, Name};
use crate::shm::layout::Geometry;
use crate::shm::region::Region;

/// Settings of a face; created by [`SpscFace::builder`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until its last call"]
pub struct FaceBuilder {
    max_packet: Option<usize>,
    ring_bytes: Option<usize>,
    prefault: bool,
    mode: Option<u32>,
    allow: Option<Allow>,
    common: CommonOptions,
}

impl FaceBuilder {
    /// Sets the length of the longest packet in bytes: 1 to `ring_bytes / 4 - 8`. If only this is
    /// set, the ring is as large as this requires, at least 4 MiB.
    ///
    /// The default, 1 MiB less 8 bytes, is what fits into a ring of 4 MiB: each packet has a header
    /// of 8 bytes. For packets of exactly 1 MiB, set `1 << 20`; the rings then have 8 MiB. Memory
    /// is taken only as it is used, so a larger ring costs address space.
    ///
    /// ```
    /// # use wakering::{SpscFace, SpscHandle};
    /// let (face, descriptor) = SpscFace::builder().max_packet(1 << 20).pair()?;
    /// let handle = SpscHandle::from_fd(descriptor)?;
    /// assert_eq!((face.max_packet(), face.ring_bytes()), (1 << 20, 8 << 20));
    /// face.try_send(vec![7; 1 << 20].into())?;
    /// assert_eq!(handle.try_recv()?.len(), 1 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_packet(mut self, bytes: usize) -> Self {
        self.max_packet = Some(bytes);
        self
    }

    /// Sets the size of each direction's ring in bytes: a power of two from 4 KiB to 1 GiB, or to
    /// 512 MiB on a 32-bit target. If only this is set, `max_packet` is as large as the ring
    /// allows.
    ///
    /// A larger ring lets a sender get further ahead of a late receiver. It is not slower: as long
    /// as the receiver keeps up, both use only the first MiB, which fits into a core's own cache.
    ///
    /// Memory is taken a little before its first use: ahead of use, at most as much as is in use
    /// already, and at most 128 KiB. An idle channel takes a few pages whatever its size.
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.ring_bytes = Some(bytes);
        self
    }

    /// Takes all memory at creation (`false` unless set). Otherwise, a packet sometimes waits for
    /// memory during the first pass through the ring.
    ///
    /// Set this where `vm.overcommit_memory` is 2. There, a page that is touched when the commit
    /// limit is reached kills the process by SIGBUS. With this, creation fails instead.
    pub fn prefault(mut self, prefault: bool) -> Self {
        self.prefault = prefault;
        self
    }

    /// Sets the permissions of the socket (`0o600` unless set). To let other users in, set
    /// [`allow`](Self::allow) as well, and use a directory that they can reach. Their applications
    /// need an [`allow`](crate::HandleBuilder::allow) too, even those of root.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Decides who may connect, in place of the default rule, which admits our own user and root.
    ///
    /// The predicate runs on the driver's thread and must not block. If it panics, the client is
    /// refused.
    pub fn allow(
        mut self,
        predicate: impl Fn(&PeerCredentials) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.allow = Some(Allow::new(predicate));
        self
    }

    common_options!();

    /// Creates the face and opens it to applications.
    ///
    /// # Errors
    /// - [`InvalidName`](ShmError::InvalidName), [`InvalidConfig`](ShmError::InvalidConfig): the
    ///   name or a setting is not allowed.
    /// - [`NameInUse`](ShmError::NameInUse): another engine serves the name, or a file that is not
    ///   a socket has it. (The socket of an engine that was killed is taken over.)
    /// - [`PermissionDenied`](ShmError::PermissionDenied): the socket's directory belongs to
    ///   another user, others may write to it, or the file system denies access. Contains which of
    ///   these it is ([`DenialCause`](crate::DenialCause)), and the path.
    /// - [`Unsupported`](ShmError::Unsupported): `/proc` is not mounted, or the driver already
    ///   serves as many endpoints as it can.
    /// - [`Closed`](ShmError::Closed): the driver is gone, or this is a forked child of its
    ///   process.
    /// - [`Io`](ShmError::Io): a system call failed, `WAKERING_DIR` is not an absolute path, or
    ///   another process held the directory's lock file for two seconds, which is how long this
    ///   call waits for it (kind `TimedOut`). Dropping a face or a listener does not wait for the
    ///   lock.
    pub fn create(self, name: &str) -> Result<SpscFace, ShmError> {
        let name = Name::new(name)?;
        let config = self.config(name.label())?;
        // Before binding the name: an application that finds the socket also finds a face.
        let (endpoint, file) = config.make()?;
        let acceptor = Acceptor::new(ListenerSocket::bind(&name, self.mode)?, self.allow);
        SpscFace::open(endpoint, file, acceptor, &config.driver)
    }

    /// Serves any number of applications under one name, each with a face that has these settings.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn bind(self, name: &str) -> Result<SpscListener, ShmError> {
        let name = Name::new(name)?;
        let config = self.config(name.label())?;
        // Before binding the name: otherwise an application may find the socket but not be served.
        Region::check_limit(config.geometry)?;
        let acceptor = Acceptor::new(ListenerSocket::bind(&name, self.mode)?, self.allow);
        SpscListener::open(acceptor, config)
    }

    /// Creates a face without a name, and the descriptor of its other end: see [`SpscFace::pair`].
    /// `mode` and `allow` have no effect here.
    ///
    /// # Errors
    /// [`InvalidConfig`](ShmError::InvalidConfig), [`Unsupported`](ShmError::Unsupported),
    /// [`Closed`](ShmError::Closed), [`Io`](ShmError::Io), as [`create`](Self::create).
    pub fn pair(self) -> Result<(SpscFace, OwnedFd), ShmError> {
        let (endpoint, file) = self.config(None)?.make()?;
        let (lifeline, descriptor) = rendezvous::pair(file.as_fd())?;
        endpoint.channel().attach(lifeline)?;
        Ok((SpscFace(endpoint), descriptor))
    }

    fn config(&self, label: Option<&str>) -> Result<FaceConfig, ShmError> {
        Ok(FaceConfig {
            geometry: Geometry::new(self.ring_bytes, self.max_packet)?,
            prefault: self.prefault,
            label: label.map(Box::from),
            options: self.common.end,
            driver: self.common.driver()?.binding().clone(),
        })
    }
}

impl SpscFace {
    /// Creates a face that applications find under `name`, with rings of 4 MiB for packets of up to
    /// 1 MiB less 8 bytes. For longer ones, see [`create_for_mtu`](Self::create_for_mtu).
    ///
    /// A name has 1 to 100 ASCII letters, digits, dots, underscores and hyphens and does not begin
    /// with a dot. Its socket is `<name>.sock` in the first of these directories that applies:
    /// `$WAKERING_DIR`, `$XDG_RUNTIME_DIR/wakering`, `/run/wakering` for root,
    /// `/tmp/wakering-<uid>`. A name that begins with a slash is the path of the socket itself,
    /// whose last part has at most 255 bytes. The directories are absolute paths.
    ///
    /// Both sides must find the socket through the same mount, or through bind mounts of one file
    /// system. Nobody listens on a socket that is seen through another file system, such as FUSE or
    /// an overlay. On a network file system that two hosts mount, each host takes the other's
    /// engine for one that has died. `WAKERING_DIR`, and the directory of a path, must not be a
    /// symbolic link; a directory further up may be.
    ///
    /// Cleaners of temporary directories leave the socket of a living engine alone.
    /// systemd-tmpfiles does so for three reasons: the kernel lists the socket under its path, the
    /// engine holds a shared `flock` on the directory (if it may list it), and a socket with a path
    /// of more than 107 bytes has the sticky bit. There is one exception: `tmpfiles.d` has a line
    /// for the directory itself that gives it an age, and the engine runs in another network
    /// namespace than the cleaner, or sees the directory under another path. In that case, add an
    /// `x` line for the directory.
    ///
    /// # Errors
    /// See [`FaceBuilder::create`].
    pub fn create(name: &str) -> Result<Self, ShmError> {
        Self::builder().create(name)
    }

    /// Like [`create`](Self::create), for packets of up to `mtu` bytes.
    ///
    /// For packets of exactly 1 MiB, which are 8 bytes too long for `create`, use
    /// `create_for_mtu(name, 1 << 20)`.
    ///
    /// # Errors
    /// See [`FaceBuilder::create`].
    pub fn create_for_mtu(name: &str, mtu: usize) -> Result<Self, ShmError> {
        Self::builder().max_packet(mtu).create(name)
    }

    /// Creates a face without a name, and a descriptor from which another process, typically a
    /// child that inherits it, makes the handle by
    /// [`SpscHandle::from_fd`](crate::SpscHandle::from_fd).
    ///
    /// Everything that `from_fd` needs is queued already, so it does not wait, and both ends can
    /// live on one thread, as in a test.
    ///
    /// ```
    /// use wakering::{SpscFace, SpscHandle};
    ///
    /// let (face, descriptor) = SpscFace::pair()?;
    /// let handle = SpscHandle::from_fd(descriptor)?;
    /// handle.send_blocking("hello".into())?;
    /// assert_eq!(face.recv_blocking().unwrap(), "hello");
    /// # Ok::<(), wakering::ShmError>(())
    /// ```
    ///
    /// # Errors
    /// See [`FaceBuilder::pair`].
    pub fn pair() -> Result<(Self, OwnedFd), ShmError> {
        Self::builder().pair()
    }

    /// Returns a builder, to create a face with other settings.
    pub fn builder() -> FaceBuilder {
        FaceBuilder::default()
    }
}

impl SpscListener {
    /// Binds `name` with the default settings; see [`SpscFace::create`] for names.
    ///
    /// # Errors
    /// See [`FaceBuilder::bind`].
    pub fn bind(name: &str) -> Result<Self, ShmError> {
        Self::builder().bind(name)
    }

    /// Returns a builder with the settings of future faces; finish with [`FaceBuilder::bind`].
    pub fn builder() -> FaceBuilder {
        FaceBuilder::default()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::api::handle::SpscHandle;
    use crate::driver::Driver;
    use crate::error::CloseReason;

    /// The application may be faster than the driver that has just answered it.
    #[test]
    fn a_peer_that_has_left_before_the_driver_knows_it_was_connected() {
        let driver = Driver::builder().background().unwrap();
        let config = SpscFace::builder().driver(&driver).config(None).unwrap();
        let (face, file) = config.make().unwrap();
        let (lifeline, theirs) = rendezvous::pair(file.as_fd()).unwrap();
        let mut connected = pin!(face.connected());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(connected.as_mut().poll(&mut cx).is_pending());
        drop(SpscHandle::builder().driver(&driver).from_fd(theirs).unwrap());
        assert!(connected.as_mut().poll(&mut cx).is_pending());
        face.channel().attach(lifeline).unwrap();
        let Poll::Ready(Ok(peer)) = connected.as_mut().poll(&mut cx) else { panic!("no peer") };
        assert_eq!(peer.pid.unsigned_abs(), std::process::id());
        assert_eq!(face.close_reason(), Some(CloseReason::Peer));
    }

    #[test]
    fn a_face_that_ends_before_anybody_came_was_never_connected() {
        let driver = Driver::builder().background().unwrap();
        let (face, _file) =
            SpscFace::builder().driver(&driver).config(None).unwrap().make().unwrap();
        let mut connected = pin!(face.connected());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(connected.as_mut().poll(&mut cx).is_pending());
        face.cancel();
        let ended = connected.as_mut().poll(&mut cx);
        let reason = CloseReason::Cancelled;
        assert!(
            matches!(ended, Poll::Ready(Err(ShmError::Closed { reason: r, .. })) if r == reason)
        );
    }
}
