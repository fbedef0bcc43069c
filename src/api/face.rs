//! The engine's end.
#![cfg(not(all(test, loom)))]

use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::endpoint::Endpoint;
use crate::api::listener::SpscListener;
use crate::api::receiver::Receiver;
use crate::api::sender::Sender;
use crate::channel::{Channel, Options};
use crate::driver::{Binding, Driver, Registration, Source};
use crate::error::ShmError;
use crate::rendezvous::credentials::{Allow, PeerCredentials};
use crate::rendezvous::lifeline::Lifeline;
use crate::rendezvous::{self, BoundSocket, Desk, Host, Name, Refusal};
use crate::shm::layout::{Geometry, Side};
use crate::shm::region::Region;
use crate::sys::fork::ProcessLock;

/// The engine's end of a channel, found by its name.
///
/// A face serves one handle in its life: a second one is told `Busy`, and once its peer is gone
/// the face is over. Everything that it can do it has from [`Endpoint`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("wakering-face-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # use std::os::unix::fs::PermissionsExt;
/// # std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
/// use wakering::{SpscFace, SpscHandle};
///
/// # let name = format!("{}/face", directory.display());
/// # let name = name.as_str();
/// let face = SpscFace::builder().max_packet(2048).create(name)?;
/// face.try_send("may be sent before anybody is there".into())?;
///
/// let handle = SpscHandle::connect(name)?;
/// assert_eq!(handle.try_recv()?, "may be sent before anybody is there");
/// # drop((face, handle));
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SpscFace(pub(crate) Endpoint);

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
    /// nobody listens on. `WAKERING_DIR`, and the directory of a path, must not be a symbolic link;
    /// one further up may be.
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

impl SpscFace {
    /// Splits the face into its two halves: see [`Endpoint::into_split`].
    pub fn into_split(self) -> (Sender, Receiver) {
        self.0.into_split()
    }
}

impl Deref for SpscFace {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

impl From<SpscFace> for Endpoint {
    fn from(face: SpscFace) -> Self {
        face.0
    }
}

/// Settings of a face. Built by [`SpscFace::builder`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until its last call"]
pub struct FaceBuilder {
    max_packet: Option<usize>,
    ring_bytes: Option<usize>,
    prefault: bool,
    mode: Option<u32>,
    allow: Option<Allow>,
    options: Options,
    driver: Option<Driver>,
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

    /// How long `send` and `send_batch` wait for room (5 s unless set); `None` is for ever.
    pub fn send_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.options.send_timeout = timeout;
        self
    }

    /// How long a call that finds no packet, or no room, may look again before it sleeps (50 us
    /// unless set; 0 is not at all, and 1 ms the most that is heeded).
    ///
    /// What comes meanwhile costs no system call on either side. Whether it is done depends on
    /// whether it has paid lately; where both sides have one and the same core it never is, nor by
    /// the face of a [`pair`](Self::pair) whose process has but one: that cannot know where its
    /// application runs. The thread serves nobody else while it spins.
    ///
    /// A task whose driver is parked in spins for 2 us at most. The rest is done in
    /// [`park`](crate::Driver::park), where the thread has nothing else to run, for up to eight
    /// channels at once.
    ///
    /// A receiver that has caught up with a sender in full flight (more than three packets a
    /// microsecond) lets 4 us pass before it looks again, or the cap if that is less: so it stays
    /// some distance behind, where both are about twice as fast. So do `try_recv` and
    /// `try_recv_ref`, which never spin otherwise.
    pub fn spin(mut self, cap: Duration) -> Self {
        self.options.spin = cap;
        self
    }

