//! Tells a process from the processes that it forks.
//!
//! A child that was forked without an exec has copies of everything, including descriptors, rings
//! and regions that still belong to the parent. Using them would disturb the parent. So everything
//! that reaches out of the process notes its [`Origin`] when it is made, and does nothing in
//! another process.
//!
//! The number lies in a page that the kernel clears in every child (`MADV_WIPEONFORK`, Linux 4.14).
//! The check costs two loads and a branch that is not taken. It takes no lock, because another
//! thread may have held the lock at the time of a fork.
//!
//! The same rule holds for every lock of this crate: a forked child never waits for a lock that its
//! parent made, because the thread that holds it may not exist in the child. Each lock follows the
//! rule in one of these ways:
//!
//! - A [`ProcessLock`] opens only in the process that made it.
//! - A [`PerProcess`] value is a fresh one in each process.
//! - A lock of neither kind is reached only after a check of an [`Origin`]: by `Channel::forked`
//!   for the halves, the waiting tasks and the loans of an end, by `Shared::is_forked` for a
//!   driver's inbox.
//!
//! A drop takes no lock, but it reads what the lock protects, and a thread of the parent's may have
//! been changing that at the fork. So each of these locks is a [`LeakyLock`]: a child that finds it
//! held leaks what is inside.
//!
//! Nor does a child close a descriptor that another thread of the parent's may have opened or
//! closed at the fork. The kernel copies the table of descriptors before it copies the memory, so
//! the memory may name a descriptor that the child does not have, or that is another file by now. A
//! child leaks these; everything that it drops itself was made before the fork.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use memmap2::MmapMut;
use rustix::mm::Advice;

/// The word in the page, once there is one; never unmapped.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Used instead of the page if the kernel cannot wipe pages. Forks are not noticed then.
static UNWIPED: AtomicU32 = AtomicU32::new(1);

/// The last number that was given out, in this process or in an ancestor.
static LAST: AtomicU32 = AtomicU32::new(0);

/// Returns a number that differs in every process that forks away from this one; never 0.
#[inline]
pub(crate) fn generation() -> u32 {
    // ORDERING: Relaxed; the number publishes nothing.
    let generation = word().map_or(0, |word| word.load(Ordering::Relaxed));
    if generation == 0 { renew() } else { generation }
}

/// The process in which something was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    word: &'static AtomicU32,
    generation: u32,
}

impl Origin {
    /// Returns the origin of something that is made now, in this process.
    pub(crate) fn here() -> Self {
        let generation = generation();
        Self { word: word().unwrap_or(&UNWIPED), generation }
    }

    /// Whether this is another process by now, because of a fork in between. There the word is 0,
    /// or has another number.
    #[inline(always)]
    pub(crate) fn has_left(&self) -> bool {
        // ORDERING: Relaxed; the number publishes nothing.
        self.word.load(Ordering::Relaxed) != self.generation
    }
}

/// Open in the process that made it, until it is shut: both are asked with one comparison.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The word of the [`Origin`]; `SHUT` once the gate is shut.
    word: AtomicPtr<AtomicU32>,
    generation: u32,
}

/// Never a generation.
static SHUT: AtomicU32 = AtomicU32::new(0);

impl Gate {
    /// Returns a gate that is open in this process.
    pub(crate) fn new() -> Self {
        let Origin { word, generation } = Origin::here();
        Self { word: AtomicPtr::new(ptr::from_ref(word).cast_mut()), generation }
    }

    /// Whether this is the process that made the gate, and nobody has shut it.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        // ORDERING: Relaxed; both words that it may point to are older than the gate.
        let word = self.word.load(Ordering::Relaxed);
        // SAFETY: the address of one of two words that are never unmapped, each of them only ever
        // accessed as an atomic.
        let word = unsafe { &*word };
        // ORDERING: Relaxed; the number publishes nothing.
        word.load(Ordering::Relaxed) == self.generation
    }

    /// Shuts the gate for good.
    pub(crate) fn shut(&self) {
        // ORDERING: Relaxed; what the caller records next says why, and orders this store.
        self.word.store(ptr::from_ref(&SHUT).cast_mut(), Ordering::Relaxed);
    }
}

/// A lock of std's, or of loom's.
pub(crate) trait Lock {
    /// Whether some thread holds it.
    fn is_held(&self) -> bool;
}

impl<T> Lock for Mutex<T> {
    fn is_held(&self) -> bool {
        matches!(self.try_lock(), Err(TryLockError::WouldBlock))
    }
}

#[cfg(all(test, loom))]
impl<T> Lock for loom::sync::Mutex<T> {
    fn is_held(&self) -> bool {
        matches!(self.try_lock(), Err(TryLockError::WouldBlock))
    }
}

/// A lock that is leaked, with what it protects, by a forked child that finds it held: the thread
/// that held it does not exist there, and may have been in the middle of a change.
pub(crate) struct LeakyLock<L: Lock> {
    origin: Origin,
    lock: ManuallyDrop<L>,
}

