//! The application's end of a channel.

use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::duplex::Duplex;
use super::endpoint::Endpoint;
use super::options::{CommonOptions, common_options};
use super::receiver::Receiver;
use super::sender::Sender;
use crate::driver::{Binding, Registration, Source};
use crate::error::{CloseReason, ShmError};
use crate::rendezvous::credentials::{Allow, PeerCredentials};
use crate::rendezvous::{self, Connection, Connector, Name, Progress};
use crate::shm::layout::Side;
use crate::sys::fork::LeakyLock;
use crate::sys::trace;
use crate::wake::waiters::Waiters;

/// How long an engine may take to answer, unless the builder says otherwise.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The application's end of a channel.
///
/// Its methods are those of [`Endpoint`]. See [`SpscFace`](crate::SpscFace) for an example with
/// both ends.
#[derive(Debug)]
pub struct SpscHandle(Endpoint);

impl SpscHandle {
    /// Connects to the engine that serves `name`.
    ///
    /// Blocks the thread until the engine has answered, for at most 5 seconds. Do not call this on
    /// the thread that runs the engine's driver, because the engine could then not answer.
    ///
    /// # Errors
    /// See [`HandleBuilder::connect`].
    pub fn connect(name: &str) -> Result<Self, ShmError> {
        Self::builder().connect(name)
    }

    /// Like [`connect`](Self::connect), but does not block.
    ///
    /// # Errors
    /// See [`HandleBuilder::connect`].
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it hangs up. A face whose answer was already
    /// under way is used up.
    pub fn connect_async(name: &str) -> impl Future<Output = Result<Self, ShmError>> + Send + '_ {
        Self::builder().connect_async(name)
    }

    /// Makes the handle of a face from the descriptor that
    /// [`SpscFace::pair`](crate::SpscFace::pair) returned with it.
    ///
    /// # Errors
    /// See [`HandleBuilder::from_fd`].
    pub fn from_fd(descriptor: OwnedFd) -> Result<Self, ShmError> {
        Self::builder().from_fd(descriptor)
    }

    /// Returns a builder, to connect with other settings.
    pub fn builder() -> HandleBuilder {
        HandleBuilder::default()
    }
}

impl SpscHandle {
    /// Splits the handle into its two halves: see [`Endpoint::into_split`].
    pub fn into_split(self) -> (Sender, Receiver) {
        self.0.into_split()
    }

    /// Makes the handle one value that is both a `Sink<Bytes>` and a `Stream`: see [`Duplex`].
    pub fn into_duplex(self) -> Duplex {
        self.0.into_duplex()
    }
}

impl Deref for SpscHandle {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

impl From<SpscHandle> for Endpoint {
    fn from(handle: SpscHandle) -> Self {
        handle.0
    }
}

/// Settings of a handle; created by [`SpscHandle::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until its last call"]
pub struct HandleBuilder {
    common: CommonOptions,
    connect_timeout: Duration,
    allow: Option<Allow>,
}

impl Default for HandleBuilder {
    fn default() -> Self {
        Self {
            common: CommonOptions::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            allow: None,
        }
    }
}

impl HandleBuilder {
    common_options!();

    /// Sets how long the engine may take to answer (5 s unless set).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Decides which engine to trust, in place of the default rule that it must run as our own user
    /// or as root.
    ///
    /// The predicate is called with the process that bound the socket. [`connect`](Self::connect)
    /// calls it on the calling thread; [`connect_async`](Self::connect_async) also on the driver's,
    /// where it must not block. If it panics, the engine is refused.
    pub fn allow(
        mut self,
        predicate: impl Fn(&PeerCredentials) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.allow = Some(Allow::new(predicate));
        self
    }

