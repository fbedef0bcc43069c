//! The driver in the models: the same interface, played by whoever runs a task on it.
//!
//! It looks after one end. [`Driver::run`] is what a program has that parks in its driver: it polls
//! tasks that were woken, and sleeps otherwise until the end's bell is counted up. Then it reads the
//! bell, calls the end, and waits with the value that it read, as the real ones do. A task whose
//! wake is lost is polled no more, which shows as a deadlock.
//!
//! Time stands, so no alarm comes, until the model says that it passes.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Mutex as StdMutex;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use loom::thread::{self, ThreadId};

use crate::error::ShmError;
use crate::futex;
use crate::sync::{Arc, AtomicU32, Ordering};
pub(crate) use source::Source;

#[path = "driver/source.rs"]
mod source;

/// How a driver waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    IoUring,
    Epoll,
}

/// A task of [`Driver::run`].
pub(crate) type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

struct Shared {
    source: StdMutex<Option<Looked>>,
    /// Somebody wants the bell waited on again, since it held this.
    again: StdMutex<Option<u32>>,
    /// Counted up, and woken on, when there is something to do besides the bell.
    work: AtomicU32,
    /// Somebody wants to be called by the alarm, by the nudge.
    alarm: AtomicU32,
    nudge: AtomicU32,
    /// The time of all alarms has come.
    time: AtomicU32,
    /// Whoever serves alone is to return.
    stopped: AtomicU32,
    /// Takes on the waiting of tasks, as one that is parked in does.
    attends: bool,
    /// `IDLE`, `ATTENDING` or `ASLEEP`.
    attendance: AtomicU32,
}

const IDLE: u32 = 0;
/// A task left its waiting to the driver.
const ATTENDING: u32 = 1;
/// It is too late for that.
const ASLEEP: u32 = 2;

/// The source, and the bell's value that the driver's wait is armed with.
#[derive(Clone)]
struct Looked {
    source: Arc<dyn Source>,
    seen: u32,
    /// The source let the bell go, and nobody has asked for another wait.
    is_let_go: bool,
}

impl Shared {
    /// Ends the driver's sleep.
    fn interrupt(&self) {
        // ORDERING: Release pairs with the Acquire in `run`.
        self.work.fetch_add(1, Ordering::Release);
        futex::wake(&self.work);
    }

    fn looked(&self) -> Option<Looked> {
        self.source.lock().unwrap().clone()
    }

    /// Does what it was asked for with the bell.
    fn wait_again(&self) {
        let Some(seen) = self.again.lock().unwrap().take() else { return };
        if let Some(looked) = &mut *self.source.lock().unwrap()
            && looked.is_let_go
        {
            (looked.seen, looked.is_let_go) = (seen, false);
        }
    }

    /// Calls the source for what is due, or sleeps until the bell or somebody else rings. `work`
    /// was read before the caller looked for tasks to poll.
    fn turn(&self, work: u32) {
        self.wait_again();
        let Some(Looked { source, seen, is_let_go }) = self.looked() else {
            return futex::wait(&self.work, work, None);
        };
        // ORDERING: Acquire, here and below, pairs with the Release of who set these.
        if self.nudge.swap(0, Ordering::Acquire) != 0 {
            return source.rung();
        }
        if self.time.load(Ordering::Acquire) != 0 && self.alarm.swap(0, Ordering::Acquire) != 0 {
            return source.alarm();
        }
        if self.attends && !self.fall_asleep(&*source) {
            return;
        }
        let bell = source.bell().unwrap();
        if is_let_go {
            futex::wait(&self.work, work, None);
        } else {
            futex::wait_for_any([(bell, seen), (&self.work, work)], None);
        }
        // ORDERING: Relaxed; it decides who arms the bell and publishes nothing.
        self.attendance.swap(IDLE, Ordering::Relaxed);
        // ORDERING: Acquire pairs with the Release of whoever counts the bell up; read before the
        // source looks, as in the real driver.
        let now = bell.load(Ordering::Acquire);
        if now != seen && !is_let_go {
            let is_let_go = source.lets_bell_go();
            if let Some(looked) = &mut *self.source.lock().unwrap() {
                (looked.seen, looked.is_let_go) = (now, is_let_go);
            }
            source.rung();
        }
    }
}