impl<L: Lock> LeakyLock<L> {
    pub(crate) fn new(lock: L) -> Self {
        Self { origin: Origin::here(), lock: ManuallyDrop::new(lock) }
    }

    /// Whether a thread of the parent's held it at the fork. Asked by who has it to itself.
    pub(crate) fn is_held_by_parent(&mut self) -> bool {
        self.origin.has_left() && self.lock.is_held()
    }

    /// The lock itself, or `None` if it [is torn](Self::is_held_by_parent), and so is leaked.
    pub(crate) fn into_inner(self) -> Option<L> {
        let mut leaky = ManuallyDrop::new(self);
        if leaky.is_held_by_parent() {
            return None;
        }
        // SAFETY: nobody takes or drops it besides: `leaky` is not used again, and its drop, the
        // only other place that does so, never runs.
        Some(unsafe { ManuallyDrop::take(&mut leaky.lock) })
    }
}

impl<L: Lock> Deref for LeakyLock<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.lock
    }
}

impl<L: Lock> DerefMut for LeakyLock<L> {
    fn deref_mut(&mut self) -> &mut L {
        &mut self.lock
    }
}

impl<L: Lock> Drop for LeakyLock<L> {
    fn drop(&mut self) {
        if !self.is_held_by_parent() {
            // SAFETY: this is the drop of what owns it, which runs once, and not after
            // `into_inner`.
            unsafe { ManuallyDrop::drop(&mut self.lock) };
        }
    }
}

impl<L: Lock + fmt::Debug> fmt::Debug for LeakyLock<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}

impl<L: Lock + Default> Default for LeakyLock<L> {
    fn default() -> Self {
        Self::new(L::default())
    }
}

/// A lock that opens only in the process that made it.
///
/// Uses std's mutex in the models too, because nothing that loom schedules happens while it is
/// held.
#[derive(Debug)]
pub(crate) struct ProcessLock<T>(LeakyLock<Mutex<T>>);

impl<T> ProcessLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(LeakyLock::new(Mutex::new(value)))
    }

    /// Waits for the lock. In another process, returns `None` without waiting.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
        if self.0.origin.has_left() {
            return None;
        }
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Like [`lock`](Self::lock), but in another process returns `Some` if no thread held the lock
    /// at the fork. For a child that drops its copy of the value.
    pub(crate) fn lock_or_try(&self) -> Option<MutexGuard<'_, T>> {
        self.lock().or_else(|| try_lock(&self.0))
    }
}

impl<T: Default> Default for ProcessLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Takes a lock that is free; never waits.
///
/// If a child finds a lock free, the value that it protects is consistent: a thread that was
/// changing it at the fork would hold the lock.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A value that every process has its own copy of. The first call in a process makes it.
///
/// A child leaks its copy of the parent's value, because a thread of the parent may have been
/// changing it at the fork.
pub(crate) struct PerProcess<T> {
    /// Null, or a leaked `Box`.
    current: AtomicPtr<Own<T>>,
}

/// A value, and the process that it belongs to.
struct Own<T> {
    generation: u32,
    value: T,
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Returns this process's value.
    pub(crate) fn get(&self) -> &T {
        let generation = generation();
        // ORDERING: Acquire pairs with the Release of the exchange below.
        let mut current = self.current.load(Ordering::Acquire);
        loop {
            if let Some(current) = NonNull::new(current) {
                // SAFETY: `current` is from `Box::into_raw` below, in this process or in the one
                // that this process was forked from, which left a copy at this address. Only `drop`
                // frees it, which has exclusive access to `self`, and only shared references to it
                // exist.
                let current = unsafe { current.as_ref() };
                if current.generation == generation {
                    return &current.value;
                }
            }
            let made = Box::into_raw(Box::new(Own { generation, value: T::default() }));
            // ORDERING: AcqRel; Release publishes the new value. If another thread was faster, its
            // value counts, and Acquire makes it visible.
            match self.current.compare_exchange(current, made, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => current = made,
                Err(other) => {
                    // SAFETY: made above, and not published.
                    drop(unsafe { Box::from_raw(made) });
                    current = other;
                }
            }
        }
    }
}

impl<T: Default> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let Some(current) = NonNull::new(*self.current.get_mut()) else { return };
        // SAFETY: as in `get`.
        if unsafe { current.as_ref() }.generation == generation() {
            // SAFETY: from `Box::into_raw`, freed only here, and `&mut self` proves that no
            // reference to it is left.
            drop(unsafe { Box::from_raw(current.as_ptr()) });
        }
    }
}

// SAFETY: it owns its `T` as a `Box` does, and hands out `&T` through `&self`.
unsafe impl<T: Send> Send for PerProcess<T> {}
// SAFETY: as for `Send`; a `T` may be made by one thread and dropped by another.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}

/// Sets this process's number on the first call.
#[cold]
fn renew() -> u32 {
    let word = word().unwrap_or_else(map);
    // ORDERING: Relaxed, all of these; the numbers publish nothing. If several threads come here at
    // once, one of them sets the word.
    let next = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
    match word.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => next,
        Err(set) => set,
    }
}