    /// Connects to the engine that serves `name`, and blocks the thread.
    ///
    /// # Errors
    /// - [`InvalidName`](ShmError::InvalidName): the name has a form that is not allowed.
    /// - [`NotFound`](ShmError::NotFound): no engine serves the name. Contains the path.
    /// - [`PermissionDenied`](ShmError::PermissionDenied): the engine or its directory belongs to a
    ///   user whom we do not trust, or the engine does not let us in. Contains which of these it is
    ///   ([`DenialCause`](crate::DenialCause)), and the path.
    /// - [`Busy`](ShmError::Busy): the face serves another handle, or has served one; or a listener
    ///   cannot serve another one now.
    /// - [`VersionMismatch`](ShmError::VersionMismatch): the listening process speaks another
    ///   version of the protocol, or is not a wakering engine.
    /// - [`InvalidConfig`](ShmError::InvalidConfig): the engine offers a region with sizes that no
    ///   channel may have.
    /// - [`HungUp`](ShmError::HungUp): the engine ended during the handshake; try again.
    /// - [`TimedOut`](ShmError::TimedOut): no answer came within the `connect_timeout`.
    /// - [`Unsupported`](ShmError::Unsupported): `/proc` is not mounted; the engine's region uses
    ///   features that this version does not know; or the driver already serves as many endpoints
    ///   as it can.
    /// - [`Closed`](ShmError::Closed): the driver is gone, or this is a forked child of its
    ///   process.
    /// - [`Io`](ShmError::Io): a system call failed, `WAKERING_DIR` is not an absolute path, or
    ///   what the engine offers is not a region.
    pub fn connect(self, name: &str) -> Result<SpscHandle, ShmError> {
        let (name, driver) = (Name::new(name)?, self.common.driver()?);
        let connection = self.connector(&name).and_then(Connector::block);
        self.take(traced(&name, connection)?, driver.binding())
    }

    /// Like [`connect`](Self::connect), but does not block.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and [`Closed`](ShmError::Closed) if the driver stops
    /// meanwhile.
    ///
    /// # Cancel safety
    /// As [`SpscHandle::connect_async`].
    pub fn connect_async(
        mut self,
        name: &str,
    ) -> impl Future<Output = Result<SpscHandle, ShmError>> + Send + '_ {
        async move {
            let (name, driver) = (Name::new(name)?, self.common.driver()?.binding().clone());
            // The future keeps no `Driver`, so that it ends too when nobody can run the driver any
            // more.
            self.common.driver = None;
            let connector = traced(&name, self.connector(&name))?;
            let connection = Connecting::start(connector, &driver)?.finish().await;
            self.take(traced(&name, connection)?, &driver)
        }
    }

    /// Makes the handle of a pair: see [`SpscHandle::from_fd`]. The process that gave us the
    /// descriptor is trusted to be the engine; `allow` and `connect_timeout` have no effect here.
    ///
    /// # Errors
    /// - [`VersionMismatch`](ShmError::VersionMismatch): the descriptor is of another version, or
    ///   not of a pair.
    /// - [`InvalidConfig`](ShmError::InvalidConfig), [`Unsupported`](ShmError::Unsupported): the
    ///   region's sizes or features are not allowed or not supported, as for
    ///   [`connect`](Self::connect).
    /// - [`Closed`](ShmError::Closed): the driver is gone, or this is a forked child of its
    ///   process.
    /// - [`HungUp`](ShmError::HungUp): the descriptor was used already, and its face is gone.
    /// - [`Io`](ShmError::Io): the descriptor was used already, or a system call failed.
    pub fn from_fd(self, descriptor: OwnedFd) -> Result<SpscHandle, ShmError> {
        let driver = self.common.driver()?;
        let handle = self.take(rendezvous::adopt(descriptor)?, driver.binding())?;
        handle.0.channel().introduce();
        Ok(handle)
    }

    fn connector(&self, name: &Name) -> Result<Connector, ShmError> {
        let now = Instant::now();
        // Moves a deadline that the clock cannot express to one that it can.
        let far = now + Duration::from_secs(u64::from(u32::MAX));
        let deadline = now.checked_add(self.connect_timeout).map_or(far, |at| at.min(far));
        Connector::new(name, self.allow.clone(), deadline)
    }

    fn take(&self, connection: Connection, driver: &Binding) -> Result<SpscHandle, ShmError> {
        let Connection { region, lifeline } = connection;
        let endpoint = Endpoint::open(region.into(), Side::Handle, self.common.end, driver)?;
        endpoint.channel().attach(lifeline)?;
        Ok(SpscHandle(endpoint))
    }
}

