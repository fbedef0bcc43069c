//! A stream of faces, for applications that come and go.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{FusedStream, Stream};

use super::endpoint::Endpoint;
use super::face::SpscFace;
use super::face_config::FaceConfig;
use super::serving::{Served, Serving};
use crate::error::{CloseReason, ShmError};
use crate::rendezvous::credentials::PeerCredentials;
use crate::rendezvous::lifeline::Lifeline;
use crate::rendezvous::{Acceptor, Host, Refusal};
use crate::sys::fork::ProcessLock;
use crate::wake::waiters::{Waiters, Waiting};

/// How many applications that have completed the handshake may wait to be accepted. Any more get
/// `Busy`.
const MAX_WAITING: usize = 128;

/// Serves any number of applications under one name: a `Stream` of faces, one for each completed
/// handshake.
///
/// An item is a face whose peer is there, or an error of the listener itself, after which it goes
/// on. Clients that are refused for what they are, are hostile or do not complete the handshake are
/// never an item; [`stats`](Self::stats) counts them. At most 128 applications wait to be accepted;
/// any more get `Busy`.
///
/// When the listener is dropped, those that still wait are cut off: their channels end with
/// [`Cancelled`](CloseReason::Cancelled), because nobody received what they sent.
///
/// # Examples
///
/// ```
/// # let directory = format!("wakering-listener-{}", std::process::id());
/// # let directory = std::env::temp_dir().join(directory);
/// # std::fs::create_dir_all(&directory)?;
/// # use std::os::unix::fs::PermissionsExt;
/// # std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
/// # let name = format!("{}/listener", directory.display());
/// # let name = name.as_str();
/// use wakering::{SpscHandle, SpscListener};
///
/// let listener = SpscListener::bind(name)?;
/// let one = SpscHandle::connect(name)?;
/// let other = SpscHandle::connect(name)?;
///
/// let face = pollster::block_on(listener.accept())?;
/// one.send_blocking("from the first".into())?;
/// assert_eq!(face.recv_blocking().unwrap(), "from the first");
/// # drop((one, other, face, listener));
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SpscListener {
    serving: Arc<Serving<ListenerHost>>,
    /// The stream's own place among the tasks that accept.
    place: Option<Waiting>,
    /// The stream has yielded its last item.
    is_over: bool,
}

impl SpscListener {
    pub(super) fn open(acceptor: Acceptor, config: FaceConfig) -> Result<Self, ShmError> {
        let driver = config.driver.clone();
        let (state, waiters) = (ProcessLock::default(), Waiters::default());
        let serving = Serving::start(acceptor, ListenerHost { config, state, waiters }, &driver)?;
        Ok(Self { serving, place: None, is_over: false })
    }

    fn host(&self) -> &ListenerHost {
        &self.serving.host
    }

    /// Waits for the next application, and returns the face that serves it.
    ///
    /// # Errors
    /// [`Closed`](ShmError::Closed) after [`close`](Self::close), or if the driver has stopped;
    /// otherwise, the errors of making a face or of passing its memory on, after which the listener
    /// goes on.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, it has accepted no application.
    pub fn accept(&self) -> impl Future<Output = Result<SpscFace, ShmError>> + Send + '_ {
        let mut place = None;
        std::future::poll_fn(move |cx| self.host().poll_accept(&mut place, cx))
    }

    /// Stops accepting, and gives up the name. Applications that already wait to be accepted are
    /// still returned; then `accept` fails and the stream ends. Existing faces live on.
    pub fn close(&self) {
        self.serving.close();
        self.host().end(CloseReason::Local);
    }

    /// Returns counts of the clients so far. In a forked child, `accepted` and `waiting` are 0.
    pub fn stats(&self) -> ListenerStats {
        let clients = self.serving.acceptor.clients();
        let state = self.host().state.lock();
        let (accepted, waiting) = state.map_or((0, 0), |state| (state.accepted, state.faces.len()));
        ListenerStats {
            accepted,
            waiting,
            refused: clients.refused,
            hostile: clients.hostile,
            half_done: clients.half_done,
        }
    }
}