#[inline]
fn word() -> Option<&'static AtomicU32> {
    // ORDERING: Acquire pairs with the Release in `map`.
    let word = NonNull::new(WORD.load(Ordering::Acquire))?;
    // SAFETY: `map` stored the address of a word that is aligned, initialised, only ever accessed
    // as an atomic, and never unmapped.
    Some(unsafe { word.as_ref() })
}

fn map() -> &'static AtomicU32 {
    let made = wiped_page().unwrap_or_else(|| ptr::from_ref(&UNWIPED).cast_mut());
    // ORDERING: AcqRel; Release publishes the page. If another thread was faster, its page counts
    // and ours is leaked.
    let _ = WORD.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
    word().unwrap_or(&UNWIPED)
}

/// Returns a new word that is 0, and becomes 0 again in every child.
fn wiped_page() -> Option<*mut AtomicU32> {
    let length = rustix::param::page_size();
    let mut page = MmapMut::map_anon(length).ok()?;
    let start = page.as_mut_ptr();
    // SAFETY: the whole of a private, anonymous mapping that nobody else knows of; the advice
    // changes nothing in this process.
    unsafe { rustix::mm::madvise(start.cast(), length, Advice::LinuxWipeOnFork) }.ok()?;
    std::mem::forget(page);
    Some(start.cast())
}

/// Forks, and ends with an error if `work` panics in the child. For tests; the child may use
/// nothing that another thread may have locked.
#[cfg(all(test, not(loom)))]
pub(crate) fn in_child(work: impl FnOnce()) {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    // SAFETY: the libc's own. The child runs the caller's code and `_exit`.
    unsafe extern "C" {
        safe fn fork() -> i32;
        safe fn _exit(code: i32) -> !;
    }
    let pid = fork();
    if pid == 0 {
        let went_well = catch_unwind(AssertUnwindSafe(work)).is_ok();
        _exit(i32::from(!went_well));
    }
    let pid = rustix::process::Pid::from_raw(pid).expect("fork failed");
    let options = rustix::process::WaitOptions::empty();
    let (_, status) = rustix::process::waitpid(Some(pid), options).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0), "in the child");
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_number_stays_the_same() {
        let here = Origin::here();
        assert_ne!(here.generation, 0);
        assert_eq!(here.generation, generation());
        assert!(!here.has_left());
        assert!(Origin { generation: here.generation + 1, ..here }.has_left());
    }

    #[test]
    fn a_gate_is_shut_for_good_and_in_every_child() {
        let gate = Gate::new();
        assert!(gate.is_open());
        in_child(|| assert!(!gate.is_open()));
        assert!(gate.is_open());
        gate.shut();
        assert!(!gate.is_open());
    }

    /// Makes `lock` look as it does in a child.
    fn of_another_process<T>(mut lock: ProcessLock<T>) -> ProcessLock<T> {
        lock.0.origin.generation += 1;
        lock
    }

    #[test]
    fn what_a_thread_held_at_the_fork_is_leaked() {
        let value = std::sync::Arc::new(());
        for (is_held, is_taken) in [(false, false), (true, false), (false, true), (true, true)] {
            let lock = of_another_process(ProcessLock::new(value.clone())).0;
            if is_held {
                std::mem::forget(lock.lock().unwrap());
            }
            if is_taken {
                let inner = lock.into_inner();
                assert_eq!(inner.is_none(), is_held);
            } else {
                drop(lock);
            }
            assert_eq!(std::sync::Arc::strong_count(&value), 1 + usize::from(is_held));
            if is_held {
                // SAFETY: the clone that was leaked, of which nobody else knows.
                unsafe { std::sync::Arc::decrement_strong_count(std::sync::Arc::as_ptr(&value)) };
            }
        }
    }

    #[test]
    fn a_lock_of_another_process_stays_shut() {
        let lock = ProcessLock::new(5);
        assert_eq!(lock.lock().as_deref(), Some(&5));
        let lock = of_another_process(lock);
        assert!(lock.lock().is_none());
        let tried = lock.lock_or_try();
        assert_eq!(tried.as_deref(), Some(&5));
        assert!(lock.lock_or_try().is_none(), "held, and not waited for");
    }

    #[test]
    fn each_process_has_a_value_of_its_own() {
        let value = PerProcess::<Mutex<Vec<u32>>>::new();
        std::thread::scope(|scope| {
            for n in 0..4 {
                let value = &value;
                scope.spawn(move || value.get().lock().unwrap().push(n));
            }
        });
        assert_eq!(value.get().lock().unwrap().len(), 4);
        // SAFETY: `get` has made one, which nobody else uses here.
        let own = unsafe { &mut *value.current.load(Ordering::Relaxed) };
        own.generation += 1;
        // A child leaks the parent's value; this test frees it afterwards.
        let parents = value.current.load(Ordering::Relaxed);
        assert!(value.get().lock().unwrap().is_empty());
        drop(value);
        // SAFETY: from `Box::into_raw`, and no longer referred to.
        drop(unsafe { Box::from_raw(parents) });
    }
}