/// Tells `tracing` if a handshake with the engine called `name` has failed.
fn traced<T>(name: &Name, result: Result<T, ShmError>) -> Result<T, ShmError> {
    result.inspect_err(|error| trace::not_connected(name.path(), error))
}

/// A handshake that a driver carries on.
#[derive(Debug)]
struct Connecting {
    waiters: Waiters,
    step: LeakyLock<Mutex<Step>>,
    driver: OnceLock<Registration>,
}

/// The state of the handshake.
#[derive(Debug)]
enum Step {
    /// Waits for the engine or for a point in time.
    Under(Box<Connector>),
    Over(Result<Box<Connection>, ShmError>),
    /// The outcome was taken.
    Taken,
}

/// The token under which the driver watches the socket.
const SOCKET: u16 = 1;

impl Connecting {
    fn start(connector: Connector, driver: &Binding) -> Result<Guard, ShmError> {
        let connecting = Arc::new(Self {
            waiters: Waiters::default(),
            step: LeakyLock::new(Mutex::new(Step::Under(Box::new(connector)))),
            driver: OnceLock::new(),
        });
        let registration = driver.register(connecting.clone())?;
        // Set only here.
        let _ = connecting.driver.set(registration);
        connecting.go_on();
        Ok(Guard(connecting))
    }

    /// Takes the next step, and asks the driver for what the handshake then waits for.
    fn go_on(&self) {
        let Some(driver) = self.driver.get() else { return };
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let Step::Under(connector) = &mut *step else { return };
        let was_connected = connector.is_waiting();
        let outcome = match connector.step() {
            Ok(Progress::Done(connection)) => Ok(Box::new(connection)),
            Err(error) => Err(error),
            Ok(Progress::RetryAt(at)) => {
                connector.as_fd().into_iter().for_each(|socket| driver.unwatch(socket));
                return driver.wake_at(at);
            }
            Ok(Progress::WaitReadable) => {
                driver.wake_at(connector.deadline());
                match connector.as_fd().filter(|_| !was_connected) {
                    Some(socket) => match driver.watch(socket, SOCKET) {
                        Ok(()) => return,
                        Err(error) => Err(error),
                    },
                    None => return,
                }
            }
        };
        // The socket lives on as the lifeline, with its own watch.
        match &outcome {
            Ok(connection) => driver.unwatch(connection.lifeline.as_fd()),
            Err(_) => connector.as_fd().into_iter().for_each(|socket| driver.unwatch(socket)),
        }
        *step = Step::Over(outcome);
        drop(step);
        self.waiters.notify_all();
    }

    /// Returns the outcome, once.
    fn take(&self) -> Option<Result<Connection, ShmError>> {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *step, Step::Taken) {
            Step::Over(outcome) => Some(outcome.map(|connection| *connection)),
            under => {
                *step = under;
                None
            }
        }
    }
}

impl Source for Connecting {
    fn on_ready(&self, _token: u16) {
        self.go_on();
    }

    fn on_timer(&self) {
        self.go_on();
    }

    fn on_abandoned(&self) {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        if let Step::Under(_) = &*step {
            let gone = ShmError::Closed { reason: CloseReason::DriverGone, sent: 0 };
            *step = Step::Over(Err(gone));
        }
        drop(step);
        self.waiters.notify_all();
    }
}

/// Ends the handshake when its future is dropped.
struct Guard(Arc<Connecting>);

impl Guard {
    async fn finish(self) -> Result<Connection, ShmError> {
        let mut place = None;
        std::future::poll_fn(|cx: &mut Context<'_>| {
            if self.0.driver.get().is_some_and(Registration::is_forked) {
                let reason = CloseReason::Forked;
                return Poll::Ready(Err(ShmError::Closed { reason, sent: 0 }));
            }
            if let Some(outcome) = self.0.take() {
                return Poll::Ready(outcome);
            }
            self.0.waiters.register(&mut place, cx);
            // From here on, any change notifies us.
            self.0.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(driver) = self.0.driver.get().filter(|driver| !driver.is_forked()) else { return };
        let step = self.0.step.lock().unwrap_or_else(PoisonError::into_inner);
        if let Step::Under(connector) = &*step {
            connector.as_fd().into_iter().for_each(|socket| driver.unwatch(socket));
        }
        drop(step);
        driver.cancel();
    }
}