impl Stream for SpscListener {
    type Item = Result<SpscFace, ShmError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { serving, place, is_over } = &mut *self;
        if *is_over {
            return Poll::Ready(None);
        }
        match serving.host.poll_accept(place, cx) {
            Poll::Ready(Err(ShmError::Closed { reason: CloseReason::Local, .. })) => {
                Poll::Ready(None)
            }
            Poll::Ready(Err(closed @ ShmError::Closed { .. })) => {
                // Yields the error once; then the stream has ended.
                *is_over = true;
                Poll::Ready(Some(Err(closed)))
            }
            polled => polled.map(Some),
        }
    }
}

impl FusedStream for SpscListener {
    fn is_terminated(&self) -> bool {
        let is_over =
            |state: &State| state.closed() == Some(CloseReason::Local) && state.faces.is_empty();
        self.is_over || self.host().state.lock().is_some_and(|state| is_over(&state))
    }
}

impl Drop for SpscListener {
    fn drop(&mut self) {
        self.serving.end();
        self.host().end(CloseReason::Local);
        // Their peers learn that nobody serves them: these faces cancel when they are dropped.
        let state = self.host().state.lock();
        let unaccepted = state.map(|mut state| std::mem::take(&mut state.faces));
        drop(unaccepted);
    }
}

impl fmt::Debug for SpscListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpscListener")
            .field("path", &self.serving.acceptor.path())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Counts of a listener's clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Faces that were made.
    pub accepted: u64,
    /// How many of those have not been accepted yet.
    pub waiting: usize,
    /// Clients that were refused because of their user or version, or because the listener was
    /// busy, or lacked what a face needs.
    pub refused: u64,
    /// Clients that sent something other than a hello.
    pub hostile: u64,
    /// Clients that hung up during the handshake, or took too long.
    pub half_done: u64,
}

/// Makes a face for each application.
#[derive(Debug)]
struct ListenerHost {
    config: FaceConfig,
    state: ProcessLock<State>,
    waiters: Waiters,
}

#[derive(Debug, Default)]
struct State {
    /// The end whose region is on its way to the client.
    admitted: Option<Endpoint>,
    /// A client was let in, may know so already, and is not among the faces yet.
    is_admitting: bool,
    faces: VecDeque<Result<SpscFace, ShmError>>,
    accepted: u64,
    closed: Option<CloseReason>,
}

impl State {
    /// Returns why no face follows those that wait, if so.
    fn closed(&self) -> Option<CloseReason> {
        self.closed.filter(|_| !self.is_admitting)
    }
}

impl ListenerHost {
    /// Ends the listener for `reason`, unless it has ended. The acceptor is closed already, so that
    /// the name is free for a task that this wakes.
    fn end(&self, reason: CloseReason) {
        if let Some(mut state) = self.state.lock() {
            state.closed.get_or_insert(reason);
        }
        self.waiters.notify_all();
    }

