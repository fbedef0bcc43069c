//! The driver in the models: the shipped event loop, with waits that loom watches.
//!
//! It differs from the shipped driver in how it waits in the kernel. [`ModelPoller`] keeps its
//! futex waits in a ring of [`futex`](crate::sys::futex)'s model. That ring ends a wait when the
//! word is woken, or when the word differs from the compared value as the wait begins. A bell that
//! is only counted up ends no wait.
//!
//! [`Driver::run`] is what a program does that parks in its driver: it polls tasks that were woken,
//! and parks otherwise. A task whose wake is lost is not polled again, which shows as a deadlock.
//!
//! [`Driver::embedded`] is the shipped embedded driver in an [`Executor`], which owns such a ring.
//!
//! Time stands still, so no timer fires until the model says that time passes.

use std::fmt;
use std::pin::Pin;
use std::sync::Mutex as StdMutex;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::thread::{self, ThreadId};
use rustix::io::Errno;

use super::parker::Parker;
use super::poller::{Failure, Found, Outcome, Poller};
use super::registration::Binding;
use super::shared::Shared;
use super::table::Id;
use super::{Backend, EmbeddedDriver, Operation, Run, poller};
use crate::error::ShmError;
use crate::sync::{Arc, AtomicU32, Ordering};
use crate::sys::futex::Ring;

/// A task of [`Driver::run`].
pub(crate) type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The wait on the bell of a registration.
const BELL: u16 = 0;
/// The wait on the control word.
const CONTROL: u16 = 1;

/// A ring in which its maker sleeps.
struct ModelPoller {
    ring: Arc<Ring>,
    shared: Arc<Shared>,
    owner: ThreadId,
}

impl ModelPoller {
    fn arm_control(&self) {
        let control = self.shared.control();
        // ORDERING: Acquire pairs with the Release in `Shared::interrupt`.
        let seen = control.load(Ordering::Acquire);
        self.ring.wait_on(control, seen, Id::OWN.pack(CONTROL));
    }
}

impl Poller for ModelPoller {
    fn arm(&mut self, id: Id, bell: &AtomicU32, seen: u32) -> bool {
        self.ring.wait_on(bell, seen, id.pack(BELL));
        true
    }

    fn disarm(&mut self, id: Id) {
        self.ring.cancel(id.pack(BELL));
    }

    fn wait(&mut self, timeout: Option<Duration>, found: &mut Found) -> Result<(), Failure> {
        for (tag, woken) in self.ring.enter(timeout != Some(Duration::ZERO)) {
            let (id, _) = Id::unpack(tag);
            if id == Id::OWN {
                self.arm_control();
            } else {
                let outcome = if woken { Outcome::Woken } else { Outcome::Lapsed };
                found.wakes.push(poller::Wake { id, outcome });
            }
        }
        Ok(())
    }

    fn close(&mut self) {}

    fn is_ours(&self) -> bool {
        thread::current().id() == self.owner
    }
}

impl Drop for ModelPoller {
    fn drop(&mut self) {
        self.ring.close();
    }
}

/// Makes a poller in which the calling thread can sleep.
pub(super) fn poller_of_this_thread(shared: &Arc<Shared>) -> Result<Box<dyn Poller>, Failure> {
    let owner = thread::current().id();
    let poller = ModelPoller { ring: Arc::default(), shared: shared.clone(), owner };
    poller.arm_control();
    Ok(Box::new(poller))
}

impl super::Driver {
    /// Fails: the models have no default driver.
    pub(crate) fn global() -> Result<Self, ShmError> {
        Err(ShmError::Unsupported { reason: "the models have no driver for all" })
    }
}

/// The ring of an executor, and the driver in it.
struct Executor {
    ring: Arc<Ring>,
    driver: EmbeddedDriver,
}

impl Executor {
    fn turn(&mut self) {
        self.driver.turn().unwrap();
    }

    /// Submits what the driver wants, sleeps if there is nothing to do, and passes on what has
    /// happened.
    #[allow(unsafe_code, reason = "a submission has the address of a word")]
    fn enter(&mut self) {
        while let Some(submission) = self.driver.next_submission() {
            match submission.operation() {
                Operation::FutexWait { address, value } => {
                    // SAFETY: the driver has made the address from a reference to this type. No
                    // model submits a wait for an end that is gone.
                    let word = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(address) };
                    self.ring.wait_on(word, value, submission.user_data());
                }
                Operation::Cancel { user_data } => self.ring.cancel(user_data),
                Operation::PollAdd { .. } => unreachable!("no model has an epoll set"),
            }
        }
        for (user_data, woken) in self.ring.enter(!self.driver.is_due()) {
            let result = if woken { 0 } else { Errno::AGAIN.raw_os_error().wrapping_neg() };
            assert!(self.driver.complete(user_data, result));
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.ring.close();
    }
}

/// A driver to park in, or an embedded one, and a way to run tasks on it.
#[derive(Clone)]
pub(crate) struct Driver {
    driver: super::Driver,
    /// Where the driver is embedded. (Not loom's mutex: the thread that runs the driver alone
    /// locks it.)
    executor: Option<Arc<StdMutex<Executor>>>,
    /// 1 once [`serve`](Self::serve) must return.
    stopped: Arc<AtomicU32>,
}

