//! The engine's end of a channel.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use super::duplex::Duplex;
use super::endpoint::Endpoint;
use super::receiver::Receiver;
use super::sender::Sender;
use super::serving::{Served, Serving};
use crate::channel::Channel;
use crate::driver::{Binding, Source};
use crate::error::ShmError;
use crate::rendezvous::credentials::PeerCredentials;
use crate::rendezvous::lifeline::Lifeline;
use crate::rendezvous::{Acceptor, Host, Refusal};
use crate::sys::fork::ProcessLock;

/// The engine's end of a channel, found by its name.
///
/// A face serves one handle in its lifetime: a second one gets `Busy`, and once its peer is gone
/// the face is over. Its methods are those of [`Endpoint`].
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
    /// Opens a face whose handle connects through `acceptor`.
    pub(super) fn open(
        endpoint: Endpoint,
        file: OwnedFd,
        acceptor: Acceptor,
        driver: &Binding,
    ) -> Result<Self, ShmError> {
        let channel = endpoint.channel();
        let file = ProcessLock::new(Some(file));
        let host = FaceHost { channel: Arc::downgrade(channel), file };
        let serving = Serving::start(acceptor, host, driver)?;
        channel.keep(Box::new(EndsWithFace(serving)));
        Ok(Self(endpoint))
    }

    /// Splits the face into its two halves: see [`Endpoint::into_split`].
    pub fn into_split(self) -> (Sender, Receiver) {
        self.0.into_split()
    }

    /// Makes the face one value that is both a `Sink<Bytes>` and a `Stream`: see [`Duplex`].
    pub fn into_duplex(self) -> Duplex {
        self.0.into_duplex()
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

/// Gives the face's region to the handle.
#[derive(Debug)]
struct FaceHost {
    /// Weak, because the channel keeps the acceptor alive.
    channel: Weak<Channel>,
    /// The region's file, until a handle has received it.
    file: ProcessLock<Option<OwnedFd>>,
}

impl Served for FaceHost {}

impl Host for FaceHost {
    fn admit(&self, peer: PeerCredentials) -> Result<OwnedFd, Refusal> {
        // A face that was dropped admits no client.
        let channel = self.channel.upgrade().ok_or(Refusal::Over)?;
        let file = self.file.lock().and_then(|mut file| file.take()).ok_or(Refusal::Busy)?;
        channel.set_admitted(Some(peer));
        Ok(file)
    }

    fn connected(&self, lifeline: Lifeline) {
        let Some(channel) = self.channel.upgrade() else { return };
        if channel.attach(lifeline).is_err() {
            // Without the lifeline, the peer's death would go unnoticed.
            channel.on_abandoned();
        }
    }

    fn undelivered(&self, file: OwnedFd, _failure: Option<ShmError>) {
        if let Some(channel) = self.channel.upgrade() {
            channel.set_admitted(None);
        }
        if let Some(mut kept) = self.file.lock() {
            *kept = Some(file);
        }
    }
}

/// Ends the acceptor when the face is over.
#[derive(Debug)]
struct EndsWithFace(Arc<Serving<FaceHost>>);

impl Drop for EndsWithFace {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::error::CloseReason;
    use crate::rendezvous;

    /// Its peer could die unnoticed.
    #[test]
    fn a_face_whose_lifeline_cannot_be_watched_ends() {
        let (face, _descriptor) = SpscFace::pair().unwrap();
        let host =
            FaceHost { channel: Arc::downgrade(face.channel()), file: ProcessLock::default() };
        let file = File::open("/dev/null").unwrap();
        let (another, _theirs) = rendezvous::pair(file.as_fd()).unwrap();
        // The face has a lifeline, and the kernel watches nothing twice.
        host.connected(another);
        assert_eq!(face.close_reason(), Some(CloseReason::DriverGone));
    }
}