    fn poll_accept(
        &self,
        place: &mut Option<Waiting>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<SpscFace, ShmError>> {
        let mut next = self.next();
        if next.is_none() {
            self.waiters.register(place, cx);
            next = self.next();
        }
        let Some(next) = next else { return Poll::Pending };
        *place = None;
        Poll::Ready(next)
    }

    fn next(&self) -> Option<Result<SpscFace, ShmError>> {
        let Some(mut state) = self.state.lock() else {
            return Some(Err(ShmError::Closed { reason: CloseReason::Forked, sent: 0 }));
        };
        let closed = state.closed().map(|reason| Err(ShmError::Closed { reason, sent: 0 }));
        let next = state.faces.pop_front().or(closed);
        if let Some(Ok(face)) = &next {
            face.cancel_on_drop(false);
        }
        next
    }

    fn take_admitted(&self) -> Option<Endpoint> {
        self.state.lock()?.admitted.take()
    }

    /// Ends the admission of a client. Wakes everybody: the first waiter may be a stream that was
    /// polled once and left, which would swallow the wake of an `accept`.
    fn give(&self, face: Option<Result<SpscFace, ShmError>>, is_connected: bool) {
        if let Some(mut state) = self.state.lock() {
            state.accepted += u64::from(is_connected);
            state.faces.extend(face);
            state.is_admitting = false;
        }
        self.waiters.notify_all();
    }
}

impl Served for ListenerHost {
    fn driver_gone(&self) {
        self.end(CloseReason::DriverGone);
    }
}

impl Host for ListenerHost {
    fn admit(&self, _peer: PeerCredentials) -> Result<OwnedFd, Refusal> {
        {
            let mut state = self.state.lock().ok_or(Refusal::Busy)?;
            if state.closed.is_some() {
                return Err(Refusal::Over);
            }
            if state.faces.len() >= MAX_WAITING {
                return Err(Refusal::Busy);
            }
            state.is_admitting = true;
        }
        match self.config.make() {
            Ok((endpoint, file)) => {
                if let Some(mut state) = self.state.lock() {
                    state.admitted = Some(endpoint);
                }
                Ok(file)
            }
            Err(error) => {
                self.give(Some(Err(error)), false);
                Err(Refusal::Busy)
            }
        }
    }

    fn connected(&self, lifeline: Lifeline) {
        let Some(endpoint) = self.take_admitted() else { return };
        // As long as nobody has accepted it, its drop is no orderly end.
        endpoint.cancel_on_drop(true);
        let attached = endpoint.channel().attach(lifeline);
        self.give(Some(attached.map(|()| SpscFace(endpoint))), true);
    }

    fn undelivered(&self, _file: OwnedFd, failure: Option<ShmError>) {
        drop(self.take_admitted());
        self.give(failure.map(Err), false);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::fd::AsFd;
    use std::task::Waker;

    use super::*;
    use crate::channel::Options;
    use crate::driver::Driver;
    use crate::rendezvous;
    use crate::shm::layout::Geometry;

    fn host() -> ListenerHost {
        let config = FaceConfig {
            geometry: Geometry::new(None, None).unwrap(),
            prefault: false,
            label: None,
            options: Options::default(),
            driver: Driver::global().unwrap().binding().clone(),
        };
        ListenerHost { config, state: ProcessLock::default(), waiters: Waiters::default() }
    }

    fn is_over(next: Poll<Result<SpscFace, ShmError>>) -> bool {
        let local = CloseReason::Local;
        matches!(next, Poll::Ready(Err(ShmError::Closed { reason, .. })) if reason == local)
    }

    /// The application may be faster than the driver that has just answered it.
    #[test]
    fn an_application_that_has_its_answer_is_accepted_before_the_end() {
        for is_delivered in [true, false] {
            let host = host();
            let (lifeline, theirs) =
                rendezvous::pair(std::fs::File::open("/dev/null").unwrap().as_fd()).unwrap();
            let file = host.admit(lifeline.peer()).unwrap();
            host.end(CloseReason::Local);
            let (mut cx, mut place) = (Context::from_waker(Waker::noop()), None);
            assert!(host.poll_accept(&mut place, &mut cx).is_pending());
            if is_delivered {
                host.connected(lifeline);
                assert!(matches!(host.poll_accept(&mut place, &mut cx), Poll::Ready(Ok(_))));
            } else {
                host.undelivered(file, None);
            }
            assert!(is_over(host.poll_accept(&mut place, &mut cx)));
            let peer = PeerCredentials::of(theirs.as_fd()).unwrap();
            assert!(matches!(host.admit(peer), Err(Refusal::Over)));
        }
    }
}
