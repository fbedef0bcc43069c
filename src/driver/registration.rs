//! Binds a source to its driver.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll as set;

use super::Backend;
use super::inbox::Command;
use super::shared::Shared;
use super::slot::Slot;
use super::source::Source;
use crate::error::ShmError;
use crate::sync::{Arc, Ordering};

/// Keeps the driver running; sends it `Stop` on drop.
struct Keeper {
    shared: Arc<Shared>,
    /// Whether the driver runs on a thread of its own.
    is_background: bool,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.push(Command::Stop);
    }
}

/// A handle to a driver for sources. It keeps a background thread running. It does not keep a
/// parker alive: when nobody can run a driver any more, its sources are abandoned.
#[derive(Clone)]
pub(crate) struct Binding {
    keeper: Arc<Keeper>,
}

impl Binding {
    pub(super) fn new(shared: Arc<Shared>, is_background: bool) -> Self {
        Self { keeper: Arc::new(Keeper { shared, is_background }) }
    }

    /// Whether the driver runs on a thread of its own, so that no caller has to run it.
    pub(crate) fn is_background(&self) -> bool {
        self.keeper.is_background
    }

    /// Returns how the driver waits, which decides how peers wake its sources.
    pub(crate) fn backend(&self) -> Backend {
        self.shared().backend()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.keeper.shared
    }

    /// Has the driver serve `source` until the registration is cancelled or dropped.
    ///
    /// The driver misses no wake of the bell after this call. The source must not own the
    /// registration for ever: the driver owns the source.
    ///
    /// # Errors
    ///
    /// The driver has ended because the kernel failed it or nobody can run it, or it belongs to the
    /// parent of this forked process.
    pub(crate) fn register(&self, source: Arc<dyn Source>) -> Result<Registration, ShmError> {
        // ORDERING: Acquire, as in the driver, which compares with this value before it sleeps.
        let seen = source.bell().map_or(0, |bell| bell.load(Ordering::Acquire));
        let slot = self.shared().admit(source, seen)?;
        Ok(Registration { keeper: self.keeper.clone(), slot })
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").field("backend", &self.backend()).finish_non_exhaustive()
    }
}

/// A source's registration with its driver.
pub(crate) struct Registration {
    keeper: Arc<Keeper>,
    slot: Arc<Slot>,
}

impl Registration {
    /// Has [`Source::on_ready`] called with `token` as long as `fd` is readable or hung up.
    ///
    /// Takes effect at once and does not disturb the driver. The caller unwatches the descriptor
    /// before it closes it, and when it cancels the registration. If another thread may call
    /// `watch` meanwhile, it cancels first and then unwatches. A readable descriptor that stays in
    /// the driver's set keeps the driver busy for nothing.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError> {
        self.watch_for(set::EventFlags::IN | set::EventFlags::RDHUP, fd, token)
    }

    /// As [`watch`](Self::watch), but only for the hang-up, even if there is data left to read.
    pub(crate) fn watch_hang_up(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError> {
        self.watch_for(set::EventFlags::RDHUP, fd, token)
    }

    /// As [`watch`](Self::watch), but for the events in `flags`.
    pub(super) fn watch_for(
        &self,
        flags: set::EventFlags,
        fd: BorrowedFd<'_>,
        token: u16,
    ) -> Result<(), ShmError> {
        self.keeper.shared.check_fork()?;
        self.check_cancelled()?;
        let data = set::EventData::new_u64(self.slot.id.pack(token));
        set::add(self.keeper.shared.epoll_set.descriptor(), fd, data, flags)
            .map_err(ShmError::io("watch a descriptor"))?;
        // If another thread cancels and then unwatches, the kernel orders its delete and our add:
        // either the delete finds the descriptor, or we see the cancel here.
        self.check_cancelled().inspect_err(|_| self.unwatch(fd))
    }

    fn check_cancelled(&self) -> Result<(), ShmError> {
        if self.slot.is_cancelled() {
            let cancelled = std::io::Error::other("the registration is cancelled");
            return Err(ShmError::Io { step: "watch a descriptor", source: cancelled });
        }
        Ok(())
    }

    /// Ends calls of [`Source::on_ready`] for `fd`. One call may still be under way.
    pub(crate) fn unwatch(&self, fd: BorrowedFd<'_>) {
        // In a child, the set is the parent's.
        if self.is_forked() {
            return;
        }
        // Fails if it is not watched, which is the desired state.
        let _ = set::delete(self.keeper.shared.epoll_set.descriptor(), fd);
    }

    /// Has [`Source::on_timer`] called at `at`, or a bit later, or earlier.
    ///
    /// An earlier request covers a later one, and a call uses up all requests: a source that still
    /// needs a later time asks again. Costs one atomic operation while an earlier request stands.
    pub(crate) fn wake_at(&self, at: Instant) {
        if self.is_forked() {
            return;
        }
        let shared = &self.keeper.shared;
        let at = shared.clock.at(at);
        if self.slot.lower_timer(at) {
            shared.push(Command::Timer(self.slot.id, at));
        }
    }

    /// Whether this driver is one to park in: its thread has nothing else to do while it sleeps.
    pub(crate) fn is_parked_in(&self) -> bool {
        self.keeper.shared.is_parked_in()
    }

    /// Asks the driver to check [`Source::hint`] in each turn, and to spin on it before it sleeps,
    /// for up to `spin`. The caller is a task that waits and has not armed the bell.
    ///
    /// The request ends with a call of [`Source::on_hint`] or of [`Source::look_again`]. One of the
    /// two comes before the driver sleeps, and after at most 64 turns. So nothing is lost if the
    /// hint is wrong.
    ///
    /// Returns `false` if the driver refuses: it is not one to park in, it sleeps or is about to,
    /// or it already serves too many requests. Then the caller arms its bell.
    pub(crate) fn ask_to_spin(&self, spin: Duration) -> bool {
        let shared = &self.keeper.shared;
        shared.is_parked_in() && !self.is_forked() && shared.ask_to_spin(&self.slot, spin)
    }

    /// Has the driver wait again on the bell that it had let go ([`Source::lets_bell_go`]), from
    /// the time when the bell held `seen`.
    pub(crate) fn wait_again(&self, seen: u32) {
        self.keeper.shared.push(Command::Arm(self.slot.id, seen));
    }

    /// Has [`Source::on_wake`] called soon on the driver's thread.
    pub(crate) fn notify(&self) {
        if self.slot.begin_notify() {
            self.keeper.shared.push(Command::Notify(self.slot.id));
        }
    }

    /// Ends all calls of the source, except one that may be under way on the driver's thread. The
    /// driver drops the source as soon as the kernel has released its bell. Also done on drop.
    pub(crate) fn cancel(&self) {
        if self.slot.begin_cancel() {
            self.keeper.shared.push(Command::Retire(self.slot.id));
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.slot.is_cancelled()
    }

    /// Whether this process is a child of the one that registered.
    pub(crate) fn is_forked(&self) -> bool {
        self.keeper.shared.is_forked()
    }

    /// Returns how the driver waits, which decides how the peer wakes this side.
    pub(crate) fn backend(&self) -> Backend {
        self.keeper.shared.backend()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("backend", &self.backend())
            .field("cancelled", &self.slot.is_cancelled())
            .finish_non_exhaustive()
    }
}