impl Shared {
    /// Does what tasks left to it. `false` if that found something, or there is more of it.
    fn fall_asleep(&self, source: &dyn Source) -> bool {
        // ORDERING: Acquire, here and below, pairs with the Release in `attend`: the looks see what
        // the task wrote before. Taken back before the last look, as in the real driver.
        if self.attendance.load(Ordering::Acquire) == ATTENDING {
            let found = source.look();
            self.attendance.swap(IDLE, Ordering::Acquire);
            if found {
                source.found();
                return false;
            }
            if source.arm(false) {
                return false;
            }
        }
        let attendance = &self.attendance;
        attendance.compare_exchange(IDLE, ASLEEP, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

/// The driver of one end.
#[derive(Clone)]
pub(crate) struct Driver {
    binding: Binding,
}

impl Driver {
    /// A driver that no end is bound to yet. Without one, it is just a thread that runs tasks.
    pub(crate) fn new() -> Self {
        Self::make(false)
    }

    /// As [`new`](Self::new), to which tasks leave their waiting.
    pub(crate) fn that_attends() -> Self {
        Self::make(true)
    }

    fn make(attends: bool) -> Self {
        let shared = Arc::new(Shared {
            source: StdMutex::new(None),
            again: StdMutex::new(None),
            work: AtomicU32::new(0),
            alarm: AtomicU32::new(0),
            nudge: AtomicU32::new(0),
            time: AtomicU32::new(0),
            stopped: AtomicU32::new(0),
            attends,
            attendance: AtomicU32::new(IDLE),
        });
        Self { binding: Binding { shared } }
    }

    /// There is none in the models.
    pub(crate) fn global() -> Result<Self, ShmError> {
        Err(ShmError::Unsupported { reason: "the models have no driver for all" })
    }

    pub(crate) fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The times of all alarms come, those that are asked for later on as well. What the caller
    /// did before is visible by then.
    pub(crate) fn let_time_pass(&self) {
        let shared = &self.binding.shared;
        // ORDERING: Release pairs with the Acquire in `turn`.
        shared.time.fetch_or(1, Ordering::Release);
        shared.interrupt();
    }

    /// Looks after the end, and runs no tasks, until [`stop`](Self::stop): a background driver.
    pub(crate) fn serve(&self) {
        let shared = &self.binding.shared;
        loop {
            // ORDERING: Acquire, as in `run`; and pairs with the Release in `stop`.
            let work = shared.work.load(Ordering::Acquire);
            if shared.stopped.load(Ordering::Acquire) != 0 {
                return;
            }
            shared.turn(work);
        }
    }

    /// Ends [`serve`](Self::serve).
    pub(crate) fn stop(&self) {
        let shared = &self.binding.shared;
        // ORDERING: Release pairs with the Acquire in `serve`.
        shared.stopped.store(1, Ordering::Release);
        shared.interrupt();
    }

    /// Runs all tasks to their ends. Each is polled at first, and then if its own waker was called.
    pub(crate) fn run<'a>(&self, tasks: impl IntoIterator<Item = Task<'a>>) {
        let shared = &self.binding.shared;
        let mut tasks: Vec<_> =
            tasks.into_iter().map(|task| (task, Unparker::new(shared))).collect();
        while !tasks.is_empty() {
            // ORDERING: Acquire pairs with the Release in `interrupt`.
            let work = shared.work.load(Ordering::Acquire);
            let before = tasks.len();
            let mut polled = false;
            tasks.retain_mut(|(task, unparker)| {
                let woken = unparker.take();
                polled |= woken;
                !woken || unparker.poll(task.as_mut()).is_pending()
            });
            if !polled && before == tasks.len() {
                shared.turn(work);
            }
        }
    }

    /// Runs one task and gives its output.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut output = None;
        self.run([Box::pin(async { output = Some(future.await) }) as Task<'_>]);
        output.unwrap()
    }
}

/// What wakes a task of [`Driver::run`].
struct Unparker {
    shared: Arc<Shared>,
    woken: AtomicU32,
    thread: ThreadId,
}

impl Unparker {
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

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        // ORDERING: Release pairs with the Acquire in `take`. Not a store: loom would let one slip in
        // before the swap that has read what stood there before.
        self.woken.swap(1, Ordering::Release);
        // On its own thread it looks at once in any case.
        if thread::current().id() != self.thread {
            self.shared.interrupt();
        }
    }
}

/// The way to a driver.
#[derive(Clone)]
pub(crate) struct Binding {
    shared: Arc<Shared>,
}

impl Binding {
    /// In the models somebody always runs it, as far as anybody has to.
    pub(crate) fn is_background(&self) -> bool {
        true
    }

    pub(crate) fn register(&self, source: Arc<dyn Source>) -> Result<Registration, ShmError> {
        // ORDERING: Acquire, as in the driver.
        let seen = source.bell().unwrap().load(Ordering::Acquire);
        let former =
            self.shared.source.lock().unwrap().replace(Looked { source, seen, is_let_go: false });
        assert!(former.is_none(), "a model's driver looks after one end");
        Ok(Registration { shared: self.shared.clone() })
    }
}

/// The hold of an end on its driver.
pub(crate) struct Registration {
    shared: Arc<Shared>,
}

impl Registration {
    pub(crate) fn backend(&self) -> Backend {
        Backend::IoUring
    }

    /// No end of a model has a lifeline.
    pub(crate) fn watch(&self, _fd: BorrowedFd<'_>, _token: u16) -> Result<(), ShmError> {
        Ok(())
    }

    pub(crate) fn watch_hang_up(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError> {
        self.watch(fd, token)
    }

    pub(crate) fn unwatch(&self, _fd: BorrowedFd<'_>) {}

    /// Comes when the time passes, whenever it was asked for.
    pub(crate) fn alarm(&self, _at: Instant) {
        // ORDERING: Release, here and below, pairs with the Acquire in `turn`.
        if self.shared.alarm.swap(1, Ordering::Release) == 0 {
            self.shared.interrupt();
        }
    }

    pub(crate) fn is_parked_in(&self) -> bool {
        self.shared.attends
    }

    pub(crate) fn attend(&self, _spin: Duration) -> bool {
        let attend = |was| (was != ASLEEP).then_some(ATTENDING);
        let attendance = &self.shared.attendance;
        // ORDERING: Release pairs with the Acquire in `fall_asleep`.
        attendance.fetch_update(Ordering::AcqRel, Ordering::Relaxed, attend).is_ok()
    }

    pub(crate) fn wait_again(&self, seen: u32) {
        *self.shared.again.lock().unwrap() = Some(seen);
        self.shared.interrupt();
    }

    pub(crate) fn nudge(&self) {
        if self.shared.nudge.swap(1, Ordering::Release) == 0 {
            self.shared.interrupt();
        }
    }

    pub(crate) fn cancel(&self) {
        let source = self.shared.source.lock().unwrap().take();
        if source.is_some() {
            self.shared.interrupt();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.shared.looked().is_none()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").finish_non_exhaustive()
    }
}