    /// Who does the waiting, in place of the process's own background driver.
    ///
    /// Somebody has to run it: see [`Driver`].
    pub fn driver(mut self, driver: &Driver) -> Self {
        self.driver = Some(driver.clone());
        self
    }

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
        let mould = self.mould()?;
        // Before the name: an application that finds the socket finds a face.
        let (endpoint, file) = mould.cast()?;
        let desk = Desk::new(BoundSocket::bind(&name, self.mode)?, self.allow);
        Reception::open(&endpoint, file, desk, &mould.driver)?;
        Ok(SpscFace(endpoint))
    }

    /// Serves any number of applications under one name, with a face of these settings for each.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn bind(self, name: &str) -> Result<SpscListener, ShmError> {
        let name = Name::new(name)?;
        let mould = self.mould()?;
        // Before the name: an application that finds the socket could not be served.
        Region::check_limit(mould.geometry)?;
        let desk = Desk::new(BoundSocket::bind(&name, self.mode)?, self.allow);
        SpscListener::open(desk, mould)
    }

    /// Creates a face without a name, and the descriptor that is its other end: see
    /// [`SpscFace::pair`]. `mode` and `allow` mean nothing here.
    ///
    /// # Errors
    /// [`InvalidConfig`](ShmError::InvalidConfig), [`Io`](ShmError::Io),
    /// [`Unsupported`](ShmError::Unsupported), as [`create`](Self::create).
    pub fn pair(self) -> Result<(SpscFace, OwnedFd), ShmError> {
        let (endpoint, file) = self.mould()?.cast()?;
        let (lifeline, descriptor) = rendezvous::pair(file.as_fd())?;
        endpoint.attach(lifeline)?;
        Ok((SpscFace(endpoint), descriptor))
    }

    fn mould(&self) -> Result<Mould, ShmError> {
        Ok(Mould {
            geometry: Geometry::new(self.ring_bytes, self.max_packet)?,
            prefault: self.prefault,
            options: self.options,
            driver: self.driver.clone().map_or_else(Driver::global, Ok)?.binding().clone(),
        })
    }
}

/// Settings that were judged: what faces are made from.
#[derive(Debug)]
pub(crate) struct Mould {
    geometry: Geometry,
    prefault: bool,
    options: Options,
    /// Not a handle: a listener's driver keeps the listener, which keeps this.
    pub(crate) driver: Binding,
}

impl Mould {
    /// A face's end of a new region, and the region's file for the other end.
    pub(crate) fn cast(&self) -> Result<(Endpoint, OwnedFd), ShmError> {
        let (region, file) = Region::create(self.geometry, self.prefault)?;
        let endpoint = Endpoint::open(Arc::new(region), Side::Face, self.options, &self.driver)?;
        Ok((endpoint, file))
    }
}

/// Receives the handle: the face's socket, for as long as the face lives.
#[derive(Debug)]
struct Reception {
    desk: Desk,
    /// Weak, because the channel keeps the reception.
    channel: Weak<Channel>,
    /// The region's, until some handle has it.
    file: ProcessLock<Option<OwnedFd>>,
    driver: OnceLock<Registration>,
}

impl Reception {
    fn open(
        endpoint: &Endpoint,
        file: OwnedFd,
        desk: Desk,
        driver: &Binding,
    ) -> Result<(), ShmError> {
        let channel = endpoint.channel();
        let reception = Arc::new(Self {
            desk,
            channel: Arc::downgrade(channel),
            file: ProcessLock::new(Some(file)),
            driver: OnceLock::new(),
        });
        let registration = driver.register(reception.clone())?;
        let registration = reception.driver.get_or_init(|| registration);
        channel.keep(Box::new(Closing(reception.clone())));
        reception.desk.open(registration)
    }
}

impl Source for Reception {
    fn on_ready(&self, token: u16) {
        if let Some(driver) = self.driver.get() {
            self.desk.on_ready(token, driver, self);
        }
    }

    fn on_timer(&self) {
        if let Some(driver) = self.driver.get() {
            self.desk.on_timer(driver, self);
        }
    }

    fn on_abandoned(&self) {
        // Nobody will ever answer: better that applications are told so.
        if let Some(driver) = self.driver.get() {
            self.desk.close(driver);
        }
    }
}

impl Host for Reception {
    fn admit(&self, _peer: PeerCredentials) -> Result<OwnedFd, Refusal> {
        // Who let go of the face wants nobody any more.
        let file = self.channel.upgrade().and_then(|_there| self.file.lock()?.take());
        file.ok_or(Refusal::Busy)
    }

    fn connected(&self, lifeline: Lifeline) {
        let Some(channel) = self.channel.upgrade() else { return };
        if channel.attach(lifeline).is_err() {
            // Nobody would notice the peer's death.
            channel.on_abandoned();
        }
    }

    fn undelivered(&self, file: OwnedFd) {
        if let Some(mut kept) = self.file.lock() {
            *kept = Some(file);
        }
    }
}

/// Closes the reception when the face is over.
#[derive(Debug)]
struct Closing(Arc<Reception>);

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(driver) = self.0.driver.get() {
            self.0.desk.close(driver);
            driver.cancel();
        }
    }
}
