//! What binds a source to its driver.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll as set;

use super::Backend;
use super::shared::{Command, Shared};
use super::slot::Slot;
use super::source::Source;
use crate::error::ShmError;
use crate::sync::{Arc, Ordering};

/// As long as one of these is held, the driver has something to run for.
struct Keeper {
    shared: Arc<Shared>,
    /// Whether it runs on a thread of its own.
    is_background: bool,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.push(Command::Stop);
    }
}

/// The way to a driver for those who have sources, not for those who run it: it keeps a background
/// thread going, and keeps nobody from being told that a driver is gone which nobody can run.
#[derive(Clone)]
pub(crate) struct Binding {
    keeper: Arc<Keeper>,
}

impl Binding {
    pub(super) fn new(shared: Arc<Shared>, is_background: bool) -> Self {
        Self { keeper: Arc::new(Keeper { shared, is_background }) }
    }

    /// Whether the driver runs by itself, so that nobody has to.
    pub(crate) fn is_background(&self) -> bool {
        self.keeper.is_background
    }

    /// How the driver waits, which decides how its sources are rung.
    pub(crate) fn backend(&self) -> Backend {
        self.shared().backend()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.keeper.shared
    }

    /// Has the driver look after `source` until the registration is cancelled or dropped.
    ///
    /// A bell that rings after this call is never missed. The source must not own the registration
    /// for ever: the driver keeps the source.
    ///
    /// # Errors
    ///
    /// The driver has ended because the kernel failed it or nobody can run it, or it belongs to the
    /// process that forked this one.
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

/// A source's hold on its driver.
pub(crate) struct Registration {
    keeper: Arc<Keeper>,
    slot: Arc<Slot>,
}

impl Registration {
    /// Has [`Source::on_ready`] called with `token` as long as `fd` is readable or hung up.
    ///
    /// Takes effect at once and does not disturb the driver. The caller unwatches the descriptor
    /// before it closes it, and when it cancels the registration; behind the cancel, where
    /// another thread may have one watched meanwhile. A readable one that stays in the driver's
    /// set keeps the driver busy for nobody.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError> {
        self.watch_for(set::EventFlags::IN | set::EventFlags::RDHUP, fd, token)
    }

    /// As [`watch`](Self::watch), only for the hang-up, whatever there is to read before it.
    pub(crate) fn watch_hang_up(&self, fd: BorrowedFd<'_>, token: u16) -> Result<(), ShmError> {
        self.watch_for(set::EventFlags::RDHUP, fd, token)
    }

    fn watch_for(
        &self,
        flags: set::EventFlags,
        fd: BorrowedFd<'_>,
        token: u16,
    ) -> Result<(), ShmError> {
        self.keeper.shared.check_fork()?;
        self.check_cancelled()?;
        let data = set::EventData::new_u64(self.slot.id.pack(token));
        set::add(self.keeper.shared.epoll(), fd, data, flags)
            .map_err(ShmError::io("watch a descriptor"))?;
        // Who cancels first and then unwatches: the kernel does one after the other, so either that
        // finds the descriptor, or the cancel is seen here.
        self.check_cancelled().inspect_err(|_| self.unwatch(fd))
    }

    fn check_cancelled(&self) -> Result<(), ShmError> {
        if self.slot.is_cancelled() {
            let cancelled = std::io::Error::other("the registration is cancelled");
            return Err(ShmError::Io { step: "watch a descriptor", source: cancelled });
        }
        Ok(())
    }

    /// Has [`Source::on_ready`] called no more for `fd`, but for a call that may be under way.
    pub(crate) fn unwatch(&self, fd: BorrowedFd<'_>) {
        // In a child, the set is the parent's.
        if self.is_forked() {
            return;
        }
        // Fails for one that is not watched, which is what was asked for.
        let _ = set::delete(self.keeper.shared.epoll(), fd);
    }

    /// Has [`Source::on_timer`] called at `at`, or a bit later, or earlier.
    ///
    /// An earlier wish covers a later one, and a call uses up all wishes: what is still wanted then
    /// is asked for again. Costs one atomic operation while an earlier wish stands.
    pub(crate) fn wake_at(&self, at: Instant) {
        if self.is_forked() {
            return;
        }
        let shared = &self.keeper.shared;
        let at = shared.clock(at);
        if self.slot.lower_timer(at) {
            shared.push(Command::Timer(self.slot.id, at));
        }
    }

    /// Whether whoever runs the driver sleeps in it, with nothing else to do.
    pub(crate) fn is_parked_in(&self) -> bool {
        self.keeper.shared.is_parked_in()
    }

    /// Has the runner look at [`Source::hint`] in each turn, and spin on it before it sleeps, for
    /// up to `spin`. The caller is a task that waits; it has not armed the bell.
    ///
    /// The request ends with a call of [`Source::on_hint`] or of [`Source::look_again`]. One of
    /// the two comes before the runner sleeps, and after at most 64 turns. So nothing is lost if
    /// the hint is wrong.
    ///
    /// `false` if that cannot be: the driver is not of the kind that is parked in, it sleeps or is
    /// about to, or it looks for many others already. Then the caller arms its bell.
    pub(crate) fn ask_to_spin(&self, spin: Duration) -> bool {
        let shared = &self.keeper.shared;
        shared.is_parked_in() && !self.is_forked() && shared.ask_to_spin(&self.slot, spin)
    }

    /// Has the driver wait on the bell again, which was let go ([`Source::lets_bell_go`]), from
    /// when it held `seen`.
    pub(crate) fn wait_again(&self, seen: u32) {
        self.keeper.shared.push(Command::Arm(self.slot.id, seen));
    }

    /// Has [`Source::on_wake`] called soon on the driver's thread.
    pub(crate) fn notify(&self) {
        if self.slot.begin_notify() {
            self.keeper.shared.push(Command::Notify(self.slot.id));
        }
    }

    /// Has the source called no more, but for a call that may be under way on the driver's thread,
    /// and dropped as soon as the kernel has let go of its bell. Also done on drop.
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

    /// How the driver waits, which decides how this side is rung.
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