impl Driver {
    /// Makes a driver that no end is bound to yet. Until an end is bound, it is just a thread that
    /// runs tasks. Like a background driver, it takes no requests to spin.
    pub(crate) fn new() -> Self {
        Self::with(Shared::new(Backend::IoUring))
    }

    /// As [`new`](Self::new), but the driver takes requests to spin. No time passes while it spins,
    /// so it checks the hints once or twice.
    pub(crate) fn that_spins() -> Self {
        Self::with(Shared::parked_in(Backend::IoUring))
    }

    fn with(shared: Result<Arc<Shared>, ShmError>) -> Self {
        let shared = shared.unwrap();
        let parker = Arc::new(Parker::new(shared.clone()));
        // Each model has a thread that runs it, if it must be run, so its ends have no `Hangup`.
        let driver =
            super::Driver { binding: Binding::new(shared, true), run: Run::Parked(parker) };
        Self { driver, executor: None, stopped: Arc::new(AtomicU32::new(0)) }
    }

    /// As [`new`](Self::new), but the driver is embedded in an executor with a ring of its own.
    pub(crate) fn embedded() -> Self {
        let shared = Shared::embedded(Backend::IoUring).unwrap();
        // As in `with`.
        let driver = EmbeddedDriver::of(Binding::new(shared, true));
        let handle = super::Driver::clone(&driver);
        let executor = Arc::new(StdMutex::new(Executor { ring: Arc::default(), driver }));
        let stopped = Arc::new(AtomicU32::new(0));
        Self { driver: handle, executor: Some(executor), stopped }
    }

    /// Returns the shipped driver.
    pub(crate) fn as_shipped(&self) -> &super::Driver {
        &self.driver
    }

    pub(crate) fn binding(&self) -> &Binding {
        self.driver.binding()
    }

    /// Makes the times of all timers come, including timers that are set later. What the caller did
    /// before is visible by then.
    pub(crate) fn let_time_pass(&self) {
        self.driver.shared().let_time_pass();
    }

    /// Serves the ends once; sleeps if there is nothing to do.
    pub(crate) fn park(&self) {
        match &self.executor {
            // The caller looks for tasks that are ready after the turn.
            Some(executor) => {
                let mut executor = executor.lock().unwrap();
                executor.enter();
                executor.turn();
            }
            None => self.driver.park(None).unwrap(),
        }
    }

    /// Serves the ends, and runs no tasks, until [`stop`](Self::stop): a background driver.
    pub(crate) fn serve(&self) {
        // ORDERING: Acquire pairs with the Release in `stop`.
        while self.stopped.load(Ordering::Acquire) == 0 {
            self.park();
        }
    }

    /// Ends [`serve`](Self::serve).
    pub(crate) fn stop(&self) {
        // ORDERING: Release pairs with the Acquire in `serve`.
        self.stopped.store(1, Ordering::Release);
        self.driver.shared().unpark();
    }

    /// Runs all tasks to completion. Polls each once at first, and then whenever its own waker was
    /// called.
    pub(crate) fn run<'a>(&self, tasks: impl IntoIterator<Item = Task<'a>>) {
        let wakers = tasks.into_iter().map(|task| (task, TaskWaker::new(self.driver.shared())));
        let mut tasks: Vec<_> = wakers.collect();
        while !tasks.is_empty() {
            let before = tasks.len();
            let mut polled = false;
            tasks.retain_mut(|(task, waker)| {
                let woken = waker.take();
                polled |= woken;
                !woken || waker.poll(task.as_mut()).is_pending()
            });
            if !polled && before == tasks.len() {
                self.park();
            }
        }
    }

    /// Runs one task and returns its output.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut output = None;
        self.run([Box::pin(async { output = Some(future.await) }) as Task<'_>]);
        output.unwrap()
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// The waker of a task of [`Driver::run`].
struct TaskWaker {
    shared: Arc<Shared>,
    woken: AtomicU32,
    thread: ThreadId,
}

impl TaskWaker {
    fn new(shared: &Arc<Shared>) -> Arc<Self> {
        let thread = thread::current().id();
        Arc::new(Self { shared: shared.clone(), woken: AtomicU32::new(1), thread })
    }

    fn take(&self) -> bool {
        // ORDERING: Acquire pairs with the Release in `wake`.
        self.woken.swap(0, Ordering::Acquire) != 0
    }

    fn poll(self: &Arc<Self>, task: Pin<&mut (dyn Future<Output = ()> + '_)>) -> Poll<()> {
        task.poll(&mut Context::from_waker(&Waker::from(self.clone())))
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        // ORDERING: Release pairs with the Acquire in `take`. Not a store: loom would let a store
        // come before a swap that has read the previous value.
        self.woken.swap(1, Ordering::Release);
        // A wake on the task's own thread needs no unpark: that thread checks before it parks.
        if thread::current().id() != self.thread {
            self.shared.unpark();
        }
    }
}
