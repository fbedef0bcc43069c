//! How faces and listeners are made.

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

/// Settings of a face. Built by [`SpscFace::builder`].
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
    /// Longest packet in bytes: 1 to `ring_bytes / 4 - 8`. Set alone, it makes the ring as large as
    /// it has to be, at least 4 MiB.
    pub fn max_packet(mut self, bytes: usize) -> Self {
        self.max_packet = Some(bytes);
        self
    }

    /// Size of the ring of each direction in bytes: a power of two from 4 KiB to 1 GiB, or to 512
    /// MiB on a 32-bit target. Set alone, it makes `max_packet` as large as the ring allows.
    ///
    /// A longer one lets a sender get further ahead of a receiver that is late. It is no slower for
    /// that: as long as the receiver keeps up, the two go round in the first MiB, which a
    /// core's own cache has room for.
    ///
    /// Memory is taken as it is first used, and at most as much again beforehand, or 128 KiB; an
    /// idle channel takes a few pages whatever its size.
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.ring_bytes = Some(bytes);
        self
    }

    /// Takes all memory at creation (`false` unless set). Otherwise a packet has to wait for some
    /// now and then, while its ring is gone round for the first time.
    pub fn prefault(mut self, prefault: bool) -> Self {
        self.prefault = prefault;
        self
    }

    /// Permissions of the socket (`0o600` unless set). To let others in, set [`allow`](Self::allow)
    /// as well, and use a directory that they can reach.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Who may connect, in place of the rule that lets in our own user and root.
    ///
    /// The predicate runs on the driver's thread and must not block. If it panics, it refuses.
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
    ///   a socket has it. (What an engine left that was killed is taken over.)
    /// - [`PermissionDenied`](ShmError::PermissionDenied): the socket's directory belongs to
    ///   somebody else, or others may write to it; or the file system does not let us in. Tells
    ///   which ([`DenialCause`](crate::DenialCause)), and the path.
    /// - [`Unsupported`](ShmError::Unsupported): `/proc` is not mounted, or the driver serves as
    ///   many endpoints as it can.
    /// - [`Io`](ShmError::Io): a system call failed; or somebody else has held the directory's lock
    ///   file for two seconds (of the kind `TimedOut`), for which this call waits. Dropping a face
    ///   or a listener does not wait for it.
    pub fn create(self, name: &str) -> Result<SpscFace, ShmError> {
        let name = Name::new(name)?;
        let config = self.config()?;
        // Before the name: an application that finds the socket finds a face.
        let (endpoint, file) = config.make()?;
        let acceptor = Acceptor::new(ListenerSocket::bind(&name, self.mode)?, self.allow);
        SpscFace::open(endpoint, file, acceptor, &config.driver)
    }

    /// Serves any number of applications under one name, with a face of these settings for each.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn bind(self, name: &str) -> Result<SpscListener, ShmError> {
        let name = Name::new(name)?;
        let config = self.config()?;
        // Before the name: an application that finds the socket could not be served.
        Region::check_limit(config.geometry)?;
        let acceptor = Acceptor::new(ListenerSocket::bind(&name, self.mode)?, self.allow);
        SpscListener::open(acceptor, config)
    }

    /// Creates a face without a name, and the descriptor that is its other end: see
    /// [`SpscFace::pair`]. `mode` and `allow` mean nothing here.
    ///
    /// # Errors
    /// [`InvalidConfig`](ShmError::InvalidConfig), [`Io`](ShmError::Io),
    /// [`Unsupported`](ShmError::Unsupported), as [`create`](Self::create).
    pub fn pair(self) -> Result<(SpscFace, OwnedFd), ShmError> {
        let (endpoint, file) = self.config()?.make()?;
        let (lifeline, descriptor) = rendezvous::pair(file.as_fd())?;
        endpoint.attach(lifeline)?;
        Ok((SpscFace(endpoint), descriptor))
    }

    fn config(&self) -> Result<FaceConfig, ShmError> {
        Ok(FaceConfig {
            geometry: Geometry::new(self.ring_bytes, self.max_packet)?,
            prefault: self.prefault,
            options: self.common.end,
            driver: self.common.driver()?.binding().clone(),
        })
    }
}

impl SpscFace {
    /// Creates a face that applications find under `name`, with rings of 4 MiB for packets of up
    /// to 1 MiB less 8 bytes.
    ///
    /// A name has 1 to 100 ASCII letters, digits, dots, underscores and hyphens and does not begin
    /// with a dot. Its socket is `<name>.sock` in `$WAKERING_DIR`, else in
    /// `$XDG_RUNTIME_DIR/wakering`, else in `/run/wakering` for root or `/tmp/wakering-<uid>`. A
    /// name that begins with a slash is the path of the socket itself, whose last part has at most
    /// 255 bytes.
    ///
    /// Both sides have to find the socket by the same mount, or by bind mounts of one file system:
    /// a socket that is seen through another file system, as FUSE's or an overlay's, is one that
    /// nobody listens on. On a network file system that two hosts mount, each takes the other's
    /// engine for one that has died. `WAKERING_DIR`, and the directory of a path, must not be a
    /// symbolic link; one further up may be.
    ///
    /// Cleaners of temporary directories leave the socket of a living engine alone, as
    /// systemd-tmpfiles does for three reasons: the kernel lists the socket under its path, the
    /// engine holds a shared `flock` on the directory (if it may list it), and a socket with a path
    /// of more than 107 bytes has the sticky bit. One exception is left: a directory with a line of
    /// its own in `tmpfiles.d` that gives it an age, and an engine that runs in another network
    /// namespace than the cleaner, or sees the directory under another path. There, add an `x` line
    /// for the directory.
    ///
    /// # Errors
    /// See [`FaceBuilder::create`].
    pub fn create(name: &str) -> Result<Self, ShmError> {
        Self::builder().create(name)
    }

    /// As [`create`](Self::create), for packets of up to `mtu` bytes.
    ///
    /// # Errors
    /// See [`FaceBuilder::create`].
    pub fn create_for_mtu(name: &str, mtu: usize) -> Result<Self, ShmError> {
        Self::builder().max_packet(mtu).create(name)
    }

    /// Creates a face without a name, and a descriptor from which another process makes the handle
    /// by [`SpscHandle::from_fd`](crate::SpscHandle::from_fd). Typically a child inherits it.
    ///
    /// All that `from_fd` needs is queued already: nobody has to wait for anybody, so both ends can
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

    /// Creates a face with other settings.
    pub fn builder() -> FaceBuilder {
        FaceBuilder::default()
    }
}

impl SpscListener {
    /// Binds `name` with the settings of a builder that was told nothing; see
    /// [`SpscFace::create`] for names.
    ///
    /// # Errors
    /// See [`FaceBuilder::bind`].
    pub fn bind(name: &str) -> Result<Self, ShmError> {
        Self::builder().bind(name)
    }

    /// Settings for the faces to come; ends in [`FaceBuilder::bind`].
    pub fn builder() -> FaceBuilder {
        FaceBuilder::default()
    }
}
